"""Leases: one owner at a time, dead ones taken over, living ones left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from imdm_dist.coupling import lease as lease_module
from imdm_dist.coupling.lease import Leases, process_start, this_host


class Clock:
    """A monotonic clock that the test moves."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("imdm_dist.coupling.lease.time.monotonic", clock)
    return clock


def write_lease(folder: Path, **changed: Any) -> Path:
    owner = {"host": "elsewhere", "pid": 1, "started": "5"}
    folder.mkdir(exist_ok=True)
    path = folder / "a.lease"
    path.write_text(json.dumps(owner | changed))
    return path


def test_one_owner_at_a_time_and_none_after_release(tmp_path: Path) -> None:
    ours, theirs = Leases(tmp_path / "leases"), Leases(tmp_path / "leases")
    lease = ours.acquire("a")
    assert lease is not None and lease.held()
    assert theirs.acquire("a") is None
    other = theirs.acquire("b")
    assert other is not None
    lease.release()
    with theirs.acquire("a") or pytest.fail("not taken") as again:
        assert again.held()
    other.release()
    assert list(tmp_path.glob("leases/*")) == []
    ours.remove_folder()
    assert not (tmp_path / "leases").exists()


def test_a_lease_is_released_when_its_work_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), Leases(tmp_path).hold("a"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_an_owner_renews_its_lease_and_its_words_stay(tmp_path: Path) -> None:
    with Leases(tmp_path, expiry_s=0.15).hold("a"):
        path = tmp_path / "a.lease"
        first, words = path.stat().st_mtime_ns, path.read_bytes()
        deadline = time.monotonic() + 5
        while path.stat().st_mtime_ns == first and time.monotonic() < deadline:
            time.sleep(0.005)
        assert path.stat().st_mtime_ns > first and path.read_bytes() == words
    assert json.loads(words)["host"] == this_host() and json.loads(words)["pid"] == os.getpid()


def test_a_silent_lease_of_another_host_expires_by_our_clock(tmp_path: Path, clock: Clock) -> None:
    path = write_lease(tmp_path)
    leases = Leases(tmp_path, expiry_s=60)
    assert leases.acquire("a") is None
    clock.now += 59
    assert leases.acquire("a") is None
    os.utime(path, (5, 5))  # it changes: what the time says does not matter
    clock.now += 59
    assert leases.acquire("a") is None
    clock.now += 59
    assert leases.acquire("a") is None
    clock.now += 2
    with leases.acquire("a") or pytest.fail("the dead lease was not taken over") as lease:
        assert lease.held()
        assert [path.name for path in tmp_path.iterdir()] == ["a.lease"]


def test_another_machine_whose_clock_is_years_off_is_not_dead(tmp_path: Path, clock: Clock) -> None:
    path = write_lease(tmp_path)
    os.utime(path, (0, 0))
    assert Leases(tmp_path, expiry_s=60).acquire("a") is None


def test_a_lease_that_was_never_filled_in_expires(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "a.lease").touch()
    leases = Leases(tmp_path, expiry_s=60)
    assert leases.acquire("a") is None
    clock.now += 61
    with leases.acquire("a") or pytest.fail("not taken over"):
        pass


@pytest.mark.parametrize("collected", [False, True])
def test_a_killed_process_of_this_host_is_dead_at_once(tmp_path: Path, collected: bool) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        write_lease(tmp_path, host=this_host(), pid=process.pid, started=process_start(process.pid))
        assert Leases(tmp_path).acquire("a") is None
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        if collected:
            process.wait()
        with Leases(tmp_path).acquire("a") or pytest.fail("not taken over") as lease:
            assert lease.held()


def test_a_process_number_that_is_in_use_again_is_dead_at_once(tmp_path: Path) -> None:
    write_lease(tmp_path, host=this_host(), pid=os.getpid(), started="5")
    with Leases(tmp_path).acquire("a") or pytest.fail("not taken over") as lease:
        assert lease.held()


def test_a_living_process_of_this_host_is_not_dead(tmp_path: Path) -> None:
    write_lease(tmp_path, host=this_host(), pid=os.getpid(), started=process_start(os.getpid()))
    assert Leases(tmp_path).acquire("a") is None


def test_an_owner_that_lost_its_lease_leaves_the_new_owner_alone(tmp_path: Path) -> None:
    late = Leases(tmp_path, expiry_s=0.15).hold("a")
    os.rename(tmp_path / "a.lease", tmp_path / "taken away")
    with Leases(tmp_path).hold("a") as lease:
        before = (tmp_path / "a.lease").stat()
        time.sleep(0.05)  # renewed by its late owner several times, by its new one not yet
        assert not late.held()
        late.release()
        assert (tmp_path / "a.lease").stat().st_mtime_ns == before.st_mtime_ns
        assert lease.held()


def test_a_lease_taken_over_between_look_and_removal_stays(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lease(tmp_path)
    slow, quick = Leases(tmp_path, expiry_s=60), Leases(tmp_path, expiry_s=60)
    assert slow.acquire("a") is None and quick.acquire("a") is None
    clock.now += 61
    lapsed = slow._lapsed
    taken = []

    def look_then_stall(name: str, look: lease_module.Look) -> bool:
        verdict = lapsed(name, look)
        taken.append(quick.acquire("a"))
        return verdict

    monkeypatch.setattr(slow, "_lapsed", look_then_stall)
    assert slow.acquire("a") is None
    assert taken[0] is not None and taken[0].held()
    taken[0].release()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_no_empty_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("imdm_dist.coupling.lease.os.write", full)
    with pytest.raises(OSError, match="No space left"):
        Leases(tmp_path).acquire("a")
    assert list(tmp_path.iterdir()) == []


def test_a_lease_that_may_not_be_read_is_watched_all_the_same(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, read = write_lease(tmp_path / "leases"), Path.read_text

    def read_text(self: Path, **settings: Any) -> str:
        if self == path and self.stat().st_size == size:
            raise PermissionError(13, "Permission denied", str(self))
        return read(self, **settings)

    size = path.stat().st_size
    monkeypatch.setattr(Path, "read_text", read_text)
    leases = Leases(tmp_path / "leases")
    for beat in range(3):  # it lives as long as it changes
        os.utime(path, ns=(beat, beat))
        assert leases.acquire("a") is None
        clock.now += lease_module.EXPIRY_S - 1
    assert leases.acquire("a") is None
    clock.now += lease_module.EXPIRY_S
    lease = leases.acquire("a")
    assert lease is not None and lease.held()
    lease.release()
    assert not list((tmp_path / "leases").iterdir())
