"""The fixture `cluster`, for tests on a real SLURM; each test that asks for it is marked `slurm`.

SLURM is installed and started only where that was asked for: by IMDM_SLURM=1, or by IMDM_REQUIRE_SLURM=1, with which
it is an error where it cannot be. A cluster of this kind that is up and named by SLURM_CONF is used; no other one is,
for these tests cancel every job. A cluster that was up before stays up.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imdm_dist.provenance import versions
from tests.cluster import host
from tests.cluster.jobs import Cluster
from tests.cluster.layout import Layout, default_folder, load_layout

OTHERS_SECONDS = 3600.0


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker("slurm")


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
    reports = [
        (report.nodeid.removeprefix("tests/cluster/"), outcome, report.duration)
        for outcome in ("passed", "failed", "error", "skipped")
        for report in terminalreporter.stats.get(outcome, [])
        if outcome != "passed" or report.when == "call"
    ]
    made_with = ", ".join(f"{name} {version}" for name, version in versions().items())
    slurm = subprocess.run(["sinfo", "--version"], capture_output=True, text=True, check=False).stdout.strip()
    lines = ["# Tests on a SLURM cluster", "", "```", "make test-cluster", "```", ""]
    lines += [f"{len(os.sched_getaffinity(0))} CPU cores, four nodes on one host, {slurm}; {made_with}.", ""]
    lines += ["| test | result | seconds |", "|:---|:---|---:|"]
    lines += [f"| {name} | {outcome} | {seconds:.0f} |" for name, outcome, seconds in sorted(reports)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
