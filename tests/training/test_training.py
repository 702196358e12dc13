"""Training: a run that was cut off ends as one that was not, in every mode; bad checkpoints are named."""

import copy
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from imdm_dist.chain.rollouts import generate_coupling
from imdm_dist.checkpoint.format import write_pieces
from imdm_dist.checkpoint.model import load_model
from imdm_dist.checkpoint.read import find_checkpoint, newest_checkpoint, open_checkpoint
from imdm_dist.config import (
    Config,
    CouplingConfig,
    DataConfig,
    EngineConfig,
    InputsConfig,
    MaskConfig,
    OptimizerConfig,
    TrainConfig,
)
from imdm_dist.config.model import ModelConfig
from imdm_dist.coupling import Coupling
from imdm_dist.data import prepare
from imdm_dist.files import hash_json, sha256_file, write_json
from imdm_dist.model.dit import DitConfig
from imdm_dist.objectives.examples import DataExamples, slice_batch
from imdm_dist.objectives.redi import CouplingExamples, RediConfig
from imdm_dist.objectives.sdtt import SdttConfig
from imdm_dist.parallel.topology import joined
from imdm_dist.training.engine.deepspeed import DeepSpeedEngine
from imdm_dist.training.learning_rate import learning_rate
from imdm_dist.training.loop import train
from imdm_dist.training.metrics import read_metrics
from imdm_dist.training.setup import check_resumable, set_up
from imdm_dist.training.state import build_state
from imdm_dist.training.stop import StopRequest

STEPS = 6
MODEL = DitConfig(size="custom", hidden_dim=32, n_blocks=2, n_heads=2, dropout=0.1)
Weights = dict[str, dict[str, Tensor]]
"""Tensors of a checkpoint by file and name."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("training")


def text_config(home: Path, **sections: Any) -> Config:
    texts = home / "text.txt"
    if not texts.exists():
        texts.write_text("".join(f"line {i} has the words {i * 7 % 11} and {i * 5 % 13}.\n" for i in range(300)))
    base = Config(
        model=MODEL,
        data=DataConfig(
            source="files", train=(str(texts),), valid=(str(texts),), bpe_size=300, length=12, cache=str(home / "data")
        ),
        optimizer=OptimizerConfig(lr=1e-2, warmup_steps=2, ema_decay=0.9),
        train=TrainConfig(steps=STEPS, global_batch=8, log_every=1, save_every=3, keep_last=5, valid_rows=16),
    )
    return replace(base, **sections)


def noisy(config: Config) -> ModelConfig:
    return replace(config.model, mask=MaskConfig(kind="infinite", noise_dim=8))


@pytest.fixture(scope="module")
def teacher(home: Path) -> Path:
    folder = home / "teacher"
    train(text_config(home), folder)
    return folder


@pytest.fixture(scope="module")
def coupling(home: Path, teacher: Path) -> Path:
    folder = home / "coupling"
    config = text_config(home, coupling=CouplingConfig(pairs=32, shards=2, steps=16, batch=8))
    generate_coupling(config, teacher, folder, workers=1)
    return folder


def tensors(folder: Path, step: int = STEPS) -> Weights:
    path = folder / f"step-{step:08d}"
    return {file.stem: load_file(file) for file in sorted(path.glob("*.safetensors"))}


def assert_equal(ours: Weights, theirs: Weights, tolerance: float = 0.0) -> None:
    assert ours.keys() == theirs.keys()
    for stem in ours:
        assert ours[stem].keys() == theirs[stem].keys()
        for name, tensor in ours[stem].items():
            difference = float((tensor - theirs[stem][name]).abs().max())
            assert difference <= tolerance, (stem, name, difference)


def cut_off_then_resumed(config: Config, whole: Path, broken: Path) -> None:
    """Train `whole` in one go, and `broken` from a copy of the other's checkpoint of half way."""
    train(config, whole)
    broken.mkdir()
    shutil.copytree(whole / "step-00000003", broken / "step-00000003")
    train(config, broken)


MODES = {
    "plain": EngineConfig(),
    "accumulation": EngineConfig(micro_batch=2),
    "autocast": EngineConfig(precision="autocast"),
    "chunks": EngineConfig(loss_chunk_rows=20),
    "zero1": EngineConfig(zero_stage=1),
    "zero2": EngineConfig(zero_stage=2),
    "zero3": EngineConfig(zero_stage=3),
    "bf16": EngineConfig(zero_stage=1, precision="bf16"),
}


@pytest.mark.parametrize("mode", MODES)
def test_resumed_equals_unbroken(home: Path, mode: str) -> None:
    config = text_config(home, engine=MODES[mode])
    cut_off_then_resumed(config, home / f"whole-{mode}", home / f"broken-{mode}")
    ours, theirs = tensors(home / f"whole-{mode}"), tensors(home / f"broken-{mode}")
    assert_equal(ours, theirs)
    losses = [[line["loss"] for line in read_metrics(home / f"{kind}-{mode}")] for kind in ("whole", "broken")]
    assert losses[0][3:] == losses[1]


@pytest.mark.parametrize(("mode", "tolerance"), [("accumulation", 2e-5), ("zero1", 2e-5), ("zero3", 2e-5)])
def test_modes_agree(home: Path, mode: str, tolerance: float) -> None:
    """The split of the work does not show in the result; without dropout, whose draws depend on it."""
    results = {}
    for name in ("plain", mode):
        config = text_config(home, engine=MODES[name], model=replace(MODEL, dropout=0.0))
        config = replace(config, train=replace(config.train, steps=3))
        train(config, home / f"agree-{mode}-{name}")
        results[name] = tensors(home / f"agree-{mode}-{name}", 3)
    for stem in ("weights", "ema"):
        assert_equal({stem: results["plain"][stem]}, {stem: results[mode][stem]}, tolerance)
    norms = [[line["grad_norm"] for line in read_metrics(home / f"agree-{mode}-{name}")] for name in results]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_sdtt_resumes_within_a_round(home: Path, teacher: Path) -> None:
    """Six steps are three rounds of two; the checkpoint of step three lies inside the second."""
    config = text_config(home, inputs=InputsConfig(init=str(teacher)))
    config = replace(
        config,
        model=noisy(config),
        objective=SdttConfig(rounds=3, steps_per_round=2, grid=16),
        train=replace(config.train, steps=0),
    )
    cut_off_then_resumed(config, home / "whole-sdtt", home / "broken-sdtt")
    assert_equal(tensors(home / "whole-sdtt"), tensors(home / "broken-sdtt"))
    lines = read_metrics(home / "whole-sdtt")
    assert [line["round"] for line in lines] == [0, 0, 1, 1, 2, 2]
    assert [line["dt"] for line in lines] == [1 / 16, 1 / 16, 1 / 8, 1 / 8, 1 / 4, 1 / 4]
    held = tensors(home / "whole-sdtt", 3)
    assert "objective" in held
    first = load_file(teacher / f"step-{STEPS:08d}" / "ema.safetensors")
    assert any(not torch.equal(held["objective"][name], first[name]) for name in first)  # the student of round 0


def test_redi_trains_on_a_coupling_and_resumes(home: Path, teacher: Path, coupling: Path) -> None:
    config = text_config(home, inputs=InputsConfig(init=str(teacher), coupling=str(coupling)))
    config = replace(config, model=noisy(config), objective=RediConfig())
    cut_off_then_resumed(config, home / "whole-redi", home / "broken-redi")
    assert_equal(tensors(home / "whole-redi"), tensors(home / "broken-redi"))


def test_the_noise_of_a_pair_is_its_own_in_every_epoch(home: Path, teacher: Path, coupling: Path) -> None:
    config = text_config(home, inputs=InputsConfig(coupling=str(coupling)))
    pairs = Coupling.open(config.inputs.coupling)
    seed_of = {tuple(row.tolist()): seed for row, seed in zip(pairs.result_PL, pairs.seed_P.tolist(), strict=True)}
    for redraw in (False, True):
        examples = CouplingExamples(pairs, 0, slice_batch(8, 4), redraw)
        kept = [
            seed_of[tuple(clean.tolist())] == int(seed)
            for step in range(12)  # three epochs of 32 pairs
            for batch in examples.step(step)
            for clean, seed in zip(batch.clean_BL, batch.seed_B, strict=True)
        ]
        assert all(kept) if not redraw else not any(kept)


def test_examples_do_not_depend_on_how_they_are_cut(home: Path) -> None:
    data = prepare(text_config(home).data).train
    for count_masked in (False, True):
        whole = DataExamples(data, 3, slice_batch(8, 0), count_masked).step(5)
        cut = [slice_batch(8, 2, rank, 2) for rank in range(2)]
        parts = [batch for c in cut for batch in DataExamples(data, 3, c, count_masked).step(5)]
        assert [len(batch.x_BL) for batch in parts] == [2, 2, 2, 2]
        for name in ("x_BL", "clean_BL", "time_B", "seed_B", "target_M"):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole[0], name)), name
        assert {part.total for part in parts} == {whole[0].total}


def test_the_rate_of_each_schedule() -> None:
    config = OptimizerConfig(lr=1.0, warmup_steps=4)
    warmup = [0.25, 0.5, 0.75, 1.0]

    def rates(**changes: Any) -> list[float]:
        return [learning_rate(replace(config, **changes), step, last=12) for step in range(12)]

    assert rates() == warmup + [1.0] * 8
    cosine = rates(schedule="cosine", lr_min=0.2)
    assert cosine[:4] == warmup and cosine[-1] == pytest.approx(0.2)
    assert cosine[7] == pytest.approx(0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * 4 / 8)))
    wsd = rates(schedule="wsd", decay_steps=4)
    assert wsd == pytest.approx([*warmup, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0])
    assert rates(schedule="wsd")[-3:] == [1.0, 1.0, 0.0]  # a tenth of twelve steps
    assert rates(schedule="cosine", warmup_steps=0)[0] == 1.0
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"lr_min": 2.0}, "optimizer.lr_min is 2"),
        ({"lr_min": 0.1}, "optimizer.lr_min is read by optimizer.schedule=cosine and wsd, which is constant"),
        ({"schedule": "cosine", "decay_steps": 3}, "optimizer.decay_steps is read by optimizer.schedule=wsd"),
        ({"lr": math.inf}, "optimizer.lr is inf"),
        ({"betas": (1.5, 0.9)}, "optimizer.betas are .1.5, 0.9.: set both in .0, 1."),
        ({"weight_decay": -1.0}, "optimizer.weight_decay is -1"),
        ({"eps": 0.0}, "optimizer.eps is 0"),
    ]
    for settings, said in wrong:
        with pytest.raises(ValueError, match=said):
            replace(config, **settings)


def test_a_finished_run_is_left_alone(home: Path, teacher: Path) -> None:
    before = sorted((p, p.stat().st_mtime_ns) for p in teacher.rglob("*"))
    train(text_config(home), teacher)
    assert sorted((p, p.stat().st_mtime_ns) for p in teacher.rglob("*")) == before


def test_metrics_after_the_checkpoint_are_forgotten_on_resume(home: Path) -> None:
    config = text_config(home)
    folder = home / "forget"
    train(config, folder)
    shutil.rmtree(folder / "step-00000006")
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('[]\nnull\n{"a": 1}\n{"step": "7"}\n')  # no lines of ours
        file.write('{"step": 7, "lo')  # a line cut off by a kill
    train(config, folder)
    assert [line["step"] for line in read_metrics(folder)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("damage", ["flipped bit", "truncated", "missing file", "no state"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(
    home: Path, teacher: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = home / f"damaged-{damage.replace(' ', '-')}"
    shutil.copytree(teacher, folder)
    newest = folder / f"step-{STEPS:08d}"
    victim = newest / "weights.safetensors"
    if damage == "flipped bit":
        content = bytearray(victim.read_bytes())
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)
    elif damage == "truncated":
        victim.write_bytes(victim.read_bytes()[:-10])
    elif damage == "missing file":
        victim.unlink()
    else:
        (newest / "state.json").unlink()
    found = newest_checkpoint(folder)
    assert found is not None and found.path.name == "step-00000003" and found.step == 3
    assert "step-00000006" in capsys.readouterr().err
    train(text_config(home), folder)
    assert_equal(tensors(folder), tensors(teacher))


def test_a_run_without_a_readable_checkpoint_is_not_begun_anew(home: Path, teacher: Path) -> None:
    folder = home / "unreadable"
    shutil.copytree(teacher, folder)
    for path in folder.glob("step-*"):
        (path / "weights.safetensors").unlink()
    before = (folder / "metrics.jsonl").read_text()
    with pytest.raises(ValueError, match="holds checkpoints, but none that can be read"):
        train(text_config(home), folder)
    assert (folder / "metrics.jsonl").read_text() == before


def test_any_flipped_bit_of_the_state_is_noticed(home: Path, teacher: Path, tmp_path: Path) -> None:
    path = tmp_path / "step-00000006"
    shutil.copytree(teacher / path.name, path)
    state = path / "state.json"
    content = state.read_bytes()
    generator = torch.Generator().manual_seed(0)
    accepted = 0
    for bit in torch.randint(0, 8 * len(content), (300,), generator=generator).tolist():
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        state.write_bytes(changed)
        try:
            open_checkpoint(path)
        except ValueError:
            continue
        accepted += json.loads(changed) != json.loads(content)
    assert accepted == 0


def test_going_back_leaves_later_checkpoints_aside(
    home: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = home / "back"
    shutil.copytree(teacher, folder)
    shutil.copytree(folder / "step-00000003", folder / "step-00000003-backup")  # a user's own
    config = text_config(home)
    back = replace(config, train=replace(config.train, resume=str(folder / "step-00000003"), keep_last=1, save_every=1))
    cut = replace(back, train=replace(back.train, steps=4))
    train(cut, folder)
    assert [path.name for path in folder.glob("step-????????")] == ["step-00000004"]
    assert [path.name[:13] for path in (folder / "set_aside").iterdir()] == ["step-00000006"]
    assert "the run goes on from step 3: step-00000006 is now" in capsys.readouterr().err
    shutil.copytree(teacher / "step-00000003", folder / "step-00000003")
    train(back, folder)  # the same command again goes on from step 4, not from step 3
    assert [line["step"] for line in read_metrics(folder)] == [1, 2, 3, 4, 5, 6]
    assert_equal(tensors(folder), tensors(teacher))


def test_a_run_that_was_to_begin_anew_goes_on_when_started_again(home: Path) -> None:
    config = text_config(home)
    anew = replace(config, train=replace(config.train, resume="none"))
    train(replace(anew, train=replace(anew.train, steps=3)), home / "anew")
    train(anew, home / "anew")
    assert find_checkpoint(home / "anew").step == STEPS


def test_a_longer_run_of_a_falling_rate_is_told_of(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = text_config(home)
    config = replace(config, optimizer=replace(config.optimizer, schedule="cosine", warmup_steps=0))
    train(replace(config, train=replace(config.train, steps=2)), home / "falling")
    train(replace(config, train=replace(config.train, steps=3)), home / "falling")
    said = "train.steps was 2, is 3: from here on the rate is that of a cosine run of 3 steps"
    assert said in capsys.readouterr().err
    state = find_checkpoint(home / "falling").state
    # Of a checkpoint that is older than a setting, the setting has its default.
    del state["config"]["optimizer"]["schedule"]
    constant = replace(config, optimizer=replace(config.optimizer, schedule="constant"))
    check_resumable(state, constant, state["provenance"])
    with pytest.raises(ValueError, match="was made with optimizer.schedule=constant, now it is cosine"):
        check_resumable(state, config, state["provenance"])


def test_a_failed_save_is_tried_again_at_once(
    home: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    def once(*arguments: Any) -> dict[str, Any]:
        calls.append(1)
        if len(calls) == 1:
            raise OSError(28, "No space left on device")
        return write_pieces(*arguments)

    monkeypatch.setattr("imdm_dist.checkpoint.write.write_pieces", once)
    config = text_config(home)
    settings = replace(config.train, steps=60, save_every=20, keep_last=9)
    train(replace(config, train=settings), home / "again")
    steps = [int(path.name[5:]) for path in sorted((home / "again").glob("step-*"))]
    assert steps[1:] == [40, 60] and 20 < steps[0] < 40
    assert "could not be written ([Errno 28] No space left on device): trying again at step" in capsys.readouterr().err


def test_a_stop_that_came_before_the_first_step_starts_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StopRequest, "asked", lambda self: True)
    assert not train(text_config(home), home / "early")
    assert not list((home / "early").glob("step-*"))


def test_retention_keeps_the_newest(home: Path) -> None:
    config = text_config(home)
    train(replace(config, train=replace(config.train, save_every=1, keep_last=2)), home / "retention")
    assert sorted(p.name for p in (home / "retention").glob("step-*")) == ["step-00000005", "step-00000006"]


def refused(config: Config, folder: Path, match: str) -> None:
    existed = folder.exists()
    with pytest.raises(ValueError, match=match):
        train(config, folder)
    assert folder.exists() == existed


def test_bad_input_is_refused_before_anything_is_written(home: Path, teacher: Path, coupling: Path) -> None:
    config = text_config(home)
    new = home / "never"
    refused(replace(config, train=replace(config.train, steps=0)), new, "train.steps is 0")
    refused(replace(config, engine=EngineConfig(micro_batch=3)), new, "does not divide")
    refused(replace(config, objective=RediConfig()), new, "inputs.coupling")
    refused(replace(config, inputs=InputsConfig(init=str(home / "nowhere"))), new, "no run or checkpoint")
    refused(replace(config, inputs=InputsConfig(init=str(home))), new, "no run or checkpoint")
    other = replace(MODEL, hidden_dim=64)
    refused(replace(config, model=other, inputs=InputsConfig(init=str(teacher))), new, "set model.hidden_dim=32")
    shorter = replace(config.data, bpe_size=310)
    refused(replace(config, data=shorter, inputs=InputsConfig(init=str(teacher))), new, "set data.bpe_size=300")
    redi = replace(config, data=shorter, objective=RediConfig())
    refused(replace(redi, inputs=InputsConfig(coupling=str(coupling))), new, "make it again")
    refused(replace(config, train=replace(config.train, seed=1)), teacher, "train.seed=0, now it is 1")
    sdtt = SdttConfig(rounds=2, steps_per_round=2, grid=16)
    refused(replace(config, objective=sdtt), new, "leave train.steps at 0")
    late = replace(config.optimizer, schedule="wsd", decay_steps=100)
    refused(replace(config, optimizer=late), new, "a wsd run of 6 steps has no room for .* optimizer.decay_steps=100")


def test_an_imdm_starts_as_its_mdm(home: Path, teacher: Path) -> None:
    config = text_config(home, inputs=InputsConfig(init=str(teacher)))
    config = replace(config, model=noisy(config), train=replace(config.train, steps=1))
    config = replace(config, optimizer=replace(config.optimizer, lr=1e-30))
    train(config, home / "starts-as")
    ours, theirs = (
        load_file(f / s / "weights.safetensors")
        for f, s in ((home / "starts-as", "step-00000001"), (teacher, f"step-{STEPS:08d}"))
    )
    ema = load_file(teacher / f"step-{STEPS:08d}" / "ema.safetensors")
    assert all(torch.allclose(ours[name], ema[name], atol=1e-20) for name in ema)
    assert any(not torch.equal(theirs[name], ema[name]) for name in ema)
    assert set(ours) - set(ema) == {f"vocab_embed.imdm_mlp.{key}" for key in ("0.weight", "0.bias", "2.weight")}


def test_a_run_says_what_it_is_made_from(home: Path, teacher: Path) -> None:
    about = json.loads((teacher / "config.json").read_text())
    assert about["config"]["model"]["hidden_dim"] == 32
    assert about["provenance"]["data"] == prepare(text_config(home).data).train.fingerprint
    assert "torch" in about["versions"]


def test_load_model_refuses_what_is_no_checkpoint(home: Path, teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run or checkpoint"):
        load_model(tmp_path / "nowhere")
    save_file({"a": torch.zeros(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="no whole checkpoint"):
        load_model(tmp_path)
    assert load_model(teacher).weights == "ema"
    assert load_model(teacher, "raw").digest != load_model(teacher).digest


def test_a_run_folder_has_one_writer(home: Path) -> None:
    from imdm_dist.training.folder import only_writer

    folder = home / "busy"
    folder.mkdir()
    with only_writer(folder), pytest.raises(ValueError, match="another process trains"):
        train(text_config(home), folder)
    train(text_config(home), folder)


def test_a_validation_loss_beyond_all_floats_is_recorded_and_ends_nothing(home: Path) -> None:
    """Weights of 1e6 are finite, and so is their loss; exp of it is not."""
    config = text_config(home)
    config = replace(config, optimizer=replace(config.optimizer, lr=1e6, warmup_steps=0))
    settings = replace(config.train, steps=2, save_every=1, keep_last=1, valid_every=1, keep_best=True)
    assert train(replace(config, train=settings), home / "beyond")
    lines = [line for line in read_metrics(home / "beyond") if "valid_ppl_raw" in line]
    assert len(lines) == 2 and "NaN" not in (home / "beyond" / "metrics.jsonl").read_text()
    for line in lines:
        assert line["valid_ppl_raw"] is None and line["valid_ppl_raw_se"] is None
        assert line["valid_nelbo_raw"] > 709 and line["valid_nelbo_raw_se"] > 0
    assert [path.name for path in (home / "beyond").glob("step-*")] == ["step-00000002"]


def test_a_run_that_diverged_keeps_its_good_checkpoints(home: Path) -> None:
    config = text_config(home)
    config = replace(config, optimizer=replace(config.optimizer, lr=1e38))
    settings = replace(config.train, steps=20, log_every=2, save_every=1, max_skipped=4, keep_last=2)
    with pytest.raises(ValueError, match="of 5 steps in a row are not finite.*another folder"):
        train(replace(config, train=settings), home / "diverged")
    lines = read_metrics(home / "diverged")
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert lines[0]["skipped"] == [{"step": 2, "examples": [8, 15]}]
    assert lines[1]["loss"] is None


def test_the_end_of_a_chains_stage_holds_no_moments_and_says_so(home: Path) -> None:
    config = text_config(home, train=TrainConfig(steps=4, global_batch=8, save_every=2, log_every=1, valid_rows=16))
    folder = home / "stage"
    assert train(config, folder, moments=False)
    (left,) = folder.glob("step-*")
    found = open_checkpoint(left)
    assert found.step == 4 and sorted(found.state["pieces"]) == ["ema", "weights"]
    assert load_model(folder).step == 4
    assert train(config, folder, moments=False)
    with pytest.raises(ValueError, match="cannot go on to train.steps=6, for it holds no moments .* inputs.init="):
        train(replace(config, train=replace(config.train, steps=6)), folder)
    assert train(config, home / "run")
    assert "exp_avg" in find_checkpoint(home / "run").state["pieces"]


def damage(run: Path, folder: Path, quantities: Sequence[str], value: float) -> Path:
    """A copy of a run of one checkpoint, with another value in a weight; its checksums are right."""
    shutil.copytree(run, folder)
    path = find_checkpoint(folder).path
    state = json.loads((path / "state.json").read_text())
    del state["checksum"]
    for name in (f"{quantity}.safetensors" for quantity in quantities):
        tensors = load_file(path / name)
        next(iter(tensors.values())).view(-1)[0] = value
        save_file(tensors, path / name)
        state["files"][name] = sha256_file(path / name)
    write_json(path / "state.json", {**state, "checksum": hash_json(state)})
    return path


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_init_without_numbers_is_refused_before_anything_is_written(home: Path, teacher: Path, value: float) -> None:
    path = damage(teacher, home / f"init-{value}", ["ema"], value)
    config = text_config(home, inputs=InputsConfig(init=str(path.parent)))
    with pytest.raises(ValueError, match=f"{path} holds infinities or no numbers in .*: its training diverged"):
        train(config, home / f"from-{value}")
    assert not (home / f"from-{value}").exists()
    assert load_model(path, "raw").step == STEPS


@pytest.mark.parametrize("log_every", [1, 100])
@pytest.mark.parametrize("init", [True, False])
def test_a_run_without_one_finite_update_does_not_end_well(
    home: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch, log_every: int, init: bool
) -> None:
    config = text_config(home, inputs=InputsConfig(init=str(teacher) if init else ""))
    config = replace(config, train=replace(config.train, steps=3, save_every=2, log_every=log_every, async_save=False))
    folder = home / f"nothing-{log_every}-{init}"
    accumulate = DeepSpeedEngine.accumulate
    monkeypatch.setattr(
        DeepSpeedEngine, "accumulate", lambda e, loss: accumulate(e, lambda model: loss(model) * math.nan)
    )
    remedy = f"not one was, so the model of inputs.init={teacher} is of no use" if init else "lower optimizer.lr"
    with pytest.raises(ValueError, match=f"of 3 steps in a row are not finite.*: {remedy}"):
        train(config, folder)
    with pytest.raises(ValueError, match="of 1 steps in a row are not finite"):
        train(config, folder)
    assert find_checkpoint(folder).step == 2


def test_a_run_is_a_description_that_nothing_changes(home: Path, tmp_path: Path) -> None:
    config = replace(text_config(home), engine=EngineConfig(kind="plain", precision="autocast"))
    with joined(1, config.model) as topology:
        run, model = set_up(config, tmp_path / "run", topology, resume=None, moments=True)
        before, deep = dict(vars(run)), copy.deepcopy((run.config, run.shapes, run.provenance, run.batch_slice))
        state = build_state(run, model, topology)
        state.engine.accumulate(lambda backbone: state.objective.loss(backbone, run.examples.step(0)[0]))
        state.engine.step(1e-3)
        state.follow(1)
        state.save(1, None, background=False)
        state.engine.close()
    assert vars(run) == before and (run.config, run.shapes, run.provenance, run.batch_slice) == deep
    assert not any(isinstance(value, torch.nn.Module) for value in vars(run).values())
    with pytest.raises(FrozenInstanceError):
        run.last = 7  # type: ignore[misc]
