"""However the work is divided over ranks, it is the same: parity of training, and resuming with another division.

This file holds a covering subset; `make test-parallel` runs all (tests/parallel_matrix.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from imdm_dist.config import TrainConfig
from imdm_dist.model import Vocabulary, build_backbone, masked_rows, sketch
from imdm_dist.model.cuts import Cut, join, share
from imdm_dist.model.dit import DitConfig
from imdm_dist.objectives.row_loss import Divergence, divergence_sum
from imdm_dist.parallel.environment import LaunchedProcess, this_process
from imdm_dist.parallel.topology import check_topology, joined
from tests import parity
from tests.parity import Split, bits_equal, config_of, curve, cut_off, difference, middle, relative
from tests.ranks import Ranks
from tests.small import small_config, small_model

BOUNDS = {"loss": 1e-5, "grad_norm": 1e-5, "ema": 1e-6}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A start, a coupling, and the run of each stage in one process, made when it is first asked for."""
    home = tmp_path_factory.mktemp("parallel")
    parity.prepare(home)
    return home


@pytest.fixture(scope="module")
def runs(home: Path, ranks: Callable[[int], Ranks]) -> Callable[..., Path]:
    """Run a stage in a split, once."""

    def folder_of(stage: str, split: Split, dropout: float = 0.0, steps: int = parity.STEPS) -> Path:
        folder = home / f"{stage}-{split.name}-{dropout}-{steps}"
        if not folder.exists():
            ranks(split.world).run(parity.run, config_of(home, stage, split, steps, dropout), str(folder))
        return folder

    return folder_of


# --- how tensors are cut


@pytest.mark.proof
@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize(
    ("cut", "shape"), [(Cut(0), [11, 3]), (Cut(0), [11]), (Cut(1), [3, 8]), (Cut(0, 3), [24, 2]), (None, [5])]
)
def test_shares_join_to_the_whole(cut: Cut | None, shape: list[int], ranks: int) -> None:
    full = torch.randn(shape)
    parts = [share(full, cut, rank, ranks) for rank in range(ranks)]
    assert len({part.shape for part in parts}) == 1
    assert torch.equal(join(parts if cut else parts[:1], cut, shape), full)


@pytest.mark.proof
def test_every_rank_gets_whole_heads() -> None:
    heads, width = 4, 3
    rows = torch.arange(3 * heads * width)  # packed (three, head, width)
    cut = sketch(small_config(), 11).cut_of("blocks.0.attn_qkv.weight")
    part = share(rows[:, None], cut, 1, 2).view(3, 2, width)
    assert torch.equal(part, rows.view(3, heads, width)[:, 2:])


def test_what_is_cut_is_what_is_meant_to_be() -> None:
    model = build_backbone(small_config("infinite"), 11, 10)
    uncut = {name.rpartition(".")[0] for name, _ in model.named_parameters() if model.cut_of(name) is None}
    assert {name.removeprefix("blocks.1.") for name in uncut if not name.startswith("blocks.0")} == {
        "sigma_map.mlp.0",
        "sigma_map.mlp.2",
        "norm1",
        "norm2",
        "mlp.2",  # its bias
        "adaLN_modulation",
        "output_layer.norm_final",
        "output_layer.adaLN_modulation",
    }


def test_divisions_that_cannot_be_are_refused_with_those_that_can() -> None:
    model = DitConfig(size="custom", hidden_dim=96, n_heads=6, n_blocks=1)
    with pytest.raises(ValueError, match="engine.tensor_parallel=4 .*8 ranks .*n_heads=6: set it to one of 1, 2$"):
        check_topology(8, 4, model)
    with pytest.raises(ValueError, match="set it to one of 1$"):
        check_topology(1, 2, model)
    check_topology(6, 3, model)


# --- the vocabulary axis


def split_vocabulary(place: LaunchedProcess, size: int, mask_id: int, kinds: Sequence[Divergence]) -> dict[str, Any]:
    """What a split vocabulary computes on this rank's columns of random logits, and the gradients of its losses."""
    from imdm_dist.parallel.sharded_vocabulary import SplitVocabulary

    whole = Vocabulary(size, mask_id)
    with joined(place.world, DitConfig(size="custom", hidden_dim=8, n_heads=4, n_blocks=1), place) as topology:
        return compare(place, whole, SplitVocabulary(whole, topology), kinds)


def compare(
    place: LaunchedProcess, whole: Vocabulary, split: Vocabulary, kinds: Sequence[Divergence]
) -> dict[str, Any]:
    size, mask_id = whole.size, whole.mask_id
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 40, size, generator=generator) * 3
    target = torch.randint(0, size - 1, (40,), generator=generator)
    target = target + (target >= mask_id)
    uniform = torch.rand(40, dtype=torch.float64, generator=generator)
    uniform[:2] = torch.tensor([2.0**-53, 1 - 2.0**-53])
    found = {}
    for name, vocabulary in (("whole", whole), ("split", split)):
        ours, theirs = student.clone(), teacher.clone()
        if vocabulary is split:
            ours, theirs = (share(x, Cut(1), place.rank, place.world) for x in (ours, theirs))
        ours = ours.clone().requires_grad_()
        logits, theirs = vocabulary.rule_out(ours * 1.0), vocabulary.rule_out(theirs.clone())
        losses = [vocabulary.nll(logits, target).sum()]
        losses += [divergence_sum(vocabulary, logits, theirs, kind) for kind in kinds]
        grads = [torch.autograd.grad(loss, ours, retain_graph=True)[0] for loss in losses]
        if vocabulary is whole:
            grads = [share(grad, Cut(1), place.rank, place.world) for grad in grads]
        found[name] = [loss.item() for loss in losses], grads, vocabulary.invert_cdf(logits.detach(), uniform)
    return found


@pytest.mark.parametrize(
    ("world", "size", "mask_id"), [pytest.param(2, 101, 100, marks=pytest.mark.proof), (4, 101, 3), (4, 9, 8)]
)
def test_a_split_vocabulary_computes_what_a_whole_one_does(
    ranks: Callable[[int], Ranks], world: int, size: int, mask_id: int
) -> None:
    kinds = ["reverse_kl", "forward_kl", "total_variation", "mse"]
    for found in ranks(world).run(split_vocabulary, size, mask_id, kinds):
        (losses, grads, tokens), (split_losses, split_grads, split_tokens) = found["whole"], found["split"]
        assert split_losses == pytest.approx(losses, rel=1e-5)
        for ours, theirs in zip(split_grads, grads, strict=True):
            assert torch.allclose(ours, theirs, atol=1e-5)
        assert torch.equal(split_tokens, tokens)


def draw_from_no_distributions(place: LaunchedProcess, size: int, mask_id: int) -> tuple[Tensor, Tensor]:
    """Tokens that a whole and a split vocabulary draw from rows with one odd logit, at each place in turn."""
    from imdm_dist.parallel.sharded_vocabulary import SplitVocabulary

    whole = Vocabulary(size, mask_id)
    values = torch.tensor([float("nan"), float("inf"), -float("inf")])
    logits = torch.randn(3, size, size, generator=torch.Generator().manual_seed(0))
    logits[:, torch.arange(size), torch.arange(size)] = values[:, None]
    none = torch.full((2, size), -float("inf"))
    none[1, size // 2] = 0.0
    logits = torch.cat((logits.flatten(0, 1), none))
    uniform = torch.rand(len(logits), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with joined(place.world, DitConfig(size="custom", hidden_dim=8, n_heads=4, n_blocks=1), place) as topology:
        split = SplitVocabulary(whole, topology)
        ours = split.rule_out(share(logits, Cut(1), place.rank, place.world).clone())
        return whole.invert_cdf(whole.rule_out(logits), uniform), split.invert_cdf(ours, uniform)


@pytest.mark.parametrize(("world", "size", "mask_id"), [pytest.param(2, 11, 10, marks=pytest.mark.proof), (4, 9, 2)])
def test_every_rank_sees_which_rows_are_no_distribution(
    ranks: Callable[[int], Ranks], world: int, size: int, mask_id: int
) -> None:
    for whole, split in ranks(world).run(draw_from_no_distributions, size, mask_id):
        assert torch.equal(whole, split)
        is_mask = torch.arange(size) == mask_id  # whose logit is ruled out, whatever it was
        assert torch.equal(whole[:size] == mask_id, ~is_mask) and torch.equal(
            whole[size : 2 * size] == mask_id, ~is_mask
        )
        assert not (whole[2 * size : 3 * size] == mask_id).any()
        assert whole[-2:].tolist() == [mask_id, size // 2]


def split_sample(place: LaunchedProcess, kind: str) -> list[Tensor]:
    """Tokens sampled by a whole model and by its split, in float64."""
    from imdm_dist.diffusion.sampler import sample
    from imdm_dist.parallel.tensor_parallel import split

    start_BL = torch.full((64, 7), 100)
    whole, parts = (small_model(kind, vocab_size=101, mask_id=100) for _ in range(2))
    with joined(place.world, small_config(kind), place) as topology:
        models = [whole, split(parts, topology)]
        return [sample(model, start_BL, torch.arange(64), 4).tokens_BL for model in models]


@pytest.mark.proof
@pytest.mark.parametrize("kind", ["single", "infinite", "finite"])
def test_a_split_model_samples_the_same_tokens(ranks: Callable[[int], Ranks], kind: str) -> None:
    for whole, split in ranks(2).run(split_sample, kind):
        assert torch.equal(whole, split)


def split_logits(place: LaunchedProcess, kind: str) -> tuple[float, list[str], bool]:
    """Largest difference of the logits, padding aside, and the parameters that each rank has."""
    from imdm_dist.parallel.sharded_vocabulary import SplitVocabulary
    from imdm_dist.parallel.tensor_parallel import split

    whole, parts = (small_model(kind, vocab_size=101, mask_id=100) for _ in range(2))
    x_BL = torch.randint(0, 101, (3, 5), generator=torch.Generator().manual_seed(1))
    masked = masked_rows(x_BL == 100, torch.arange(3))
    with joined(place.world, small_config(kind), place) as topology, torch.no_grad():
        split(parts, topology)
        ours = parts.head(parts.hidden(x_BL, masked).flatten(0, 1))
        theirs = share(whole.head(whole.hidden(x_BL, masked).flatten(0, 1)), Cut(1), place.rank, place.world)
    assert isinstance(parts.vocabulary, SplitVocabulary)
    tokens = parts.vocabulary.tokens
    shared = sorted(name for name, p in parts.named_parameters() if hasattr(p, "tensor_model_parallel"))
    same_names = [name for name, _ in parts.named_parameters()] == [name for name, _ in whole.named_parameters()]
    return float((ours - theirs)[:, :tokens].abs().max()), shared, same_names


@pytest.mark.proof
@pytest.mark.parametrize("kind", ["single", "infinite", "finite"])
def test_a_split_model_has_the_same_logits_and_names(ranks: Callable[[int], Ranks], kind: str) -> None:
    for worst, shared, same_names in ranks(2).run(split_logits, kind):
        assert worst < 1e-5
        assert same_names
        assert all(map(sketch(small_config(kind), 101).cut_of, shared)) and "blocks.0.mlp.2.weight" in shared


# --- training


SUBSET = [
    ("teacher", Split(0, 1, 2, micro_batch=2)),
    ("teacher", Split(1, 1, 4, micro_batch=1)),
    ("teacher", Split(2, 1, 2)),
    ("teacher", Split(3, 2, 4)),
    pytest.param("teacher", Split(0, 2, 2, more=(("recompute", True),)), marks=pytest.mark.proof),
    ("sdtt", Split(0, 2, 2)),
    pytest.param("sdtt", Split(3, 1, 2), marks=pytest.mark.proof),
    ("redi", Split(1, 2, 4)),
    pytest.param("redi", Split(2, 2, 2), marks=pytest.mark.proof),
]


@pytest.mark.parametrize(("stage", "split"), SUBSET, ids=lambda value: getattr(value, "name", value))
def test_a_division_of_the_work_does_not_show(runs: Callable[..., Path], stage: str, split: Split) -> None:
    found = difference(curve(runs(stage, split)), curve(runs(stage, Split())))
    assert all(found[name] <= bound for name, bound in BOUNDS.items()), found


ROUNDED = [
    ("autocast", Split(0, 2, 2, more=(("precision", "autocast"),)), Split(0, 1, 2, more=(("precision", "autocast"),))),
    ("bf16", Split(1, 2, 4, more=(("precision", "bf16"),)), Split(1, 1, 2, more=(("precision", "bf16"),))),
    ("offload", Split(2, 1, 2, more=(("offload_optimizer", True),)), Split()),
]


@pytest.mark.parametrize(("mode", "split", "other"), ROUNDED, ids=[case[0] for case in ROUNDED])
def test_other_modes_agree_to_their_rounding(runs: Callable[..., Path], mode: str, split: Split, other: Split) -> None:
    bound = {"autocast": 2e-3, "bf16": 2e-2, "offload": 1e-5}[mode]
    ours, theirs = (curve(runs("teacher", one, steps=8)) for one in (split, other))
    assert relative(ours.losses, theirs.losses) <= bound


RESUMED = [
    ("teacher", Split(), Split(3, 2, 4)),
    ("teacher", Split(3, 2, 4), Split(1, 1, 2)),
    ("sdtt", Split(1, 1, 2), Split(0, 2, 2)),
    ("redi", Split(2, 2, 2), Split()),
]


@pytest.mark.parametrize(("stage", "source", "target"), RESUMED, ids=lambda value: getattr(value, "name", value))
def test_another_division_may_go_on(
    home: Path, ranks: Callable[[int], Ranks], runs: Callable[..., Path], stage: str, source: Split, target: Split
) -> None:
    folder = home / f"resumed-{stage}-{source.name}-{target.name}"
    cut_off(runs(stage, source), folder)
    ranks(target.world).run(parity.run, config_of(home, stage, target), str(folder))
    losses = curve(runs(stage, Split())).losses[middle(parity.STEPS) :]
    assert relative(curve(folder).losses, losses) <= 1e-5


@pytest.mark.parametrize(
    ("stage", "split"),
    [("teacher", Split(3, 1, 2)), ("sdtt", Split(0, 2, 2)), ("sdtt", Split(2, 1, 2)), ("redi", Split(1, 2, 4))],
    ids=lambda value: getattr(value, "name", value),
)
def test_the_same_division_goes_on_bit_for_bit(
    home: Path, ranks: Callable[[int], Ranks], runs: Callable[..., Path], stage: str, split: Split
) -> None:
    """With dropout, and in the middle of an SDTT round."""
    whole = runs(stage, split, dropout=0.1, steps=12)
    folder = home / f"exact-{stage}-{split.name}"
    cut_off(whole, folder, steps=12)
    ranks(split.world).run(parity.run, config_of(home, stage, split, 12, 0.1), str(folder))
    quantities = ("weights", "ema", "exp_avg", "exp_avg_sq") + (("objective",) if stage == "sdtt" else ())
    ours, theirs = curve(folder, quantities), curve(whole, quantities)
    assert ours.losses == theirs.losses[9:]
    assert bits_equal(ours, theirs)


PLAIN = (("kind", "plain"),)
ENGINES = [
    ("teacher", Split()),
    pytest.param("teacher", Split(0, 1, 2, micro_batch=2), marks=pytest.mark.proof),
    ("teacher", Split(0, 2, 2)),
    ("sdtt", Split(0, 2, 2)),
]


@pytest.mark.parametrize(("stage", "split"), ENGINES, ids=lambda value: getattr(value, "name", value))
def test_the_plain_engine_gives_deepspeeds_bits_and_either_goes_on_from_the_other(
    home: Path, ranks: Callable[[int], Ranks], runs: Callable[..., Path], stage: str, split: Split
) -> None:
    """Up to two data-parallel ranks: sums of more depend on the order in which they are made."""
    splits = {"plain": replace(split, more=PLAIN), "deepspeed": split}
    whole = {kind: runs(stage, one) for kind, one in splits.items()}
    ours, theirs = (curve(folder) for folder in whole.values())
    assert (ours.losses, ours.norms) == (theirs.losses, theirs.norms)
    assert bits_equal(ours, theirs)
    for begun, kind in (("plain", "deepspeed"), ("deepspeed", "plain")):
        folder = home / f"{stage}-{split.name}-{begun}-to-{kind}"
        cut_off(whole[begun], folder)
        ranks(split.world).run(parity.run, config_of(home, stage, splits[kind]), str(folder))
        assert bits_equal(curve(folder), theirs)


# --- replicas


def test_replicas_stay_equal_with_dropout(home: Path, ranks: Callable[[int], Ranks]) -> None:
    config = config_of(home, "teacher", Split(0, 2, 4), dropout=0.1)
    config = replace(config, train=replace(config.train, check_replicas_every=1))
    assert ranks(4).run(parity.run, config, str(home / "replicas")) == [True] * 4


def differing_replica(place: LaunchedProcess) -> str:
    from imdm_dist.parallel.replicas import check_replicas

    tensors = {"a": torch.ones(3), "b": torch.full((2,), 1.0 + (place.rank == 1) * 2**-23)}
    with joined(1, small_config(), place) as topology:
        check_replicas(topology, {"a": tensors["a"]}, 7)
        try:
            check_replicas(topology, tensors, 7)
        except ValueError as error:
            return str(error)
    return "no difference seen"


def test_a_replica_that_differs_by_one_bit_is_named(ranks: Callable[[int], Ranks]) -> None:
    for message in ranks(2).run(differing_replica):
        assert message.startswith("after step 7 b differs between data-parallel ranks 0 and [1]")


def test_resume_settings(home: Path, tmp_path: Path) -> None:
    from imdm_dist.training.setup import to_resume

    assert to_resume("none", tmp_path) is None and to_resume("auto", tmp_path) is None
    for found in (to_resume(str(home / "start"), tmp_path), to_resume("auto", home / "start")):
        assert found is not None and found.step == 1
    with pytest.raises(ValueError, match="train.resume=none, but .* holds checkpoints"):
        to_resume("none", home / "start")
    with pytest.raises(ValueError, match="no run or checkpoint"):
        to_resume(str(tmp_path / "nowhere"), tmp_path)
    assert TrainConfig().resume == "auto"


def test_a_run_may_go_on_in_another_folder(home: Path, runs: Callable[..., Path]) -> None:
    from imdm_dist.training.loop import train

    whole = runs("redi", Split())
    config = config_of(home, "redi", Split())
    config = replace(config, train=replace(config.train, resume=str(whole / f"step-{middle(parity.STEPS):08d}")))
    train(config, home / "elsewhere")
    assert bits_equal(curve(home / "elsewhere"), curve(whole))


# --- launches


LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, LaunchedProcess()),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, LaunchedProcess(3, 8, 1, "env://")),
        # A batch script and a single task are one process each.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "7"}, LaunchedProcess()),
        ({"WORLD_SIZE": "4", "SLURM_JOB_ID": "7"}, LaunchedProcess()),  # a script's own, for another tool
        ({"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, LaunchedProcess()),
    ],
)
def test_launchers_are_recognised(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: LaunchedProcess
) -> None:
    for name in LAUNCHER:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert this_process() == expected


def test_tasks_of_srun_meet_on_the_first_node_at_a_port_of_their_step(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho node7\necho node9\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for name in LAUNCHER:
        monkeypatch.delenv(name, raising=False)
    step = {"STEP_ID": "1", "STEP_NUM_TASKS": "4", "PROCID": "2", "LOCALID": "0", "STEP_NODELIST": "node[7,9]"}
    for name, value in step.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    places = []
    for job in ("1234", "1235"):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        places.append(this_process())
    assert [(place.rank, place.world, place.local_rank) for place in places] == [(2, 4, 0)] * 2
    assert all(place.init_method.startswith("tcp://node7:") for place in places)
    assert places[0].init_method != places[1].init_method


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 but no RANK: start this under torchrun"),
        ({"RANK": "1"}, "RANK=1 but no WORLD_SIZE: start this under torchrun"),
        ({"WORLD_SIZE": "x"}, "WORLD_SIZE='x', which is no number: unset it"),
        ({"RANK": "0", "WORLD_SIZE": "2.0"}, "WORLD_SIZE='2.0'"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK='-1'"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 and WORLD_SIZE=2, but ranks count from 0"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "RANK=0 and WORLD_SIZE=0"),
        ({"LOCAL_RANK": "one"}, "LOCAL_RANK='one'"),
        ({"RANK": "0", "WORLD_SIZE": "1", "MASTER_PORT": "http"}, "MASTER_PORT='http'"),
        ({"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2(x3)"}, r"SLURM_STEP_NUM_TASKS='2\(x3\)'"),
        (
            {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "MASTER_PORT": "29500", "MASTER_ADDR": "a"},
            "SLURM_PROCID=''",
        ),
        (
            {"SLURM_STEP_ID": "y", "SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_ID": "7", "MASTER_ADDR": "a"},
            "SLURM_STEP_ID='y'",
        ),
    ],
)
def test_what_a_launcher_would_not_set_is_named(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], said: str
) -> None:
    for name in (*LAUNCHER, "MASTER_PORT", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"^the environment has .*{said}"):
        this_process()
