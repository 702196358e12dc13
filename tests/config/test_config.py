"""Settings from defaults, YAML and the command line: precedence, types, messages, round trips."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from imdm_dist.config import Config, build, describe, from_dict, load_config, merge, read_yaml, to_dict, to_yaml
from imdm_dist.config.yaml_text import parse_yaml
from imdm_dist.model.dit import DitConfig

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Inner:
    """An inner section."""

    rate: float = 0.5
    """A rate."""
    pair: tuple[float, float] = (0.0, 1.0)
    """Two numbers,
    and a second line."""
    mode: Literal["on", "off"] = "on"
    """A word that YAML 1.1 takes for a boolean."""
    level: Literal[0, 1] = 0
    """A choice of numbers."""


@dataclass(frozen=True, kw_only=True)
class Outer:
    """All sections."""

    name: str = "none"
    """A name."""
    files: tuple[str, ...] = ()
    """Files."""
    counts: tuple[int, ...] = (1, 2)
    """Counts."""
    steps: int = 3
    """Steps."""
    flag: bool = False
    """A flag."""
    inner: Inner = field(default_factory=Inner)
    """The inner section."""


@dataclass(frozen=True, kw_only=True)
class Required:
    """A class with a setting that has no default."""

    name: str
    """A name."""


def write(folder: Path, text: str) -> Path:
    path = folder / "x.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_yaml_and_overrides_in_that_order(tmp_path: Path) -> None:
    path = write(tmp_path, "steps: 4\ninner:\n  rate: 3e-4\n  mode: off\n")
    assert load_config(Outer, None) == Outer()
    assert load_config(Outer, path) == Outer(steps=4, inner=Inner(rate=3e-4, mode="off"))
    expected = Outer(steps=5, inner=Inner(rate=3e-4, mode="off", level=1))
    assert load_config(Outer, str(path), ["steps=9", "inner.level=1", "steps=5"]) == expected


@pytest.mark.parametrize(
    ("override", "name", "value"),
    [
        ("steps=1_000", "steps", 1000),
        ("flag=true", "flag", True),
        ("name=off", "name", "off"),
        ("name=2024-01-01", "name", "2024-01-01"),
        ("name=010", "name", "010"),
        ("name=", "name", ""),
        ("name='a: b'", "name", "a: b"),
        ("name=a=b", "name", "a=b"),
        ("files=[a.txt,b.txt]", "files", ("a.txt", "b.txt")),
        ("files=*.txt", "files", ("*.txt",)),
        ("files=train[:-100000]", "files", ("train[:-100000]",)),
        ("files=[]", "files", ()),
        ("counts=7", "counts", (7,)),
        ("counts=2,4,8", "counts", (2, 4, 8)),
        ("counts=[2,4,8]", "counts", (2, 4, 8)),
        ("files=a,b.txt", "files", ("a,b.txt",)),
        ("inner.pair=0,1e-3", "inner", Inner(pair=(0.0, 1e-3))),
        ("inner={rate: 2}", "inner", Inner(rate=2.0)),
        ("inner.rate=1e5", "inner", Inner(rate=1e5)),
        ("inner.rate=-.5", "inner", Inner(rate=-0.5)),
        ("inner.pair=[0, 1e-3]", "inner", Inner(pair=(0.0, 1e-3))),
        ("inner.mode=off", "inner", Inner(mode="off")),
    ],
)
def test_override_values(override: str, name: str, value: Any) -> None:
    found = getattr(load_config(Outer, None, [override]), name)
    assert found == value and type(found) is type(value)


def test_whole_number_becomes_float_where_one_is_due() -> None:
    config = from_dict(Outer, {"inner": {"rate": 1, "pair": [1, "2e0"]}})
    assert [type(x) for x in (config.inner.rate, *config.inner.pair)] == [float] * 3
    assert config.inner.pair == (1.0, 2.0)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps=1.5", "steps is 1.5 (on the command line): set it to a whole number"),
        ("steps=true", "steps is True (on the command line): set it to a whole number"),
        ("steps=", "steps is None (on the command line): set it to a whole number"),
        ("flag=1", "flag is 1 (on the command line): set it to true or false"),
        ("flag=yes", "flag is 'yes' (on the command line): set it to true or false"),
        ("counts=[1, a]", "counts is [1, 'a'] (on the command line): set it to a list in which each item is a whole"),
        ("inner.rate=fast", "inner.rate is 'fast' (on the command line): set it to a number"),
        ("inner.rate=.nan", "inner.rate is nan (on the command line): set it to a number"),
        ("inner.pair=[1]", "inner.pair is [1] (on the command line): set it to a list of 2: a number, a number"),
        ("inner.mode=true", "inner.mode is True (on the command line): set it to on | off"),
        ("inner.level=true", "inner.level is True (on the command line): set it to 0 | 1"),
        ("inner=3", "inner is 3 (on the command line): it is a section, give its settings, e.g. inner.rate"),
        ("inner.rate.x=3", "inner.rate is {'x': 3} (on the command line): set it to a number"),
        ("counts=[1", "'counts=[1' on the command line, line 1: "),
        ("steps", "cannot read 'steps' on the command line: write key.sub=value"),
        ("=3", "cannot read '=3' on the command line: write key.sub=value"),
        ("stesp=3", "unknown setting stesp (on the command line): did you mean steps?"),
        ("inner.rat=3", "unknown setting inner.rat (on the command line): did you mean inner.rate?"),
        ("iner.rate=3", "unknown setting iner (on the command line): did you mean inner?"),
        ("inner.coutns=3", "unknown setting inner.coutns (on the command line): did you mean counts?"),
        ("level=3", "unknown setting level (on the command line): did you mean inner.level?"),
        ("inner.zzz=3", "unknown setting inner.zzz (on the command line): there are inner.rate, inner.pair, inner."),
    ],
)
def test_bad_overrides_say_what_where_and_the_remedy(override: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        load_config(Outer, None, [override])
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: 1\ninner:\n  rate: 1\n  rate: 2\n", "x.yaml, line 4: rate is given twice"),
        ("steps: [1\n", "x.yaml, line 2: "),
        ("\tsteps: 1\n", "x.yaml, line 1: "),
        ("- 1\n", "x.yaml holds a list: write sections"),
        ("steps: !!python/object:os.system 1\n", "x.yaml, line 1: could not determine a constructor"),
        ("inner:\n  rte: 1\n", "unknown setting inner.rte (in "),
        ("name: 3\n", "name is 3 (in "),
    ],
)
def test_bad_files_say_what_and_where(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        load_config(Outer, write(tmp_path, text))
    assert message in str(caught.value) and "x.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none.yaml does not exist: give a YAML file"):
        load_config(Outer, tmp_path / "none.yaml")
    with pytest.raises(ValueError, match="cannot be read"):
        load_config(Outer, tmp_path)
    (tmp_path / "bytes.yaml").write_bytes(b"name: \xff\xfe\x00")
    with pytest.raises(ValueError, match="bytes.yaml is not readable YAML"):
        load_config(Outer, tmp_path / "bytes.yaml")


def test_empty_file_and_empty_section_are_the_defaults(tmp_path: Path) -> None:
    assert load_config(Outer, write(tmp_path, "")) == Outer()
    assert load_config(Outer, write(tmp_path, "inner:\n  # rate: 2\nsteps: 4\n")) == Outer(steps=4)


def test_merge_key_and_its_overriding_are_no_duplicate(tmp_path: Path) -> None:
    path = write(tmp_path, "a: &a {x: 1, y: 1}\nb: {<<: *a, y: 2}\n")
    assert read_yaml(path) == {"a": {"x": 1, "y": 1}, "b": {"x": 1, "y": 2}}


def test_scalars_are_those_of_yaml_1_2() -> None:
    text = "[off, yes, 3e-4, 1.5, 1:30, 010, 0x10, 1_000, null, ~, true, -7, .5, 1e, e3, '3', 2024-01-01]"
    values = ["off", "yes", 3e-4, 1.5, "1:30", "010", 16, 1000, None, None, True, -7, 0.5, "1e", "e3", "3"]
    assert parse_yaml(text, "here") == [*values, "2024-01-01"]


def test_merge_is_deep_and_leaves_its_arguments_alone() -> None:
    base, over = {"a": {"x": 1, "y": [1, 2]}, "b": 1}, {"a": {"y": [3]}, "b": {"z": 1}}
    assert merge(base, over) == {"a": {"x": 1, "y": [3]}, "b": {"z": 1}}
    assert base == {"a": {"x": 1, "y": [1, 2]}, "b": 1} and over == {"a": {"y": [3]}, "b": {"z": 1}}


def test_build_names_the_layer_an_error_stands_in() -> None:
    base: dict[str, Any] = {"steps": 1, "inner": {"rate": 1}}
    stage = {"inner": {"level": 1}}
    assert build(Outer, [("in base", base), ("in stage two", stage)]) == Outer(steps=1, inner=Inner(rate=1.0, level=1))
    with pytest.raises(ValueError, match=r"unknown setting inner\.levle \(in stage two\)"):
        build(Outer, [("in base", base), ("in stage two", {"inner": {"levle": 1}})])


def test_a_setting_without_default_is_asked_for() -> None:
    with pytest.raises(ValueError, match="name is missing: set it to text"):
        from_dict(Required, {})
    assert from_dict(Required, {"name": "x"}) == Required(name="x")


def test_round_trips_through_json_and_yaml(tmp_path: Path) -> None:
    overrides = ["model.size=tiny", "data.train=[a, 'on']", "data.valid=[b]", "train.wandb=off", "optimizer.eps=1e-12"]
    config = load_config(Config, None, [*overrides, "optimizer.betas=[0.9, 0.95]", "data.name=1e3"])
    assert from_dict(Config, json.loads(json.dumps(to_dict(config)))) == config
    assert load_config(Config, write(tmp_path, to_yaml(config))) == config
    assert isinstance(config.model, DitConfig) and config.model.hidden_dim == 512 and config.optimizer.eps == 1e-12


def test_checks_of_the_sections_arrive_as_they_are() -> None:
    with pytest.raises(ValueError, match=r"train\.steps is -1: set it to 0 or more"):
        load_config(Config, None, ["train.steps=-1"])
    with pytest.raises(ValueError, match=r"data\.length is 0"):
        load_config(Config, None, ["data.length=0"])
    with pytest.raises(ValueError, match=r"unknown setting model\.hiden_dim .*did you mean model\.hidden_dim\?"):
        load_config(Config, None, ["model.hiden_dim=3"])


def test_describe_is_yaml_of_the_defaults_with_the_documentation(tmp_path: Path) -> None:
    assert load_config(Config, write(tmp_path, describe(Config))) == Config()
    text = describe(Outer)
    assert "# Steps.\nsteps: 3\n" in text
    assert "\n# An inner section.\ninner:\n  # A rate.\n  rate: 0.5\n" in text
    assert "  # Two numbers, and a second line.\n  pair: [0.0, 1.0]\n" in text
    assert "  # One of: on | off\n  mode: 'on'\n" in text


def test_every_field_of_the_configuration_is_documented() -> None:
    lines = [line.strip() for line in describe(Config).splitlines()]
    for above, line in zip(["", *lines], lines, strict=False):
        assert line.startswith("#") or not line or above.startswith("#"), f"no string below the field {line}"
    # One of an objective that is not the default, and therefore a comment itself.
    assert sum(line.startswith(("noise_policy:", "# noise_policy:")) for line in lines) == 3


def test_show_config_prints_what_loads_again(tmp_path: Path) -> None:
    def show(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "tools" / "show_config.py"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    path = write(tmp_path, "train:\n  steps: 20\n  seed: 3\n")
    shown = show(str(path), "train.steps=10")
    assert shown.returncode == 0 and shown.stderr == ""
    expected = load_config(Config, path, ["train.steps=10"])
    assert expected.train.steps == 10 and expected.train.seed == 3
    assert load_config(Config, write(tmp_path, shown.stdout)) == expected
    assert show("--describe").stdout == describe(Config)
    both = show("--describe", str(path))
    assert both.returncode == 2 and both.stdout == ""
    assert both.stderr.startswith("error: --describe prints the defaults: leave out the file")
    bad = show("train.stpes=1")
    assert bad.returncode == 2 and bad.stdout == ""
    assert bad.stderr == "error: unknown setting train.stpes (on the command line): did you mean train.steps?\n"
