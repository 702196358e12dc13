"""Training as a Submitit job: its checkpoint-and-requeue, after a save of all ranks together.

Submitit answers the signal before a preemption or the time limit on rank 0 alone, inside the signal handler, and puts
the job back into the queue at once: no sharded checkpoint can be saved there. So its handlers are taken away while we
train; ours note the signal, all ranks agree on a step and save; then rank 0 hands the signal to Submitit.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from imdm_dist.cli import REFUSAL, note_refusal
from imdm_dist.config import Config, from_dict, to_dict
from imdm_dist.launch.restarts import refusal
from imdm_dist.signals import EXIT_STOPPED, SIGNALS, heed_signals

OTHERS_WAIT_S = 600.0
"""Seconds that ranks other than 0 wait for the job to end after a save; it ends by rank 0's requeue."""
TIMEOUTS = 10_000
"""How often Submitit may put a job back into the queue after its time limit: a long training has many."""


class TrainJob:
    """What Submitit calls in every process of the job.

    Args:
        folder: the run's folder.
    """

    def __init__(self, config: Config, folder: Path | str) -> None:
        # Plain values: what is pickled must still load when the code has been changed before a requeue.
        self.config, self.folder = to_dict(config), str(folder)

    def __call__(self) -> str:
        """Train, or go on; returns the run's folder when the last step is done."""
        theirs = {number: signal.getsignal(number) for number in SIGNALS}
        heed_signals()
        import submitit

        from imdm_dist.parallel.environment import place_of_this_process
        from imdm_dist.training.loop import train

        # What the submitting process was itself launched with is of no meaning here.
        submitit.helpers.TorchDistributedEnvironment().export(overwrite=True, set_cuda_visible_devices=False)
        refused = refusal(Path(self.folder))
        refused.unlink(missing_ok=True)
        try:
            if train(from_dict(Config, self.config, "the submitted job"), self.folder):
                return self.folder
        except (ValueError, OSError):
            # Submitit's processes end with the same code whatever the error is.
            refused.parent.mkdir(parents=True, exist_ok=True)
            os.environ[REFUSAL] = str(refused)
            note_refusal()
            raise
        if place_of_this_process().rank > 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(OTHERS_WAIT_S)
            raise SystemExit(EXIT_STOPPED)
        for number, handler in theirs.items():
            signal.signal(number, handler)
        signal.raise_signal(submitit.JobEnvironment()._usr_sig())
        raise SystemExit(EXIT_STOPPED)

    def checkpoint(self) -> Any:
        """What Submitit is to start again: the same, which finds its newest checkpoint by itself."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)
