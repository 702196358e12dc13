"""The plan of a coupling (its settings) and its manifest (its files, with their checksums).

`coupling.json` is written first and never changes: every setting that the bytes of the shards
depend on. `manifest.json` is written last: a folder that has one is a finished coupling.

Shape suffixes: P prompts, L length.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from torch import Tensor

from imdm_dist.config import identifying_settings, to_dict
from imdm_dist.config.coupling import CouplingConfig
from imdm_dist.coupling.shard import Shard, damaged, present_shards, read_shard, shard_name, shard_pairs, wrong_tokens
from imdm_dist.diffusion.draw_source import DRAW_PRECISION
from imdm_dist.files import has_fields, hash_json, read_record, sha256_file, write_json
from imdm_dist.versions import versions

FORMAT = 1
PLAN = "coupling.json"
MANIFEST = "manifest.json"
_ENTRY: dict[str, type] = {"file": str, "rows": int, "bytes": int, "sha256": str}
_PLAN: dict[str, type] = dict.fromkeys(("shards", "pairs", "length", "vocab_size", "mask_id"), int)


def make_plan(
    config: CouplingConfig,
    *,
    teacher: str,
    data: str | None,
    vocab_size: int,
    mask_id: int,
    length: int,
    prompts_PL: Tensor | None = None,
    device: str,
    threads: int,
) -> dict[str, Any]:
    """The plan of a coupling: all that the bytes of its shards depend on.

    Args:
        teacher: digest of the teacher's weights.
        data: fingerprint of the text that perturbed starts are made of, None for plain ones.
        prompts_PL: prompts with the mask id where to generate, or None.
        device, threads: kind of device, and torch threads of a CPU rollout: the last bits of a sum depend on them.
    """
    return {
        "format": FORMAT,
        **identifying_settings(config),
        "teacher": teacher,
        "data": data,
        "prompts": None if prompts_PL is None else prompts_digest(prompts_PL),
        "vocab_size": vocab_size,
        "mask_id": mask_id,
        "length": length,
        "draw_precision": DRAW_PRECISION,
        "time_grid": "uniform from the pair's time to 0 in all steps",
        "device": device,
        "threads": threads,
    }


def whole_plan(plan: dict[str, Any]) -> dict[str, Any]:
    """A plan with the settings that came after it was made: at their defaults, which is how it was made."""
    return to_dict(CouplingConfig()) | plan


def prompts_digest(prompts_PL: Tensor) -> str:
    """SHA-256 of the prompts, in hex."""
    shape = ",".join(map(str, prompts_PL.shape))
    return hashlib.sha256(shape.encode() + b":" + prompts_PL.numpy().astype("<i8").tobytes()).hexdigest()


def read_plan(folder: Path) -> dict[str, Any] | None:
    """The plan of the coupling in `folder`, which its manifest repeats; None if there is none."""
    plan: dict[str, Any] | None = plan_of(folder) or (manifest_of(folder) or {}).get("plan")
    return plan


def plan_of(folder: Path) -> dict[str, Any] | None:
    """The plan alone, as it was written first; None where its file is not whole."""
    plan: dict[str, Any] | None = read_record(folder / PLAN, **_PLAN)
    return plan


def manifest_of(folder: Path) -> dict[str, Any] | None:
    """The manifest of the coupling in `folder`, its shards not looked at; None if it is not finished."""
    manifest: dict[str, Any] | None = read_record(folder / MANIFEST, plan=dict, shards=list, digest=str)
    if manifest is None or not has_fields(manifest["plan"], _PLAN):
        return None
    whole = all(isinstance(shard, dict) and has_fields(shard, _ENTRY) for shard in manifest["shards"])
    return manifest if whole and len(manifest["shards"]) == manifest["plan"]["shards"] else None


def check_plan(folder: Path, plan: dict[str, Any]) -> None:
    """Check that the coupling in `folder` is made by `plan`.

    Raises:
        ValueError: it is made by another one; the message says which settings differ.
    """
    there, plan = whole_plan(read_plan(folder) or {}), whole_plan(plan)
    differing = [key for key in [*plan, *(key for key in there if key not in plan)] if there.get(key) != plan.get(key)]
    if differing:
        words = ", ".join(f"{key} was {there.get(key)!r} and is {plan.get(key)!r}" for key in differing)
        raise ValueError(
            f"{folder} holds a coupling of other settings ({words}): use another folder or delete this one"
        )


def write_plan(folder: Path, plan: dict[str, Any]) -> None:
    """Write the plan of a new coupling, or again that of a finished one whose file was cut off.

    Raises:
        ValueError: the folder has shards already, of which nobody knows how they were made, or that have another plan.
    """
    if (folder / PLAN).is_file() and read_plan(folder) is not None:
        check_plan(folder, plan)
    elif present_shards(folder, plan["shards"]):
        raise ValueError(f"{folder} has shards but no {PLAN}: use another folder or delete this one")
    write_json(folder / PLAN, plan)


def write_manifest(folder: Path, plan: dict[str, Any]) -> None:
    """Write the manifest of a coupling whose shards are all there; the same for whoever writes it.

    `digest`, a hash of the shards' hashes, identifies the coupling.

    Raises:
        ValueError: a shard is damaged or holds other pairs than it should.
    """
    shards: list[dict[str, Any]] = []
    for number in range(plan["shards"]):
        path, rows = folder / shard_name(number), len(open_shard(folder, plan, number).index_B)
        shards.append({"file": path.name, "rows": rows, "bytes": path.stat().st_size, "sha256": sha256_file(path)})
    manifest = {
        "plan": plan,
        "shards": shards,
        "rows": sum(shard["rows"] for shard in shards),
        "digest": hash_json([shard["sha256"] for shard in shards]),
        "versions": versions(),
    }
    write_json(folder / MANIFEST, manifest)


def open_shard(folder: Path, plan: dict[str, Any], number: int) -> Shard:
    """Read a shard of the coupling of `plan`.

    Raises:
        ValueError: it is missing or damaged, or holds what no pair of this coupling can be.
    """
    path = folder / shard_name(number)
    shard = read_shard(path, shard_pairs(number, plan["shards"], plan["pairs"]), plan["length"])
    if wrong := wrong_tokens(shard.start_BL, shard.result_BL, plan["vocab_size"], plan["mask_id"]):
        raise damaged(path, wrong)
    return shard


def read_manifest(folder: Path) -> dict[str, Any]:
    """Manifest of a finished coupling, after checking that its files are there in their sizes.

    Raises:
        ValueError: there is no coupling, it is unfinished, or a shard is missing or of another size.
    """
    plan = read_plan(folder)
    if plan is None:
        raise ValueError(f"no coupling in {folder}: make one with imdm_dist couple or give another folder")
    manifest = manifest_of(folder)
    if manifest is None:
        shards = plan["shards"]
        there = len(present_shards(folder, shards))
        raise ValueError(
            f"the coupling in {folder} has {there} of {shards} shards and no manifest: run gen_coupling to finish it"
        )
    check_plan(folder, manifest["plan"])
    for shard in manifest["shards"]:
        path = folder / shard["file"]
        if not path.is_file():
            raise ValueError(f"{path} is missing: run gen_coupling again, it makes what is missing")
        if path.stat().st_size != shard["bytes"]:
            raise damaged(path, f"{path.stat().st_size} bytes instead of {shard['bytes']}")
    return manifest


def discard_damaged(folder: Path | str) -> list[str]:
    """Remove the shards of a finished coupling that `verify` refuses, so that they are made again.

    Returns:
        Their names; empty too where there is no manifest to compare with.
    """
    folder = Path(folder)
    manifest = manifest_of(folder)
    if manifest is None:
        return []
    wrong = []
    for number in range(len(manifest["shards"])):
        path = folder / shard_name(number)
        if path.is_file():
            try:
                _verify_shard(folder, manifest, number)
            except ValueError:
                path.unlink()
                wrong.append(path.name)
    return wrong


def verify(folder: Path | str) -> dict[str, Any]:
    """Check every byte of a finished coupling against its manifest, which is returned, and that its pairs can be pairs.

    Raises:
        ValueError: something is missing or differs.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    for number in range(len(manifest["shards"])):
        _verify_shard(folder, manifest, number)
    return manifest


def _verify_shard(folder: Path, manifest: dict[str, Any], number: int) -> None:
    entry = manifest["shards"][number]
    if sha256_file(folder / entry["file"]) != entry["sha256"]:
        raise damaged(folder / entry["file"], "its checksum is not that of the manifest")
    open_shard(folder, manifest["plan"], number)
