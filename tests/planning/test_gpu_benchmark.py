"""benchmarks/gpu.py is rehearsed on the CPU: every part passes, and what fails or takes too long is a row."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu
from benchmarks.gpu_parts import PARTS


def test_every_part_passes_in_tiny_shapes_and_a_failure_is_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sum(seconds for seconds, _ in PARTS.values()) <= 9 * 60
    assert gpu.benchmark(tmp_path, True, gpu.run_here, list(PARTS)), (tmp_path / "gpu.md").read_text()
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["passed"] and all(part["passed"] and part["finished"] for part in found["parts"].values())
    assert found["device"] and found["versions"]["torch"] and found["command"]
    rows = {row["what"]: row["found"] for part in found["parts"].values() for row in part["rows"]}
    assert rows["tokens from the same logits that differ"] == 0
    assert rows["tokens a second"] > 0
    assert rows["error of flex_attention, relative root mean square"] == pytest.approx(0, abs=0.03)

    def faulty(report: Any) -> None:
        report.check("one that fails", 2.0, 1.0)
        raise RuntimeError("no kernel")

    def start(name: str, folder: Path, quick: bool) -> str | None:
        if name == "law":
            return gpu.bounded([sys.executable, "-c", "import time; time.sleep(60)"], 0.2, folder / "log.txt")
        if name == "step":
            return gpu.bounded([sys.executable, "-c", "raise SystemExit('no memory')"], 60, folder / "log.txt")
        return gpu.run_here(name, folder, quick)

    monkeypatch.setattr(gpu, "part", lambda name: faulty)
    assert not gpu.benchmark(tmp_path, True, start, ["noise", "law", "step"])
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert [part["passed"] for part in found["parts"].values()] == [False] * 3
    table = (tmp_path / "gpu.md").read_text()
    for line in ("| noise | one that fails | 2 | 1 | FAILED |", "no kernel", "cut off after 0.2 s", "1: no memory"):
        assert line in table
