"""The command `imdm_dist`: what it lists, how quickly, and that the tools are its subcommands."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from imdm_dist.commands import main as commands
from imdm_dist.commands.main import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
CHAIN = ROOT / "configs" / "embedded_chain.yaml"


def call(*words: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run `python` with these words."""
    return subprocess.run([sys.executable, *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=60)


def seconds_of_children() -> float:
    """What the processes that have ended have worked, however busy the machine is."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_lists_all_commands_at_once() -> None:
    before = seconds_of_children()
    done = call("-m", "imdm_dist", "--help")
    assert seconds_of_children() - before < 0.3
    assert done.returncode == 0 and not done.stderr
    for name in COMMANDS:
        assert f"\n  {name} " in done.stdout


def test_no_command_prints_the_list() -> None:
    done = call("-m", "imdm_dist")
    assert done.returncode == 2 and "usage: imdm_dist COMMAND" in done.stdout


def test_help_of_each_has_an_example_and_waits_for_no_heavy_library() -> None:
    script = """
import contextlib, io, sys
from imdm_dist.commands.main import COMMANDS, _dispatch
for name in COMMANDS:
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
        _dispatch([name, "--help"])
    assert f"usage: imdm_dist {name} " in said.getvalue() and f"\\n  imdm_dist {name}" in said.getvalue(), name
    heavy = {"torch", "transformers", "datasets", "deepspeed", "matplotlib", "pyarrow"} & set(sys.modules)
    assert not heavy, f"{name} imports {heavy} before it has read its command line"
"""
    done = call("-c", script)
    assert done.returncode == 0, done.stderr


def test_a_command_that_there_is_not_is_refused_in_a_line() -> None:
    done = call("-m", "imdm_dist", "trian")
    assert (done.returncode, done.stderr) == (2, "error: imdm_dist has no command trian: did you mean train?\n")


def test_every_module_is_listed() -> None:
    modules = {path.stem for path in (ROOT / "imdm_dist" / "commands").glob("*.py")}
    assert modules - {"__init__", "main", "arguments"} == {module for module, _ in COMMANDS.values()}


@pytest.mark.parametrize(
    ("words", "same"),
    [
        (["run", "c", "--dry-run"], ["--slurm", "c", "--dry-run"]),
        (["run", "c", "--local"], ["--processes=1", "c"]),
        (["run", "c", "--local", "--processes", "2", "a=1"], ["c", "--processes", "2", "a=1"]),
        (["here", "c", "--stage", "x", "--only"], ["--in-job", "c", "--stage", "x", "--only"]),
        (["here", "c", "--local", "--data"], ["--processes=1", "c", "--data"]),
        (["status", "c"], ["c"]),
    ],
)
def test_the_pipeline_tool_says_the_same_in_other_words(
    words: list[str], same: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, list[str], str]] = []
    monkeypatch.setattr(commands, "tool", lambda *given: asked.append(given))
    monkeypatch.setattr(sys, "argv", ["pipeline.py", *words])
    exec(compile((ROOT / "tools" / "pipeline.py").read_text(), "pipeline.py", "exec"), {"__name__": "__main__"})
    name = "run" if words[0] in ("run", "here") else words[0]
    assert asked == [(name, same, f" {words[0]}")]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--dry-run"], "it goes with --slurm"),
        (["--only"], "--only goes with --stage"),
        (["--processes", "0"], "--processes is 0: give 1 or more"),
        (["--slurm", "--stage", "pairs", "--only"], "leave out --slurm"),
        (["--processes", "2", "--workers", "2"], "--workers is for a chain in one process"),
        (["--stage", "nothing"], "nothing"),
        (["--in-job"], "this is no SLURM job"),
    ],
)
def test_what_does_not_go_together_is_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(sys, "argv", ["imdm_dist", "run", str(CHAIN), "--root", str(tmp_path / "runs"), *words])
    with pytest.raises(SystemExit) as left:
        commands.main()
    assert left.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "runs").exists()
