"""The fixture `cluster`, for tests on a real SLURM; each test that asks for it is marked `slurm`.

SLURM is installed and started only where that was asked for: by IMDM_SLURM=1, or by IMDM_REQUIRE_SLURM=1, with which
it is an error where it cannot be. A cluster of this kind that is up and named by SLURM_CONF is used; no other one is,
for these tests cancel every job. A cluster that was up before stays up.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from imdm_dist.versions import code_version
from tests.cluster import host
from tests.cluster.jobs import Cluster
from tests.cluster.layout import Layout, default_folder, load_layout

OTHERS_SECONDS = 3600.0


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker("slurm")
    # Last: they take longest, and the cluster is up for them alone.
    items.sort(key=lambda item: item.get_closest_marker("slurm") is not None)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster, for this session alone; other sessions on this host wait."""
    required = bool(os.environ.get("IMDM_REQUIRE_SLURM"))
    named = Path(os.environ.get("SLURM_CONF", "/")).parent
    reason = None
    if host.is_up(named):
        folder = named
    else:
        folder = default_folder()
        if not required and not os.environ.get("IMDM_SLURM"):
            reason = "needs a SLURM cluster: `make test-cluster` brings one up and runs it"
        else:
            reason = host.obstacle()
    if reason and required:
        pytest.fail(f"IMDM_REQUIRE_SLURM is set, but {reason}", pytrace=False)
    if reason:
        pytest.skip(reason)
    layout = load_layout(folder) or Layout(folder)
    with host.in_use(layout, OTHERS_SECONDS):
        found = host.is_up(folder)
        host.up(layout)
        try:
            made = Cluster(layout)
            made.clean()
            yield made
        finally:
            if not found:
                host.down(folder)


@pytest.fixture(autouse=True)
def clean_cluster(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test: no jobs, every node idle."""
    used: Cluster | None = request.getfixturevalue("cluster") if "cluster" in request.fixturenames else None
    yield
    if used is not None:
        used.clean()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cluster-table", type=Path, help="write a table of the results of the tests on SLURM here")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    path = config.getoption("--cluster-table", None)
    if path is None:
        return
    code = code_version()
    rows = _rows(path)
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            if outcome != "passed" or report.when == "call":
                name = report.nodeid.removeprefix("tests/cluster/")
                rows[name] = f"| {name} | {outcome} | {report.duration:.0f} | {code} |"
    slurm = subprocess.run(["slurmctld", "-V"], capture_output=True, text=True, check=False).stdout.strip()
    made_with = f"Python {platform.python_version()}, torch {torch.__version__}"
    lines = ["# Tests on a SLURM cluster", "", "```", "make test-cluster", "```", ""]
    lines += [f"{len(os.sched_getaffinity(0))} CPU cores, four nodes on one host, {slurm}, {made_with}.", ""]
    lines += [
        "When some tests are run again alone, the rows of the others stay: each is of the code that it names.",
        "",
    ]
    lines += ["| test | result | seconds | code |", "|:---|:---|---:|:---|", *(rows[name] for name in sorted(rows))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _rows(path: Path) -> dict[str, str]:
    """The rows of an earlier table by test: what was not run now stays as it was, with the code it was run with."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines if line.startswith("| test_")}
