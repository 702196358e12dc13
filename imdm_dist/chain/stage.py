"""A stage of a chain: the base class of its kinds, which are in `imdm_dist/chain/stages/` or in a user's own file.

A kind is a frozen dataclass. Its fields are the keys that an entry of this kind may have in a chain's file beside
`name`, `kind` and `set`: those made by `input_of` name what it starts from, all others are settings of its own. What
the rest of the room does with a stage (survey, preflight, plan, run, status) it asks of the methods here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from imdm_dist.chain.problems import StageProblems
from imdm_dist.config import Config
from imdm_dist.config.resources import ResourcesConfig
from imdm_dist.config.setting import default_of, meaning_of
from imdm_dist.data.row_format import RowFormat
from imdm_dist.files import sha256_file
from imdm_dist.planning.hardware import Hardware
from imdm_dist.planning.plan import CouplingPlan, Plan
from imdm_dist.training.inputs import ModelRecord

Processes = Literal["one", "apart", "together"]


class Input(NamedTuple):
    """What a key of a stage may name."""

    makes: str
    """What the stages make that it may name; see `Stage.makes`."""
    labelled: bool
    """Whether it names several, by labels."""
    elsewhere: bool
    """Whether it may name something that is no stage."""


class StageProgress(NamedTuple):
    """How far a stage is."""

    text: str
    time_left: str = ""
    silent: str = ""
    """What to say if it does not move."""


def input_of(makes: str, needed: bool = False, labelled: bool = False, elsewhere: bool = False) -> Any:
    """A field that names a stage above, or several.

    Args:
        makes: what these make: `Stage.makes`.
        needed: the key may not be left out.
        labelled: a mapping of labels to stages instead of one stage.
        elsewhere: it may also name something that is no stage, such as a folder.
    """
    metadata = {Input: Input(makes, labelled, elsewhere)}
    if needed:
        return field(metadata=metadata)
    return field(default_factory=dict, metadata=metadata) if labelled else field(default="", metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage, and what is asked of every kind of stage; the defaults are those of a kind that makes one file."""

    name: str
    """What it is called, in the file and on disk."""
    kind: str
    """A name in the registry, or module:Class."""
    config: Config
    """Its settings, resolved."""

    makes: ClassVar[str] = ""
    """What other stages may start from: model, coupling, evaluator or a word of a kind's own; empty: nothing."""
    result: ClassVar[str] = ""
    """The file in its folder that holds its result; what makes several overrides `digest`."""
    shaping: ClassVar[tuple[str, ...]] = ()
    """Sections and settings of `config` that its result depends on, as `shaping_settings` is told them, beside `data`,
    whose content counts for every kind."""
    processes: ClassVar[Processes] = "one"
    """Whose work it is in a launch of several processes: one's, all of theirs in step (together), or all of theirs
    without waiting for each other (apart). Those in step see to signals themselves."""

    @classmethod
    def own_fields(cls) -> dict[str, Field[Any]]:
        """Its kind's own keys."""
        return {one.name: one for one in fields(cls) if one.name not in ("name", "kind", "config")}

    @classmethod
    def inputs_by_key(cls) -> dict[str, Input]:
        """Those keys that name what it starts from."""
        return {key: one.metadata[Input] for key, one in cls.own_fields().items() if Input in one.metadata}

    @classmethod
    def needed_keys(cls) -> list[str]:
        """Those that may not be left out: fields without a default."""
        own = cls.own_fields().items()
        return [key for key, one in own if one.default is MISSING and one.default_factory is MISSING]

    def inputs(self) -> list[str]:
        """Names of what it starts from: stages, but for what is elsewhere."""
        values = [getattr(self, key) for key in self.inputs_by_key()]
        named = [one for value in values for one in (value.values() if isinstance(value, Mapping) else [value])]
        return list(dict.fromkeys(filter(None, named)))

    # What it is

    def check(self, where: str) -> None:
        """Check that its keys and settings go together.

        Args:
            where: the stage in a message.

        Raises:
            ValueError: they do not.
        """
        if self.config.inputs.init or self.config.inputs.coupling:
            raise ValueError(f"{where} sets inputs.*: name the stages with init and coupling instead")

    def given_folder(self) -> Path | None:
        """Where its result is, if the user has it; None for what is to be made."""
        return None

    @property
    def made(self) -> bool:
        """Whether it is to be made."""
        return self.given_folder() is None

    def own_identity(self, digests: Mapping[str, str]) -> dict[str, Any]:
        """What its own keys add to its identity, beside the digests of all stages that it starts from.

        That is which of them has which label, or which key where several keys name what is alike; what is elsewhere;
        and its own settings.

        Args:
            digests: of the stages that it starts from, by name.
        """
        inputs = self.inputs_by_key()
        alike = Counter(one.makes for one in inputs.values())
        told: dict[str, Any] = {}
        for key, own in self.own_fields().items():
            value, one, meaning = getattr(self, key), inputs.get(key), meaning_of(own)
            if one is None and meaning.shapes and not (meaning.later and value == default_of(own)):
                told[key] = list(value) if isinstance(value, tuple) else value
            elif one is not None and one.labelled:
                told[key] = {label: digests[name] for label, name in value.items()}
            elif one is not None and one.elsewhere:
                told[key] = "" if value in digests else value
            elif one is not None and alike[one.makes] > 1:
                told[key] = digests.get(value, "")
        return told

    def digest(self, folder: Path) -> str:
        """What identifies its result, worked out from every byte of its files.

        Raises:
            ValueError, OSError: the result is not whole.
        """
        return sha256_file(folder / self.result)

    def claimed_digest(self, folder: Path) -> str:
        """The same as its files' own lists say, for a quick survey; raises as `digest`."""
        return self.digest(folder)

    # What it does

    def execute(self, folders: Mapping[str, Path], stages: Mapping[str, Stage], workers: int | None) -> None:
        """Make it, or do this process's part, in its folder, which may not be there yet; what was begun there goes on.

        Args:
            folders: of the stage and of those it starts from, by name.
            stages: all of the chain, by name.
            workers: processes for it on this machine, where this is the only one; None: one a core or GPU.

        Raises:
            ValueError, OSError: it failed.
            SystemExit: a signal or the time budget stopped it in good order (`EXIT_STOPPED`).
        """
        raise NotImplementedError

    def discard_damaged(self, folder: Path) -> None:
        """Remove what is damaged of its result, where `execute` would take it for whole."""

    def progress(self, folder: Path) -> StageProgress | None:
        """How far it is; None where that is not known."""
        return None

    # What it needs

    @property
    def resources(self) -> ResourcesConfig:
        """What its job asks of SLURM."""
        asked = self.config.resources
        if self.processes == "one":
            return asked.of_one_process()
        return asked if self.processes == "apart" else replace(asked, array=1)

    def record(self, stages: Mapping[str, Stage], problems: StageProblems) -> ModelRecord | None:
        """Of which model and tokens its result is or will be; None, with the problem kept, where that is not known."""
        rows = problems.tokens(self.name, self.config.data)
        return ModelRecord(self.config.model, rows) if rows else None

    def input_problems(
        self, rows: RowFormat | None, stages: Mapping[str, Stage], problems: StageProblems
    ) -> Iterator[str]:
        """What it starts from that does not fit it, told from settings, records and headers.

        Args:
            rows: tokens of its data; None if they are not to be had.
        """
        yield from ()

    def check_machines(self, rows: RowFormat | None, world: int, in_job: bool, problems: StageProblems) -> None:
        """Check that it can run on its machines.

        Args:
            world: processes that share it; 0 takes its own resources.
            in_job: this is where it will run.
        """

    def written_bytes(self, rows: RowFormat) -> float:
        """Bytes that it will write, as far as they count."""
        return 0.0

    def plan(
        self, stages: Mapping[str, Stage], hardware: Hardware, vocab_size: int | None
    ) -> Plan | CouplingPlan | None:
        """What it needs of every kind; None where it takes little.

        Args:
            vocab_size: the mask included; None takes it from the data settings.

        Raises:
            ValueError: its settings contradict each other or the hardware.
        """
        return None
