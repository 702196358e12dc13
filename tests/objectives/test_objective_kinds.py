"""Objectives as the other rooms use them: by their registry, with what they read and what they cost."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from imdm_dist.config import Config, load_config
from imdm_dist.objectives.examples import DataExamples, slice_batch
from imdm_dist.objectives.flops import step_flops
from imdm_dist.objectives.nelbo import nelbo
from imdm_dist.objectives.objective import Costs, build_objective, coupling_readers, objective_of
from imdm_dist.objectives.row_loss import divergence_loss, divergence_sum
from imdm_dist.objectives.sdtt import Sdtt, SdttConfig, TaughtBatch, plan_teacher
from imdm_dist.registry import OBJECTIVES
from imdm_dist.training.prefetch import Prefetched
from tests.small import small_model

ROWS, LENGTH = 16, 6


class Rows:
    """Random rows in place of packed text."""

    rows, length, mask_id = ROWS, LENGTH, 10

    def __init__(self) -> None:
        self.tokens = torch.randint(0, 10, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))

    def take(self, rows: Any) -> Tensor:
        return self.tokens[torch.as_tensor(rows)]


def config(*settings: str) -> Config:
    return load_config(Config, None, [f"data.length={LENGTH}", "train.global_batch=4", *settings])


SDTT = config("objective.kind=sdtt", "objective.rounds=3", "objective.steps_per_round=2", "objective.grid=8")


@pytest.mark.parametrize("module", ["nelbo", "sdtt", "redi"])
def test_importing_a_loss_imports_no_tokenizers_and_no_tables(module: str) -> None:
    code = f"import json, sys, imdm_dist.objectives.{module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert f"imdm_dist.objectives.{module}" in loaded
    assert not loaded & {"transformers", "pyarrow", "tokenizers", "datasets", "deepspeed", "imdm_dist.training"}


def test_no_file_outside_this_room_and_the_registry_asks_for_a_kind_of_objective() -> None:
    package = Path(__file__).resolve().parents[2] / "imdm_dist"
    names = [f'"{name}"' for name in OBJECTIVES.names] + [f"imdm_dist.objectives.{name}" for name in ("sdtt", "redi")]
    found = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if path.parent.name != "objectives" and any(name in path.read_text() for name in names)
    }
    assert found == {"registry.py"}


def test_what_objectives_read_and_need() -> None:
    assert coupling_readers() == ["redi"]
    assert [name for name in OBJECTIVES.names if OBJECTIVES.get(name).needs_teacher] == ["sdtt"]
    steps = {name: objective_of(OBJECTIVES.get(name).Config()).steps(SDTT) for name in ("nelbo", "redi")}
    assert steps == {"nelbo": 0, "redi": 0} and Sdtt.steps(SDTT) == 6


def test_what_objectives_cost() -> None:
    assert objective_of(config().objective).costs(config()) == Costs()
    redi = config("objective.kind=redi")
    assert not objective_of(redi.objective).costs(redi).stratified
    plain = config("objective.kind=redi", "coupling.kind=plain")
    assert objective_of(plain.objective).costs(plain) == Costs()
    costs = Sdtt.costs(SDTT)
    assert Sdtt.needs_teacher and (costs.heads, costs.stratified) == (2, True)
    assert 1 < costs.teacher_passes < 2
    fresh = replace(SDTT, objective=SdttConfig(noise_policy="fresh"))
    assert Sdtt.costs(fresh).teacher_passes == 2
    assert step_flops(config(), 100, 4).teacher == 0 < step_flops(SDTT, 100, 4).teacher


def test_the_teacher_is_planned_ahead_for_the_round_of_its_step() -> None:
    """Batches come out of the thread prepared, those of a round's first step before the round begins."""
    student, teacher = small_model(), small_model(seed=1)
    objective = build_objective(SDTT, teacher)
    assert isinstance(objective, Sdtt)
    examples = Sdtt.examples(SDTT, slice_batch(4, 2), Rows())
    steps = [2.0**number / 8 for number in (0, 0, 1, 1, 2, 2)]
    for step, batches in enumerate(Prefetched(examples, objective, 0, 6)):
        assert objective.metrics() == {"round": step // 2, "dt": steps[step]}
        assert len(batches) == 2
        for batch, plain in zip(batches, examples.step(step), strict=True):
            assert isinstance(batch, TaughtBatch) and torch.equal(batch.x_BL, plain.x_BL)
            expected = plan_teacher(plain, steps[step], "fixed")
            for name in ("first_R", "changed_A", "slot_M", "second_R", "rollout_seed_M"):
                assert torch.equal(getattr(batch.teacher, name), getattr(expected, name)), name
            moved = batch.to(torch.device("cpu"))
            assert type(moved) is TaughtBatch and objective.loss(student, moved).isfinite()
        objective.end_step(step + 1, lambda kind: student.named_parameters())
    weights = dict(student.named_parameters())
    assert all(torch.equal(weights[name], held) for name, held in objective.state().items())


def test_a_kernel_goes_where_the_head_is_met(monkeypatch: pytest.MonkeyPatch) -> None:
    """An objective's loss is what `row_loss` of the model and `divergence_loss` make of its rows."""
    model = small_model()
    (batch,) = DataExamples(cast(Any, Rows()), 0, slice_batch(4, 0), count_masked=False).step(0)
    seen: list[int] = []

    def fused(h_RD: Tensor, target_R: Tensor, weight_R: Tensor) -> Tensor:
        seen.append(len(h_RD))
        return (torch.nn.functional.cross_entropy(model.head(h_RD), target_R, reduction="none") * weight_R).sum()

    plain = nelbo(model, batch, chunk_rows=5)
    monkeypatch.setattr(model, "row_loss", fused)
    assert torch.equal(nelbo(model, batch, chunk_rows=5), plain)
    assert sum(seen) == len(batch.target_M) and max(seen) <= 5
    teacher = small_model(seed=1)
    h_RD = torch.randn(4, 32)
    found = divergence_loss(model, teacher, h_RD, h_RD + 1, "forward_kl")
    assert torch.equal(found, divergence_sum(model.vocabulary, model.head(h_RD), teacher.head(h_RD + 1), "forward_kl"))
    found.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_ones_own_objective_is_built_prepared_and_computed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "half_objective.py").write_text(
        "from dataclasses import dataclass, replace\n"
        "from imdm_dist.config import ObjectiveConfig\n"
        "from imdm_dist.objectives.nelbo import Nelbo\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class HalfConfig(ObjectiveConfig):\n"
        "    share: float = 0.5\n"
        "class Half(Nelbo):\n"
        "    Config = HalfConfig\n"
        "    def __init__(self, config, chunk_rows, teacher=None):\n"
        "        super().__init__(config, chunk_rows, teacher)\n"
        "        self.share = config.share\n"
        "    def prepare(self, batch, step):\n"
        "        return replace(batch, total=batch.total / self.share)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    ours = config("objective.kind=half_objective:Half", "objective.share=0.25")
    objective = build_objective(ours, None)
    examples = objective_of(ours.objective).examples(ours, slice_batch(4, 0), Rows())
    (batches,) = Prefetched(examples, objective, 0, 1)
    model = small_model()
    (plain,) = examples.step(0)
    with torch.no_grad():
        assert float(objective.loss(model, batches[0])) == pytest.approx(float(nelbo(model, plain, 4096)) / 4)
