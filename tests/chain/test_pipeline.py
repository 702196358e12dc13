"""Chains as pipelines, without a cluster: what is found and why, what is refused early, runs of several processes."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from imdm_dist.chain import load_chain, run_chain
from imdm_dist.chain.chain import Chain, needed
from imdm_dist.chain.cluster import job_text
from imdm_dist.chain.preflight import preflight
from imdm_dist.chain.provenance import provenance
from imdm_dist.chain.slurm_jobs import stage_key
from imdm_dist.chain.stages.coupling import progress_line
from imdm_dist.chain.stages.evaluation import check_evaluation
from imdm_dist.chain.stages.train import check_run
from imdm_dist.chain.status import status, status_text
from imdm_dist.chain.survey import StageState, survey
from imdm_dist.checkpoint.read import find_checkpoint
from imdm_dist.config import Config, InputsConfig, ResourcesConfig, load_config
from imdm_dist.config.recorded import load_run
from imdm_dist.config.time_limit import minutes_of
from imdm_dist.coupling.progress import coupling_progress
from imdm_dist.exit_codes import EXIT_STOPPED
from imdm_dist.launch import slurm
from imdm_dist.launch.submission import submit
from imdm_dist.training.loop import train
from tests.cluster import tiny

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("pipeline")
    path = tiny.chain(home)
    run_chain(load_chain(path), home / "runs", workers=1)
    return home


def tiny_chain(home: Path, *overrides: str) -> Chain:
    return load_chain(home / f"{tiny.NAME}.yaml", overrides)


def found(home: Path, *overrides: str, root: str = "runs") -> dict[str, StageState]:
    return survey(tiny_chain(home, *overrides), home / root / tiny.NAME)


def folder_of(home: Path, stage: str) -> Path:
    folder = found(home)[stage].folder
    assert folder is not None
    return folder


def test_a_survey_finds_what_is_whole(home: Path) -> None:
    assert {one.state for one in found(home).values()} == {"whole"}
    quick = survey(tiny_chain(home), home / "runs" / tiny.NAME, quick=True)
    assert {name: one.digest for name, one in quick.items()} == {name: one.digest for name, one in found(home).items()}


def test_a_changed_setting_is_named_and_what_follows_waits(home: Path) -> None:
    changed = found(home, "sdtt/optimizer.lr=2e-3", "teacher/train.log_every=1")
    assert changed["teacher"].state == "whole"
    assert (changed["sdtt"].state, changed["sdtt"].why) == ("missing", "made anew: optimizer.lr was 0.001, is 0.002")
    assert (changed["pairs"].state, changed["pairs"].why) == ("waiting", "needs sdtt")
    assert changed["redi"].why == "needs sdtt, pairs"
    assert changed["judge"].state == "whole"


def test_a_survey_builds_no_data(home: Path) -> None:
    elsewhere = found(home, f"data.cache={home / 'elsewhere'}")
    assert elsewhere["teacher"].why == "without prepared data"
    assert not (home / "elsewhere").exists()


def test_what_a_stage_needs(home: Path) -> None:
    chain = tiny_chain(home)
    assert [stage.name for stage in needed(chain, "redi")] == ["teacher", "sdtt", "pairs", "redi"]
    assert [stage.name for stage in needed(chain, "table")] == [stage.name for stage in chain.stages]
    with pytest.raises(ValueError, match="there is no stage rdei: the chain has teacher, sdtt"):
        needed(chain, "rdei")


def given(home: Path, tmp_path: Path, teacher: Path, **settings: Any) -> Chain:
    """A chain whose teacher is given."""
    content = yaml.safe_load((home / f"{tiny.NAME}.yaml").read_text())
    content["stages"] = [
        {"name": "teacher", "kind": "given", "set": {"inputs": {"init": str(teacher)}}},
        {"name": "student", "kind": "train", "init": "teacher", "set": settings},
        {"name": "pairs", "kind": "coupling", "teacher": "teacher"},
    ]
    (tmp_path / "given.yaml").write_text(yaml.safe_dump(content))
    return load_chain(tmp_path / "given.yaml")


def test_a_given_model_is_a_stage(home: Path, tmp_path: Path) -> None:
    teacher = folder_of(home, "teacher")
    chain = given(home, tmp_path, teacher, train={"steps": 2})
    preflight(chain, chain.stages, tmp_path / "runs")
    folders = run_chain(chain, tmp_path / "runs", workers=1)
    assert folders["teacher"] == teacher
    assert f"{teacher.name}: train" in provenance(folders["student"])
    # Another model under the same path makes what starts from it anew.
    other = given(home, tmp_path, folder_of(home, "redi"), model={"mask": {"kind": "infinite"}}, train={"steps": 2})
    assert survey(other, tmp_path / "runs" / "tiny")["student"].why.startswith("made anew: model.mask.kind was single")


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (
            ["teacher/inputs.init=nowhere"],
            "stage teacher: there is no run or checkpoint at nowhere: set teacher/inputs.i",
        ),
        (["student/model.hidden_dim=64"], "stage student: the given model has model.hidden_dim=32, here it is 64"),
        (["data.bpe_size=400"], "stage student: the given model has 301 ids"),
        (["data.train=[gone.txt]"], "stage student: .*gone.txt"),
        (["train.global_batch=9"], "stage student: train.global_batch=9 is no multiple of the 4 data-parallel ranks"),
        (["student/engine.tensor_parallel=3"], "stage student: engine.tensor_parallel=3 must divide both the 4 ranks"),
        (["coupling.pairs=1000000000000000"], "the runs will take .* GB, .* left: make room"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(
    home: Path, tmp_path: Path, overrides: list[str], match: str
) -> None:
    given(home, tmp_path, folder_of(home, "teacher"), train={"steps": 2})
    chain = load_chain(tmp_path / "given.yaml", overrides)
    with pytest.raises(ValueError, match=match) as caught:
        preflight(chain, chain.stages, tmp_path / "runs")
    assert all(line.startswith(("stage ", "the runs will take")) for line in str(caught.value).splitlines())
    assert not (tmp_path / "runs").exists()


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


def judged(home: Path, tmp_path: Path, spoil: Callable[[Path, Path], object], *overrides: str) -> Chain:
    """A chain of a given teacher, couplings, ReDi and a table by a judge that is a folder, with something spoilt."""
    teacher, judge = tmp_path / "teacher", tmp_path / "judge"
    shutil.copytree(folder_of(home, "teacher"), teacher)
    shutil.copytree(folder_of(home, "judge"), judge)
    content = yaml.safe_load((home / f"{tiny.NAME}.yaml").read_text())
    content["stages"][0] = {"name": "teacher", "kind": "given", "set": {"inputs": {"init": str(teacher)}}}
    content["stages"][-1]["evaluator"] = str(judge)
    del content["stages"][-2]
    (tmp_path / "judged.yaml").write_text(yaml.safe_dump(content))
    spoil(judge, find_checkpoint(teacher).path)
    return load_chain(tmp_path / "judged.yaml", ["resources.tasks_per_node=1", "resources.nodes=1", *overrides])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def as_bin(judge: Path, content: bytes) -> None:
    (judge / "model.safetensors").unlink()
    (judge / "pytorch_model.bin").write_bytes(content)


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def of_other_tokens(judge: Path, teacher: Path) -> None:
    rewrite(judge / "evaluator.json", tokens=["other", 301, 300])


ROWS_OF_12 = "has rows of 12 tokens, data.length is 16: set data.length=12"


@pytest.mark.parametrize(
    ("spoil", "overrides", "expected"),
    [
        (lambda judge, teacher: None, [], []),
        (
            lambda judge, teacher: (judge / "model.safetensors").write_text(POINTER),
            [],
            ["stage table: evaluator .*judge cannot be loaded .*model.safetensors is a Git-LFS pointer"],
        ),
        (lambda judge, teacher: cut(judge / "model.safetensors"), [], ["model.safetensors is cut off or no file of"]),
        (lambda judge, teacher: as_bin(judge, b"PK" + bytes(99)), [], ["pytorch_model.bin is cut off or no file of"]),
        (lambda judge, teacher: (judge / "model.safetensors").unlink(), [], ["it has no weights: neither model.saf"]),
        (lambda judge, teacher: (judge / "config.json").unlink(), [], ["evaluator .*judge cannot be loaded"]),
        (lambda judge, teacher: rewrite(judge / "config.json", model_type="vit"), [], ["vit is no causal language"]),
        (lambda judge, teacher: (judge / "evaluator.json").unlink(), [], ["tokenizer .*judge is a folder without tok"]),
        (of_other_tokens, [], ["stage table: evaluator .*judge was trained on other tokens than this data has"]),
        (lambda judge, teacher: rewrite(judge / "config.json", n_positions=8), [], ["judge reads 8 tokens, rows have"]),
        (
            lambda judge, teacher: list(map(cut, teacher.parent.glob("step-*/ema.safetensors"))),
            [],
            ["stage teacher: .* holds no whole checkpoint: .*ema.safetensors is missing or damaged"],
        ),
        (
            lambda judge, teacher: None,
            ["data.length=16"],
            [f"stage table: model A, stage teacher, {ROWS_OF_12}", "stage table: evaluator .*judge (reads|was)"],
        ),
        (
            lambda judge, teacher: None,
            ["table/data.length=16"],
            [f"stage table: model {one}, stage {name}, {ROWS_OF_12}" for one, name in (("A", "teacher"), ("B", "redi"))]
            + ["stage table: evaluator .*judge (reads|was)"],
        ),
        (
            lambda judge, teacher: None,
            ["pairs/data.length=16"],
            [f"stage pairs: the teacher, stage sdtt, {ROWS_OF_12}"],
        ),
        (
            lambda judge, teacher: None,
            ["sdtt/data.length=16", "pairs/data.length=16"],
            ["stage redi: the coupling of stage pairs has length 16, the data 12: make it again with this data"],
        ),
        (
            lambda judge, teacher: None,
            ["sdtt/model.mask.noise_dim=9"],
            ["stage redi: the model of stage sdtt has model.mask.noise_dim=9, here it is model.mask.noise_dim=8: give"],
        ),
        (
            lambda judge, teacher: cut(judge / "model.safetensors"),
            ["redi/model.n_heads=1", "train.global_batch=9", "sdtt/train.steps=3", "redi/engine.tensor_parallel=2"],
            [
                "stage sdtt: train.steps=3, but SDTT takes",
                "stage redi: the model of stage sdtt has model.n_heads=2, here it is 1",
                "stage redi: engine.tensor_parallel=2 must divide both",
                "stage table: evaluator .*judge cannot be loaded",
            ],
        ),
    ],
)
def test_all_that_is_wrong_is_said_at_once(
    home: Path, tmp_path: Path, spoil: Callable[[Path, Path], object], overrides: list[str], expected: list[str]
) -> None:
    chain = judged(home, tmp_path, spoil, *overrides)
    before = set(tmp_path.rglob("*"))
    if not expected:
        preflight(chain, chain.stages, tmp_path / "runs")
        return
    with pytest.raises(ValueError) as caught:
        run_chain(chain, tmp_path / "runs", workers=1)
    lines = str(caught.value).splitlines()
    assert len(lines) == len(expected), lines
    for pattern in expected:
        assert any(re.search(pattern, line) for line in lines), (pattern, lines)
    assert set(tmp_path.rglob("*")) == before


def test_a_teacher_of_another_tokenizer_is_seen_when_the_text_is_packed(home: Path, tmp_path: Path) -> None:
    words = "".join(f"an other text of {i} words, {i * 3 % 17}.\n" for i in range(200))
    (tmp_path / "other.txt").write_text(words)
    changed = [f"data.train={tmp_path / 'other.txt'}", f"data.cache={tmp_path / 'data'}"]
    given(home, tmp_path, folder_of(home, "teacher"), train={"steps": 2})
    chain = load_chain(tmp_path / "given.yaml", ["resources.tasks_per_node=1", "resources.nodes=1", *changed])
    preflight(chain, chain.stages, tmp_path / "runs")  # it may be the same, for all that is known
    with pytest.raises(
        ValueError, match="stage student: the given model was made with another tokenizer than data.tok"
    ):
        run_chain(chain, tmp_path / "runs", workers=1)
    assert not list((tmp_path / "runs").rglob("step-*"))


def test_a_table_of_models_is_checked_before_the_first_is_sampled(home: Path, tmp_path: Path) -> None:
    config = tiny_chain(home).stage("table").config
    models = {"A": folder_of(home, "teacher"), "B": folder_of(home, "redi")}
    judge = tmp_path / "judge"
    shutil.copytree(folder_of(home, "judge"), judge)
    check_evaluation(config, models, str(judge), str(folder_of(home, "pairs")))
    cut(judge / "model.safetensors")
    config = tiny_chain(home, "table/data.length=16").stage("table").config
    with pytest.raises(ValueError) as caught:
        check_evaluation(config, models | {"C": tmp_path / "none"}, str(judge), str(tmp_path))
    lines = str(caught.value).splitlines()
    for pattern in (
        f"model A {ROWS_OF_12}",
        f"model B {ROWS_OF_12}",
        "no run or checkpoint at .*none",
        "judge",
        "no c",
    ):
        assert any(re.search(pattern, line) for line in lines), (pattern, lines)
    assert len(lines) == 5


def test_a_run_refuses_its_inputs_before_text_is_packed(home: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs"
    shutil.copytree(folder_of(home, "pairs"), pairs)
    cut(pairs / "shard-00003.parquet")
    config = replace(
        tiny_chain(home, "redi/model.hidden_dim=64", f"redi/data.cache={tmp_path / 'data'}").stage("redi").config,
        inputs=InputsConfig(init=str(folder_of(home, "teacher")), coupling=str(pairs)),
    )
    with pytest.raises(ValueError) as caught:
        train(config, tmp_path / "run")
    model, coupling = str(caught.value).splitlines()
    assert "has model.hidden_dim=32, here it is 64: set model.hidden_dim=32" in model
    assert "shard-00003.parquet is damaged" in coupling
    assert {path.name for path in tmp_path.iterdir()} == {"pairs"}


def test_a_run_goes_on_by_its_folders_name(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "teacher"
    config = tiny_chain(home).stage("teacher").config
    config = replace(config, train=replace(config.train, steps=2))
    assert train(config, folder) and load_run(folder, None, []) == config
    assert train(load_run(folder, None, ["train.steps=4"]), folder)
    assert find_checkpoint(folder).step == 4
    # With a setting of the data forgotten nothing is packed.
    forgotten = load_run(folder, None, ["data.bpe_size=400", f"data.cache={tmp_path / 'data'}", "train.steps=6"])
    with pytest.raises(ValueError, match=r"was made with data.bpe_size=300 .now 400.: give it again, or use another"):
        train(forgotten, folder)
    assert not (tmp_path / "data").exists()
    # Where its record is damaged, by what its newest checkpoint says.
    whole = load_run(folder, None, [])
    for content in ("", "[]", "null", '{"a": 1}'):
        (folder / "config.json").write_text(content)
        assert load_run(folder, None, []) == whole
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.endswith(
            "config.json is damaged: the settings are those of " + str(folder / "step-00000004" / "state.json")
        )
    assert train(load_run(folder, None, []), folder)
    for checkpoint in folder.glob("step-*"):
        shutil.rmtree(checkpoint)
    with pytest.raises(
        ValueError, match=r"config\.json is damaged, and no checkpoint has the run's settings: give them"
    ):
        load_run(folder, None, [])
    # A folder that is new takes the defaults.
    assert load_run(tmp_path / "new", None, []) == Config()


def test_a_chain_is_no_run(home: Path) -> None:
    chain = home / f"{tiny.NAME}.yaml"
    with pytest.raises(ValueError, match="is a chain of stages, not .*: give it to imdm_dist run, or take"):
        load_run(home / "new", str(chain), [])
    with pytest.raises(ValueError, match="unknown key .*; settings of one run go to imdm_dist train --config"):
        load_chain(ROOT / "configs" / "embedded.yaml")


def test_status_remembers_the_settings_of_the_last_run(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_chain(given(home, tmp_path, folder_of(home, "teacher"), train={"steps": 2}), tmp_path / "runs", workers=1)
    chain = load_chain(tmp_path / "given.yaml", ["train.seed=3"])
    run_chain(chain, tmp_path / "runs", workers=1)
    words = [str(ROOT / "tools" / "pipeline.py"), "status", str(tmp_path / "given.yaml"), "--root", f"{tmp_path}/runs"]
    for more, said, state in (
        ([], "with the settings it was last run with: train.seed=3\n", "whole"),
        (["train.seed=4"], "", "missing"),
    ):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", [*words, *more])
        with pytest.raises(SystemExit):
            runpy.run_path(words[0], run_name="__main__")
        told = capsys.readouterr()
        assert told.err == said
        assert re.search(rf"student +train +{state}", told.out)


def test_what_a_job_asks_for_in_words(home: Path) -> None:
    chain = tiny_chain(home, "resources.time=2:00:00")
    assert job_text(chain.stage("pairs")) == (
        "1 node, 1 GPU and 1 process on each, time 2:00:00, an array of 4 such jobs"
    )
    assert job_text(chain.stage("teacher")) == "2 nodes, 2 GPUs and 2 processes on each, time 2:00:00"
    assert job_text(chain.stage("table")) == "1 node, 1 GPU and 1 process on each, time 2:00:00"


def test_a_run_folder_that_cannot_be_written_is_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    chain = tiny_chain(home)
    with pytest.raises(ValueError, match="cannot write in .*file.runs .*: name another folder with --root"):
        preflight(chain, chain.stages, tmp_path / "file" / "runs")


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (["inputs.init=nowhere"], "no run or checkpoint at nowhere: set inputs.init=PATH"),
        (["objective.kind=redi"], "set inputs.coupling to its folder"),
        (["objective.kind=redi", "inputs.coupling=nowhere"], "nowhere"),
        (["train.steps=0"], "train.steps is 0"),
    ],
)
def test_a_run_that_cannot_work_is_not_submitted(tmp_path: Path, overrides: list[str], match: str) -> None:
    config = load_config(Config, ROOT / "configs" / "embedded.yaml", overrides)
    with pytest.raises(ValueError, match=match):
        check_run(config)


def test_the_table_of_stages(home: Path) -> None:
    rows = {row.stage: row for row in status(tiny_chain(home), home / "runs")}
    assert rows["teacher"].progress.startswith("step 12 of 12, loss ")
    assert rows["pairs"].progress == "8 of 8 shards, 32 of 32 pairs; finished"
    text = status_text(list(rows.values()))
    assert text.splitlines()[0].split()[:7] == ["stage", "kind", "state", "progress", "job", "time", "left"]
    assert len(text.splitlines()) == 7


def test_progress_of_a_coupling(home: Path) -> None:
    folder = folder_of(home, "pairs")
    there = coupling_progress(folder)
    assert there is not None and (there.shards_there, there.pairs_there, there.finished) == (8, 32, True)
    assert "8 of 8 shards, 32 of 32 pairs; finished" in progress_line(folder)
    with pytest.raises(ValueError, match="holds no coupling"):
        progress_line(home)


def test_provenance_goes_back_to_text_and_seeds(home: Path) -> None:
    text = provenance(folder_of(home, "table"))
    for expected in ("text.txt", "train.seed: 0", '"seeds": [1, 2]', "from sdtt:", "from judge:", "torch "):
        assert expected in text
    assert text.count("text.txt") == 2  # for training and validation, not for every stage
    with pytest.raises(ValueError, match="has no stage.json"):
        provenance(home)


def test_a_key_changes_with_what_is_made_and_not_with_how(home: Path) -> None:
    def key(*overrides: str, stage: str = "redi") -> str:
        chain = tiny_chain(home, *overrides)
        return stage_key(chain, chain.stage(stage), home / "runs")

    assert key() == key("resources.nodes=3", "train.log_every=1")
    assert key() != key("teacher/optimizer.lr=2e-3")
    assert key(stage="teacher") == key("redi/optimizer.lr=2e-3", stage="teacher")


def test_resources_as_sbatch_reads_them() -> None:
    resources = ResourcesConfig(
        nodes=2, gpus_per_node=8, time="1-12:30:00", partition="long", sbatch=("--constraint=h100", "--exclusive")
    )
    options = set(tiny.sbatch_options(resources))
    assert {"--nodes=2", "--ntasks-per-node=8", "--gpus-per-node=8", "--time=1-12:30:00"} <= options
    assert {"--signal=B:USR1@300", "--requeue", "--open-mode=append", "--constraint=h100", "--exclusive"} <= options
    assert {"--nodes=1", "--ntasks-per-node=1", "--gpus-per-node=1"} <= set(tiny.sbatch_options(resources, one=True))
    for limit, asked in (("", set()), ("0", {"--time=0"})):
        found = tiny.sbatch_options(ResourcesConfig(time=limit))
        assert {option for option in found if option.startswith("--time")} == asked


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("90:30", 91), ("2:00:00", 120), ("1-0", 1440), ("1-1:30", 1530), ("0", inf), ("UNLIMITED", inf)],
)
def test_time_limits(text: str, minutes: float) -> None:
    assert minutes_of(text) == minutes
    with pytest.raises(ValueError, match="'soon' is no time limit"):
        minutes_of("soon")


def start(command: Sequence[str | Path], cwd: Path) -> subprocess.Popen[bytes]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")} | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *map(str, command)], cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def test_two_processes_of_this_machine_stopped_and_started_again(home: Path, tmp_path: Path) -> None:
    chain = tiny.chain(tmp_path, train={"steps": 60, "save_every": 50})
    command: list[str | Path] = [
        ROOT / "tools" / "pipeline.py",
        "here",
        chain,
        "--stage",
        "teacher",
        "--local",
        "--processes",
        "2",
        "--root",
        "runs",
    ]
    first = start(command, tmp_path)
    deadline = time.monotonic() + 120
    while tiny.steps_done(tmp_path / "runs", "teacher") < 6:
        assert time.monotonic() < deadline and first.poll() is None, first.communicate()
        time.sleep(0.05)
    first.send_signal(signal.SIGTERM)
    output = first.communicate()[0].decode()
    assert first.returncode == EXIT_STOPPED, output
    assert "Traceback" not in output
    again = start(command, tmp_path)
    output = again.communicate()[0].decode()
    assert again.returncode == 0, output
    assert "teacher: going on" in output
    # The same as one process makes, to rounding.
    train(load_chain(chain).stage("teacher").config, tmp_path / "one")
    ours = find_checkpoint(tiny.folder_of(tmp_path / "runs", "teacher"))
    theirs = find_checkpoint(tmp_path / "one")
    for name in theirs.names("ema"):
        torch.testing.assert_close(ours.full("ema", name), theirs.full("ema", name), rtol=0, atol=2e-5)


def test_a_command_of_slurm_that_lost_its_connection_is_given_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "srun").touch(0o755)
    for name in ("squeue", "sbatch"):
        (tmp_path / name).write_text(
            f"#!/bin/sh\ncd {tmp_path}\n[ -e seen-{name} ] && echo fine && exit\ntouch seen-{name}; kill -PIPE $$\n"
        )
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert slurm.call(["squeue"]) == "fine\n"
    with pytest.raises(ValueError, match="SLURM refused the job"):  # it may have been taken, so it is not given again
        submit(print, ResourcesConfig(), tmp_path / "run", "name")


def test_a_failure_in_one_of_two_processes_is_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "fail.py").write_text("import os; os.write(2, b'error: no such thing\\n'); os._exit(1)")
    process = start(["-m", "imdm_dist.launch", "--local", "2", "fail.py"], tmp_path)
    said = set(process.communicate(timeout=120)[0].decode().splitlines())
    end = "error: its processes ended with exit code 1: see the messages above"
    assert said == {"error: no such thing", end}


def test_a_signal_before_the_first_import_stops_in_good_order(tmp_path: Path) -> None:
    command: list[str | Path] = [
        ROOT / "tools" / "train.py",
        "run",
        "data.source=synthetic",
        "model.size=custom",
        "model.hidden_dim=32",
    ]
    command += ["model.n_blocks=1", "model.n_heads=2", "train.steps=100000", "train.global_batch=8"]
    process = start(command, tmp_path)
    # Python has started and our handlers stand long before torch is there.
    status_file = Path(f"/proc/{process.pid}/status")
    usr1 = 1 << (signal.SIGUSR1 - 1)
    deadline = time.monotonic() + 60
    while (
        not int(next(line for line in status_file.read_text().splitlines() if "SigCgt" in line).split()[1], 16) & usr1
    ):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGUSR1)
    output = process.communicate(timeout=120)[0].decode()
    assert process.returncode == EXIT_STOPPED, output
    # It reached the process before its data were packed, or after.
    assert "stopped (SIGUSR1) before the synthetic rows stood" in output or "stopped at step 0 of 100000" in output
