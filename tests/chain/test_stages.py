"""Kinds of stage: those of the house keep their names on disk, and one of a user's own file is a stage like any."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from imdm_dist.chain import load_chain, run_chain, work_order
from imdm_dist.chain.chain import Chain, chain_yaml, freeze_chain
from imdm_dist.chain.cluster import job_text
from imdm_dist.chain.identity import stage_identity
from imdm_dist.chain.provenance import provenance
from imdm_dist.chain.slurm_jobs import stage_key
from imdm_dist.chain.stage_plans import plan_stages
from imdm_dist.chain.status import Row, status
from imdm_dist.chain.survey import StageState, survey
from imdm_dist.chain.work_order import write_order
from imdm_dist.files import hash_json
from imdm_dist.planning.hardware import Hardware
from imdm_dist.registry import STAGES
from tests.chain.test_chain import chain as whole_chain

ROOT = Path(__file__).resolve().parents[2]
OWN = '''
"""Counts the tokens of the data."""

from dataclasses import dataclass

import numpy as np

from imdm_dist.chain import Stage, StageProgress, input_of
from imdm_dist.config.setting import setting
from imdm_dist.data import prepare
from imdm_dist.files import write_json


@dataclass(frozen=True, kw_only=True)
class TokenCounts(Stage):
    """The most frequent tokens of the training text."""

    top: int = 3
    """How many are listed."""
    shown: int = setting(0, shapes=False)
    """It shapes no result."""
    least: int = setting(0, later=True)
    """It came after the first results."""
    above: str = input_of("token counts")
    """A stage of the same kind whose tokens are left out."""
    below: str = input_of("token counts")
    """Another one."""

    makes = "token counts"
    result = "counts.json"

    def execute(self, folders, stages, workers):
        rows = prepare(self.config.data).train
        counts = np.bincount(np.asarray(rows.tokens).reshape(-1), minlength=rows.vocab_size)
        write_json(folders[self.name] / self.result, np.argsort(-counts, kind="stable")[: self.top].tolist())

    def progress(self, folder):
        return StageProgress(f"{self.top} tokens")


class NoStage:
    pass
'''
IDENTITIES = {
    "judge": "178c219d",
    "teacher": "df66d191",
    "sdtt": "4693c283",
    "pairs": "575caa25",
    "redi": "e628336f",
    "table": "916ec50d",
    "hub": "0efa09ac",
}
"""Of a chain with a stage of each kind that is made; the data's content is left out."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("stages")
    (home / "text.txt").write_text("".join(f"row {i} says {i * 7 % 11} and {i * 5 % 13}.\n" for i in range(200)))
    (home / "own_stages.py").write_text(OWN)
    return home


@pytest.fixture(autouse=True)
def own_stages(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(home)
    sys.modules.pop("own_stages", None)


def write(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "chain.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def counted(home: Path, folder: Path, *overrides: str, **keys: Any) -> Chain:
    """A chain of one stage, of the kind that the user's file has."""
    entry = {"name": "counts", "kind": "own_stages:TokenCounts", **keys}
    return load_chain(write(folder, {**whole_chain(home), "stages": [entry]}), overrides)


def found(chain: Chain, root: Path) -> StageState:
    return survey(chain, root / chain.name)["counts"]


def row(chain: Chain, root: Path) -> Row:
    return status(chain, root)[0]


def test_folders_of_finished_stages_keep_their_names(home: Path, tmp_path: Path) -> None:
    content = whole_chain(home)
    del content["base"]["evaluation"]["metrics"]  # which came later: its default changes no name
    content["stages"].insert(0, {"name": "gone", "kind": "given", "set": {"inputs": {"init": "runs/x"}}})
    content["stages"].append({"name": "hub", "kind": "evaluation", "evaluator": "gpt2-large", "models": {"A": "gone"}})
    chain = load_chain(write(tmp_path, content))
    assert {stage.kind for stage in chain.stages} == set(STAGES.names)
    for stage in chain.stages:
        if stage.made:
            identity = stage_identity(stage, {name: f"digest of {name}" for name in chain.inputs(stage)})
            assert hash_json(identity | {"data": []})[:8] == IDENTITIES[stage.name], stage.name


def test_a_stage_of_a_users_own_file(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chain, root = counted(home, tmp_path), tmp_path / "runs"
    folder = run_chain(chain, root, workers=1)["counts"]
    tokens = json.loads((folder / "counts.json").read_text())
    assert len(tokens) == 3
    assert found(chain, root).state == "whole"
    assert (row(chain, root).kind, row(chain, root).state) == ("own_stages:TokenCounts", "whole")
    assert row(chain, root).progress == "3 tokens"
    assert provenance(folder).startswith(f"{folder.name}: own_stages:TokenCounts, digest")
    assert load_chain(write_text(tmp_path / "printed.yaml", chain_yaml(chain))) == chain
    capsys.readouterr()
    assert run_chain(chain, root, workers=1) == {"counts": folder}
    assert "counts: there already" in capsys.readouterr().err
    # A setting of its own, in the file or on the command line, makes it anew; back again the old one is there.
    for changed in (counted(home, tmp_path, top=5), counted(home, tmp_path, "counts/top=5")):
        assert (changed.stage("counts"), found(changed, root).state) == (changed.stages[0], "missing")
        assert found(changed, root).why == "made anew: top was 3, is 5"
        assert stage_key(changed, changed.stages[0], root) != stage_key(chain, chain.stages[0], root)
    other = run_chain(changed, root, workers=1)["counts"]
    assert other != folder and json.loads((other / "counts.json").read_text())[:3] == tokens
    assert found(chain, root).state == "whole"
    # Settings that it does not read do not.
    assert found(counted(home, tmp_path, "train.steps=9"), root).state == "whole"
    assert found(counted(home, tmp_path, shown=3), root).state == "whole"
    assert "least" not in (found(chain, root).identity or {})
    assert "least was nothing, is 3" in found(counted(home, tmp_path, least=3), root).why
    # A damaged result is made again.
    (folder / "counts.json").write_text("[]")
    assert found(chain, root).state == "damaged"
    run_chain(chain, root, workers=1)
    assert json.loads((folder / "counts.json").read_text()) == tokens


def write_text(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_process_of_a_launch_makes_it_too(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain, there = counted(home, tmp_path), tmp_path / "runs" / "tiny"
    order = write_order(there, freeze_chain(chain, there), "counts", {"counts": there / "counts-1"})
    monkeypatch.setattr(sys, "argv", ["work_order", str(order)])
    monkeypatch.setattr("imdm_dist.chain.work_order.heed_signals", lambda: None)
    work_order.main()
    assert len(json.loads((there / "counts-1" / "counts.json").read_text())) == 3
    assert job_text(chain.stages[0]).startswith("1 node, 0 GPUs and 1 process on each")
    assert plan_stages(str(tmp_path / "chain.yaml"), [], Hardware(), None, None) == {}


def test_keys_that_name_what_is_alike_are_told_apart(home: Path, tmp_path: Path) -> None:
    content = whole_chain(home)
    kind = "own_stages:TokenCounts"
    content["stages"] = [
        {"name": "a", "kind": kind},
        {"name": "b", "kind": kind, "top": 2},
        {"name": "c", "kind": kind, "above": "a", "below": "b"},
    ]
    chain = load_chain(write(tmp_path, content))
    swapped = load_chain(tmp_path / "chain.yaml", ["c/above=b", "c/below=a"])
    digests = {"a": "digest of a", "b": "digest of b"}
    assert chain.stage("c").inputs() == ["a", "b"] and swapped.stage("c").inputs() == ["b", "a"]
    assert stage_identity(chain.stage("c"), digests) != stage_identity(swapped.stage("c"), digests)


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        (
            {"kind": "own_stages:Nothing"},
            "a stage's kind is 'own_stages:Nothing', which cannot be imported .*PYTHONPATH",
        ),
        ({"kind": "no_stages:Nothing"}, "a stage's kind is 'no_stages:Nothing', which cannot be imported .*PYTHONPATH"),
        ({"kind": "own_stages:NoStage"}, "'own_stages:NoStage', which is no subclass of imdm_dist.chain.stage.Stage"),
        ({"top": "many"}, "top is 'many' .in stage counts of .*: set it to a whole number"),
        ({"tpo": 4}, "unknown key tpo: did you mean top?"),
        ({"teacher": "x"}, "has teacher, which a stage of kind own_stages:TokenCounts does not read"),
        ({"above": "pairs"}, "above of stage counts .* is pairs, which is no stage above it"),
    ],
)
def test_what_is_wrong_with_it_is_a_line(home: Path, tmp_path: Path, entry: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        counted(home, tmp_path, **entry)
    assert "\n" not in str(caught.value)


def test_no_other_file_asks_for_a_kind_of_stage() -> None:
    asked = re.compile(rf"stage\.kind\b( ==| !=| in\b| not in\b)|\"({'|'.join(STAGES.names)})\"")
    rooms = [path for room in ("chain", "launch") for path in (ROOT / "imdm_dist" / room).rglob("*.py")]
    rooms += [*ROOT.glob("imdm_dist/*.py"), *ROOT.glob("tools/*.py")]
    asking = {path.name for path in rooms if asked.search(path.read_text()) and path.parent.name != "stages"}
    # The second has a split of the text called train; the others name the subcommand.
    assert asking == {"registry.py", "runner.py", "job.py", "train.py"}
