"""What a coupling is made by (the plan) and what it consists of (the manifest).

`coupling.json` is written first and never changes: every setting that the bytes of the shards
depend on. `manifest.json` is written last: a folder that has one is a finished coupling.

Shape suffixes: P prompts, L length.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from torch import Tensor

from imdm_dist.config.coupling import CouplingConfig
from imdm_dist.coupling.shard import damaged, present_shards, read_shard, shard_name, shard_pairs
from imdm_dist.files import hash_json, read_json, sha256_file, write_json
from imdm_dist.provenance import versions

FORMAT = 1
PLAN = "coupling.json"
MANIFEST = "manifest.json"


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
        "kind": config.kind,
        "pairs": config.pairs,
        "shards": config.shards,
        "steps": config.steps,
        "noise_policy": config.noise_policy,
        "batch": config.batch,
        "seed": config.seed,
        "weights": config.weights,
        "teacher": teacher,
        "data": data,
        "prompts": None if prompts_PL is None else prompts_digest(prompts_PL),
        "vocab_size": vocab_size,
        "mask_id": mask_id,
        "length": length,
        "draw_precision": "float64",
        "time_grid": "uniform from the pair's time to 0 in all steps",
        "device": device,
        "threads": threads,
    }


def prompts_digest(prompts_PL: Tensor) -> str:
    """SHA-256 of the prompts, in hex."""
    shape = ",".join(map(str, prompts_PL.shape))
    return hashlib.sha256(shape.encode() + b":" + prompts_PL.numpy().astype("<i8").tobytes()).hexdigest()


def check_plan(folder: Path, plan: dict[str, Any]) -> None:
    """Check that the coupling in `folder` is made by `plan`.

    Raises:
        ValueError: it is made by another one; the message says which settings differ.
    """
    there = read_json(folder / PLAN)
    differing = [key for key in [*plan, *(key for key in there if key not in plan)] if there.get(key) != plan.get(key)]
    if differing:
        words = ", ".join(f"{key} was {there.get(key)!r} and is {plan.get(key)!r}" for key in differing)
        raise ValueError(
            f"{folder} holds a coupling of other settings ({words}): use another folder or delete this one"
        )


def write_plan(folder: Path, plan: dict[str, Any]) -> None:
    """Write the plan of a new coupling.

    Raises:
        ValueError: the folder has shards already, of which nobody knows how they were made.
    """
    if present_shards(folder, plan["shards"]):
        raise ValueError(f"{folder} has shards but no {PLAN}: use another folder or delete this one")
    write_json(folder / PLAN, plan)


def write_manifest(folder: Path, plan: dict[str, Any]) -> None:
    """Write the manifest of a coupling whose shards are all there; the same for whoever writes it.

    `digest`, a hash of the shards' hashes, identifies the coupling.

    Raises:
        ValueError: a shard is damaged or holds other pairs than it should.
    """
    shards: list[dict[str, Any]] = []
    for shard in range(plan["shards"]):
        path = folder / shard_name(shard)
        numbers = shard_pairs(shard, plan["shards"], plan["pairs"])
        read_shard(path, numbers, plan["length"])
        shards.append(
            {"file": path.name, "rows": len(numbers), "bytes": path.stat().st_size, "sha256": sha256_file(path)}
        )
    manifest = {
        "plan": plan,
        "shards": shards,
        "rows": sum(shard["rows"] for shard in shards),
        "digest": hash_json([shard["sha256"] for shard in shards]),
        "versions": versions(),
    }
    write_json(folder / MANIFEST, manifest)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Manifest of a finished coupling, after checking that its files are there in their sizes.

    Raises:
        ValueError: there is no coupling, it is unfinished, or a shard is missing or of another size.
    """
    if not (folder / PLAN).is_file():
        raise ValueError(f"no coupling in {folder}: make one with tools/gen_coupling.py or give another folder")
    if not (folder / MANIFEST).is_file():
        shards = read_json(folder / PLAN)["shards"]
        there = len(present_shards(folder, shards))
        raise ValueError(
            f"the coupling in {folder} has {there} of {shards} shards and no manifest: run gen_coupling to finish it"
        )
    manifest: dict[str, Any] = read_json(folder / MANIFEST)
    check_plan(folder, manifest["plan"])
    for shard in manifest["shards"]:
        path = folder / shard["file"]
        if not path.is_file():
            raise ValueError(f"{path} is missing: run gen_coupling again, it makes what is missing")
        if path.stat().st_size != shard["bytes"]:
            raise damaged(path, f"{path.stat().st_size} bytes instead of {shard['bytes']}")
    return manifest


def discard_damaged(folder: Path | str) -> list[str]:
    """Remove the shards of a finished coupling that differ from its manifest, so that they are made again.

    Returns:
        Their names; empty too where there is no manifest to compare with.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        return []
    shards = read_json(folder / MANIFEST)["shards"]
    wrong = [
        s["file"] for s in shards if (folder / s["file"]).is_file() and sha256_file(folder / s["file"]) != s["sha256"]
    ]
    for name in wrong:
        (folder / name).unlink()
    return wrong


def verify(folder: Path | str) -> dict[str, Any]:
    """Check every byte of a finished coupling against its manifest, which is returned.

    Raises:
        ValueError: something is missing or differs.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    for shard in manifest["shards"]:
        path = folder / shard["file"]
        if sha256_file(path) != shard["sha256"]:
            raise damaged(path, "its checksum is not that of the manifest")
    return manifest
