"""The batch scripts as texts: each names a chain and a stage that exist, and asks for what that stage asks for."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from imdm_dist.chain.chain import Chain, Stage, load_chain
from imdm_dist.chain.work import SEVERAL
from imdm_dist.config.time_limit import minutes_of
from tests.cluster import tiny

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ("lm1b_small", "owt_small", "owt_860m")
SCRIPTS = sorted(path for path in (ROOT / "slurm").glob("*.sh") if path.name.startswith(RECIPES))
GENERAL = {
    "train.sh": "-m imdm_dist.launch --restarts 3 --folder runs/x {home}/tools/train.py runs/x o=1 a=1",
    "gen_coupling.sh": "-m imdm_dist.launch --apart --restarts 3 {home}/tools/gen_coupling.py o=1 runs/x a=1",
    "stage.sh": "{home}/tools/pipeline.py here runs/x a=1",
}
"""Scripts of no recipe, and what they call with the arguments `runs/x a=1` and IMDM_OVERRIDES=o=1."""

by_name = pytest.mark.parametrize("script", SCRIPTS, ids=[script.stem for script in SCRIPTS])


def options(script: Path) -> dict[str, str]:
    """What the #SBATCH lines say."""
    lines = re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", script.read_text(), re.MULTILINE)
    assert len(dict(lines)) == len(lines), "an option is given twice"
    return dict(lines)


def called(script: Path, *arguments: str) -> list[str]:
    """What a script hands to Python."""
    environment = {"PATH": os.environ["PATH"], "IMDM_HOME": str(ROOT), "IMDM_PYTHON": "echo", "IMDM_OVERRIDES": "o=1"}
    command = ["bash", str(script), *arguments]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.split()


def stage_of(script: Path) -> tuple[Chain, Stage, list[str]]:
    """The chain and the stage that a script makes, and the rest of its call."""
    tool, here, chain, option, stage, *rest = called(script, "a=1")
    assert (tool, here, option) == (str(ROOT / "tools" / "pipeline.py"), "here", "--stage")
    return (loaded := load_chain(chain)), loaded.stage(stage), rest


def test_there_is_one_for_each_recipe() -> None:
    for recipe in RECIPES:
        for what in ("teacher", "sdtt", "coupling", "redi", "evaluation"):
            assert ROOT / "slurm" / f"{recipe}_{what}.sh" in SCRIPTS
    assert len(SCRIPTS) == 5 * len(RECIPES)
    others = {path.name for path in (ROOT / "slurm").glob("*.sh")} - {script.name for script in SCRIPTS}
    assert others - {"site.sh"} == {*GENERAL, "environment.sh"}


@pytest.mark.parametrize("name", [*(script.name for script in SCRIPTS), *GENERAL, "environment.sh"])
def test_bash_reads_it(name: str) -> None:
    done = subprocess.run(["bash", "-n", str(ROOT / "slurm" / name)], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr


@by_name
def test_it_is_one_call(script: Path) -> None:
    lines = [line for line in script.read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0].startswith('. "${IMDM_HOME:-${SLURM_SUBMIT_DIR:-.}}/slurm/environment.sh" || {')
    assert lines[3].startswith("exec ") and len(lines) == 4 + lines[3].endswith("\\")
    assert stage_of(script)[2][-2:] == ["o=1", "a=1"]
    assert script.stat().st_mode & 0o111


@pytest.mark.parametrize("name", GENERAL)
def test_the_call_of_a_general_script(name: str) -> None:
    assert called(ROOT / "slurm" / name, "runs/x", "a=1") == GENERAL[name].format(home=ROOT).split()


@pytest.mark.parametrize("name", [*(script.name for script in SCRIPTS), "train.sh", "gen_coupling.sh"])
def test_the_logs_of_an_array_have_its_numbers(name: str) -> None:
    said = options(ROOT / "slurm" / name)
    # --array=0-3 on the command line wins over that of gen_coupling.sh, and its name of a log must do for both.
    assert ("array" in said) == (name.endswith("coupling.sh"))
    assert said["output"] == ("%x-%A_%a.log" if "array" in said else "%x-%j.log")


@by_name
def test_it_asks_for_what_its_stage_asks_for(script: Path) -> None:
    _, stage, _ = stage_of(script)
    said = options(script)
    resources = stage.config.resources
    one = stage.kind not in SEVERAL
    asked = dict(
        option.removeprefix("--").split("=") for option in tiny.sbatch_options(resources, one) if "=" in option
    )
    for name in ("nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "signal", "open-mode"):
        assert said[name] == asked[name], name
    # A script also makes what its stage starts from; a table is quick, whatever limit the chain gives all stages.
    assert one or minutes_of(said["time"]) >= minutes_of(asked["time"])
    assert "requeue" in said
    assert said["job-name"] == script.stem
    if resources.array > 1:
        assert said["array"] == f"0-{resources.array - 1}"
        assert said["output"] == "%x-%A_%a.log"
    else:
        assert "array" not in said
        assert said["output"] == "%x-%j.log"


@by_name
def test_it_makes_the_stage_that_it_is_called_after(script: Path) -> None:
    chain, stage, rest = stage_of(script)
    recipe, _, what = script.stem.rpartition("_")
    assert chain.name == script.stem if script.stem == "owt_860m_teacher" else chain.name == recipe
    assert stage.name == {"coupling": "pairs", "evaluation": "table"}.get(what, what)
    # Elements of an array would each make what is missing, and a table's single process would train.
    assert ("--only" in rest) == (what in ("coupling", "evaluation"))
