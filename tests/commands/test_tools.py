"""The command lines: help everywhere, and bad input ends in one line that says what to do."""

import contextlib
import io
import runpy
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from imdm_dist.signals import SIGNALS

ROOT = Path(__file__).resolve().parents[2]
TOOLS = sorted(path.name for path in (ROOT / "tools").glob("*.py"))
CHAIN = ROOT / "configs" / "embedded_chain.yaml"
TINY = ["model.size=custom", "model.hidden_dim=32", "model.n_blocks=1", "model.n_heads=2", "train.global_batch=8"]


def call(cwd: Path, tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a tool as the command line would, in this process: importing torch takes longer than most of them."""
    out, err = io.StringIO(), io.StringIO()
    argv = [str(ROOT / "tools" / tool), *arguments]
    streams = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    with contextlib.chdir(cwd), mock.patch.object(sys, "argv", argv), streams[0], streams[1]:
        try:
            runpy.run_path(argv[0], run_name="__main__")
            code = 0
        except SystemExit as exit_:
            assert exit_.code is None or isinstance(exit_.code, int)
            code = exit_.code or 0
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return subprocess.CompletedProcess(argv, code, out.getvalue(), err.getvalue())


@pytest.mark.parametrize("tool", TOOLS)
def test_help_has_an_example(tool: str, tmp_path: Path) -> None:
    done = call(tmp_path, tool, "--help")
    assert done.returncode == 0
    assert f"python tools/{tool}" in done.stdout
    assert "\n  imdm_dist " in done.stdout or tool == "pipeline.py"


def test_help_waits_for_no_heavy_library(tmp_path: Path) -> None:
    script = """
import contextlib, io, runpy, sys
for tool in sys.argv[1:]:
    sys.argv = [tool, "--help"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        runpy.run_path(tool, run_name="__main__")
    heavy = {"torch", "transformers", "datasets", "deepspeed", "matplotlib", "pyarrow"} & set(sys.modules)
    assert not heavy, f"{tool} imports {heavy} before it has read its command line"
"""
    command = [sys.executable, "-c", script, *(str(ROOT / "tools" / tool) for tool in TOOLS)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("tools")
    synthetic = ["data.source=synthetic", *TINY]
    done = call(home, "train.py", "teacher", *synthetic, "train.steps=2")
    assert done.returncode == 0, done.stderr
    return home


REFUSED = [
    (["train.py", "new", "data.source=files", "data.train=no.txt", "data.valid=no.txt", "train.steps=1"], "no.txt"),
    (["train.py", "new", "data.source=files", "train.steps=1"], "needs data.train and data.valid"),
    (["train.py", "new", "data.tokenizer=nowhere", "train.steps=1", *TINY], "data.tokenizer=nowhere"),
    (["train.py", "new", "data.length=0", "train.steps=1"], "data.length is 0"),
    (["train.py", "new", "train.steps=-5"], "train.steps is -5"),
    (["train.py", "new", "trian.steps=5"], "did you mean train?"),
    (["train.py", "new", "train.stpes=5"], "did you mean train.steps?"),
    (["train.py", "new", "train.steps=many"], "train.steps"),
    (["train.py", "new", "--config", "no.yaml"], "no.yaml"),
    (["train.py", "new", "data.source=synthetic", "train.steps=0", *TINY], "train.steps is 0"),
    (["train.py", "new", "inputs.init=teacher", "train.steps=1", "data.bpe_size=300", *TINY], "has 3 ids"),
    (["gen_coupling.py", "--teacher", "nowhere"], "no run or checkpoint"),
    (["gen_coupling.py", "--teacher", "teacher", "--plain", "--steps", "-3"], "coupling.steps is -3"),
    (["gen_coupling.py", "--teacher", "teacher", "--plain", "--shards", "0"], "coupling.shards is 0"),
    (["gen_coupling.py", "--teacher", "teacher", "--plain", "--prompts", "no.txt"], "has no tokenizer"),
    (["gen_coupling.py", "--teacher", "teacher", "--plain", "--workers", "0"], "workers is 0"),
    (["gen_coupling.py", "--teacher", "teacher", "--plain", "--out", "/proc/x"], "cannot write in /proc "),
    (["gen_coupling.py", "--workers", "0"], "workers is 0"),
    (["gen_coupling.py", "--teacher", "teacher", "--prompts", "no.txt"], "add --plain"),
    (["gen_coupling.py", "--prompts", "no.txt"], "add --plain"),
    (["gen_coupling.py", "--config", "c.yaml"], "--config goes with --teacher"),
    (["sample.py", "nowhere"], "no run or checkpoint"),
    (["sample.py", "teacher", "--steps", "0"], "1 step or more"),
    (["sample.py", "teacher", "--samples", "0"], "samples is 0"),
    (["evaluate.py", "--model", "teacher", "--evaluator", "e", "--out", "new"], "NAME=RUN"),
    (["evaluate.py", "--model", "A=teacher", "--evaluator", "./e", "--out", "new"], "there is no such folder"),
    (["evaluate.py", "--model", "a/b=teacher", "--evaluator", "e", "--out", "new"], "cannot be part of a file's name"),
    (["evaluate.py", "--model", "A=teacher", "--model", "A=b", "--evaluator", "e", "--out", "new"], "A already"),
    (["train.py", "new", "--config", str(CHAIN)], "is a chain of stages, not the settings of one run"),
    (["run_chain.py", "no.yaml"], "no.yaml"),
    (["run_chain.py", str(CHAIN), "--workers", "0"], "workers is 0"),
    (["show_config.py", "--describe", "no.yaml"], "--describe prints the defaults"),
    (["show_config.py", "no.yaml"], "no.yaml"),
]


@pytest.mark.parametrize(
    ("command", "said"), REFUSED, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_bad_input_is_one_line_and_leaves_nothing(home: Path, command: list[str], said: str) -> None:
    before = {path for path in home.rglob("*") if "runs" not in path.parts}
    done = call(home, *command)
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and said in last, done.stderr
    assert "Traceback" not in done.stderr
    assert {path for path in home.rglob("*") if "runs" not in path.parts} == before


def test_a_corrupt_shard_is_named_with_a_remedy(home: Path) -> None:
    done = call(
        home,
        "gen_coupling.py",
        "--teacher",
        "teacher",
        "--plain",
        "--pairs",
        "8",
        "--shards",
        "2",
        "--steps",
        "4",
        "--workers",
        "2",
        "--out",
        "pairs",
    )
    assert done.returncode == 0, done.stderr
    shard = home / "pairs" / "shard-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-7])
    arguments = ["objective.kind=redi", "inputs.coupling=pairs", "data.source=synthetic", "train.steps=1", *TINY]
    done = call(home, "train.py", "student", *arguments)
    assert done.returncode == 2
    assert "shard-00001.parquet" in done.stderr.strip().splitlines()[-1]
    assert not (home / "student").exists()


def test_samples_are_printed_and_written(home: Path) -> None:
    done = call(home, "sample.py", "teacher", "--steps", "1", "--samples", "2", "--out", "samples.jsonl")
    assert done.returncode == 0, done.stderr
    assert len((home / "samples.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    "command", [["train.py", "new", "train.steps=7", "--print-config"], ["show_config.py", "train.steps=7"]]
)
def test_settings_are_printed_without_running(tmp_path: Path, command: list[str]) -> None:
    done = call(tmp_path, *command)
    assert done.returncode == 0, done.stderr
    assert "steps: 7" in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_chain_that_is_printed_can_be_given_back(tmp_path: Path) -> None:
    first = call(tmp_path, "show_config.py", str(CHAIN), "teacher/train.steps=7")
    assert first.returncode == 0, first.stderr
    (tmp_path / "printed.yaml").write_text(first.stdout)
    again = call(tmp_path, "show_config.py", "printed.yaml")
    assert again.returncode == 0, again.stderr
    assert again.stdout == first.stdout and "steps: 7" in first.stdout
