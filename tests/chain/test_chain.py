"""Chains: the whole method by one call; what is whole is kept, what is damaged or changed is made again."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from imdm_dist.chain import load_chain, run_chain
from imdm_dist.chain.chain import chain_yaml, last_overrides, needed, save_overrides
from imdm_dist.chain.slurm_jobs import read_jobs
from imdm_dist.chain.status import status
from imdm_dist.chain.survey import survey
from imdm_dist.checkpoint.model import load_model
from imdm_dist.config import EvaluationConfig
from imdm_dist.data import prepare
from imdm_dist.evaluation.causal_lm import load_causal_lm
from imdm_dist.evaluation.gen_ppl import generative_perplexity
from imdm_dist.evaluation.held_out_perplexity import perplexities
from imdm_dist.evaluation.kneser_ney import TrigramModel

ROOT = Path(__file__).resolve().parents[2]

MODEL = {"size": "custom", "hidden_dim": 32, "n_blocks": 1, "n_heads": 2, "dropout": 0.0, "mask": {"noise_dim": 8}}

METRICS = [*EvaluationConfig().metrics, "trigram"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("chain")
    (home / "text.txt").write_text("".join(f"row {i} says {i * 7 % 11} and {i * 5 % 13}.\n" for i in range(200)))
    (home / "chain.yaml").write_text(yaml.safe_dump(chain(home), sort_keys=False))
    return home


def chain(home: Path) -> dict[str, Any]:
    text = [str(home / "text.txt")]
    data = {"source": "files", "train": text, "valid": text, "bpe_size": 300, "length": 12, "cache": str(home / "data")}
    infinite = {"model": {"mask": {"kind": "infinite"}}}
    return {
        "name": "tiny",
        "base": {
            "data": data,
            "model": MODEL,
            "optimizer": {"lr": 1e-3, "warmup_steps": 2},
            "train": {"steps": 4, "global_batch": 8, "save_every": 2, "valid_rows": 16},
            "coupling": {"pairs": 12, "shards": 3, "steps": 16, "batch": 4},
            "evaluation": {"samples": 4, "steps": [2], "seeds": [1, 2], "metrics": METRICS},
            "evaluator": {"hidden_dim": 32, "n_blocks": 1, "n_heads": 2, "steps": 3, "batch": 8},
        },
        "stages": [
            {"name": "judge", "kind": "evaluator"},
            {"name": "teacher", "kind": "train"},
            {
                "name": "sdtt",
                "kind": "train",
                "init": "teacher",
                "set": {
                    **infinite,
                    "objective": {"kind": "sdtt", "rounds": 2, "steps_per_round": 2, "grid": 8},
                    "train": {"steps": 0},
                },
            },
            {"name": "pairs", "kind": "coupling", "teacher": "sdtt"},
            {
                "name": "redi",
                "kind": "train",
                "init": "sdtt",
                "coupling": "pairs",
                "set": {**infinite, "objective": {"kind": "redi"}},
            },
            {
                "name": "table",
                "kind": "evaluation",
                "evaluator": "judge",
                "coupling": "pairs",
                "models": {"MDLM": "teacher", "IMDM": "redi"},
            },
        ],
    }


def run(home: Path, *overrides: str) -> dict[str, Path]:
    return run_chain(load_chain(home / "chain.yaml", overrides), home / "runs", workers=1)


@pytest.fixture(scope="module")
def folders(home: Path) -> dict[str, Path]:
    return run(home)


NOTES = ("chain.json", "overrides.json")
"""What the last run was asked for, and where its results are."""


def stamps(folder: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in sorted(folder.rglob("*")) if p.is_file() and p.name not in NOTES}


def test_the_chain_ends_in_a_table(home: Path, folders: dict[str, Path]) -> None:
    judge = load_causal_lm(folders["judge"])
    result = json.loads((folders["table"] / "result.json").read_text())
    assert [(r["model"], r["steps"], r["seeds"]) for r in result["records"]] == [
        ("MDLM", 2, [1, 2]),
        ("IMDM", 2, [1, 2]),
    ]
    for record in result["records"]:
        assert record["draw_precision"] == "float64"
        assert record["noise_policy"] == "posterior"
        assert record["weights"] == "ema"
        assert record["versions"]["torch"]
        mean, by_seed = record["figures"]["mean"], record["figures"]["by_seed"]
        samples = [np.load(folders["table"] / f"samples-{record['model']}-2-{seed}.npy") for seed in (1, 2)]
        judged = [generative_perplexity(judge, rows_BL).token_level for rows_BL in samples]
        assert [figures["gen_ppl"] for figures in by_seed] == pytest.approx(judged, rel=1e-5)
        assert mean["gen_ppl"] == pytest.approx(np.mean([figures["gen_ppl"] for figures in by_seed]))
        assert mean["copied_8grams"] == pytest.approx(np.mean([figures["copied_8grams"] for figures in by_seed]))
    chain = load_chain(home / "chain.yaml")
    data, draws = prepare(chain.stage("table").config.data), chain.stage("table").config.evaluation.valid_draws
    expected = {
        "MDLM": perplexities(load_model(folders["teacher"]).model, data.valid, 16, draws),
        "IMDM": perplexities(load_model(folders["redi"]).model, data.valid, 16, draws),
    }
    assert result["valid_ppl"] == {name: figures.to_dict() for name, figures in expected.items()}
    trigram = TrigramModel.fit(data.train.tokens, data.train.vocab_size)
    assert result["trigram_valid_ppl"] == perplexities(trigram, data.valid, 16).to_dict()
    assert result["evaluator_valid_ppl"] == perplexities(judge, data.valid, 16).to_dict()
    assert all(result["valid_ppl"]["MDLM"][over]["ppl_se"] > 0 for over in ("all", "text"))
    assert "Gen. PPL" in (folders["table"] / "table.md").read_text()


def test_a_second_run_does_nothing(home: Path, folders: dict[str, Path]) -> None:
    before = stamps(home / "runs")
    assert run(home) == folders
    assert stamps(home / "runs") == before


def test_a_part_of_a_chain_is_made(home: Path, folders: dict[str, Path], tmp_path: Path) -> None:
    chain = load_chain(home / "chain.yaml")
    before = stamps(home / "runs")
    parts = run_chain(chain, home / "runs", 1, needed(chain, "pairs"))
    assert parts == {name: folders[name] for name in ("teacher", "sdtt", "pairs")}
    assert stamps(home / "runs") == before
    with pytest.raises(ValueError, match="stage pairs starts from teacher, which is missing"):
        run_chain(chain, tmp_path, 1, needed(chain, "pairs"), only=True)


def test_a_changed_setting_redoes_its_stage_and_those_after_it(home: Path, folders: dict[str, Path]) -> None:
    changed = run(home, "redi/train.steps=5")
    same = {name for name in folders if folders[name] == changed[name]}
    assert same == {"judge", "teacher", "sdtt", "pairs"}


def test_settings_that_change_no_result_redo_nothing(home: Path, folders: dict[str, Path]) -> None:
    before = stamps(home / "runs")
    assert run(home, "train.log_every=1", "train.keep_last=3", "teacher/train.valid_every=2") == folders
    assert stamps(home / "runs") == before


def test_changed_text_redoes_everything(home: Path, folders: dict[str, Path]) -> None:
    text = (home / "text.txt").read_text()
    try:
        (home / "text.txt").write_text(text + "another row.\n")
        changed = load_chain(home / "chain.yaml").stages[0]
        from imdm_dist.chain.identity import stage_identity

        identity = stage_identity(changed, {})
    finally:
        (home / "text.txt").write_text(text)
    assert identity["data"] != stage_identity(changed, {})["data"]


@pytest.mark.parametrize("stage", ["judge", "pairs", "teacher"])
def test_a_damaged_result_is_made_again(
    home: Path, folders: dict[str, Path], stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folders[stage]
    pattern = {"judge": "model.safetensors", "pairs": "shard-00001.parquet", "teacher": "step-00000004/ema.safetensors"}
    victim = folder / pattern[stage]
    whole = victim.read_bytes()
    victim.write_bytes(whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :])
    assert run(home) == folders
    assert f"{stage}: made again" in capsys.readouterr().err
    assert victim.read_bytes() == whole


def test_a_mark_that_a_power_cut_emptied_counts_as_not_there(home: Path, folders: dict[str, Path]) -> None:
    ours = load_chain(home / "chain.yaml")
    there = home / "runs" / ours.name
    for name in ("judge", "pairs", "teacher"):  # later ones first: one that starts from a lost one waits
        (folders[name] / "stage.json").write_text("" if name == "judge" else '{"a": 1}')
        assert survey(ours, there, quick=True)[name].state == "half done"
    assert run(home) == folders  # goes on from what is whole, and marks it
    assert all(found.state == "whole" for found in survey(ours, there, quick=True).values())
    before = last_overrides(there)
    for content in ("", '{"a": 1}', '{"a": {"id": "x"}}', "[1]"):
        for name in ("jobs.json", "overrides.json", "orders/judge.json"):
            (there / name).parent.mkdir(exist_ok=True)
            (there / name).write_text(content)
        (folders["teacher"] / "heartbeat.json").write_text(content)
        assert read_jobs(there) == {} and last_overrides(there) == []
        assert {row.state for row in status(ours, there.parent)} == {"whole"}
    save_overrides(there, before)
    (there / "orders" / "judge.json").unlink()
    (there / "jobs.json").unlink()


def test_a_half_done_stage_goes_on(home: Path, folders: dict[str, Path]) -> None:
    folder = folders["redi"]
    whole = (folder / "step-00000004" / "weights.safetensors").read_bytes()
    (folder / "stage.json").unlink()
    shutil.rmtree(folder / "step-00000004")
    assert run(home) == folders
    assert (folder / "step-00000004" / "weights.safetensors").read_bytes() == whole


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"stages": []}, "has no stages"),
        ({"stage": []}, "unknown key stage"),
        ({"stages": [{"name": "a", "kind": "trian"}]}, "a kind out of"),
        ({"stages": [{"name": "a", "kind": "train", "inti": "b"}]}, "did you mean init"),
        ({"stages": [{"name": "a", "kind": "train", "init": "b"}]}, "no stage above it"),
        ({"stages": [{"name": "a", "kind": "coupling"}]}, "needs teacher"),
        ({"stages": [{"name": "a", "kind": "train"}] * 2}, "two stages called a"),
        ({"base": {"train": {"stpes": 1}}}, "did you mean"),
        # What is no list, no mapping or no text where one is due.
        ({"stages": None}, "has no stages"),
        ({"stages": 5}, "stages of .* is 5: give a list"),
        ({"stages": {"a": {"kind": "train"}}}, "stages of .* give a list"),
        ({"stages": ["a", 5]}, "a stage needs a name and a kind out of .*: 'a'"),
        ({"stages": [{"name": "a", "kind": ["train"]}]}, "a kind out of"),
        ({"stages": [{"name": "a", "kind": "train", 5: 6}]}, "unknown key 5"),
        ({"stages": [{"name": "a", "kind": "train", "set": 5}]}, "set of stage a .* is 5: give sections"),
        ({"stages": [{"name": "a", "kind": "train", "init": ["b"]}]}, "init of stage a .*: give the name of one stage"),
        ({"base": [5]}, r"base of .* is \[5\]: give sections"),
        ({5: 6, "more": 7}, "unknown key 5"),
        ({"name": 5}, "name of .* is 5: give it as text"),
        # Names that become those of folders.
        ({"name": "../elsewhere"}, "name of .* cannot be part of a file's name: use letters"),
        ({"name": ""}, "cannot be part of a file's name"),
        *(
            ({"stages": [{"name": name, "kind": "train"}]}, "name of a stage of .* cannot be part of a file's name")
            for name in ("", "..", "a/b", ".a", "a=b", "a\nb")
        ),
    ],
)
def test_a_wrong_file_is_refused(home: Path, tmp_path: Path, change: dict[Any, Any], match: str) -> None:
    refuse(tmp_path, chain(home) | change, match)


def refuse(folder: Path, content: dict[Any, Any], match: str) -> None:
    path = folder / "chain.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(ValueError, match=match) as caught:
        load_chain(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("stage", "change", "match"),
    [
        ("redi", {"init": "pairs"}, "init of stage redi .* is pairs, a stage of kind coupling: name one of kind train"),
        ("redi", {"coupling": "teacher"}, "coupling of stage redi .* name one of kind coupling"),
        ("redi", {"coupling": None}, "objective.kind=redi: name the stage that makes its pairs in coupling"),
        ("sdtt", {"set": {}, "coupling": "pairs", "init": None}, "is pairs, which is no stage above it"),
        ("sdtt", {"teacher": "teacher"}, "has teacher, which a stage of kind train does not read"),
        ("judge", {"init": "teacher"}, "has init, which a stage of kind evaluator does not read"),
        ("pairs", {"teacher": "judge"}, "teacher of stage pairs .* is judge, a stage of kind evaluator"),
        ("pairs", {"coupling": "pairs"}, "has coupling, which a stage of kind coupling does not read"),
        ("table", {"evaluator": "teacher"}, "evaluator of stage table .* is teacher, a stage of kind train"),
        ("table", {"evaluator": "table"}, "is table, which is no stage above it: correct the name or the order"),
        ("table", {"models": None}, "it needs models"),
        ("table", {"coupling": "redi"}, "coupling of stage table .* a stage of kind train"),
        ("table", {"models": {"A": "pairs"}}, "models of stage table .* is pairs, a stage of kind coupling"),
        ("table", {"models": {"A": "sddt"}}, "models of stage table .* is sddt, which is no stage above it"),
        ("table", {"models": "teacher"}, "models of stage table .*: give stages by name in the table"),
        ("table", {"models": ["teacher"]}, "models of stage table .*: give stages by name in the table"),
        ("table", {"models": {"A": 5}}, "models of stage table .*: give stages by name in the table"),
        ("table", {"models": {}}, "it needs models"),
        ("table", {"models": {"a/b": "teacher"}}, "a name in models of stage table .* cannot be part of a file's name"),
        ("table", {"models": {5: "teacher"}}, "a name in models of stage table .* is 5: give it as text"),
    ],
)
def test_a_stage_that_starts_from_something_else_is_refused(
    home: Path, tmp_path: Path, stage: str, change: dict[Any, Any], match: str
) -> None:
    content = chain(home)
    next(one for one in content["stages"] if one["name"] == stage).update(change)
    refuse(tmp_path, content, match)


def test_pairs_for_an_objective_that_learns_from_none_are_refused(home: Path) -> None:
    with pytest.raises(ValueError, match="objective.kind=nelbo: set objective.kind=redi or leave out coupling"):
        load_chain(home / "chain.yaml", ["redi/objective.kind=nelbo"])


@pytest.mark.parametrize("workers", [0, -1])
def test_workers_below_one_are_refused_before_anything_runs(home: Path, tmp_path: Path, workers: int) -> None:
    with pytest.raises(ValueError, match=f"workers is {workers}: give 1 or more"):
        run_chain(load_chain(home / "chain.yaml"), tmp_path / "runs", workers)
    assert not list(tmp_path.iterdir())


def test_a_launcher_of_several_processes_is_refused(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="one of 2: start imdm_dist train under the launcher"):
        run_chain(load_chain(home / "chain.yaml"), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["./lm", "/no/such/lm", "no/such/lm", "owner/lm"])
def test_an_evaluator_that_is_not_there_is_refused_before_anything_runs(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    asked = []

    def no_network(name: str, timeout: float) -> None:
        asked.append(name)
        raise RuntimeError("no route")

    monkeypatch.setattr("huggingface_hub.model_info", no_network)
    content = chain(home)
    content["stages"][-1]["evaluator"] = name
    (tmp_path / "chain.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(ValueError, match=f"evaluator {name} cannot be loaded .*: train one with"):
        run_chain(load_chain(tmp_path / "chain.yaml"), tmp_path / "runs")
    assert asked == (["owner/lm"] if name == "owner/lm" else [])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["tiny", "embedded_chain.yaml", "demo_synthetic_chain.yaml"])
def test_a_chain_as_yaml_is_the_same_chain(home: Path, tmp_path: Path, name: str) -> None:
    path = home / "chain.yaml" if name == "tiny" else ROOT / "configs" / name
    original = load_chain(path, ["train.seed=3", "optimizer.eps=1e-12"])
    (tmp_path / "printed.yaml").write_text(chain_yaml(original))
    assert load_chain(tmp_path / "printed.yaml") == original


def test_an_override_of_no_stage_is_refused(home: Path) -> None:
    with pytest.raises(ValueError, match="there is no stage teecher"):
        load_chain(home / "chain.yaml", ["teecher/train.steps=1"])


def test_another_evaluator_makes_another_table(home: Path, folders: dict[str, Path], tmp_path: Path) -> None:
    from imdm_dist.chain.identity import stage_identity

    content = chain(home)
    identities = []
    for name in ("evaluators/a", "evaluators/b"):
        content["stages"][-1]["evaluator"] = name
        path = tmp_path / "chain.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        table = load_chain(path).stage("table")
        identities.append(stage_identity(table, dict.fromkeys(("pairs", "teacher", "redi"), "x")))
    assert identities[0] != identities[1]
    content["stages"][-1]["evaluator"] = "jugde"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(ValueError, match="did you mean stage judge"):
        load_chain(path)
