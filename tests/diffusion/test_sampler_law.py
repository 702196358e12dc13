"""The sampler's law equals the exact chain of Eq. 13, by enumeration of both.

The exact chain is worked out densely over all states. The sampler is run once for every way its
draws can fall, each weighted by its probability, so its law is computed rather than estimated.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence

import pytest
import torch
from torch import Tensor

from imdm_dist import draws
from imdm_dist.config import NoisePolicy
from imdm_dist.diffusion.reveal import grid_time, plan_reveals, reveal_steps
from imdm_dist.diffusion.sampler import sample
from imdm_dist.diffusion.schedule import alpha
from imdm_dist.draws import Purpose
from imdm_dist.model import Backbone, Vocabulary
from imdm_dist.model.mask_embedding import MaskedRows
from tests.small import small_model

LENGTH, TOKENS, STATES, STEPS = 3, 2, 3, 3
MASK_ID = TOKENS
CODES = TOKENS + STATES  # of a position: a token, or the mask in one of its states
FREE = (0, 2)  # position 1 is a condition
CLAMPED = 1
CPU = torch.device("cpu")
Codes = tuple[int, ...]
"""Of all positions."""


def chain_alphas(start_time: float, steps: int = STEPS) -> list[float]:
    times = grid_time(torch.tensor(start_time, dtype=torch.float64), torch.arange(steps + 1), steps)
    return [float(one) for one in alpha(times)]


def exact_law(
    prediction: Callable[[Codes], Tensor], policy: str, alphas: Sequence[float], start: Iterable[Sequence[int]]
) -> dict[Codes, float]:
    """Law over final codes of the chain of Eq. 13.

    Args:
        prediction: codes of all positions to token probabilities [positions, TOKENS].
        alphas: alpha at every grid point, the last being 1.
        start: for each position the codes it may start with, equally likely.
    """
    starts = list(itertools.product(*start))
    law = dict.fromkeys(starts, 1 / len(starts))
    for now, then in itertools.pairwise(alphas):
        reveal = (then - now) / (1 - now)
        keep = {"posterior": now / then, "fixed": 1.0, "fresh": 0.0}[policy]
        after: dict[Codes, float] = {}
        for codes, weight in law.items():
            probability = prediction(codes)
            moves = [{code: 1.0} for code in codes]
            for place, code in enumerate(codes):
                if code >= TOKENS:
                    moves[place] = {token: reveal * float(probability[place, token]) for token in range(TOKENS)}
                    for new in range(TOKENS, CODES):
                        moves[place][new] = (1 - reveal) * (keep * (new == code) + (1 - keep) / STATES)
            for path in itertools.product(*(move.items() for move in moves)):
                probability_of_path = math.prod(p for _, p in path)
                if probability_of_path > 0:
                    new_codes = tuple(code for code, _ in path)
                    after[new_codes] = after.get(new_codes, 0.0) + weight * probability_of_path
        law = after
    return law


class TableModel:
    """A denoiser whose prediction is a random table over all codes; its noise is read from a script."""

    name = "a table"
    mask_id = MASK_ID
    vocabulary = Vocabulary(TOKENS + 1, MASK_ID)

    def __init__(self, state_SLR: Tensor, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(1)
        self.table = torch.randn((CODES,) * LENGTH + (LENGTH, TOKENS + 1), generator=generator, dtype=torch.float64)
        self.table[..., MASK_ID] = -1e6
        self.device, self.table, self.state_SLR = device, self.table.to(device), state_SLR.to(device)

    def hidden(self, x_BL: Tensor, masked: MaskedRows | None) -> Tensor:
        assert masked is not None
        codes = x_BL.clone().flatten()
        codes[masked.flat_M] = TOKENS + self.state_SLR[masked.seed_M, masked.position_M, masked.redraw_M]
        return self.table[tuple(codes.view_as(x_BL).T)]

    def head(self, h_RD: Tensor) -> Tensor:
        return h_RD

    def prediction(self, codes: Codes) -> Tensor:
        return self.table[codes][:, :TOKENS].softmax(-1)


class Script:
    """A source that says what its row of the enumeration says, and keeps the probability of the tokens it says."""

    def __init__(self, reveal_BL: Tensor, keep_BLN: Tensor, token_BL: Tensor, device: torch.device) -> None:
        self.reveal_BL, self.keep_BLN, self.token_BL = reveal_BL, keep_BLN, token_BL.to(device)
        self.weight_B = torch.ones(len(token_BL), dtype=torch.float64, device=device)

    def reveal(self, seed_B: Tensor, length: int) -> Tensor:
        return self.reveal_BL

    def keep(self, seed_B: Tensor, length: int, step_B: Tensor) -> Tensor:
        return self.keep_BLN[torch.arange(len(step_B))[:, None], torch.arange(length), step_B[:, None]]

    def token(
        self, vocabulary: Vocabulary, logits_RV: Tensor, seed_R: Tensor, position_R: Tensor, redraw_R: Tensor
    ) -> Tensor:
        token_R = self.token_BL[seed_R, position_R]
        factor_R = logits_RV.softmax(-1).gather(1, token_R[:, None]).squeeze(1)
        self.weight_B.scatter_reduce_(0, seed_R, factor_R, "prod")
        return token_R


def cells(points: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Midpoints and widths of the intervals that `points` cut (0, 1) into."""
    edges = torch.tensor([0.0, *sorted(set(points)), 1.0], dtype=torch.float64)
    width = edges.diff()
    return ((edges[:-1] + edges[1:]) / 2)[width > 0], width[width > 0]


@functools.cache
def sampler_law(policy: NoisePolicy, start_time: float, device: torch.device = CPU) -> tuple[Tensor, TableModel]:
    """The sampler's law over final tokens of the free positions, by running it on every case."""
    a = chain_alphas(start_time)
    survival, left = [], 1.0
    for now, then in zip(a[:-2], a[1:-1], strict=True):
        left *= 1 - (then - now) / (1 - now)
        survival.append(left)
    reveal_u, reveal_w = cells(survival)
    # On the way to the time after k steps, noise can have been looked at last after any j < k of them.
    keep = [cells([a[j] / a[k] for j in range(k)]) if policy == "posterior" else cells([]) for k in (1, 2)]
    axes = [range(len(reveal_u))] * 2 + [range(STATES)] * (2 * STEPS)
    axes += [range(len(keep[0][0]))] * 2 + [range(len(keep[1][0]))] * 2 + [range(TOKENS)] * 2
    case = torch.cartesian_prod(*(torch.tensor(list(axis)) for axis in axes))
    reveal, states = case[:, :2], case[:, 2 : 2 + 2 * STEPS].view(-1, 2, STEPS)
    keep1, keep2, token = case[:, -6:-4], case[:, -4:-2], case[:, -2:]
    weight = reveal_w[reveal].prod(1) * keep[0][1][keep1].prod(1) * keep[1][1][keep2].prod(1)
    weight = weight / STATES ** (2 * STEPS)
    count, free = len(case), list(FREE)
    start_BL = torch.full((count, LENGTH), MASK_ID)
    start_BL[:, 1] = CLAMPED
    reveal_BL = torch.full((count, LENGTH), 0.5, dtype=torch.float64)
    reveal_BL[:, free] = reveal_u[reveal]
    keep_BLN = torch.zeros(count, LENGTH, STEPS, dtype=torch.float64)
    keep_BLN[:, free, 1], keep_BLN[:, free, 2] = keep[0][0][keep1], keep[1][0][keep2]
    token_BL = torch.zeros(count, LENGTH, dtype=torch.int64)
    token_BL[:, free] = token
    state_BLN = torch.zeros(count, LENGTH, STEPS, dtype=torch.int64)
    state_BLN[:, free] = states
    model, script = TableModel(state_BLN, device), Script(reveal_BL, keep_BLN, token_BL, device)
    time_B = torch.full((count,), start_time, dtype=torch.float64)
    result = sample(model, start_BL, torch.arange(count), STEPS, policy, time_B, script)
    assert torch.equal(result.tokens_BL[:, 1], torch.full((count,), CLAMPED))
    law = torch.zeros(TOKENS, TOKENS, dtype=torch.float64)
    law.index_put_(tuple(result.tokens_BL[:, free].T), weight * script.weight_B.cpu(), accumulate=True)
    return law, model


@pytest.mark.parametrize(
    ("policy", "start_time"), [("posterior", 1.0), ("posterior", 0.6), ("fixed", 1.0), ("fresh", 1.0)]
)
def test_law_of_the_sampler_is_that_of_the_chain(policy: NoisePolicy, start_time: float) -> None:
    law, model = sampler_law(policy, start_time)
    assert law.sum() == pytest.approx(1, abs=1e-12)
    masks = range(TOKENS, CODES)
    exact = exact_law(model.prediction, policy, chain_alphas(start_time), (masks, [CLAMPED], masks))
    for codes, probability in exact.items():
        assert law[codes[0], codes[2]] == pytest.approx(probability, abs=1e-12)


def test_the_policies_differ() -> None:
    laws = [sampler_law(policy, 1.0)[0] for policy in ("posterior", "fixed", "fresh")]
    assert (laws[0] - laws[1]).abs().max() > 1e-3
    assert (laws[0] - laws[2]).abs().max() > 1e-4


@pytest.mark.parametrize("policy", ["posterior", "fixed", "fresh"])
@pytest.mark.parametrize("clamped", [None, 1])
def test_counter_draws_on_a_backbone_follow_the_chain(policy: NoisePolicy, clamped: int | None) -> None:
    """Unconditional and conditional, with the finite mask of 3 states and the real draws: a chi-square test."""
    # 3 degrees of freedom at most: p < 2e-5
    assert chi_square(policy, clamped) < 25


def chi_square(policy: NoisePolicy, clamped: int | None, device: torch.device = CPU, count: int = 40_000) -> float:
    """Of samples of a backbone on a device, against its law by enumeration on the host."""
    model = small_model("finite", vocab_size=TOKENS + 1, mask_id=MASK_ID)
    expected = backbone_law(model, policy, clamped) * count
    start_BL = torch.full((count, 2), MASK_ID)
    if clamped is not None:
        start_BL[:, 1] = clamped
    seed_B = draws.derive_seed(11, Purpose.SAMPLE, torch.arange(count))
    tokens = sample(model.to(device), start_BL, seed_B, 2, policy).tokens_BL
    seen = torch.zeros(TOKENS, TOKENS, dtype=torch.float64)
    seen.index_put_(tuple(tokens.T), torch.ones(count, dtype=torch.float64), accumulate=True)
    support = expected > 0
    assert seen[~support].sum() == 0
    return float(((seen - expected).square()[support] / expected[support]).sum())


def backbone_law(model: Backbone, policy: NoisePolicy, clamped: int | None) -> Tensor:
    """Exact two-step law of a backbone with a finite mask: its logits under a seed that has the wanted states."""
    seed, position = torch.arange(400), torch.arange(2)
    state_SL = draws.integer(seed[:, None], Purpose.NOISE, position, 0, STATES)

    def prediction(codes: Codes) -> Tensor:
        x = torch.tensor([[min(code, MASK_ID) for code in codes]])
        fits = [(state_SL[:, i] == code - TOKENS) | torch.tensor(code < TOKENS) for i, code in enumerate(codes)]
        fitting = (fits[0] & fits[1]).nonzero()[0]
        return model.logits(x, fitting)[0, :, :TOKENS].double().softmax(-1).detach()

    masks = range(TOKENS, CODES)
    law = exact_law(prediction, policy, chain_alphas(1.0, 2), (masks, masks if clamped is None else [clamped]))
    result = torch.zeros(TOKENS, TOKENS, dtype=torch.float64)
    for codes, probability in law.items():
        result[codes] = probability
    return result


def test_reveal_steps_follow_their_law_and_the_last_reveals_all() -> None:
    count, steps = 100_000, 5
    uniform = draws.uniform(torch.arange(count)[:, None], Purpose.REVEAL, torch.arange(1))
    step = reveal_steps(torch.ones(count, 1, dtype=torch.bool), uniform, torch.ones(count, dtype=torch.float64), steps)
    share = torch.bincount(step.flatten(), minlength=steps + 1).double() / count
    assert share[0] == 0 and len(share) == steps + 1
    assert torch.allclose(share[1:], torch.full((steps,), 1 / steps, dtype=torch.float64), atol=0.007)


def test_the_network_runs_only_at_steps_that_reveal() -> None:
    step = torch.tensor([[3, 0, 7, 3], [0, 0, 0, 0], [1, 2, 3, 4]])
    plan = plan_reveals(step)
    assert plan.count_B.tolist() == [2, 0, 4]
    assert plan.evaluation_BL.tolist() == [[0, -1, 1, 0], [-1, -1, -1, -1], [0, 1, 2, 3]]
    assert plan.step_BJ[0, :2].tolist() == [3, 7]
    assert plan.step_BJ[2].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("steps", [1, 2, 1000])
def test_evaluations_are_at_most_steps_and_length(steps: int) -> None:
    model = small_model()
    start_BL = torch.full((6, 5), model.mask_id)
    result = sample(model, start_BL, torch.arange(6), steps)
    assert result.evaluations <= min(steps, 5)
    assert (result.tokens_BL != model.mask_id).all()


def test_arbitrary_spans_are_kept_and_a_full_sequence_costs_nothing() -> None:
    model = small_model()
    start_BL = torch.randint(0, 10, (4, 6), generator=torch.Generator().manual_seed(0))
    assert sample(model, start_BL, torch.arange(4), 4).evaluations == 0
    masked_BL = torch.tensor([[0, 1, 1, 0, 0, 1]] * 4).bool()
    result = sample(model, start_BL.masked_fill(masked_BL, model.mask_id), torch.arange(4), 4)
    assert torch.equal(result.tokens_BL[~masked_BL], start_BL[~masked_BL])


def test_a_sample_does_not_depend_on_its_batch() -> None:
    model = small_model().double()
    start_BL = torch.full((8, 6), model.mask_id)
    seed_B = draws.derive_seed(2, Purpose.SAMPLE, torch.arange(8))
    together = sample(model, start_BL, seed_B, 4).tokens_BL
    alone = torch.cat([sample(model, start_BL[i : i + 1], seed_B[i : i + 1], 4).tokens_BL for i in range(8)])
    assert torch.equal(together, alone)


def test_zero_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="1 step or more"):
        sample(small_model(), torch.zeros(1, 2, dtype=torch.int64), torch.arange(1), 0)


def test_a_uniform_next_to_one_draws_a_token() -> None:
    logits = torch.randn(2000, 101, generator=torch.Generator().manual_seed(0)) * 3
    token = Vocabulary(101, 100).invert_cdf(logits, torch.full((2000,), 1 - 2.0**-53, dtype=torch.float64))
    assert int(token.max()) <= 100


def test_tokens_of_probability_zero_are_never_drawn() -> None:
    logits = torch.tensor([[-1e6, 0.0, -1e6, 1.0, -1e6]]).expand(1000, 5)
    uniform = torch.linspace(0, 1, 1002, dtype=torch.float64)[1:-1]
    uniform[0], uniform[-1] = 2.0**-53, 1 - 2.0**-53
    token = Vocabulary(5, 4).invert_cdf(logits, uniform)
    assert set(token.tolist()) == {1, 3}
    assert (token == 1).double().mean() == pytest.approx(1 / (1 + torch.e), abs=2e-3)


NAN, INF = float("nan"), float("inf")
NO_DISTRIBUTIONS = [
    [NAN, 0.0, 1.0, 2.0, 0.0],
    [0.0, 1.0, 2.0, NAN, 0.0],
    [0.0, INF, 1.0, 2.0, 0.0],
    [INF, INF, INF, INF, 0.0],
    [INF, -INF, 0.0, 1.0, 0.0],
    [-INF, -INF, -INF, -INF, 0.0],
    [-1e30, -1e30, -1e30, -1e30, 0.0],
]
DISTRIBUTIONS = [[-INF, -INF, 3.0, -INF, 0.0], [0.0, -INF, 1.0, 2.0, 0.0], [3e38, -3e38, 0.0, 0.0, 0.0]]


def test_a_row_that_is_no_distribution_gives_the_mask_and_no_other_row_does() -> None:
    bad, good = (torch.tensor(rows).repeat(50, 1) for rows in (NO_DISTRIBUTIONS, DISTRIBUTIONS))
    uniform = draws.uniform(torch.arange(len(bad) + len(good)), Purpose.TOKEN, 0)
    vocabulary = Vocabulary(5, 4)
    token = vocabulary.invert_cdf(vocabulary.rule_out(torch.cat((bad, good))), uniform)
    assert (token[: len(bad)] == 4).all()
    assert set(token[len(bad) :: 3].tolist()) == {2} and set(token[len(bad) + 2 :: 3].tolist()) == {0}
    assert set(token[len(bad) + 1 :: 3].tolist()) == {0, 2, 3}


class DivergedLater(torch.nn.Module):
    """A model that is well until its sequences show more than half of their tokens."""

    def __init__(self, model: Backbone) -> None:
        super().__init__()
        self.model, self.name = model, "runs/a/step-00000007 (ema weights)"
        self.mask_id, self.vocabulary, self.device, self.head = (
            model.mask_id,
            model.vocabulary,
            model.device,
            model.head,
        )

    def hidden(self, x_BL: Tensor, masked: MaskedRows | None) -> Tensor:
        h_BLD = self.model.hidden(x_BL, masked)
        late_B = (x_BL != self.mask_id).sum(1) * 2 > x_BL.shape[1]
        return h_BLD.masked_fill(late_B[:, None, None], NAN)


@pytest.mark.parametrize("value", [NAN, INF])
def test_a_model_that_has_diverged_is_refused_by_name_and_step(value: float) -> None:
    model = small_model()
    start_BL = torch.full((5, 12), model.mask_id)
    with pytest.raises(
        ValueError, match=r"^runs/a/step-00000007 \(ema weights\) gives no .* at sampling step (\d+) of 16:"
    ):
        sample(DivergedLater(model), start_BL, torch.arange(5), 16)
    sample(DivergedLater(model), start_BL, torch.arange(5), 1)
    with torch.no_grad():
        model.get_parameter("output_layer.linear.bias")[3] = value
    for steps in (1, 16):
        with pytest.raises(ValueError, match=f"the model gives no distribution .* step 1 of {steps}: .* diverged"):
            sample(model, start_BL, torch.arange(5), steps)
