"""The folder of a run: locked for one writer, and begun with its settings and its tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from imdm_dist import files, run_files
from imdm_dist.checkpoint.retain import set_aside
from imdm_dist.files import remove_leftovers, write_json
from imdm_dist.training.setup import Run


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Keep other processes of this machine out of a run folder; the lock goes with the process.

    Raises:
        ValueError: another process trains in it.
    """
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise ValueError(f"another process trains in {folder}: wait for it, or name another folder") from None
    try:
        yield
    finally:
        lock.release()


def make_folder(folder: Path) -> None:
    """Make a run folder if it is not there.

    Raises:
        ValueError: it cannot be written to.
    """
    try:
        files.make_folder(folder)
        (folder / ".lock").touch()
    except PermissionError as error:
        raise ValueError(
            f"no permission for {error.filename}: change its rights, remove it if it is a .lock of somebody who trains "
            "there no more, or name another run folder"
        ) from None
    except OSError as error:
        raise ValueError(f"cannot write in the run folder ({error}): name another one") from None


def prepare_folder(run: Run, about: dict[str, Any]) -> None:
    """Make the run folder say what the run is; only rank 0 does."""
    remove_leftovers(run.folder)
    set_aside(run.folder, run.done)
    write_json(run.folder / run_files.CONFIG, about)
    if run.data.tokenizer is not None:
        run.data.tokenizer.save(run.folder / run_files.TOKENIZER)
