"""Files are whole or not there: a folder that replaces another, killed at every call that changes the disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from imdm_dist.files import check_name, make_folder, publish_dir, publish_file, read_json, read_record, remove_leftovers

WRITER = """
import os, sys
from pathlib import Path
from imdm_dist.files import publish_dir

path, last, calls = Path(sys.argv[1]), int(sys.argv[2]), 0

def counted(change):
    def call(*args, **kwargs):
        global calls
        if calls == last:
            os.kill(os.getpid(), 9)
        calls += 1
        return change(*args, **kwargs)
    return call

for name in ("replace", "rename", "unlink", "rmdir", "mkdir", "fsync"):
    setattr(os, name, counted(getattr(os, name)))
with publish_dir(path) as aside:
    for name in ("a", "b"):
        (aside / name).write_text("new")
"""


def fill(folder: Path, content: str) -> None:
    with publish_dir(folder) as aside:
        for name in ("a", "b"):
            (aside / name).write_text(content)


def content(folder: Path) -> str:
    """What the folder holds, if it is whole."""
    found = {path.name: path.read_text() for path in folder.iterdir()}
    assert sorted(found) == ["a", "b"] and len(set(found.values())) == 1, found
    return found["a"]


def kill_at_every_call(folder: Path) -> list[Path]:
    """Copies of a folder in the making, one for each call at which the process that replaces it is killed."""
    homes: list[Path] = []
    while True:
        home = folder / str(len(homes))
        fill(home / "lm", "old")
        done = subprocess.run([sys.executable, "-c", WRITER, str(home / "lm"), str(len(homes))], capture_output=True)
        homes.append(home)
        if done.returncode == 0:
            return homes
        assert done.returncode == -9, done.stderr


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return kill_at_every_call(tmp_path_factory.mktemp("killed"))


def test_a_folder_that_is_being_replaced_is_never_lost(killed: list[Path]) -> None:
    assert len(killed) > 8
    between = [home for home in killed if not (home / "lm").exists()]
    assert len(between) == 1, "the one moment in which neither has its name"
    for home in killed:
        if home not in between:
            assert content(home / "lm") in ("old", "new")
        remove_leftovers(home)
        found = content(home / "lm")
        assert found == "old" if home in between else found in ("old", "new")
        assert [path.name for path in home.iterdir()] == ["lm"]
    assert content(killed[-1] / "lm") == "new"


def test_the_next_writer_puts_back_what_a_killed_one_moved_aside(tmp_path: Path) -> None:
    fill(tmp_path / "lm", "old")
    (tmp_path / "lm").rename(tmp_path / f".lm.{'0' * 32}.old.tmp")
    with pytest.raises(RuntimeError), publish_dir(tmp_path / "lm"):
        raise RuntimeError("no new one comes")
    assert content(tmp_path / "lm") == "old"
    fill(tmp_path / "lm", "new")
    assert content(tmp_path / "lm") == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["lm"]


def test_a_failing_rename_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "lm", "old")
    replace = os.replace

    def second_fails(source: Path, target: Path) -> None:
        if Path(target).name == "lm" and ".old." not in Path(source).name:
            raise OSError("the disk is gone")
        replace(source, target)

    monkeypatch.setattr("os.replace", second_fails)
    with pytest.raises(OSError, match="the disk is gone"):
        fill(tmp_path / "lm", "new")
    assert content(tmp_path / "lm") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["lm"]


def test_a_file_in_the_way_is_kept(tmp_path: Path) -> None:
    (tmp_path / "lm").write_text("mine")
    with pytest.raises(OSError):
        fill(tmp_path / "lm", "new")
    assert (tmp_path / "lm").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_leftovers_of_other_names_are_left_to_their_owners(tmp_path: Path) -> None:
    others = [tmp_path / f".lm.b.{'0' * 32}.old.tmp", tmp_path / f".lm.{'1' * 32}.tmp", tmp_path / ".keep"]
    for other in others:
        other.mkdir()
    fill(tmp_path / "lm", "new")
    assert all(other.exists() for other in others)
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".keep", "lm", "lm.b"]


def test_a_file_that_fails_leaves_the_older_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(RuntimeError), publish_file(tmp_path / "a") as aside:
        aside.write_text("half")
        raise RuntimeError("stopped")
    assert (tmp_path / "a").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["teacher", "IMDM SDTT+ReDi", "finite (6,144)", "größe_2", "a.b-c", "7"])
def test_names_that_files_can_have(name: str) -> None:
    assert check_name(name, "name") == name


@pytest.mark.parametrize(
    "name", ["", " ", ".", "..", "../a", "a/b", "/a", ".a", "-a", "a\\b", "a=b", "a\n", "a*", None, 5]
)
def test_names_that_files_had_better_not_have(name: object) -> None:
    with pytest.raises(ValueError, match="^the name is .*: (use letters|give it as text)"):
        check_name(name, "the name")


CUT_OFF = [b"", b"\0" * 40, b'{"a": 1, "b', b'{"a": "\xff"}', b"[1, 2]", b"null"]
"""What a power cut may leave of a JSON object, and values that are none."""


@pytest.mark.parametrize("content", CUT_OFF)
def test_a_record_that_is_not_whole_counts_as_not_there(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "record.json"
    assert read_record(path) is None
    path.write_bytes(content)
    assert read_record(path) is None and read_record(path, str) is None
    path.write_text('{"a": 1}')
    assert read_record(path) == {"a": 1} and read_record(path, str) is None
    assert read_record(path, a=int) == {"a": 1} and read_record(path, a=str) is read_record(path, b=int) is None


@pytest.mark.parametrize("content", CUT_OFF[:4])
def test_a_file_that_is_no_json_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"a.json is not readable JSON \(.*\): remove it"):
        read_json(tmp_path / "a.json")


def test_a_link_to_nowhere_is_named_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "unmounted")
    for make in (make_folder, fill_dir, publish):
        for place in (tmp_path / "link", tmp_path / "link" / "below"):
            if (make, place.name) == (publish, "link"):
                continue  # a file takes the place of a link
            with pytest.raises(
                ValueError, match=r"link is a link to .*/unmounted, which is not there: make \(or mount\)"
            ):
                make(place)
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def fill_dir(folder: Path) -> None:
    with publish_dir(folder):
        raise AssertionError("nothing is made that has no place to go to")


def publish(path: Path) -> None:
    with publish_file(path) as aside:
        aside.write_text("new")
