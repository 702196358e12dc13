"""The command from an installed wheel, far from the checkout: its files are all there, and jobs are submitted."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fake_slurm import FakeSlurm, fake_slurm

__all__ = ["fake_slurm"]

ROOT = Path(__file__).resolve().parents[2]
BUILD = "from setuptools import build_meta; print(build_meta.build_wheel('dist'))"
TINY = ["data.source=synthetic", "model.size=custom", "model.hidden_dim=32", "model.n_blocks=1", "model.n_heads=2"]
CHAIN = """name: tiny
stages:
  - {name: teacher, kind: train, set: {train: {steps: 1}}}
"""


@dataclass(frozen=True)
class Installed:
    """A wheel that is installed in `site`, and a folder to work in."""

    site: Path
    home: Path

    def call(self, *words: str, **environment: str) -> str:
        """Run `imdm_dist` in the folder; returns what it prints."""
        environment = os.environ | {"PYTHONPATH": str(self.site)} | environment
        command = [str(self.site / "bin" / "imdm_dist"), *words]
        done = subprocess.run(command, cwd=self.home, env=environment, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")
    source, site, home = folder / "source", folder / "site", folder / "home"
    for name in ("imdm_dist", "configs"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    home.mkdir()
    built = subprocess.run([sys.executable, "-c", BUILD], cwd=source, check=True, capture_output=True, text=True)
    wheel = source / "dist" / built.stdout.split()[-1]
    options = ["--quiet", "--no-index", "--no-deps", "--no-compile", f"--target={site}"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(wheel)], check=True, capture_output=True)
    return Installed(site, home)


def test_it_has_every_file_of_the_package(installed: Installed) -> None:
    for path in (ROOT / "imdm_dist").rglob("*"):
        if path.suffix in (".py", ".sh", ".yaml", ".typed"):
            assert (installed.site / path.relative_to(ROOT)).is_file(), path
    for path in (ROOT / "configs").glob("*.yaml"):
        assert (installed.site / "imdm_dist" / "configs" / path.name).read_text() == path.read_text()
    assert not list(installed.site.glob("tests*"))


def test_settings_are_printed(installed: Installed) -> None:
    assert "steps: 7" in installed.call("config", "train.steps=7")


def test_a_run_is_submitted(installed: Installed) -> None:
    said = installed.call("submit", "runs/teacher", *TINY, "train.steps=1", "train.global_batch=8", "--dry-run")
    assert f"export PYTHONPATH={installed.site}" in said and str(ROOT) not in said.replace(sys.prefix, "")


def test_a_chain_is_submitted(installed: Installed, fake_slurm: FakeSlurm) -> None:
    (installed.home / "chain.yaml").write_text(CHAIN)
    installed.call("run", "chain.yaml", "--slurm", *TINY, "train.global_batch=8")
    packing, training = fake_slurm.submitted
    assert "tiny.prepare_data" in packing[0] and "tiny.teacher" in training[0]
    scripts = list((installed.home / "runs" / "tiny" / "submitit").glob("*_submission.sh"))
    assert scripts
    for script in scripts:
        assert f"export PYTHONPATH={installed.site}" in script.read_text()
        assert str(ROOT) not in script.read_text().replace(sys.prefix, "")
