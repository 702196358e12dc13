"""Couplings as files: how pairs begin, what a shard's bytes are, what is refused."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from imdm_dist.config.coupling import CouplingConfig
from imdm_dist.coupling import Coupling, discard_damaged, generate, make_plan, verify
from imdm_dist.coupling.pairs import PairSource
from imdm_dist.coupling.progress import coupling_progress
from imdm_dist.coupling.shard import read_shard, shard_name, shard_pairs, write_shard
from imdm_dist.data.token_file import TokenFile
from imdm_dist.diffusion.schedule import alpha
from imdm_dist.error_boundary import in_a_line
from imdm_dist.files import sha256_file

LENGTH, VOCAB, MASK = 8, 300, 299
CONFIG = CouplingConfig(pairs=23, shards=4, steps=16, batch=4, seed=7)


@dataclass(frozen=True)
class Text:
    """Stands for a token file: row r holds the tokens (r + position) mod 256."""

    rows: int = 40
    length: int = LENGTH
    vocab_size: int = VOCAB
    mask_id: int = MASK

    def take(self, indices: list[int]) -> Tensor:
        return (torch.tensor(indices)[:, None] + torch.arange(self.length)) % 256


def text(**changed: int) -> TokenFile:
    return cast(TokenFile, Text(**changed))


def rollout(start_BL: Tensor, seed_B: Tensor, time_B: Tensor) -> Tensor:
    """Depends on every argument and, as a real teacher's last bits may, on the shape of the batch."""
    drawn_B = (seed_B % 97).abs() + (time_B * 50).long() + len(start_BL)
    return torch.where(start_BL == MASK, drawn_B[:, None] + torch.arange(start_BL.shape[1]), start_BL)


def plan_of(config: CouplingConfig, **changed: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {"teacher": "t", "data": "d", "device": "cpu", "threads": 1}
    settings |= {"vocab_size": VOCAB, "mask_id": MASK, "length": LENGTH}
    return make_plan(config, **(settings | changed))


def make(folder: Path, config: CouplingConfig = CONFIG, **changed: Any) -> None:
    settings: dict[str, Any] = {"rollout": rollout, "plan": plan_of(config), "data": text()}
    generate(folder, config, **(settings | changed))


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def flip_bit(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x10
    path.write_bytes(content)


def test_a_pair_does_not_depend_on_the_pairs_beside_it() -> None:
    source = PairSource(seed=7, length=LENGTH, mask_id=MASK, data=text())
    all_pairs, some = source.starts(range(100)), source.starts([63, 5])
    for whole, part in zip(vars(all_pairs).values(), vars(some).values(), strict=True):
        assert torch.equal(whole[[63, 5]], part)
    assert len(set(all_pairs.seed_B.tolist())) == 100
    assert not torch.equal(replace(source, seed=8).starts(range(100)).seed_B, all_pairs.seed_B)


def test_perturbed_starts_are_text_masked_at_their_time() -> None:
    rows, pairs = 500, 4000
    starts = PairSource(seed=1, length=64, mask_id=MASK, data=text(rows=rows, length=64)).starts(range(pairs))
    masked_BL = starts.start_BL == MASK
    first_B = (starts.start_BL - torch.arange(64)).masked_fill(masked_BL, -10_000).amax(1)
    assert torch.equal(starts.start_BL[~masked_BL], ((first_B[:, None] + torch.arange(64)) % 256)[~masked_BL])
    assert abs(float(starts.time_B.mean()) - 0.5) < 4 * (1 / 12 / pairs) ** 0.5
    # The share of masks is 1 - alpha_t for every t: standardised, the counts have mean 0 and variance 1.
    rate_B = 1 - alpha(starts.time_B)
    score_B = (masked_BL.sum(1) - 64 * rate_B) / (64 * rate_B * (1 - rate_B)).sqrt()
    score_B = score_B[(rate_B > 0.02) & (rate_B < 0.98)]
    assert abs(float(score_B.mean())) < 4 * pairs**-0.5
    assert abs(float(score_B.var()) - 1) < 0.15


def test_every_row_of_the_text_is_used_once_before_any_is_used_twice() -> None:
    starts = PairSource(seed=3, length=1, mask_id=MASK, data=text(rows=40, length=1)).starts(range(40))
    seen = starts.start_BL[starts.start_BL != MASK].tolist()
    assert len(seen) > 5
    assert len(set(seen)) == len(seen)


def test_plain_and_prompted_starts() -> None:
    plain = PairSource(seed=1, length=3, mask_id=MASK).starts(range(5))
    assert bool((plain.start_BL == MASK).all()) and bool((plain.time_B == 1).all())
    prompts_PL = torch.tensor([[1, MASK, MASK], [MASK, 2, MASK]])
    prompted = PairSource(seed=1, length=3, mask_id=MASK, prompts_PL=prompts_PL).starts(range(5))
    assert torch.equal(prompted.start_BL, prompts_PL[[0, 1, 0, 1, 0]])
    assert torch.equal(prompted.seed_B, plain.seed_B)


@pytest.mark.parametrize(("pairs", "shards"), [(23, 4), (64, 64), (100, 7), (5, 1)])
def test_shards_cut_the_pairs_evenly(pairs: int, shards: int) -> None:
    ranges = [shard_pairs(shard, shards, pairs) for shard in range(shards)]
    assert [number for numbers in ranges for number in numbers] == list(range(pairs))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1


def test_shards_come_back_as_written_and_have_the_same_bytes_twice(tmp_path: Path) -> None:
    starts = PairSource(seed=7, length=LENGTH, mask_id=MASK, data=text()).starts(range(5, 9))
    result_BL = rollout(starts.start_BL, starts.seed_B, starts.time_B)
    for name in ("a", "b"):
        write_shard(tmp_path / name, starts, result_BL)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    shard = read_shard(tmp_path / "a", range(5, 9), LENGTH)
    for name, written in (vars(starts) | {"result_BL": result_BL}).items():
        assert np.array_equal(getattr(shard, name), written.numpy()), name


def test_a_coupling_holds_what_the_rollouts_gave(tmp_path: Path) -> None:
    make(tmp_path)
    assert sorted(files_of(tmp_path)) == ["coupling.json", "manifest.json", *map(shard_name, range(4))]
    coupling = Coupling.open(tmp_path, verify_checksums=True)
    starts = PairSource(seed=7, length=LENGTH, mask_id=MASK, data=text()).starts(range(23))
    expected = [
        rollout(starts.start_BL[rows], starts.seed_B[rows], starts.time_B[rows])
        for rows in (slice(0, 4), slice(4, 5), slice(5, 9), slice(9, 11), slice(11, 15), slice(15, 17))
    ]
    taken = coupling.take(range(23))
    assert torch.equal(taken["result_KL"][:17], torch.cat(expected))
    assert torch.equal(taken["start_KL"], starts.start_BL)
    assert torch.equal(taken["time_K"], starts.time_B)
    assert torch.equal(taken["seed_K"], starts.seed_B)
    assert torch.equal(coupling.take(np.array([9, 2]))["result_KL"], taken["result_KL"][[9, 2]])
    assert (len(coupling), coupling.length, coupling.vocab_size, coupling.mask_id) == (23, LENGTH, VOCAB, MASK)
    assert coupling.start_PL.dtype == np.uint16
    assert coupling.plan == plan_of(CONFIG)


def test_identity_is_that_of_the_content(tmp_path: Path) -> None:
    digests = set()
    for name, config in {"a": CONFIG, "b": CONFIG, "c": replace(CONFIG, seed=8)}.items():
        make(tmp_path / name, config)
        digests.add(Coupling.open(tmp_path / name).digest)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    assert len(digests) == 2


def test_datasets_reads_the_shards(tmp_path: Path) -> None:
    make(tmp_path / "coupling")
    table = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "coupling" / "shard-*.parquet"), split="train", cache_dir=str(tmp_path)
    )
    coupling = Coupling.open(tmp_path / "coupling")
    assert table["index"][:] == list(range(23))
    assert table["seed"][:] == coupling.seed_P.tolist()
    assert table["time"][:] == coupling.time_P.tolist()
    assert table["start"][:] == coupling.start_PL.tolist()
    assert table["result"][:] == coupling.result_PL.tolist()


def test_running_again_changes_nothing_and_deleted_shards_are_made_again(tmp_path: Path) -> None:
    make(tmp_path)
    before = files_of(tmp_path)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    make(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == stamps
    (tmp_path / shard_name(2)).unlink()
    with pytest.raises(ValueError, match="shard-00002.parquet is missing: run gen_coupling again"):
        Coupling.open(tmp_path)
    make(tmp_path)
    assert files_of(tmp_path) == before


def test_the_plan_of_settings_that_were_always_there_is_what_it_always_was() -> None:
    """Else finished couplings of hours would be refused as those of other settings."""
    assert json.dumps(plan_of(CouplingConfig())) == (
        '{"format": 1, "kind": "perturbed", "pairs": 6400, "shards": 64, "steps": 1024, "noise_policy": "posterior", '
        '"batch": 64, "seed": 1, "weights": "ema", "teacher": "t", "data": "d", "prompts": null, "vocab_size": 300, '
        '"mask_id": 299, "length": 8, "draw_precision": "float64", '
        '"time_grid": "uniform from the pair\'s time to 0 in all steps", "device": "cpu", "threads": 1}'
    )
    assert plan_of(replace(CONFIG, source="my.file:Source")) == plan_of(CONFIG) | {"source": "my.file:Source"}


@pytest.mark.parametrize("key", ["steps", "seed", "batch"])
def test_another_plan_is_refused_by_name(tmp_path: Path, key: str) -> None:
    make(tmp_path)
    changed: dict[str, Any] = {key: 99}
    other = replace(CONFIG, **changed)
    with pytest.raises(ValueError, match=rf"{key} was {getattr(CONFIG, key)} and is 99\): use another folder"):
        make(tmp_path, other)
    with pytest.raises(ValueError, match="teacher was 't' and is 'u'"):
        make(tmp_path, plan=plan_of(CONFIG, teacher="u"))


def test_shards_without_a_plan_are_not_taken_up(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "coupling.json").unlink()
    with pytest.raises(ValueError, match="has shards but no coupling.json"):
        make(tmp_path)
    assert not (tmp_path / "leases").exists()


ENTRIES = (
    b'{"plan": {"shards": 1, "pairs": 1, "length": 1, "vocab_size": 1, "mask_id": 1}, "shards": [1], "digest": ""}'
)


@pytest.mark.parametrize("content", [b"", b'{"plan": {', b"\0\0\0", b'{"a": 1}', b"[]", b'{"plan": {}}', ENTRIES])
def test_what_a_power_cut_leaves_of_the_lists_is_made_again(tmp_path: Path, content: bytes) -> None:
    make(tmp_path)
    before = files_of(tmp_path)
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(ValueError, match="has 4 of 4 shards and no manifest: run gen_coupling to finish it"):
        Coupling.open(tmp_path)
    assert discard_damaged(tmp_path) == [] and (found := coupling_progress(tmp_path)) and not found.finished
    make(tmp_path)
    assert files_of(tmp_path) == before
    (tmp_path / "coupling.json").write_bytes(content)  # the manifest repeats it
    assert Coupling.open(tmp_path, verify_checksums=True).plan == plan_of(CONFIG)
    with pytest.raises(ValueError, match="seed was 7 and is 8"):
        make(tmp_path, replace(CONFIG, seed=8))
    make(tmp_path)
    assert files_of(tmp_path) == before
    for name in ("coupling.json", "manifest.json"):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match="has shards but no coupling.json"):
        make(tmp_path)


def test_unfinished_and_missing_couplings_say_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no coupling in .*: make one with imdm_dist couple"):
        Coupling.open(tmp_path)
    make(tmp_path)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / shard_name(0)).unlink()
    with pytest.raises(ValueError, match="has 3 of 4 shards .*: run gen_coupling to finish it"):
        Coupling.open(tmp_path)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def flip_token(path: Path) -> None:
    column = pq.read_metadata(path).row_group(0).column(3)
    flip_bit(path, column.data_page_offset + column.total_compressed_size - 1)


def other_pairs(path: Path) -> None:
    path.write_bytes(path.with_name(shard_name(0)).read_bytes())


@pytest.mark.parametrize("damage", [truncate, other_pairs, flip_token])
def test_damaged_shards_are_named_with_a_remedy(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    make(tmp_path)
    before = files_of(tmp_path)
    bad = tmp_path / shard_name(1)
    damage(bad)
    remedy = r"shard-00001.parquet is damaged \(.*\): delete it and run gen_coupling again"
    for check in (Coupling.open, verify):
        with pytest.raises(ValueError, match=remedy) as caught:
            check(tmp_path)
        assert "\n" not in str(caught.value)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ValueError, match=remedy):
        make(tmp_path)
    assert not (tmp_path / "manifest.json").exists()
    bad.unlink()
    make(tmp_path)
    assert files_of(tmp_path) == before


NO_PAIRS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    f"results hold ids outside 0..{VOCAB - 1}": lambda start_BL, result_BL: result_BL.index_fill(
        1, torch.tensor([2]), VOCAB
    ),
    "results hold the mask": lambda start_BL, result_BL: start_BL,
    "results differ from what their starts show": lambda start_BL, result_BL: (result_BL + 1) % MASK,
}


@pytest.mark.parametrize("wrong", NO_PAIRS)
def test_no_shard_holds_what_no_pair_can_be(tmp_path: Path, wrong: str) -> None:
    def diverged(start_BL: Tensor, seed_B: Tensor, time_B: Tensor) -> Tensor:
        return NO_PAIRS[wrong](start_BL, rollout(start_BL, seed_B, time_B))

    with pytest.raises(ValueError, match=rf"shard-0000\d.parquet is not written \(its {wrong}\)"):
        make(tmp_path / "new", rollout=diverged)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["coupling.json"]
    # Nor is one taken that an earlier version wrote, with all its checksums.
    folder = tmp_path / "old"
    make(folder)
    before = files_of(folder)
    starts = PairSource(seed=7, length=LENGTH, mask_id=MASK, data=text()).starts(range(5, 11))
    write_shard(folder / shard_name(1), starts, diverged(starts.start_BL, starts.seed_B, starts.time_B))
    remedy = rf"shard-00001.parquet is damaged \(its {wrong}\): delete it and run gen_coupling again"
    manifest = json.loads((folder / "manifest.json").read_text())
    shard = folder / shard_name(1)
    manifest["shards"][1] |= {"bytes": shard.stat().st_size, "sha256": sha256_file(shard)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for check in (Coupling.open, verify):
        with pytest.raises(ValueError, match=remedy):
            check(folder)
    assert discard_damaged(folder) == ["shard-00001.parquet"]
    make(folder)
    assert files_of(folder) == before


def test_no_flipped_bit_changes_what_is_read(tmp_path: Path) -> None:
    make(tmp_path)
    path = tmp_path / shard_name(1)
    content, numbers = path.read_bytes(), shard_pairs(1, CONFIG.shards, CONFIG.pairs)
    whole = read_shard(path, numbers, LENGTH)
    found = 0
    for at in range(0, len(content), 9):
        flip_bit(path, at)
        try:
            shard = read_shard(path, numbers, LENGTH)
        except ValueError as error:
            assert "shard-00001.parquet is damaged" in str(error)
            found += 1
        else:  # The bit is in what nobody reads, such as statistics.
            assert all(np.array_equal(vars(shard)[name], vars(whole)[name]) for name in vars(whole))
        with pytest.raises(ValueError, match="shard-00001.parquet is damaged"):
            verify(tmp_path)
        path.write_bytes(content)
    assert found > 50
    assert verify(tmp_path)["rows"] == 23


def test_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_table = pq.write_table
    writes = []

    def write(table: Any, path: Path, **settings: Any) -> None:
        writes.append(path)
        if len(writes) == 3:
            path.write_bytes(b"PAR1 and no more")
            raise OSError(errno.ENOSPC, "No space left on device")
        write_table(table, path, **settings)

    monkeypatch.setattr(pq, "write_table", write)
    with pytest.raises(OSError) as caught:
        make(tmp_path)
    assert "make room and run the same command again, what is finished is kept" in in_a_line(caught.value)
    assert len(list(tmp_path.glob("shard-*"))) == 2
    assert len(list(tmp_path.iterdir())) == 3, "the plan, two shards and nothing else"
    make(tmp_path)
    assert len(writes) == 5
    assert Coupling.open(tmp_path, verify_checksums=True).plan == plan_of(CONFIG)


def test_inputs_that_do_not_fit_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    plain = replace(CONFIG, kind="plain")
    cases: list[tuple[str, CouplingConfig, dict[str, Any]]] = [
        ("the data's length is 9, the teacher's 8", CONFIG, {"data": text(length=9)}),
        ("the data's vocab_size is 301", CONFIG, {"data": text(vocab_size=301)}),
        ("the data's mask_id is 0", CONFIG, {"data": text(mask_id=0)}),
        ("set coupling.kind=plain", CONFIG, {"prompts_PL": torch.zeros(1, LENGTH, dtype=torch.int64)}),
        ("prompts of shape", plain, {"prompts_PL": torch.zeros(1, 9, dtype=torch.int64), "data": None}),
        ("prompts hold tokens", plain, {"prompts_PL": torch.full((1, LENGTH), VOCAB), "data": None}),
    ]
    for words, config, changed in cases:
        with pytest.raises(ValueError, match=words):
            make(tmp_path / "coupling", config, **changed)
    assert not (tmp_path / "coupling").exists()


def test_plain_couplings_and_their_prompts_are_part_of_the_plan(tmp_path: Path) -> None:
    plain = replace(CONFIG, kind="plain")
    prompts_PL = torch.full((2, LENGTH), MASK)
    prompts_PL[:, 0] = torch.tensor([11, 12])
    make(
        tmp_path,
        plain,
        plan=plan_of(plain, data=None, prompts_PL=prompts_PL),
        data=None,
        prompts_PL=prompts_PL,
    )
    assert Coupling.open(tmp_path).result_PL[:4, 0].tolist() == [11, 12, 11, 12]
    prompts_PL[0, 0] = 13
    with pytest.raises(ValueError, match="prompts was"):
        make(tmp_path, plain, plan=plan_of(plain, data=None, prompts_PL=prompts_PL), data=None, prompts_PL=prompts_PL)


def test_the_bar_counts_pairs_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path, progress=True)
    written = capsys.readouterr()
    assert written.out == ""
    assert "23/23" in written.err and "pair/s" in written.err


def test_the_manifest_says_what_it_was_made_with(tmp_path: Path) -> None:
    make(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert [entry["rows"] for entry in manifest["shards"]] == [5, 6, 6, 6]
    assert manifest["rows"] == 23
    assert manifest["plan"]["draw_precision"] == "float64"
    assert {"imdm_dist", "torch", "pyarrow"} <= set(manifest["versions"])
