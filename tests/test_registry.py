"""Names of kinds: near ones are told, and somebody's own thing of the wrong sort is refused in a line."""

from __future__ import annotations

import pytest

from imdm_dist import registry
from imdm_dist.registry import Registry

ALL = [
    registry.BACKBONES,
    registry.OBJECTIVES,
    registry.MASKS,
    registry.NOISE_LAWS,
    registry.SOURCES,
    registry.METRICS,
    registry.STAGES,
    registry.ENGINES,
]
WRONG = ["math:pi", "math:sin", "imdm_dist.evaluation.metrics.entropy:Entropy", "imdm_dist.training.ema:Ema"]

each = pytest.mark.parametrize("one", ALL, ids=lambda one: one.setting)


@each
def test_every_name_stands_for_a_thing_of_its_sort(one: Registry) -> None:
    for name, place in one.places.items():
        assert one.get(place) is one.get(name)


@each
@pytest.mark.parametrize("name", WRONG)
def test_a_thing_of_another_sort_is_refused(one: Registry, name: str) -> None:
    if one is registry.METRICS and name.endswith(":Entropy"):
        assert one.get(name)
        return
    with pytest.raises(ValueError, match=f"is {name!r}, which is no (subclass of|function)") as caught:
        one.get(name)
    assert "\n" not in str(caught.value)


@each
@pytest.mark.parametrize("name", ["nothing", "nowhere:Thing", "math:nothing", "a:", ":b"])
def test_what_stands_for_nothing_is_refused(one: Registry, name: str) -> None:
    with pytest.raises(ValueError, match="did you mean|there are|cannot be imported"):
        one.get(name)


def test_a_near_name_is_told_and_others_are_listed() -> None:
    for name, said in (("nelob", "did you mean nelbo?"), ("normal", "there are nelbo, sdtt, redi, or a module:Class")):
        with pytest.raises(ValueError) as caught:
            registry.OBJECTIVES.get(name)
        assert said in str(caught.value)
