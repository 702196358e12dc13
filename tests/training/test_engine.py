"""Engines: the plain one against DeepSpeed's, the optimizer's state, and what we use of libraries unpromised."""

from __future__ import annotations

import ast
import functools
import inspect
import re
from collections.abc import Iterator
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.requirements import Requirement
from torch import Tensor, nn

from imdm_dist.chain.problems import StageProblems
from imdm_dist.chain.stages.train import check_training
from imdm_dist.config import EngineConfig, OptimizerConfig
from imdm_dist.config.load import load_config
from imdm_dist.config.schema import Config
from imdm_dist.model import Backbone
from imdm_dist.parallel.topology import Topology, joined
from imdm_dist.training.engine import QUANTITIES, Engine, engine_of
from imdm_dist.training.optimizers import create_state, set_updates, skip_unless_finite, updates_of
from tests.other_adam import OtherAdam
from tests.small import small_config, small_model

ROOT = Path(__file__).resolve().parents[2]
OPTIMIZER = OptimizerConfig(lr=1e-2, weight_decay=0.1, clip=0.5)


def built(topology: Topology, **settings: Any) -> Engine:
    """An engine of a small model, two micro-batches a step."""
    config = EngineConfig(**settings)
    return engine_of(config)(small_model(), config, OPTIMIZER, topology, 1, 2)


def loss_of(model: Backbone, step: int) -> Tensor:
    """A loss that every parameter has a part in."""
    x_BL = (torch.arange(12).view(2, 6) * (step + 3)) % 11
    return model.logits(x_BL, torch.arange(2) + step)[..., :10].square().mean()


def half_loss_of(model: Backbone, step: int) -> Tensor:
    return loss_of(model, step) / 2


def take_steps(engine: Engine, first: int, last: int) -> list[float]:
    found = []
    for step in range(first, last):
        for micro in (2 * step, 2 * step + 1):
            found.append(float(engine.accumulate(functools.partial(half_loss_of, step=micro))))
        found.append(float(engine.step(1e-2)))
    return found


def held(engine: Engine) -> dict[str, dict[str, Tensor]]:
    return {quantity: {n: p.tensor.clone() for n, p in engine.pieces(quantity).items()} for quantity in QUANTITIES}


@pytest.fixture(scope="module")
def topology() -> Iterator[Topology]:
    with joined(1, small_config()) as topology:
        yield topology


MODES: list[dict[str, Any]] = [
    {"kind": "plain"},
    {"kind": "plain", "precision": "autocast"},
    *({"zero_stage": stage} for stage in range(4)),
    {"zero_stage": 1, "precision": "bf16"},
    {"zero_stage": 2, "offload_optimizer": True},
    {"zero_stage": 3, "offload_optimizer": True},
]


@pytest.mark.parametrize("settings", MODES, ids=str)
def test_an_engine_has_its_state_before_the_first_step_and_takes_that_of_another(
    topology: Topology, settings: dict[str, Any]
) -> None:
    """No forward or backward pass is needed for it, and what goes on from it goes on bit for bit."""
    engine = built(topology, **settings)
    start = held(engine)
    assert engine.updates() == 0 and start["weights"].keys() == engine.shapes.keys()
    assert not any(tensor.any() for moment in QUANTITIES[1:] for tensor in start[moment].values())
    take_steps(engine, 0, 3)
    middle, updates = held(engine), engine.updates()
    expected, end = take_steps(engine, 3, 5), held(engine)
    engine.close()
    assert updates == 3
    other = built(topology, **settings)
    other.load(lambda quantity, name: middle[quantity][name].view(other.shapes[name]), updates)
    assert take_steps(other, 3, 5) == expected and other.updates() == 5
    for quantity, tensors in held(other).items():
        assert all(torch.equal(tensor, end[quantity][name]) for name, tensor in tensors.items()), quantity
    other.close()


@pytest.mark.proof
@pytest.mark.parametrize("precision", ["fp32", "autocast"])
def test_the_plain_engine_takes_deepspeeds_steps_bit_for_bit(topology: Topology, precision: str) -> None:
    found = []
    for kind in ("plain", "deepspeed"):
        engine = built(topology, kind=kind, precision=precision)
        found.append((take_steps(engine, 0, 4), held(engine)))
        engine.close()
    (ours, our_tensors), (theirs, their_tensors) = found
    assert ours == theirs
    for quantity in QUANTITIES:
        assert all(torch.equal(t, their_tensors[quantity][n]) for n, t in our_tensors[quantity].items())


@pytest.mark.parametrize("kind", ["plain", "deepspeed"])
def test_a_step_without_a_finite_gradient_changes_nothing(topology: Topology, kind: str) -> None:
    engine = built(topology, kind=kind)
    take_steps(engine, 0, 1)
    before = held(engine)
    for _ in range(2):
        engine.accumulate(lambda model: loss_of(model, 0) * float("nan"))
    assert not torch.as_tensor(engine.step(1e-2)).isfinite()
    assert engine.updates() == 1
    assert all(
        torch.equal(t, before[quantity][n]) for quantity in QUANTITIES for n, t in held(engine)[quantity].items()
    )
    engine.close()


def test_what_an_engine_cannot_do_is_a_line() -> None:
    for settings in ("engine.zero_stage=2", "engine.zero_stage=1 engine.precision=bf16"):
        config = load_config(Config, None, ["engine.kind=plain", *settings.split()])
        with pytest.raises(ValueError, match="^engine.kind=plain has engine.zero_stage up to 0, not .: lower it"):
            engine_of(config.engine)
    with pytest.raises(ValueError, match="engine.kind is 'deepsped': did you mean deepspeed"):
        engine_of(EngineConfig(kind="deepsped"))
    problems = StageProblems()
    check_training("", load_config(Config, None, ["engine.kind=plane", "train.steps=1"]), None, 1, False, problems)
    assert problems.lines() == ["engine.kind is 'plane': did you mean plain?"]


# --- the optimizer's state, which each library keeps in its own way


def adamw(kind: str, weight: Any) -> Any:
    if kind == "torch":
        return torch.optim.AdamW([weight], lr=1e-2, weight_decay=0.1, fused=True)
    return OtherAdam([weight], kind)


@pytest.mark.parametrize("kind", ["torch", "deepspeed", "apex"])
def test_an_optimizers_state_is_made_and_set_where_its_library_has_it(kind: str) -> None:
    grads = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    ends = []
    for made in (False, True):  # by the library at its first step, or by us
        weight = nn.Parameter(torch.ones(5))
        optimizer = adamw(kind, weight)
        if made:
            create_state(kind, optimizer, [weight])
            assert updates_of(optimizer) == 0
        for number, grad in enumerate(grads):
            if made and number == 3:  # go on in another optimizer
                before, optimizer = optimizer, adamw(kind, weight)
                create_state(kind, optimizer, [weight])
                for moment in QUANTITIES[1:]:
                    optimizer.state[weight][moment].copy_(before.state[weight][moment])
                set_updates(kind, optimizer, updates_of(before))
            weight.grad = grad.clone()
            optimizer.step()
        assert updates_of(optimizer) == 6
        ends.append(weight.detach().clone())
    assert torch.equal(*ends)
    weight.grad = grads[0].clone()
    skip_unless_finite(kind, optimizer, torch.tensor(float("inf")))
    optimizer.step()
    assert torch.equal(weight.detach(), ends[0])


# --- what we use of libraries without their promise


LIBRARIES = {"deepspeed": "deepspeed", "megatron": "megatron-core", "submitit": "submitit"}
"""Distributions by package."""


def of_deepspeed(topology: Topology) -> list[tuple[Any, str, str]]:
    """Objects of a live DeepSpeed engine by what they are, with the names that we use of them."""
    engines: list[Any] = [built(topology, zero_stage=stage) for stage in range(4)]
    names = [
        (engines[0]._engine, "DeepSpeedEngine", ["enable_backward_allreduce", "allreduce_gradients"]),
        (engines[1]._engine, "DeepSpeedEngine", ["get_global_grad_norm", "is_gradient_accumulation_boundary"]),
    ]
    for engine in engines[1:3]:
        parameter = next(iter(engine.parameters.values()))
        names += [
            (engine._engine.optimizer, "ZeRO 1 and 2's optimizer", ["single_partition_of_fp32_groups"]),
            (engine._engine.optimizer, "ZeRO 1 and 2's optimizer", ["_lazy_init_hp_params_optimizer_state"]),
            (parameter, "a parameter under ZeRO 1 and 2", ["_hp_mapping"]),
            (parameter._hp_mapping, "a parameter's _hp_mapping", ["lp_fragment_address", "get_hp_fragment"]),
        ]
    names += [
        (engines[3]._engine.optimizer, "ZeRO 3's optimizer", ["fp32_partitioned_groups_flat"]),
        (engines[3]._engine.optimizer, "ZeRO 3's optimizer", ["_get_fp32_opt_state_partition"]),
        (next(iter(engines[3].parameters.values())), "a parameter under ZeRO 3", ["_z3_optimizer"]),
    ]
    for engine in engines:
        engine.close()
    return [(thing, where, name) for thing, where, several in names for name in several]


def of_others() -> list[tuple[Any, str, str]]:
    """The same of modules."""
    from megatron.core import parallel_state

    return [
        (parallel_state, "megatron.core.parallel_state", "_global_process_group_list"),
        (import_module("submitit.slurm.slurm"), "submitit.slurm.slurm", "_make_sbatch_string"),
        (import_module("submitit.core._submit"), "submitit.core._submit", "submitit_main"),
    ]


def test_every_name_that_a_library_does_not_promise_is_there(topology: Topology) -> None:
    for thing, where, name in [*of_deepspeed(topology), *of_others()]:
        versions = ", ".join(f"{name} {metadata.version(name)}" for name in LIBRARIES.values())
        assert hasattr(thing, name), f"{where} has no {name} any more ({versions}): mend what uses it, see setup.cfg"
    # This one is ours by now, so the source of those that read it must tell.
    for module in ("deepspeed.ops", "deepspeed.comm.torch"):
        assert "__compatible_ops__" in inspect.getsource(import_module(module)), f"{module} has no __compatible_ops__"


def used_names() -> Iterator[tuple[str, str]]:
    """(library, private name) for each that the package reads off something else than itself."""
    for path in (ROOT / "imdm_dist").rglob("*.py"):
        text = path.read_text()
        libraries = [package for package in LIBRARIES if re.search(rf"^\s*(import|from) {package}\b", text, re.M)]
        if not libraries:
            continue
        for node in ast.walk(ast.parse(text)):
            names = []
            if isinstance(node, ast.Attribute) and not (isinstance(node.value, ast.Name) and node.value.id == "self"):
                names = [node.attr]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in LIBRARIES:
                names = [alias.name for alias in node.names] + (node.module or "").split(".")
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                names = re.findall(r"submitit\.core\.(_\w+)", node.value) + re.findall(r"^__\w+__$", node.value)
            yield from ((path.name, name) for name in names if name.startswith("_") and name != "__init__")


def test_no_other_name_that_a_library_does_not_promise_is_used(topology: Topology) -> None:
    known = {name for _, _, name in [*of_deepspeed(topology), *of_others()]} | {"_submit", "__compatible_ops__"}
    unknown = {(file, name) for file, name in used_names() if name not in known}
    assert not unknown, f"add these to the lists above: {sorted(unknown)}"
    private = {name for name in known if name.startswith("_")}
    assert {name for _, name in used_names()} == private


def test_the_versions_of_these_libraries_are_bounded_to_what_is_tested() -> None:
    text = (ROOT / "setup.cfg").read_text()
    pins = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
    for name in LIBRARIES.values():
        bounds = Requirement(
            next(line.strip() for line in text.splitlines() if line.strip().startswith(name))
        ).specifier
        assert {one.operator for one in bounds} == {">=", "<"}, f"{name} has no bounds in setup.cfg"
        assert pins[name] in bounds and metadata.version(name) in bounds
