"""Sections whose class follows from one of their settings: which layer decides, and what becomes of other kinds'."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from imdm_dist.chain import load_chain
from imdm_dist.config import (
    Config,
    Layer,
    build,
    describe,
    from_dict,
    load_config,
    load_over,
    to_dict,
    to_yaml,
    variant_section,
)
from imdm_dist.objectives.nelbo import NelboConfig
from imdm_dist.objectives.redi import RediConfig
from imdm_dist.objectives.sdtt import SdttConfig
from imdm_dist.registry import OBJECTIVES, Registry

OWN = '''
from dataclasses import dataclass
from typing import Literal

from imdm_dist.config import ObjectiveConfig, setting
from imdm_dist.objectives.nelbo import Nelbo


@dataclass(frozen=True, kw_only=True)
class OwnConfig(ObjectiveConfig):
    """My own loss."""

    temperature: float = 1.0
    """Its temperature."""
    mode: Literal["a", "b"] = "a"
    """Its mode."""
    rounds: int = 2
    """As another kind has them."""


class Own(Nelbo):
    """The NELBO, and settings that it does not read."""

    Config = OwnConfig
'''
FLAT: dict[str, Any] = {
    "kind": "nelbo",
    "divergence": "mse",
    "rounds": 3,
    "steps_per_round": 10,
    "grid": 64,
    "noise_policy": "fresh",
    "teacher_weights": "ema",
    "redraw_noise": True,
}
"""Section objective of a record of before it had kinds."""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of somebody's own objective, in a module that no line of the house knows."""
    (tmp_path / "own_objective.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return "own_objective:Own"


def objective(*overrides: str, file: str = "", folder: Path | None = None) -> Any:
    path = None
    if folder is not None:
        path = folder / "x.yaml"
        path.write_text(file)
    return load_config(Config, path, [f"objective.{one}" for one in overrides]).objective


def test_the_class_of_a_section_follows_from_its_kind(tmp_path: Path) -> None:
    assert Config().objective == objective() == objective("kind=nelbo") == NelboConfig()
    assert objective("kind=sdtt", "rounds=2") == SdttConfig(rounds=2)
    assert objective("redraw_noise=true", "kind=redi") == RediConfig(redraw_noise=True)
    assert objective("kind=sdtt", file="objective: {rounds: 3}", folder=tmp_path) == SdttConfig(rounds=3)
    assert objective("rounds=3", file="objective: {kind: sdtt}", folder=tmp_path) == SdttConfig(rounds=3)
    assert type(objective("kind=sdtt", "steps_per_round=5").steps_per_round) is int


def test_a_later_layer_may_change_the_kind(tmp_path: Path) -> None:
    file = "objective: {kind: sdtt, rounds: 3}"
    assert objective("kind=redi", file=file, folder=tmp_path) == RediConfig()
    before = load_config(Config, None, ["objective.kind=sdtt", "objective.rounds=3"])
    assert load_over(before, None, ["objective.kind=redi"]).objective == RediConfig()
    assert load_over(before, None, ["objective.grid=64"]).objective == SdttConfig(rounds=3, grid=64)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["rounds=3"],
            "objective.rounds is read by objective.kind=sdtt, which is nelbo (on the command line): set the one or "
            "leave the other out",
        ),
        (
            ["kind=sdtt", "redraw_noise=true"],
            "objective.redraw_noise is read by objective.kind=redi, which is sdtt",
        ),
        (["kind=sddt"], "objective.kind is 'sddt': did you mean sdtt? (on the command line)"),
        (["kind=zzz"], "objective.kind is 'zzz': there are nelbo, sdtt, redi, or a module:Class (on the command line)"),
        (
            ["kind=no_module:X"],
            "objective.kind is 'no_module:X', which cannot be imported (No module",
        ),
        (["ruonds=3"], "unknown setting objective.ruonds (on the command line): did you mean objective.rounds?"),
        (["rounds=x"], "objective.rounds is 'x' (on the command line): set it to a whole number"),
        (["kind=sdtt", "rounds=0"], "objective.rounds is 0: set it to 1 or more"),
        (["kind=sdtt", "grid=16"], "objective.grid=16 cannot be halved objective.rounds=7 times: raise it"),
    ],
)
def test_wrong_kinds_and_settings_of_other_kinds_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        objective(*overrides)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_a_file_is_held_to_the_same_and_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"objective\.rounds is read by .* which is nelbo \(in .*x\.yaml\): set the one"
    ):
        objective(file="objective: {rounds: 3}", folder=tmp_path)
    with pytest.raises(ValueError, match=r"objective\.kind is 3 \(in .*x\.yaml\): set it to text \(in quotes\)$"):
        objective(file="objective: {kind: 3}", folder=tmp_path)
    with pytest.raises(ValueError, match=r"objective is 3 \(in .*x\.yaml\): it is a section"):
        objective(file="objective: 3", folder=tmp_path)
    # Other kinds' settings at their defaults change nothing: files printed when all kinds shared a section have them.
    assert objective(file="objective: {kind: nelbo, rounds: 7, redraw_noise: false}", folder=tmp_path) == NelboConfig()
    assert objective(file="objective:\n  # rounds: 3\n", folder=tmp_path) == NelboConfig()


def test_settings_that_stages_share_are_for_those_that_read_them(tmp_path: Path) -> None:
    chain = """
base: {objective: {rounds: 3, redraw_noise: true}, train: {steps: 1}}
stages:
  - {name: teacher, kind: train}
  - {name: sdtt, kind: train, set: {objective: {kind: sdtt, grid: 64}}}
  - {name: pairs, kind: coupling, teacher: teacher}
  - {name: redi, kind: train, coupling: pairs, set: {objective: {kind: redi}}}
"""
    path = tmp_path / "chain.yaml"
    path.write_text(chain)

    def objectives(*overrides: str) -> list[Any]:
        return [stage.config.objective for stage in load_chain(path, overrides).stages]

    redi = RediConfig(redraw_noise=True)
    assert objectives() == [NelboConfig(), SdttConfig(rounds=3, grid=64), NelboConfig(), redi]
    steps = "objective.steps_per_round=5"
    assert objectives(steps) == [NelboConfig(), SdttConfig(rounds=3, grid=64, steps_per_round=5), NelboConfig(), redi]
    assert objectives("sdtt/objective.rounds=2")[1] == SdttConfig(rounds=2, grid=64)
    with pytest.raises(ValueError, match=r"objective\.rounds is read by objective\.kind=sdtt, which is nelbo"):
        objectives("teacher/objective.rounds=2")
    path.write_text(
        chain.replace("name: teacher, kind: train", "name: teacher, kind: train, set: {objective: {grid: 9}}")
    )
    with pytest.raises(ValueError, match=r"objective\.grid is read by .* \(in stage teacher of .*chain\.yaml\)"):
        objectives()


def test_records_of_before_there_were_kinds_still_load() -> None:
    for kind, expected in (
        ("nelbo", NelboConfig()),
        ("redi", RediConfig(redraw_noise=True)),
        (
            "sdtt",
            SdttConfig(
                divergence="mse", rounds=3, steps_per_round=10, grid=64, noise_policy="fresh", teacher_weights="ema"
            ),
        ),
    ):
        record = to_dict(Config()) | {"objective": FLAT | {"kind": kind}}
        assert from_dict(Config, json.loads(json.dumps(record))).objective == expected


@pytest.mark.parametrize("settings", [[], ["kind=sdtt", "rounds=3", "noise_policy=fresh"], ["kind=redi"]])
def test_every_kind_makes_its_round_trips(settings: list[str], tmp_path: Path) -> None:
    config = load_config(Config, None, [f"objective.{one}" for one in settings])
    assert from_dict(Config, json.loads(json.dumps(to_dict(config)))) == config
    (tmp_path / "x.yaml").write_text(to_yaml(config))
    assert load_config(Config, tmp_path / "x.yaml") == config


def test_ones_own_kind_needs_no_line_in_the_house(own: str, tmp_path: Path) -> None:
    config = load_config(Config, None, [f"objective.kind={own}", "objective.temperature=2", "objective.rounds=5"])
    found: Any = config.objective
    assert (found.kind, found.temperature, found.mode, found.rounds) == (own, 2.0, "a", 5)
    assert from_dict(Config, json.loads(json.dumps(to_dict(config)))) == config
    assert objective("kind=nelbo", file=f"objective: {{kind: '{own}', mode: b}}", folder=tmp_path) == NelboConfig()
    with pytest.raises(ValueError, match=r"objective\.mode is 'c' \(on the command line\): set it to a \| b"):
        objective(f"kind={own}", "mode=c")
    with pytest.raises(
        ValueError, match=r"unknown setting objective\.temprature .*did you mean objective\.temperature"
    ):
        objective(f"kind={own}", "temprature=2")
    with pytest.raises(
        ValueError, match=r"objective\.grid is read by objective\.kind=sdtt, which is own_objective:Own"
    ):
        objective(f"kind={own}", "grid=64")


def test_what_is_described_has_the_settings_of_every_kind(tmp_path: Path) -> None:
    lines = [line.strip() for line in describe(Config).splitlines()]
    for name in OBJECTIVES.names:
        assert any(line.startswith(f"# kind: {name} - ") for line in lines)
        section = [line.strip() for line in describe(OBJECTIVES.get(name).Config).splitlines()]
        for above, line in zip(["", *section], section, strict=False):
            assert line.startswith("#") or above.startswith("#"), f"no string below the field {line}"
            if not line.startswith(("#", "kind:")):
                assert f"# {line}" in lines
    uncommented = describe(Config).replace("kind: nelbo\n", "kind: sdtt\n").replace("# rounds: 7", "rounds: 3")
    (tmp_path / "x.yaml").write_text(uncommented)
    assert load_config(Config, tmp_path / "x.yaml").objective == SdttConfig(rounds=3)


NESTED = '''
from dataclasses import dataclass

from imdm_dist.config import setting, variant_section
from imdm_dist.registry import Registry

LINES = Registry("shape.line.kind", {"thin": "nested_kinds:Thin", "dashed": "nested_kinds:Dashed"})


@dataclass(frozen=True, kw_only=True)
class Line:
    """How it is drawn."""

    kind: str
    """Its kind."""


@dataclass(frozen=True, kw_only=True)
class ThinLine(Line):
    """A thin one."""

    kind: str = "thin"


@dataclass(frozen=True, kw_only=True)
class DashedLine(Line):
    """A dashed one."""

    kind: str = "dashed"
    gap: int = 1
    """Its gaps."""


class Thin:
    Config = ThinLine


class Dashed:
    Config = DashedLine


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What is drawn."""

    family: str
    """Its family."""


@dataclass(frozen=True, kw_only=True)
class Round(Shape):
    """A circle."""

    family: str = "circle"
    radius: float = 1.0
    """Its radius."""
    line: Line = variant_section(LINES)


@dataclass(frozen=True, kw_only=True)
class Sided(Shape):
    """A square."""

    family: str = "square"
    side: float = 1.0
    """Its side."""


class Circle:
    Config = Round


class Square:
    Config = Sided
'''


@dataclass(frozen=True, kw_only=True)
class _Shape:
    """What is drawn."""

    family: str
    """Its family."""


@dataclass(frozen=True, kw_only=True)
class _Drawing:
    """A section of kinds, one of which has such a section too."""

    shape: _Shape = variant_section(
        Registry("shape.family", {"circle": "nested_kinds:Circle", "square": "nested_kinds:Square"})
    )
    counts: tuple[int, ...] = field(default=())
    """Numbers."""


def test_a_kind_may_have_a_section_of_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nested_kinds.py").write_text(NESTED)
    monkeypatch.syspath_prepend(tmp_path)
    shared = Layer("in base", {"shape": {"side": 2, "line": {"gap": 3}}}, shared=True)
    default: Any = build(_Drawing, [shared])
    assert to_dict(default)["shape"] == {"family": "circle", "radius": 1.0, "line": {"kind": "thin"}}
    dashed: Any = build(_Drawing, [shared, ("in stage", {"shape": {"line": {"kind": "dashed"}}})])
    assert to_dict(dashed)["shape"]["line"] == {"kind": "dashed", "gap": 3}
    square: Any = build(_Drawing, [shared, ("in stage", {"shape": {"family": "square"}})])
    assert to_dict(square)["shape"] == {"family": "square", "side": 2.0}
    assert from_dict(_Drawing, to_dict(dashed)) == dashed
    for wrong, said in (
        ({"shape": {"line": {"gap": 2}}}, r"shape\.line\.gap is read by shape\.line\.kind=dashed, which is thin"),
        ({"shape": {"family": "square", "line": {"gap": 1}}}, r"shape\.line is read by shape\.family=circle"),
        ({"shape": {"line": {"gp": 2}}}, r"unknown setting shape\.line\.gp .* did you mean shape\.line\.gap\?"),
    ):
        with pytest.raises(ValueError, match=said):
            build(_Drawing, [("in x", wrong)])
    assert "    # gap: 1\n" in describe(_Drawing) and "  # side: 1.0\n" in describe(_Drawing)
