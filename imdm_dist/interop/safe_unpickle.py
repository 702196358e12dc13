"""Safe unpickling of `torch.save` files from untrusted sources: tensors and plain containers are read, nothing runs.

A Lightning checkpoint pickles configuration and tokenizer objects beside its weights. torch's safe reader
(`weights_only`) refuses such a file for the names it does not know. Here each of those names gets a stand-in: a class
that only remembers what it stands for. No module that the file names is imported, no function that it names is called.
Names that no checkpoint needs, such as os.system, are not passed over: the file is refused.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch._weights_only_unpickler import get_globals_in_pkl
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from imdm_dist.problems import first_line

_ZIP = b"PK\x03\x04"
_CHUNK = 2**24
NO_SUMS = "it has no checksums: compare this one with that of those who published it"
_PICKLE = b"\x80"
_LEGACY_PICKLES = 5
"""A file of the time before zip: magic number, format, machine, content, storage keys; then the bytes of tensors."""
_HOSTILE = re.compile(
    r"""
    (os|posix|nt|sys|subprocess|shutil|socket|pty|runpy|importlib|imp|ctypes|code|codeop|marshal|commands)\..*
    |(pickle|_pickle|cloudpickle|dill|webbrowser|pdb|bdb|timeit|pip|http|urllib|requests|asyncio)\..*
    |builtins\.(eval|exec|execfile|compile|open|__import__|input|breakpoint|apply|globals|locals|vars|setattr|delattr)
    |_?io\.open|types\.(CodeType|FunctionType)|(torch|numpy)\.load|torch\.hub\..*
    """,
    re.VERBOSE,
)
"""Names that run, write or send something. What makes the reader safe is that it runs none, known or unknown."""
_DICTIONARIES = {"builtins.dict", "collections.defaultdict"}


class StandIn:
    """Stands for an object of a class that is not loaded; the name of its type is the class's."""

    state: Any = None
    """What the pickle would have given the object as its attributes."""

    def __new__(cls, *args: Any, **named: Any) -> Any:  # whatever the real one takes
        return object.__new__(cls)

    def __init__(self, *args: Any, **named: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _StandInDictionary(StandIn):
    """Stands for a kind of dictionary: torch's reader puts items into plain ones only."""

    def __new__(cls, *args: Any, **named: Any) -> Any:
        return {}


def read_torch_file(path: Path) -> Any:
    """What `torch.save` put into a file, with `StandIn` objects in place of those of unknown classes.

    Tensors of a zip file are mapped, not read, until they are used. Those of older files are read.

    Raises:
        ValueError: the file is not one of `torch.save`, is cut off, or names what no checkpoint needs.
    """
    with open(path, "rb") as file:
        start = file.read(4)
    if start != _ZIP and not start.startswith(_PICKLE):
        raise ValueError(
            f"{path} is no checkpoint (its first bytes are {start!r}): give a .ckpt, .bin, .pt or .safetensors file, "
            "downloaded whole"
        )
    try:
        names = _foreign_names(path, start == _ZIP)
        # torch looks at its own list first, so a stand-in cannot take the place of what it knows.
        with safe_globals([(_stand_in(name), name) for name in names]):
            return torch.load(path, map_location="cpu", mmap=start == _ZIP, weights_only=True)
    except _HostileError as error:
        raise ValueError(str(error)) from None
    except MemoryError:
        raise
    except Exception as error:  # the reader raises whatever a damaged file leads it to
        raise ValueError(
            f"{path} cannot be read safely, and nothing in it was run ({_cause(error)}): download it again, or save "
            "its state_dict alone where you trust it"
        ) from None


class _HostileError(Exception):
    pass


def check_sums(path: Path) -> str:
    """Compare the content of a file of `torch.save` with the checksums that a zip file keeps, in one reading.

    Returns:
        What is known now, in words. Older files have none, and torch can be told to write zeros instead.

    Raises:
        ValueError: a byte differs.
    """
    with open(path, "rb") as file:
        if file.read(4) != _ZIP:
            return NO_SUMS
    try:
        with zipfile.ZipFile(path) as packed:
            entries = [entry for entry in packed.infolist() if entry.CRC or not entry.file_size]
            for entry in entries:
                with packed.open(entry) as part:
                    while part.read(_CHUNK):
                        pass
            whole = len(entries) == len(packed.infolist())
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(
            f"{path} is damaged: its content is not what its own checksums say ({_cause(error)}); download it again"
        ) from None
    return "its own checksums hold" if whole else NO_SUMS


def _foreign_names(path: Path, zipped: bool) -> set[str]:
    """Names in the file's pickles that the reader may not know, read without running them."""
    if zipped:
        return _checked(path, set(get_unsafe_globals_in_checkpoint(str(path))))
    names: set[str] = set()
    with open(path, "rb") as file:
        for _ in range(_LEGACY_PICKLES):
            names |= _checked(path, get_globals_in_pkl(file))
    return names


def _checked(path: Path, names: set[str]) -> set[str]:
    hostile = sorted(name for name in names if _HOSTILE.fullmatch(name))
    if hostile:
        raise _HostileError(
            f"{path} is hostile: opening it as a pickle would use {', '.join(hostile)}; nothing of it was run: delete "
            "it, and fetch the checkpoint from those who made it"
        )
    return names


def _stand_in(name: str) -> type[StandIn]:
    is_dictionary = name in _DICTIONARIES or name.endswith(".AttributeDict")
    return type(name, (_StandInDictionary if is_dictionary else StandIn,), {})


def _cause(error: Exception) -> str:
    """The one line of torch's message that says what is wrong; the rest tells how to load the file unsafely."""
    found = re.search(r"WeightsUnpickler error: (.*)", str(error))
    return found[1].strip() if found else first_line(error)
