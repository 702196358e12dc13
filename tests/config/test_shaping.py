"""What a field says of results decides what identifies a stage and what a resumed run must keep."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest

from imdm_dist.chain import load_chain
from imdm_dist.config import Config, fixed_settings, from_dict, load_config, setting, shaping_settings, to_dict
from imdm_dist.files import hash_json
from imdm_dist.objectives.sdtt import SdttConfig
from imdm_dist.training.setup import check_resumable
from tests.golden_chain import WHOLE

BEFORE = {
    "teacher": "4ae2ef97ea2f10b1",
    "finite": "0159a9804446e488",
    "single": "dd95d8ece3e37c1a",
    "gaussian": "e52df3e31741d4c5",
    "sdtt": "9702e530c58e5c07",
    "forward": "679dc2a6dc7fa51b",
    "fresh": "b2bb467ff60e0754",
    "pairs": "f696a36e93854d25",
    "plain": "336bc5a893456df5",
    "redi": "ff5f45f5e994da8a",
    "redrawn": "9bd5bf95d7deb21e",
    "judge": "5362e1123f55744c",
    "table": "598953f3775f633d",
}
"""Hashes of the settings that identified the stages of the golden chain at commit 9126904: folders of finished stages
have names that follow from them."""
OWN = '''
from dataclasses import dataclass

from imdm_dist.config import ObjectiveConfig, setting
from imdm_dist.objectives.nelbo import Nelbo


@dataclass(frozen=True, kw_only=True)
class OwnConfig(ObjectiveConfig):
    """My own loss."""

    temperature: float = 1.0
    """Its temperature."""
    since: float = setting(0.5, later=True)
    """Came after results existed."""
    written_every: int = setting(10, shapes=False)
    """Steps between two lines of its own."""


class Own(Nelbo):
    """The NELBO, and settings that it does not read."""

    Config = OwnConfig
'''


def test_finished_stages_keep_their_names(tmp_path: Path) -> None:
    (tmp_path / "chain.yaml").write_text(WHOLE)
    stages = load_chain(tmp_path / "chain.yaml").stages
    assert {stage.name: hash_json(shaping_settings(stage.config, *stage.shaping))[:16] for stage in stages} == BEFORE


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_settings.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return "own_settings:Own"


def identity(kind: str, folder: Path, **settings: Any) -> str:
    """Of a stage that trains with an objective of one's own."""
    entry = {"name": "one", "kind": "train", "set": {"objective": {"kind": kind, **settings}, "train": {"steps": 1}}}
    (folder / "chain.yaml").write_text(json.dumps({"stages": [entry]}))
    stage = load_chain(folder / "chain.yaml").stages[0]
    return hash_json(shaping_settings(stage.config, *stage.shaping))


def resumable(kind: str, before: dict[str, Any], now: dict[str, Any]) -> str:
    """What keeps a run from going on with other settings of its objective; empty if nothing does."""
    was, config = (from_dict(Config, {"objective": {"kind": kind, **settings}}) for settings in (before, now))
    try:
        check_resumable({"config": to_dict(was), "provenance": {}}, config, {})
    except ValueError as error:
        return str(error)
    return ""


def test_a_new_setting_of_an_objective_identifies_stages_and_is_kept_on_resume(own: str, tmp_path: Path) -> None:
    assert identity(own, tmp_path) != identity(own, tmp_path, temperature=2.0)
    assert identity(own, tmp_path) == identity(own, tmp_path, temperature=1.0)
    assert resumable(own, {}, {"temperature": 1.0}) == ""
    assert "made with objective.temperature=1.0, now it is 2.0" in resumable(own, {}, {"temperature": 2.0})


def test_a_setting_that_came_later_counts_where_it_differs_from_its_default(own: str, tmp_path: Path) -> None:
    stage = from_dict(Config, {"objective": {"kind": own}})
    assert shaping_settings(stage, "objective") == {"objective": {"kind": own, "temperature": 1.0}}
    assert identity(own, tmp_path) == identity(own, tmp_path, since=0.5) != identity(own, tmp_path, since=0.75)
    assert resumable(own, {}, {"since": 0.5}) == ""
    assert "made with objective.since=0.5, now it is 0.75" in resumable(own, {}, {"since": 0.75})
    assert "made with objective.since=0.75, now it is 0.5" in resumable(own, {"since": 0.75}, {})


def test_a_setting_that_shapes_nothing_may_change(own: str, tmp_path: Path) -> None:
    assert identity(own, tmp_path) == identity(own, tmp_path, written_every=2)
    assert resumable(own, {}, {"written_every": 2}) == ""


def test_another_objective_is_another_stage_and_run(own: str, tmp_path: Path) -> None:
    assert len({identity(kind, tmp_path) for kind in (own, "nelbo", "sdtt")}) == 3
    was = to_dict(Config())
    with pytest.raises(ValueError, match=r"made with objective\.kind=nelbo, now it is sdtt"):
        check_resumable({"config": was, "provenance": {}}, replace(Config(), objective=SdttConfig()), {})


def test_what_does_not_shape_a_step_may_change_on_resume() -> None:
    """The settings of a run that may not change, as docs/checkpoints.md has them."""
    sections = ("model", "objective", "optimizer", "engine", "train")
    config = load_config(Config, None, ["objective.kind=sdtt"])
    fixed = fixed_settings(config, *sections)
    whole = {f"{name}.{field.name}" for name in sections[:3] for field in fields(getattr(config, name))}
    assert set(fixed) == whole | {"engine.precision", "train.global_batch", "train.seed"}
    named = shaping_settings(config, *sections[:3], "engine.*", "train.*")
    assert set(named) == {*sections[:3], "engine.precision", "train.global_batch", "train.seed", "train.steps"}
    assert shaping_settings(config, "resources.*") == {}
    assert shaping_settings(config, "train.valid_rows") == {"train.valid_rows": 1024}


def test_settings_of_sections_within_sections_count_as_they_say() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Inner:
        width: int = 1
        late: int = setting(2, later=True)
        place: str = setting("here", shapes=False)

    @dataclass(frozen=True, kw_only=True)
    class Section:
        sizes: tuple[int, ...] = (1, 2)
        inner: Inner = Inner()

    @dataclass(frozen=True, kw_only=True)
    class All:
        section: Section = Section()

    assert shaping_settings(All(), "section") == {"section": {"sizes": [1, 2], "inner": {"width": 1}}}
    changed = All(section=Section(inner=Inner(late=3, place="there")))
    assert shaping_settings(changed, "section.*") == {"section.sizes": [1, 2], "section.inner": {"width": 1, "late": 3}}
