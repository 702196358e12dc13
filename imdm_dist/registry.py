"""The kinds of thing that the house has, by the name a setting gives them: its table of contents.

A new kind is one file and one line here; no other file names it. In place of a name a setting may give
`module:Class`, the place of somebody's own file, so that it works in every process of a job with no line here.
Nothing is imported before it is asked for.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any


class Registry:
    """Things of one sort by name.

    Args:
        setting: the setting that names one, for messages: objective.kind.
        places: `module:Class` by name.
    """

    def __init__(self, setting: str, places: Mapping[str, str]) -> None:
        self.setting, self.places = setting, dict(places)

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in order."""
        return tuple(self.places)

    def get(self, name: str) -> Any:
        """What `name` stands for.

        Raises:
            ValueError: it stands for nothing, or its module lacks it.
        """
        place = self.places.get(name, name)
        module, colon, attribute = place.partition(":")
        if not (module and colon and attribute):
            near = difflib.get_close_matches(name, self.names, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(self.names)}, or a module:Class"
            raise ValueError(f"{self.setting} is {name!r}: {hint}")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ValueError(
                f"{self.setting} is {name!r}, which cannot be imported ({error}): correct it, or put its folder on "
                "PYTHONPATH"
            ) from None


BACKBONES = Registry("model.family", {"dit": "imdm_dist.model.dit:DiT"})
ENGINES = Registry(
    "engine.kind",
    {
        "deepspeed": "imdm_dist.training.engine.deepspeed:DeepSpeedEngine",
        "plain": "imdm_dist.training.engine.plain:PlainEngine",
    },
)
