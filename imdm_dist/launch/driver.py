"""The driver, in a batch script: launches the processes of a stage on all machines, and passes signals on to them.

SLURM sends its warning of the time limit, or of a job with more right to the machines, to the batch script, which is
this process. It passes SIGUSR1 on to every process of the stage; these agree on a step, save together and exit with
`EXIT_STOPPED`. Then the job is put back into the queue, and goes on from there. So it is, a bounded number of times
(`requeue.py`), when a process died. A job that ends in any other way (it is cancelled, a machine fails, somebody
requeues it) is SLURM's to deal with; it goes on from the newest whole checkpoint.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import imdm_dist
from imdm_dist.error_boundary import REFUSAL
from imdm_dist.exit_codes import EXIT_INTERRUPTED, EXIT_REFUSED, EXIT_STOPPED
from imdm_dist.launch import slurm
from imdm_dist.parallel.environment import FIRST_PORT, PORTS, first_host
from imdm_dist.signals import SIGNALS, another_press, heed_interrupts, noted

_WARNED = (128 + signal.SIGUSR1, 128 + signal.SIGUSR2)
_ENDED = (EXIT_INTERRUPTED, -signal.SIGINT)


class StageStopped(Exception):
    """The processes of a stage were asked to stop, and have ended."""


class StageInterrupted(Exception):
    """Ctrl-C has ended the processes of a stage, which have said what becomes of their work."""


class StageCrashed(ValueError):
    """A process of a stage died, and not of what the user has to mend: started again the stage may come to its end."""


class Driver:
    """Starts processes while it is entered.

    Args:
        local: processes on this machine without SLURM; 0 starts them by srun in this job's allocation.
        logs: folder that all machines see, for a file by which a process says that it refused what it was given.
    """

    def __init__(self, local: int = 0, logs: Path | None = None) -> None:
        self.local = local
        self._refusal = logs.absolute() / f"refused-{slurm.current_job()}" if logs and not local else None
        self.asked = noted()
        self.presses = 0
        """How often Ctrl-C was pressed while processes ran."""
        self._process: subprocess.Popen[bytes] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Driver:
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._pass_on)
        self._before[signal.SIGINT] = heed_interrupts(self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self.asked = signal.Signals(number).name
        if self._process is not None:
            # SIGTERM would make srun kill the processes, which must save first.
            self._process.send_signal(signal.SIGUSR1 if not self.local else signal.SIGTERM)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        """Ctrl-C: the first one asks the processes to save, the second to end; without processes it ends this one."""
        if not another_press():
            return
        if self._process is None:
            raise KeyboardInterrupt
        self.presses += 1
        self.asked = "Ctrl-C"
        # srun takes one SIGINT for a question.
        self._process.send_signal(
            signal.SIGINT if self.local else signal.SIGUSR1 if self.presses == 1 else signal.SIGTERM
        )

    def run(self, program: Sequence[str], one: bool = False, apart: bool = False) -> None:
        """Run a Python program in every process of the allocation, and wait for its end.

        Args:
            program: what follows `python`: a script, or -m and a module, and arguments.
            one: in a single process instead.
            apart: the processes do not wait for each other, so that the end of one is no reason to end all.

        Raises:
            StageStopped: it was stopped in good order.
            StageInterrupted: it was ended by Ctrl-C.
            StageCrashed: a process of it died.
            ValueError: it refused what it was given, and said why.
        """
        if self.asked:
            raise StageStopped
        command, environment = self._launcher(one, apart), {**os.environ, **self._environment(one)}
        if self._refusal is not None:
            self._refusal.parent.mkdir(parents=True, exist_ok=True)
            self._refusal.unlink(missing_ok=True)
            environment[REFUSAL] = str(self._refusal)
        self._process = subprocess.Popen([*command, *program], env=environment, stdin=subprocess.DEVNULL)
        code = self._process.wait()
        self._process = None
        if code == 0:
            return
        if self.presses and (self.presses > 1 or code in _ENDED):
            raise StageInterrupted
        # Of several processes that were asked to stop, one may not have come to the point where it does so in order: a
        # signal that reaches it before Python stands ends it.
        if code in (EXIT_STOPPED, *_WARNED) or self.asked:
            raise StageStopped
        message = f"its processes ended with exit code {code}: see the messages above"
        if code == EXIT_REFUSED or (self._refusal is not None and self._refusal.exists()):
            raise ValueError(message)
        raise StageCrashed(message)

    def _launcher(self, one: bool, apart: bool) -> list[str]:
        python = [sys.executable]
        if self.local == 1 or (self.local and one):
            return python
        if self.local:
            return [*python, "-m", "imdm_dist.launch.local", f"--nproc-per-node={self.local}"]
        options = ["--nodes=1", "--ntasks=1"] if one else []
        return ["srun", f"--kill-on-bad-exit={int(not apart)}", *options, *python]

    def _environment(self, one: bool) -> dict[str, str]:
        have = os.environ
        package = str(Path(imdm_dist.__file__).resolve().parent.parent)
        extra = {"PYTHONPATH": os.pathsep.join(filter(None, (package, have.get("PYTHONPATH"))))}
        if self.local > 1 and not one:  # a process by itself takes all cores
            extra["OMP_NUM_THREADS"] = have.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // self.local))
        if not self.local:
            extra["MASTER_ADDR"] = first_host(have["SLURM_JOB_NODELIST"])
            extra["MASTER_PORT"] = str(free_port())
            # srun does not take this over from sbatch by itself any more.
            if cores := have.get("SLURM_CPUS_PER_TASK"):
                extra["SRUN_CPUS_PER_TASK"] = cores
            extra["OMP_NUM_THREADS"] = have.get("OMP_NUM_THREADS") or cores or "1"
        return extra


def free_port() -> int:
    """A free port; the search depends on the job, so that two jobs on one machine hardly choose the same."""
    choose = random.Random(slurm.current_job())
    while True:
        port = FIRST_PORT + choose.randrange(PORTS)
        with socket.socket() as trial:
            try:
                trial.bind(("", port))
            except OSError:
                continue
            return port
