"""The planner: counts held against real models, memory against real steps, remedies against the plan itself."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.flop_counter import FlopCounterMode

from imdm_dist.config import Config, DataConfig, EngineConfig, MaskConfig, load_config
from imdm_dist.data.tokenizer import train_bpe
from imdm_dist.diffusion.reveal import plan_reveals, reveal_steps
from imdm_dist.diffusion.schedule import alpha
from imdm_dist.draws import Purpose, derive_seed
from imdm_dist.model import build_backbone, masked_rows
from imdm_dist.model.cuts import share
from imdm_dist.model.dit import DiT, DitConfig
from imdm_dist.objectives.batch import build_batch, draw_mask, stratified_time
from imdm_dist.objectives.flops import MASKED, pair_cost, pass_flops, step_flops
from imdm_dist.objectives.sdtt import SdttConfig, plan_teacher, second_pass_share
from imdm_dist.planning.activations import _measure, activation_memory
from imdm_dist.planning.hardware import Hardware
from imdm_dist.planning.memory import PHASES, Memory, rank_memory, worst_masked_share
from imdm_dist.planning.parameters import count_parameters
from imdm_dist.planning.plan import build_plan
from imdm_dist.planning.plan_text import plan_text
from imdm_dist.planning.vocabulary_size import vocabulary_size
from imdm_dist.training.blocks import prepare_blocks
from tests.planning.mixer import MixerConfig
from tests.small import small_config

ROOT = Path(__file__).resolve().parents[2]
LARGE = DitConfig(size="large", mask=MaskConfig(kind="infinite", noise_dim=2048))
GPT2 = 50_258


def settings(*overrides: str) -> Config:
    return load_config(Config, None, overrides)


# --- parameters


def test_the_860m_model_has_the_papers_parameters() -> None:
    count = count_parameters(LARGE, GPT2)
    assert f"{count.backbone / 1e6:.2f}M + {count.noise_mlp / 1e6:.2f}M" == "863.16M + 22.03M"


@pytest.mark.parametrize("kind", ["single", "infinite", "finite"])
def test_counts_are_those_of_a_real_model_and_of_its_shares(kind: str) -> None:
    config, vocab_size = small_config(kind, n_heads=4), 101
    model = DiT(config, vocab_size, vocab_size - 1)
    mask = sum(p.numel() for name, p in model.named_parameters() if "imdm_mlp" in name)
    for ranks in (1, 2, 4):
        count = count_parameters(config, vocab_size, ranks)
        assert count.total == sum(p.numel() for p in model.parameters()) and count.noise_mlp == mask
        shares = [share(p.detach(), model.cut_of(name), 0, ranks).numel() for name, p in model.named_parameters()]
        assert (count.rank, count.rank_largest) == (sum(shares), max(shares))


def test_planning_allocates_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[DiT] = []
    build = DiT.__init__

    def noted(self: DiT, *arguments: Any) -> None:
        build(self, *arguments)
        made.append(self)

    monkeypatch.setattr(DiT, "__init__", noted)
    build_plan(replace(Config(), model=replace(LARGE, cond_dim=64)), Hardware(), GPT2)  # a model not counted before
    assert made and all(p.is_meta or isinstance(p, FakeTensor) for model in made for p in model.parameters())


# --- operations


@pytest.mark.parametrize("kind", ["single", "infinite"])
def test_operations_are_what_torch_counts(kind: str) -> None:
    # With a soft cap attention is plain products: torch's counter does not know the CPU's fused kernel.
    config, vocab_size, count, length = small_config(kind, hidden_dim=64, attention_soft_cap=50.0), 307, 4, 32
    model = DiT(config, vocab_size, vocab_size - 1)
    masked_BL = torch.arange(count * length).view(count, length) % 2 == 0
    rows = masked_rows(masked_BL, torch.arange(count))
    with FlopCounterMode(display=False) as blocks:
        h_BLD = model.hidden(torch.zeros(count, length, dtype=torch.int64), rows)
        h_BLD.sum().backward()
    with FlopCounterMode(display=False) as head:
        model.head(h_BLD.detach().requires_grad_().flatten(0, 1)[rows.flat_M]).sum().backward()
    one = pass_flops(config, vocab_size, length)
    half = one.token.both + one.mask.both / 2  # here exactly half is masked
    assert blocks.get_total_flops() == pytest.approx(count * length * half, rel=0.01)  # adaLN: once a pass
    assert head.get_total_flops() == pytest.approx(len(rows.flat_M) * one.row.both, rel=0.01)


def test_operations_of_the_860m_model_are_those_of_pencil_and_paper() -> None:
    one, dim, length = pass_flops(LARGE, GPT2, 1024), 1536, 1024
    token, first, second, row = 24 * (24 * dim**2 + 4 * dim * length), 8 * dim * 2048, 8 * dim**2, 2 * dim * GPT2
    expected = [(token, 3 * token), (first + second, 2 * first + 3 * second), (row, 3 * row)]
    for part, both in zip((one.token, one.mask, one.row), expected, strict=True):
        assert (part.forward, part.both) == pytest.approx(both, rel=0.001)


def test_parts_of_a_step_and_the_time_until_they_are_known() -> None:
    config = settings("train.global_batch=8", "data.length=64", "model.size=tiny", "engine.recompute=true")
    sdtt = settings("objective.kind=sdtt", "train.global_batch=8", "data.length=64", "model.size=tiny")
    started = time.monotonic()
    plain, taught, one = step_flops(config, 101, 4), step_flops(sdtt, 101, 4), pass_flops(config.model, 101, 64)
    assert time.monotonic() - started < 20  # a second on an idle machine; MFU waits for it once, on one rank
    assert plain.backbone == pytest.approx(512 * (one.token.both + MASKED * one.mask.both))
    assert plain.head == pytest.approx(512 * MASKED * one.row.both) and plain.teacher == 0
    assert plain.recompute == pytest.approx(512 * one.token.forward)
    passes = 1 + second_pass_share(sdtt.objective, 64)
    assert taught.teacher == pytest.approx(512 * (passes * one.token.forward + MASKED * one.row.forward))


@pytest.mark.parametrize(("kind", "steps", "length"), [("plain", 64, 48), ("perturbed", 64, 48), ("perturbed", 16, 96)])
def test_evaluations_of_a_rollout_are_those_of_the_sampler(kind: str, steps: int, length: int) -> None:
    config, pairs = settings(f"coupling.kind={kind}", f"coupling.steps={steps}").coupling, 4000
    generator = torch.Generator().manual_seed(0)
    time_B = torch.ones(pairs, dtype=torch.float64)
    if kind == "perturbed":
        time_B = torch.rand(pairs, generator=generator, dtype=torch.float64)
    masked_BL = torch.ones(pairs, length, dtype=torch.bool)
    if kind == "perturbed":
        masked_BL = torch.rand(pairs, length, generator=generator) < (1 - alpha(time_B))[:, None]
    uniform_BL = torch.rand(pairs, length, generator=generator, dtype=torch.float64)
    plan = plan_reveals(reveal_steps(masked_BL, uniform_BL, time_B, steps))
    cost = pair_cost(small_config(), config, 11, length)
    assert cost.evaluations == pytest.approx(float(plan.count_B.double().mean()), rel=0.03)
    assert cost.masked == pytest.approx(float(masked_BL.sum(1).double().mean()), rel=0.03)


def test_second_teacher_passes_are_those_of_sdtt() -> None:
    config = settings("objective.kind=sdtt", "objective.rounds=3", "objective.grid=64", "data.length=24")
    count, found, objective = 3000, [], config.objective
    assert isinstance(objective, SdttConfig)
    for number in range(objective.rounds):
        seed_B = derive_seed(number, Purpose.EXAMPLE, torch.arange(count))
        time_B = stratified_time(seed_B, 0, count)
        clean_BL = torch.zeros(count, 24, dtype=torch.int64)
        batch = build_batch(clean_BL, draw_mask(seed_B, time_B, 24), time_B, seed_B, seed_B, 1, 1.0)
        found.append(len(plan_teacher(batch, 2**number / 64, "fixed").changed_A) / count)
    assert second_pass_share(objective, 24) == pytest.approx(sum(found) / len(found), rel=0.03)
    assert second_pass_share(replace(objective, noise_policy="fresh"), 24) == 1.0


# --- activations


def saved_bytes(config: Config, vocab_size: int, masked_BL: torch.Tensor) -> int:
    """Bytes of the tensors that autograd saves in the forward pass of the blocks."""
    model = build_backbone(config.model, vocab_size, vocab_size - 1).train()
    model = prepare_blocks(model.bfloat16() if config.engine.precision == "bf16" else model, config.engine)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    found: dict[int, torch.Tensor] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        found[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    autocast = torch.autocast("cpu", torch.bfloat16, enabled=config.engine.precision == "autocast")
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), autocast:
        rows = masked_rows(masked_BL, torch.arange(len(masked_BL)))
        model.hidden(torch.zeros(masked_BL.shape, dtype=torch.int64), rows)
    kept = [tensor for place, tensor in found.items() if place not in weights]
    # Not copies of weights: the planner counts these apart.
    shapes = {shape for p in model.parameters() for shape in (tuple(p.shape), tuple(p.shape[::-1]))}
    return sum(t.untyped_storage().nbytes() for t in kept if tuple(t.shape) not in shapes or len(t.shape) < 2)


@pytest.mark.parametrize("precision", ["fp32", "autocast", "bf16"])
@pytest.mark.parametrize(
    "change",
    [
        (),
        ("model.dropout=0",),
        ("model.attention_soft_cap=50",),
        ("model.mask.kind=infinite", "model.mask.noise_dim=96"),
        ("engine.recompute=true",),
    ],
    ids=" ".join,
)
def test_activations_are_what_autograd_saves(precision: str, change: tuple[str, ...]) -> None:
    size = ("model.size=custom", "model.hidden_dim=64", "model.n_blocks=3", "model.n_heads=4")
    config = settings(*size, "data.length=48", "engine.zero_stage=1", f"engine.precision={precision}", *change)
    masked_BL = torch.arange(12 * 48).view(12, 48) % 2 == 0
    expected = activation_memory(config, 101, 12, 0.5, "cpu").kept
    # What is left out, indices, statistics of norms and states of generators, is a constant few bytes a row.
    assert expected == pytest.approx(saved_bytes(config, 101, masked_BL), rel=0.10 if config.engine.recompute else 0.03)


@pytest.mark.parametrize("mask", ["single", "infinite", "finite"])
@pytest.mark.parametrize("recompute", [False, True])
def test_another_family_is_planned(mask: str, recompute: bool) -> None:
    model = MixerConfig(mask=MaskConfig(kind=mask, noise_dim=24, n_states=7))
    engine = EngineConfig(recompute=recompute)
    config = replace(settings("data.length=40", "train.global_batch=12"), model=model, engine=engine)
    masked_BL = torch.arange(12 * 40).view(12, 40) % 2 == 0
    expected = activation_memory(config, 301, 12, 0.5, "cpu").kept
    assert expected == pytest.approx(saved_bytes(config, 301, masked_BL), rel=0.10 if recompute else 0.03)
    one = pass_flops(model, 301, 40)
    assert one.token.both == 3 * one.token.forward == 3 * 4 * (2 * 48 * 40 + 4 * 48**2)
    assert one.row.forward == 2 * 48 * 301
    plan = build_plan(config, Hardware(memory=1e9, device="cpu"), 301)
    real = build_backbone(model, 301, 300)
    assert plan.fits and plan.parameters.total == sum(p.numel() for p in real.parameters())


def test_peaks_are_those_of_a_step_of_plain_tensors() -> None:
    """Beside what is kept: the rows four times (gathered, normed, scaled, modulated); logits and log-probabilities in
    forward, log-probabilities and two gradients in backward."""
    config = settings("model.size=tiny", "data.length=64", "model.dropout=0")
    found = activation_memory(config, 4001, 8, 0.5, "cuda")
    rows, logits = 4 * 256 * 512, 4 * 256 * 4001
    assert found.forward.activations - found.kept == pytest.approx(4 * rows + 2 * logits, rel=0.02)
    assert found.loss.activations - found.kept == pytest.approx(4 * rows + 3 * logits, rel=0.02)
    assert found.head_gradients >= 4 * 512 * 4001
    assert found.last_block.activations > found.kept > found.first_block.activations


def test_a_large_micro_batch_is_planned_from_two_small_ones() -> None:
    config = settings("model.size=tiny", "data.length=64", "engine.loss_chunk_rows=128")
    planned, found = (ask(config, 1001, 20, 0.5, "cuda") for ask in (activation_memory, _measure.__wrapped__))
    for part in ("forward", "loss", "last_block", "first_block"):
        one, other = getattr(planned, part), getattr(found, part)
        assert one.activations == pytest.approx(other.activations, rel=0.02)
    assert planned.kept == pytest.approx(found.kept, rel=0.001) and planned.head_gradients == found.head_gradients


# --- memory


MEASURED = {
    "fp32": (),
    "SDTT in bf16 with ZeRO 1": (
        "objective.kind=sdtt",
        "objective.rounds=1",
        "engine.precision=bf16",
        "engine.zero_stage=1",
        "model.mask.kind=infinite",
        "model.mask.noise_dim=512",
    ),
    "recomputation, two micro-batches, ZeRO 2": (
        "engine.recompute=true",
        "engine.micro_batch=6",
        "engine.zero_stage=2",
    ),
}


@pytest.mark.parametrize("name", MEASURED)
def test_memory_is_within_ten_percent_of_what_steps_take(name: str) -> None:
    """Two optimizer steps of a model of 20 million parameters, in a process of their own."""
    size = ("model.size=custom", "model.hidden_dim=384", "model.n_blocks=6", "model.n_heads=6")
    shape = (*size, "data.length=96", "train.global_batch=12", "train.async_save=false", *MEASURED[name])
    config, vocab_size = settings(*shape), 12_000
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    command = [sys.executable, "-m", "imdm_dist.planning.measure", "--vocab", str(vocab_size), *shape]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    measured = json.loads(done.stdout.splitlines()[-1])["peak"]
    micro_batch = config.engine.micro_batch or 12
    memory = rank_memory(config, vocab_size, 1, micro_batch, 12 // micro_batch, "cpu")
    assert memory.peak - memory.parts["framework"][0] == pytest.approx(measured, rel=0.10)


def memory_of(world: int = 8, device: Literal["cuda", "cpu"] = "cuda", **changes: Any) -> Memory:
    settings: dict[str, Any] = {"precision": "bf16", "zero_stage": 1, "micro_batch": 4}
    engine = EngineConfig(**settings | changes)
    config = replace(Config(), model=LARGE, engine=engine, data=DataConfig(length=1024))
    return rank_memory(config, GPT2, world, 4, 512 * engine.tensor_parallel // world // 4, device)


def test_what_each_setting_divides() -> None:
    p, one = count_parameters(LARGE, GPT2).total, PHASES.index("loss")
    plain = memory_of(zero_stage=0, precision="fp32")
    assert [plain.parts[part][one] for part in ("weights", "gradients", "optimizer state", "EMA")] == [
        4 * p,
        4 * p,
        8 * p,
        4 * p,
    ]
    first = memory_of(zero_stage=1)
    assert [first.parts[part][one] for part in ("weights", "gradients", "fp32 masters", "optimizer state", "EMA")] == [
        2 * p,
        2 * p,
        *(math.ceil(p / 8) * size for size in (4, 8, 4)),
    ]
    assert memory_of(zero_stage=2).parts["gradients"][one] == 2 * math.ceil(p / 8)
    assert memory_of(zero_stage=3).parts["weights"][PHASES.index("update")] == 2 * math.ceil(p / 8)
    peaks = [first.peak, memory_of(recompute=True).peak, memory_of(recompute=True, tensor_parallel=2).peak]
    assert peaks == sorted(peaks, reverse=True)
    moved = memory_of(offload_optimizer=True)
    assert moved.parts["optimizer state"][one] == 0 and moved.host > first.host + 16 * (p // 8)


def test_the_micro_batch_that_has_most_masked_rows_is_planned_for() -> None:
    config = settings("train.global_batch=64")
    seed_B = derive_seed(0, Purpose.EXAMPLE, torch.arange(64))
    masked_BL = draw_mask(seed_B, stratified_time(seed_B, 0, 64), 4096)
    shares = masked_BL.double().view(8, 8, -1).mean(dim=(1, 2))
    assert worst_masked_share(config, 8) == pytest.approx(float(shares.max()), rel=0.01)
    assert float(shares.max()) < 0.6
    assert worst_masked_share(settings("objective.kind=redi"), 1) == 1.0


# --- what does not fit


def test_a_remedy_is_named_that_fits() -> None:
    config = replace(Config(), model=LARGE, data=DataConfig(length=1024))
    for room in (70e9, 40e9, 20e9):
        hardware = Hardware(gpus=8, memory=room)
        plan = build_plan(config, hardware, GPT2)
        assert not plan.fits and plan.remedy is not None
        named: dict[str, Any] = {name.removeprefix("engine."): value for name, value in plan.remedy.settings.items()}
        better = build_plan(replace(config, engine=replace(config.engine, **named)), hardware, GPT2)
        assert better.fits and better.remedy is None and better.memory.peak == plan.remedy.peak
        assert all(f"{name}={str(value).lower()}" in plan_text(plan) for name, value in plan.remedy.settings.items())
    hopeless = build_plan(config, Hardware(gpus=1, memory=3e9), GPT2)
    assert hopeless.remedy is None and "no setting makes it fit" in plan_text(hopeless)


@pytest.mark.parametrize(
    ("gpus", "overrides", "message"),
    [
        (3, (), r"train.global_batch=512 .* 3 data-parallel ranks: set it to 510 or 513"),
        (2, ("engine.micro_batch=7",), r"engine.micro_batch=7 .* 256 examples .* one of 1, 2, 4, 8"),
        (4, ("engine.tensor_parallel=8",), r"engine.tensor_parallel=8 .* one of 1, 2, 4"),
        (5, ("engine.tensor_parallel=5",), r"model.n_heads=12: set it to one of 1$"),
    ],
)
def test_bad_combinations_are_refused_with_numbers_that_work(
    gpus: int, overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build_plan(settings(*overrides), Hardware(gpus=gpus))


# --- vocabulary, tables


def test_vocabulary_from_settings(tmp_path: Path) -> None:
    assert vocabulary_size(DataConfig()) == 1025
    assert vocabulary_size(DataConfig(source="synthetic")) == 3
    assert vocabulary_size(DataConfig(tokenizer="openai-community/gpt2")) == GPT2
    assert vocabulary_size(DataConfig(tokenizer="bert-base-uncased")) == 30_522
    train_bpe(["some words and more words"] * 20, 300, tmp_path / "mine")
    assert 250 < vocabulary_size(DataConfig(root=str(tmp_path), tokenizer="mine")) <= 301
    with pytest.raises(ValueError, match="--vocab"):
        vocabulary_size(DataConfig(tokenizer="nobody/knows"))


def tool(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "plan.py"), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_the_tool_plans_a_chain_and_refuses_in_a_line() -> None:
    done = tool("configs/embedded_chain.yaml", "--json", "--gpus", "2", "--pairs", "1000")
    stages = {stage["stage"]: stage for stage in json.loads(done.stdout)}
    assert set(stages) == {"teacher", "imdm_sdtt", "pairs", "imdm_redi"}
    assert stages["pairs"]["pairs"] == 1000 and stages["imdm_sdtt"]["steps"] == 1200
    assert stages["teacher"]["memory"]["peak"] == max(stages["teacher"]["memory"]["totals"])
    done = tool("configs/embedded.yaml", "--gpus", "3")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "63 or 66" in done.stderr


def test_tables_are_aligned() -> None:
    plan = build_plan(settings("data.tokenizer=gpt2", "train.steps=1000"), Hardware(gpus=8))
    text = plan_text(plan)
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("memory of a rank"))
    rows = [line for line in lines[start:] if line and not line.startswith("peak")]
    rows = rows[: rows.index(next(row for row in rows if row.startswith("total"))) + 1]
    assert len({len(row) for row in rows}) == 1
    assert "steps 1,000:" in text and "6,400 pairs" in text
