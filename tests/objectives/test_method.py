"""The point of the method, on {00, 11}: noise bound to its pair makes tokens agree in one step, redrawn does not."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from imdm_dist import draws
from imdm_dist.chain.rollouts import generate_coupling
from imdm_dist.checkpoint.model import load_model
from imdm_dist.config import (
    Config,
    CouplingConfig,
    DataConfig,
    InputsConfig,
    MaskConfig,
    OptimizerConfig,
    TrainConfig,
)
from imdm_dist.coupling import Coupling
from imdm_dist.diffusion.sampler import sample
from imdm_dist.draws import Purpose
from imdm_dist.model.dit import DitConfig
from imdm_dist.objectives.redi import RediConfig
from imdm_dist.paper.two_tokens import noise_response, table1_row
from imdm_dist.training.loop import train


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    """An MDM of the language and a coupling rolled out by it."""
    home = tmp_path_factory.mktemp("method")
    config = Config(
        model=DitConfig(size="custom", hidden_dim=48, n_blocks=2, n_heads=2, dropout=0.0),
        data=DataConfig(source="synthetic", cache=str(home / "data")),
        optimizer=OptimizerConfig(lr=3e-3, warmup_steps=20, ema_decay=0.9),
        train=TrainConfig(steps=120, global_batch=64, save_every=1000),
        coupling=CouplingConfig(pairs=100, shards=2, steps=64, batch=50, kind="plain"),
    )
    train(config, home / "mdm")
    generate_coupling(config, home / "mdm", home / "coupling", workers=1)
    return home, config


def figures(folder: Path) -> dict[str, float]:
    model = load_model(folder).model
    seeds = draws.derive_seed(77, Purpose.SAMPLE, torch.arange(2000))
    tokens = sample(model, torch.full((2000, 2), model.mask_id), seeds, 1).tokens_BL
    return table1_row(tokens, noise_response(model, 77, 1000))


def redi(base: tuple[Path, Config], name: str, kind: str, redraw: bool = False) -> dict[str, float]:
    home, config = base
    student = replace(
        config,
        model=replace(config.model, mask=MaskConfig(kind=kind, noise_dim=16)),
        objective=RediConfig(redraw_noise=redraw),
        inputs=InputsConfig(init=str(home / "mdm"), coupling=str(home / "coupling")),
        train=replace(config.train, steps=800),
    )
    train(student, home / name)
    return figures(home / name)


def test_the_teacher_needs_two_steps(base: tuple[Path, Config]) -> None:
    home, _ = base
    assert figures(home / "mdm")["validity"] == pytest.approx(0.5, abs=0.04)
    pairs = Coupling.open(home / "coupling")
    assert (pairs.result_PL[:, 0] == pairs.result_PL[:, 1]).mean() > 0.97
    assert len(set(pairs.seed_P.tolist())) == 100


def test_bound_noise_makes_tokens_agree_and_redrawn_noise_does_not(base: tuple[Path, Config]) -> None:
    bound, redrawn = redi(base, "bound", "infinite"), redi(base, "redrawn", "infinite", redraw=True)
    assert bound["validity"] > 0.85
    assert bound["factorization_error"] < 0.25
    assert redrawn["validity"] == pytest.approx(0.5, abs=0.04)
    assert redrawn["factorization_error"] > 0.66


def test_an_mdm_cannot_use_the_coupling(base: tuple[Path, Config]) -> None:
    row = redi(base, "mdm_redi", "single")
    assert row["validity"] == pytest.approx(0.5, abs=0.04)
    assert row["factorization_error"] == pytest.approx(0.693, abs=0.02)
