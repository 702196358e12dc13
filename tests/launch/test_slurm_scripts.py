"""The batch scripts as texts: each names a chain and a stage that exist, and asks for what that stage asks for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from imdm_dist.chain import Chain, Stage, load_chain
from imdm_dist.config.time_limit import minutes_of
from tests.cluster import tiny

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ("lm1b_small", "owt_small", "owt_860m")
SCRIPTS = sorted(path for path in (ROOT / "slurm").glob("*.sh") if path.name.startswith(RECIPES))
GENERAL = {
    "train.sh": "-m imdm_dist.launch --restarts 3 --folder runs/x -m imdm_dist train runs/x o=1 a=1",
    "gen_coupling.sh": "-m imdm_dist.launch --apart --restarts 3 -m imdm_dist couple o=1 runs/x a=1",
    "stage.sh": "-m imdm_dist run --in-job runs/x --stage a=1 o=1",
}
"""Scripts of no recipe, and what they call with the arguments `runs/x a=1` and IMDM_OVERRIDES=o=1."""

by_name = pytest.mark.parametrize("script", SCRIPTS, ids=[script.stem for script in SCRIPTS])


def options(script: Path) -> dict[str, str]:
    """What the #SBATCH lines say."""
    lines = re.findall(r"^#SBATCH (.*)$", script.read_text(), re.MULTILINE)
    pairs = [option.removeprefix("--").partition("=")[::2] for line in lines for option in line.split()]
    assert len(dict(pairs)) == len(pairs), "an option is given twice"
    return dict(pairs)


def called(script: Path, *arguments: str, **environment: str) -> list[str]:
    """What a script hands to Python."""
    environment |= {"PATH": os.environ["PATH"], "IMDM_PYTHON": "echo", "IMDM_OVERRIDES": "o=1"}
    environment = {"IMDM_HOME": str(ROOT)} | environment
    command = ["bash", str(script), *arguments]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.split()


def stage_of(script: Path) -> tuple[Chain, Stage, list[str]]:
    """The chain and the stage that a script makes, and the rest of its call."""
    *command, place, chain, option, stage = called(script, "a=1")[:7]
    rest = called(script, "a=1")[7:]
    assert command == ["-m", "imdm_dist", "run"] and (place, option) == ("--in-job", "--stage")
    return (loaded := load_chain(chain)), loaded.stage(stage), rest


def test_there_is_one_for_each_recipe_and_those_that_the_page_types() -> None:
    page = (ROOT / "docs" / "slurm.md").read_text()
    for recipe in RECIPES:
        assert ROOT / "slurm" / f"{recipe}_redi.sh" in SCRIPTS
    assert {f"slurm/{script.name}" for script in SCRIPTS} <= set(re.findall(r"slurm/\w+\.sh", page))
    for name in re.findall(r"slurm/(\w+\.sh)", page):
        assert name in ("site.sh", "NAME.sh") or (ROOT / "slurm" / name).exists(), name
    others = {path.name for path in (ROOT / "slurm").glob("*.sh")} - {script.name for script in SCRIPTS}
    assert others - {"site.sh"} == {*GENERAL, "environment.sh"}


@pytest.mark.parametrize(
    "path",
    [*SCRIPTS, *(ROOT / "slurm" / name for name in (*GENERAL, "environment.sh"))],
    ids=lambda path: path.name,
)
def test_bash_reads_it(path: Path) -> None:
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr


@by_name
def test_it_is_one_call(script: Path) -> None:
    lines = [line for line in script.read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "home=${IMDM_HOME:-${SLURM_SUBMIT_DIR:-.}}" and len(lines) == 4
    assert lines[1].startswith('. "$home/slurm/stage.sh" "$home/configs/pipeline/') and lines[1].endswith(' "$@" || {')
    assert "o=1" in stage_of(script)[2] and stage_of(script)[2][-1] == "a=1"
    assert script.stat().st_mode & 0o111


def test_an_element_of_an_array_makes_its_stage_alone() -> None:
    script = ROOT / "slurm" / "stage.sh"
    assert called(script, "x.yaml", "pairs", SLURM_ARRAY_JOB_ID="5") == (
        ["-m", "imdm_dist", "run", "--in-job", "x.yaml", "--stage", "pairs", "--only", "o=1"]
    )


@pytest.mark.parametrize("name", [*GENERAL, "owt_860m_redi.sh"])
def test_a_script_that_does_not_find_the_checkout_says_so(name: str, tmp_path: Path) -> None:
    for home, said in ((tmp_path, "submit it from the checkout"), (tmp_path / "half", "is not the checkout")):
        if home != tmp_path:
            shutil.copytree(ROOT / "slurm", home / "slurm")
        command = ["bash", str(ROOT / "slurm" / name), "x.yaml", "stage"]
        environment = {"PATH": os.environ["PATH"], "SLURM_SUBMIT_DIR": str(home)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 2 and said in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", GENERAL)
def test_the_call_of_a_general_script(name: str) -> None:
    assert called(ROOT / "slurm" / name, "runs/x", "a=1") == GENERAL[name].split()


@pytest.mark.parametrize("name", [*(script.name for script in SCRIPTS), *GENERAL])
def test_the_logs_of_an_array_have_its_numbers(name: str) -> None:
    said = options(ROOT / "slurm" / name)
    # --array=0-3 on the command line wins over that of gen_coupling.sh, and its name of a log must do for both.
    assert ("array" in said) == (name == "gen_coupling.sh")
    assert said["output"] == ("%x-%A_%a.log" if "array" in said else "%x-%j.log")


@by_name
def test_it_asks_for_what_its_stage_asks_for(script: Path) -> None:
    _, stage, _ = stage_of(script)
    said = options(script)
    resources = stage.config.resources
    one = stage.processes == "one"
    given = tiny.sbatch_options(resources, one)
    asked = dict(option.removeprefix("--").split("=") for option in given if "=" in option)
    for name in ("nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "signal", "open-mode"):
        assert said[name] == asked[name], name
    # A script also makes what its stage starts from; a table is quick, whatever limit the chain gives all stages.
    assert one or minutes_of(said["time"]) >= minutes_of(asked["time"])
    assert "requeue" in said
    assert said["job-name"] == script.stem
    assert resources.array <= 1 and "array" not in said  # of a coupling it is given: slurm/stage.sh
    assert said["output"] == "%x-%j.log"


@by_name
def test_it_makes_the_stage_that_it_is_called_after(script: Path) -> None:
    chain, stage, rest = stage_of(script)
    recipe, _, what = script.stem.rpartition("_")
    assert chain.name == recipe
    assert stage.name == {"evaluation": "table"}.get(what, what)
    # A table's single process would train.
    assert ("--only" in rest) == (what == "evaluation")
