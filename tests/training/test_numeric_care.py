"""Golden losses, the same bits twice, steps whose gradient is not finite, and optimizers of other libraries."""

from __future__ import annotations

import json
import shutil
import sys
import types
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from imdm_dist.chain.chain import Chain
from imdm_dist.chain.preflight import preflight
from imdm_dist.chain.stages.train import Train
from imdm_dist.checkpoint.read import open_checkpoint
from imdm_dist.config import EngineConfig, OptimizerConfig
from imdm_dist.model.dit.model import Block
from imdm_dist.objectives import nelbo
from imdm_dist.training import setup
from imdm_dist.training.blocks import check_compile
from imdm_dist.training.loop import train
from imdm_dist.training.metrics import read_metrics
from imdm_dist.training.optimizers import build_optimizer, check_agrees, find_fused
from tests import golden, parity
from tests.other_adam import OtherAdam
from tests.parity import Curve, Split, bits_equal, config_of


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("golden")


@pytest.fixture(scope="module")
def curves(home: Path) -> dict[str, Curve]:
    return golden.curves(home)


def test_losses_are_those_of_the_golden_file(curves: dict[str, Curve]) -> None:
    expected = json.loads(golden.FILE.read_text())
    for stage, found in golden.as_json(curves).items():
        assert found["loss"] == pytest.approx(expected[stage]["loss"], rel=1e-5), stage
        assert found["grad_norm"] == pytest.approx(expected[stage]["grad_norm"], rel=1e-4), stage


def test_a_second_run_gives_the_same_bits(home: Path, curves: dict[str, Curve]) -> None:
    for stage in parity.STAGES:
        config = config_of(home, stage, Split(), dropout=0.1)
        config = replace(config, train=replace(config.train, deterministic=True))
        try:
            train(config, home / f"again-{stage}")
        finally:
            torch.use_deterministic_algorithms(False)
        again = parity.curve(home / f"again-{stage}")
        assert (again.losses, again.norms) == (curves[stage].losses, curves[stage].norms)
        assert bits_equal(again, curves[stage])


STAGES: tuple[Literal[0, 1, 2, 3], ...] = (0, 1, 2, 3)
ENGINES = {f"zero{stage}": EngineConfig(zero_stage=stage) for stage in STAGES}
ENGINES["bf16"] = EngineConfig(zero_stage=1, precision="bf16")


def spoil_loss(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """Have the loss of one micro-batch, the `call`-th from now on, be no number."""
    real = nelbo.nelbo
    calls: list[int] = []

    def faulty(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        return real(*arguments) * (float("nan") if len(calls) == call else 1.0)

    monkeypatch.setattr(nelbo, "nelbo", faulty)


@pytest.mark.parametrize("mode", ENGINES)
def test_a_step_without_a_finite_gradient_changes_nothing_and_is_written_down(
    home: Path, curves: dict[str, Curve], monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """The fourth of six steps; the run goes on after it, and so does a resumed one."""
    config = replace(config_of(home, "teacher", Split(), steps=6), engine=ENGINES[mode])
    config = replace(config, train=replace(config.train, save_every=1))
    spoil_loss(monkeypatch, call=4)
    folder = home / f"skipped-{mode}"
    train(config, folder)
    third, fourth, last = (open_checkpoint(folder / f"step-{step:08d}") for step in (3, 4, 6))
    for quantity in ("weights", "exp_avg", "exp_avg_sq"):
        for name in third.names(quantity):
            assert torch.equal(third.full(quantity, name), fourth.full(quantity, name)), (quantity, name)
    assert (third.state["updates"], fourth.state["updates"], last.state["updates"]) == (3, 3, 5)
    lines = read_metrics(folder)
    assert lines[3]["skipped"] == [{"step": 4, "examples": [24, 31]}]
    assert lines[3]["loss"] is None and lines[3]["grad_norm"] is None
    assert all(line["loss"] > 0 for line in lines[4:])
    shutil.rmtree(folder / "step-00000005")
    shutil.rmtree(folder / "step-00000006")
    train(config, folder)
    resumed = open_checkpoint(folder / "step-00000006")
    assert resumed.state["updates"] == 5
    assert all(torch.equal(resumed.full("weights", name), last.full("weights", name)) for name in last.names("weights"))


# --- optimizers


def stand_in(wrong: float = 0.0) -> type[OtherAdam]:
    """A FusedAdam as apex has it."""

    class FusedAdam(OtherAdam):
        def __init__(self, parameters: Any, lr: Any, betas: Any, eps: Any, weight_decay: Any, adam_w_mode: Any) -> None:
            assert adam_w_mode
            super().__init__(parameters, "apex", lr, betas, eps, weight_decay + wrong)

    return FusedAdam


def install(monkeypatch: pytest.MonkeyPatch, *, kernels: bool, optimizers: type[OtherAdam] | None) -> None:
    package = types.ModuleType("apex")
    package.__spec__ = ModuleSpec("apex", None)
    package.__path__ = []
    monkeypatch.setitem(sys.modules, "apex", package)
    monkeypatch.setitem(sys.modules, "amp_C", types.ModuleType("amp_C") if kernels else None)
    if optimizers is not None:
        module = types.ModuleType("apex.optimizers")
        vars(module)["FusedAdam"] = optimizers
        monkeypatch.setitem(sys.modules, "apex.optimizers", module)


def test_without_apex_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apex", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs NVIDIA apex.*optimizer.kind=torch"):
        find_fused("apex")


def test_the_other_project_called_apex_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, kernels=False, optimizers=None)
    with pytest.raises(ValueError, match="another project of that name"):
        find_fused("apex")


def test_an_optimizer_that_agrees_is_taken_and_one_that_does_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = OptimizerConfig(kind="apex", weight_decay=0.1)
    install(monkeypatch, kernels=True, optimizers=stand_in())
    assert type(build_optimizer(config, [torch.nn.Parameter(torch.ones(2))])).__name__ == "FusedAdam"
    with pytest.raises(ValueError, match="optimizer.kind=apex differs from torch's AdamW by"):
        check_agrees(config, stand_in(wrong=0.5), torch.device("cpu"))


def test_a_run_with_another_librarys_optimizer_skips_and_resumes_too(
    home: Path, curves: dict[str, Curve], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, kernels=True, optimizers=stand_in())
    config = config_of(home, "teacher", Split(), dropout=0.1)
    config = replace(config, optimizer=replace(config.optimizer, kind="apex"))
    train(config, home / "apex")
    found = parity.curve(home / "apex")
    assert found.losses == pytest.approx(curves["teacher"].losses, rel=1e-5)
    parity.cut_off(home / "apex", home / "apex-resumed")
    train(config, home / "apex-resumed")
    assert bits_equal(parity.curve(home / "apex-resumed"), found)
    spoil_loss(monkeypatch, call=1)
    train(replace(config, train=replace(config.train, steps=2)), home / "apex-skipped")
    assert [line["grad_norm"] is None for line in read_metrics(home / "apex-skipped")] == [True, False]


def test_apexs_layer_norm_is_taken_where_it_agrees(
    home: Path, curves: dict[str, Curve], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, kernels=True, optimizers=None)
    module = types.ModuleType("apex.normalization.fused_layer_norm")
    monkeypatch.setitem(sys.modules, "apex.normalization.fused_layer_norm", module)
    monkeypatch.setitem(sys.modules, "fused_layer_norm_cuda", types.ModuleType("fused_layer_norm_cuda"))
    used = []

    def layer_norm(x: torch.Tensor, shape: list[int]) -> torch.Tensor:
        used.append(1)
        return torch.nn.functional.layer_norm(x, shape)

    vars(module)["fused_layer_norm"] = layer_norm
    config = replace(config_of(home, "teacher", Split(), dropout=0.1), engine=EngineConfig(layer_norm="apex"))
    train(config, home / "apex-norm")
    assert len(used) > 100
    assert parity.curve(home / "apex-norm").losses == pytest.approx(curves["teacher"].losses, rel=1e-5)
    vars(module)["fused_layer_norm"] = lambda x, shape: torch.nn.functional.layer_norm(x, shape, eps=1e-3)
    with pytest.raises(ValueError, match="engine.layer_norm=apex differs from torch's LayerNorm by"):
        train(config, home / "apex-norm-2")


def test_compiled_blocks_train_the_same(home: Path, curves: dict[str, Curve], monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced as for the compiler of the default, and run without it: that takes minutes on a CPU."""
    compiled = []
    monkeypatch.setattr(setup, "check_compile", lambda config, device: None)

    def trace(block: Block) -> None:
        compiled.append(block)
        torch.nn.Module.compile(block, backend="aot_eager")

    monkeypatch.setattr(Block, "compile", trace)
    config = replace(config_of(home, "teacher", Split(), dropout=0.1), engine=EngineConfig(compile=True))
    train(config, home / "compiled")
    assert len(compiled) == 2
    assert parity.curve(home / "compiled").losses == pytest.approx(curves["teacher"].losses, rel=1e-5)


COMPILED = EngineConfig(compile=True)


def test_a_missing_compiler_is_a_line_before_anything_is_written(
    home: Path, curves: dict[str, Curve], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "/nowhere/g++")
    config = replace(config_of(home, "teacher", Split()), engine=COMPILED)
    line = r"engine.compile needs a C\+\+ compiler, and /nowhere/g\+\+ .*install gcc.*set engine.compile=false$"
    with pytest.raises(ValueError, match=line):
        train(config, home / "no-compiler")
    assert not (home / "no-compiler").exists()
    stage = Train(name="teacher", kind="train", config=config)
    with pytest.raises(ValueError, match="stage teacher: engine.compile needs"):
        preflight(Chain(name="chain", stages=(stage,)), [stage], home / "runs", world=1, in_job=True)


@pytest.mark.parametrize(("device", "variable"), [("cpu", "CXX"), ("cuda", "CC")])
def test_a_compiler_that_does_not_work_is_a_line_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, variable: str
) -> None:
    """It is there, but Python's headers are not, or its own."""
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\necho '1:10: fatal error: Python.h: No such file or directory' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv(variable, str(compiler))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    with pytest.raises(ValueError, match="headers.*fatal error: Python.h.*python3-dev") as found:
        check_compile(COMPILED, torch.device(device))
    assert "\n" not in str(found.value)
    check_compile(EngineConfig(), torch.device(device))  # nothing is compiled


def test_a_gpu_needs_triton_for_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install triton"):
        check_compile(COMPILED, torch.device("cuda"))


def test_deepspeeds_kernel_is_refused_without_a_gpu() -> None:
    with pytest.raises(ValueError, match="needs a GPU.*optimizer.kind=torch"):
        find_fused("deepspeed")


def test_deterministic_mode_refuses_sums_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    from imdm_dist.training.process import make_deterministic

    monkeypatch.setenv("NCCL_ALGO", "Tree")
    with pytest.raises(ValueError, match="unset NCCL_ALGO"):
        make_deterministic()
