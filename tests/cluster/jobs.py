"""What tests do with the cluster: submit jobs, disturb them, and wait, always with a limit.

A job is named by its id as sbatch prints it, or by `ID_INDEX` for one element of an array.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from tests.cluster import daemons, host
from tests.cluster.layout import GRACE_SECONDS, Layout

POLL_SECONDS = 0.2
CLIENT_SECONDS = 30.0
ENDED = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "DEADLINE"})
NODE_STATES = {"ready": host.READY, "down": ("down", "down*")}


class Cluster:
    """The cluster of a layout. Waits look every 0.2 seconds and raise `TimeoutError`, with what is known of the job."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    @property
    def nodes(self) -> list[str]:
        """The nodes' names, in order."""
        return self.layout.names

    def environment(self, **more: str) -> dict[str, str]:
        """This process's environment with the cluster's SLURM_CONF, without other SLURM settings, and `more`."""
        return daemons.clean_environment() | {"SLURM_CONF": str(self.layout.client_conf)} | more

    def run(
        self,
        command: Sequence[str | Path],
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float = CLIENT_SECONDS,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command that uses the cluster, such as srun or one of tools/; its output is text in the result.

        Args:
            env: variables on top of `environment()`.
            check: whether a failure raises an AssertionError with the output.
        """
        result = subprocess.run(
            [str(part) for part in command],
            env=self.environment(**(env or {})),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert not check or result.returncode == 0, (
            f"{shlex.join(map(str, command))}: exit {result.returncode}\n{result.stdout}{result.stderr}"
        )
        return result

    def sbatch(self, args: Sequence[str | Path], env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
        """Submit: options, then a script and its arguments, or `--wrap=COMMAND`. Returns the job's id.

        Output goes to `slurm-ID.out` in `cwd` unless told otherwise, and requeued runs are appended.
        """
        return self.run(["sbatch", "--parsable", "--open-mode=append", *args], env, cwd).stdout.strip().split(";")[0]

    def records(self, job: str) -> list[dict[str, str]]:
        """What scontrol says of a job: one record, or one for each element of an array that has started or ended."""
        command = ["scontrol", "--oneliner", "show", "job", job]
        if (result := self.run(command, check=False)).returncode == -signal.SIGPIPE:
            # A busy slurmctld closed the connection on it.
            result = self.run(command)
        assert result.returncode == 0, f"{shlex.join(command)}: {result.stderr}"
        text = result.stdout
        return [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in text.splitlines() if line.strip()]

    def record(self, job: str) -> dict[str, str]:
        """What scontrol says of a job that is no array, or of one element."""
        (found,) = self.records(job)
        return found

    def state(self, job: str) -> str:
        """RUNNING, PENDING, COMPLETED, ...; COMPLETING while the last processes of a run end."""
        return self.record(job)["JobState"]

    def restarts(self, job: str) -> int:
        """How often it was requeued."""
        return int(self.record(job)["Restarts"])

    def output(self, job: str) -> str:
        """What the batch script, and steps without an own file, have written so far."""
        file = Path(self.record(job)["StdOut"])
        return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""

    def wait(self, job: str, states: str | Collection[str], timeout: float = 60.0) -> None:
        """Wait until a job, or every element of an array, is in one of `states`.

        Raises:
            AssertionError: it ended otherwise.
            TimeoutError: it did not happen in `timeout` seconds.
        """
        wanted = {states} if isinstance(states, str) else set(states)
        ended_looks = 0

        def arrived() -> bool:
            nonlocal ended_looks
            found = {record["JobState"] for record in self.records(job)}
            # On its way to a requeue a job can look ended for an instant.
            ended_looks = ended_looks + 1 if found <= ENDED | wanted else 0
            assert found <= wanted or ended_looks < 10, f"job {job} ended as {sorted(found)}\n{self._about(job)}"
            return found <= wanted

        self.until(arrived, f"job {job} becomes {' or '.join(sorted(wanted))}", timeout, job)

    def wait_restart(self, job: str, restarts: int = 1, timeout: float = 60.0) -> None:
        """Wait until a job runs for at least the `restarts`-th time again."""
        self.until(
            lambda: self.restarts(job) >= restarts and self.state(job) == "RUNNING",
            f"job {job} runs again ({restarts})",
            timeout,
            job,
        )

    def wait_output(self, job: str, pattern: str, times: int = 1, timeout: float = 60.0) -> None:
        """Wait until a regular expression is found in the job's output, `times` times."""
        self.until(
            lambda: len(re.findall(pattern, self.output(job))) >= times,
            f"{pattern!r} is in the output of job {job}",
            timeout,
            job,
        )

    def until(self, condition: Callable[[], bool], what: str, timeout: float = 60.0, job: str | None = None) -> None:
        """Ask `condition` every 0.2 seconds until it holds; `what` and what is known of `job` go into the error."""
        try:
            daemons.await_true(condition, what, timeout, every=POLL_SECONDS)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self._about(job)}" if job else str(error)) from None

    def signal(self, job: str, name: str, to: Literal["steps", "batch", "full"] = "steps") -> None:
        """Send a signal ("USR1") to all processes of the job's steps, to the batch script alone, or to both."""
        where = {"steps": [], "batch": ["--batch"], "full": ["--full"]}[to]
        self.run(["scancel", *where, f"--signal={name}", job])

    def cancel(self, job: str) -> None:
        self.run(["scancel", job])

    def requeue(self, job: str) -> None:
        """As an administrator would: SIGTERM, SIGKILL after 5 seconds; it runs again about 7 seconds later."""
        self.run(["scontrol", "requeue", job])

    def preempt(self, seconds: float, grace: int = GRACE_SECONDS) -> str:
        """Submit a job that takes every node for `seconds`. Returns its id.

        What runs there gets at once the signal that it named by --signal, without one SIGTERM, and is requeued if it
        still runs after `grace` seconds. SLURM does not requeue a job that ends before: it has ended.
        """
        self._set_grace(grace)
        options = ["--partition=urgent", f"--nodes={self.layout.nodes}", "--exclusive", "--output=/dev/null"]
        return self.sbatch([*options, f"--wrap=exec sleep {seconds:g}"])

    def node_state(self, name: str) -> str:
        """sinfo's short form: idle, mix, alloc, comp, down, `down*` (does not answer), ..."""
        return host.node_states(self.layout)[name]

    def wait_node(self, name: str, kind: Literal["ready", "down"], timeout: float = 60.0) -> None:
        """Wait until a node takes jobs, or SLURM knows that it does not."""
        self.until(lambda: self.node_state(name) in NODE_STATES[kind], f"{name} is {kind}", timeout)

    def down_node(self, name: str) -> None:
        """Set a node down by scontrol: its jobs are requeued at once. `resume` ends that."""
        self.run(["scontrol", "update", f"nodename={name}", "state=down", "reason=test"])

    def resume(self, name: str) -> None:
        self.run(["scontrol", "update", f"nodename={name}", "state=resume"])

    def kill_node(self, name: str) -> None:
        """Kill whatever runs on a node, at once; SLURM notices after about 25 seconds and requeues its jobs."""
        daemons.kill_node(self.layout, name)

    def revive(self, name: str) -> None:
        """Start a killed node, once SLURM knows that it was gone, and wait until it takes jobs.

        Before that a job of which half is dead would be taken for running.
        """
        self.wait_node(name, "down")
        daemons.start_node(self.layout, name)
        self.wait_node(name, "ready")

    def clean(self) -> None:
        """Cancel every job, bring back every node, and wait until all is idle."""
        self.run(["scancel", "--user=root"])
        for name in self.nodes:
            # Known to be down, a killed node's jobs end at once, and it may come back at once.
            if daemons.running(self.layout, name, "slurmd") is None:
                self.down_node(name)
                daemons.kill_node(self.layout, name)
                daemons.start_node(self.layout, name)
        self.until(lambda: not self.run(["squeue", "--noheader"]).stdout.strip(), "the queue is empty")
        self.until(lambda: host.settle(self.layout, ("idle",)), "all nodes are idle")
        self._set_grace(GRACE_SECONDS)

    def _set_grace(self, seconds: int) -> None:
        self.run(["scontrol", "update", "partitionname=main", f"gracetime={seconds}"])

    def _about(self, job: str) -> str:
        """scontrol's record, and the end of the output."""
        with suppress(AssertionError, OSError, subprocess.TimeoutExpired):
            text = self.run(["scontrol", "show", "job", job]).stdout
            for file in {record["StdOut"] for record in self.records(job)}:
                if os.path.exists(file):
                    text += f"--- {file}\n{Path(file).read_text(errors='replace')[-4000:]}"
            return text
        return "(scontrol does not answer)"
