"""Perplexities of all three kinds of model on the same rows: over all tokens and over text, and their errors."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from imdm_dist.data.token_file import TokenFile
from imdm_dist.diffusion.schedule import EPSILON
from imdm_dist.evaluation.held_out_perplexity import perplexities
from imdm_dist.evaluation.kneser_ney import TrigramModel
from imdm_dist.objectives.batch import build_batch
from imdm_dist.objectives.nelbo import nelbo
from imdm_dist.objectives.validation import validation_figures, validation_sums
from imdm_dist.perplexity import Perplexity, exp_of_mean, show_perplexity
from tests.objectives.test_objectives import _pattern_integral
from tests.small import small_model

END, VOCAB = 0, 11


def token_file(folder: Path, rows: np.ndarray, vocab_size: int = VOCAB, ends: int | None = END) -> TokenFile:
    shape = {"length": rows.shape[1], "vocab_size": vocab_size, "mask_id": vocab_size - 1}
    return TokenFile.write(folder / "rows", rows, **shape, bos_id=ends, eos_id=ends, settings={})


def texts(rows: int, length: int, vocab_size: int = VOCAB) -> np.ndarray:
    """Random tokens between forced ends; the end token also occurs within, as a separator."""
    found = np.random.default_rng(0).integers(0, vocab_size - 1, (rows, length))
    found[:, 0] = found[:, -1] = END
    return found


def test_the_figures_of_a_diffusion_model_meet_the_enumerated_integral(tmp_path: Path) -> None:
    """Over all tokens and over text, within the error that is given; and the terms left out are those of the ends."""
    model = small_model("single", vocab_size=4, mask_id=3)
    row = np.array([[END, 2, 1, END]])
    found = perplexities(model, token_file(tmp_path, row.repeat(4000, 0), 4), 4000, draws_a_row=2)
    exact = {"all": 0.0, "text": 0.0}
    one = torch.zeros(1, dtype=torch.int64)
    for pattern in itertools.product([False, True], repeat=4):
        if any(pattern):
            masked = torch.tensor([pattern])
            batch = build_batch(torch.from_numpy(row), masked, torch.ones(1, dtype=torch.float64), one, one, 3, 1.0)
            with torch.no_grad():
                whole = float(nelbo(model, batch, 100))  # weight 1/t is 1 at t = 1
                log_p_LV = model.logits(batch.x_BL, seed_B=one)[0].double().log_softmax(-1)
            text = -sum(float(log_p_LV[at, row[0, at]]) for at in (1, 2) if pattern[at])
            share = _pattern_integral(sum(pattern), 4 - sum(pattern)) / (1 - EPSILON)
            exact["all"] += share * whole / 4
            exact["text"] += share * text / 2
    for over, value in exact.items():
        figure = getattr(found, over)
        assert figure.nats_se is not None and 0 < figure.nats_se < 0.03 * value
        assert abs(figure.nats - value) < 4 * figure.nats_se, over
    assert found.all.nats_se is not None and abs(exact["all"] - exact["text"]) > 10 * found.all.nats_se


def test_text_without_ends_of_its_own_is_all_of_a_row(tmp_path: Path) -> None:
    rows = texts(20, 6)
    found = perplexities(small_model(), token_file(tmp_path, rows, ends=None), 20)
    assert found.all == found.text


@pytest.mark.parametrize("draws", [1, 4])
def test_the_standard_error_is_the_spread_over_seeds(tmp_path: Path, draws: int) -> None:
    model = small_model("infinite")
    data = token_file(tmp_path, texts(65, 8))
    found = [validation_figures(validation_sums(model, data, 65, draws, seed=100 * at), data) for at in range(40)]
    for over in ("all", "text"):
        figures = [getattr(one, over) for one in found]
        spread = np.std([one.nats for one in figures], ddof=1)
        stated = np.sqrt(np.mean([one.nats_se**2 for one in figures]))
        # Forty seeds tell a spread to 11 %. With one draw a row the rows' own differences are in the error too.
        assert 0.8 < stated / spread < (1.3 if draws > 1 else 1.6), (over, stated, spread)


def test_what_differs_between_rows_is_no_error_of_several_draws(tmp_path: Path) -> None:
    """Rows of easy and of hard tokens: the figure of these rows is known better than that of a population."""
    model = small_model("single")
    logits = model.logits(torch.full((1, 8), 10), seed_B=torch.zeros(1, dtype=torch.int64))[0, 3, :10]
    rows = texts(400, 8)
    rows[:, 1:-1] = np.where(np.random.default_rng(1).random((400, 1)) < 0.5, logits.argmax(), logits.argmin())
    data = token_file(tmp_path, rows)
    one, several = (perplexities(model, data, 400, draws).text for draws in (1, 4))
    assert one.nats_se is not None and several.nats_se is not None
    assert several.nats_se < 0.45 * one.nats_se


def test_the_share_of_a_rank_and_the_batch_do_not_matter(tmp_path: Path) -> None:
    model, data = small_model("infinite"), token_file(tmp_path, texts(21, 6))
    whole = validation_sums(model, data, 21, draws_a_row=3)
    parts = [validation_sums(model, data, 21, draws_a_row=3, rank=rank, ranks=2, batch=4) for rank in range(2)]
    assert torch.allclose(whole, parts[0] + parts[1], rtol=1e-5)
    assert torch.allclose(whole[:, :1], validation_sums(model, data, 21))  # draw 0 is what training looks at


@pytest.mark.parametrize("ends", [END, None])
def test_trigram_and_causal_model_by_hand(tmp_path: Path, ends: int | None) -> None:
    rows = texts(30, 7)
    data = token_file(tmp_path, rows, ends=ends)
    trigram = TrigramModel.fit(texts(90, 7), VOCAB)
    first, last = (1, 6) if ends is not None else (0, 7)

    nll = []
    for row in rows:
        context = [VOCAB, VOCAB, *row]
        grams = [trigram.pack(context[at], context[at + 1], row[at : at + 1]) for at in range(7)]
        nll.append([-math.log(trigram.probabilities(gram)[0]) for gram in grams])
    found = perplexities(trigram, data, 30)
    assert found.all.ppl == pytest.approx(math.exp(np.mean(nll)))
    assert found.text.ppl == pytest.approx(math.exp(np.mean(np.array(nll)[:, first:last])))
    assert found.text.nats_se is None

    torch.manual_seed(0)
    size = {"n_embd": 16, "n_layer": 1, "n_head": 2, "bos_token_id": None, "eos_token_id": None}
    lm = GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_positions=7, initializer_range=0.5, **size)).eval()
    with torch.no_grad():
        log_p = lm(input_ids=torch.from_numpy(rows)).logits.double().log_softmax(-1).numpy()
    nll = [[-log_p[r, at - 1, rows[r, at]] for at in range(1, 7)] for r in range(30)]
    found = perplexities(lm, data, 30)
    assert found.all.ppl == pytest.approx(math.exp(np.mean(nll)), rel=1e-5)
    assert found.text.ppl == pytest.approx(math.exp(np.mean(np.array(nll)[:, max(first - 1, 0) : last - 1])), rel=1e-5)


def test_forced_ends_are_what_a_trigram_pays_for(tmp_path: Path) -> None:
    """Four tokens out of nine between forced ends; from the third on, a trigram expects an end one time in three."""
    rows = np.random.default_rng(0).integers(1, 10, (6300, 6))
    rows[:, 0] = rows[:, -1] = END
    found = perplexities(TrigramModel.fit(rows[300:], VOCAB), token_file(tmp_path, rows[:300]), 300)
    text = math.log(9) + 2 * math.log(1.5) / 4
    assert found.text.nats == pytest.approx(text, rel=0.02)
    assert found.all.nats == pytest.approx((4 * text + math.log(3)) / 6, rel=0.02)


@pytest.mark.parametrize(
    ("nats", "ppl", "said"),
    [
        (4.0146, 55.4, "55.4 ± 0.8"),
        (709.0, math.exp(709), None),
        (812.3, math.inf, "exp(812)"),
        (math.inf, math.inf, None),
        (math.nan, math.nan, None),
    ],
)
def test_a_figure_of_a_bad_model_is_a_figure(nats: float, ppl: float, said: str | None) -> None:
    figure = Perplexity(nats, 0.0145)
    assert figure.ppl == pytest.approx(ppl, rel=1e-3, nan_ok=True)
    assert exp_of_mean(nats) == pytest.approx(ppl, rel=1e-3, nan_ok=True)
    found = figure.to_dict()
    assert found["ppl"] == (pytest.approx(ppl, rel=1e-3) if math.isfinite(ppl) else None)
    assert found["nats"] == (nats if math.isfinite(nats) else None)
    if said or found["nats"] is None:
        assert show_perplexity(found) == said


def test_perplexities_are_shown_as_far_as_they_are_known() -> None:
    shown = [
        show_perplexity({"ppl": value, "ppl_se": error, "nats": 1.0})
        for value, error in ((55.43, 0.83), (55.43, 0.149), (471.2, 26.0), (1.0234, 0.0012), (65.81, None), (3.2, 0.0))
    ]
    assert shown == ["55.4 ± 0.8", "55.43 ± 0.15", "471 ± 26", "1.0234 ± 0.0012", "65.8", "3.20"]
    assert show_perplexity(None) is None
