"""Losses on gathered rows against dense references and closed forms, values and gradients."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from imdm_dist import draws
from imdm_dist.config import NoisePolicy
from imdm_dist.diffusion.schedule import EPSILON, alpha, nelbo_weight
from imdm_dist.draws import Purpose
from imdm_dist.model import Backbone, Vocabulary
from imdm_dist.objectives.batch import MaskedBatch, build_batch, draw_mask, strata, stratified_time
from imdm_dist.objectives.nelbo import nelbo
from imdm_dist.objectives.row_loss import Divergence, divergence_sum
from imdm_dist.objectives.sdtt import sdtt, taught
from tests.small import small_model

KINDS = ["single", "infinite", "finite"]
BATCH, LENGTH = 6, 9


def example(model: Backbone, seed: int = 0, time: float | None = None) -> MaskedBatch:
    """A batch of random tokens, masked at stratified times."""
    generator = torch.Generator().manual_seed(seed)
    others = torch.tensor([token for token in range(model.vocab_size) if token != model.mask_id])
    clean_BL = others[torch.randint(0, len(others), (BATCH, LENGTH), generator=generator)]
    seed_B = draws.derive_seed(seed, Purpose.EXAMPLE, torch.arange(BATCH))
    time_B = stratified_time(seed_B, 0, BATCH) if time is None else torch.full((BATCH,), time, dtype=torch.float64)
    masked_BL = draw_mask(seed_B, time_B, LENGTH)
    return build_batch(clean_BL, masked_BL, time_B, seed_B, seed_B, model.mask_id, float(BATCH * LENGTH))


def gradients(model: Backbone, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(model: Backbone, loss: Tensor, reference: Tensor, tolerance: float = 1e-6) -> None:
    assert float(loss) == pytest.approx(float(reference), rel=tolerance)
    ours, theirs = gradients(model, loss), gradients(model, reference)
    largest = max(float(g.abs().max()) for g in theirs.values())
    for name, gradient in theirs.items():
        assert torch.allclose(ours[name], gradient, rtol=0, atol=tolerance * largest), name


@pytest.mark.parametrize("mask_id", [10, 4])
@pytest.mark.parametrize("chunk_rows", [1000, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_nelbo_equals_the_dense_form(kind: str, chunk_rows: int, mask_id: int) -> None:
    model = small_model(kind, mask_id=mask_id).double()
    batch = example(model)
    logits_BLV = model.hidden(batch.x_BL, batch.masked)
    logits_BLV = model.head(logits_BLV.flatten(0, 1)).view(BATCH, LENGTH, -1)
    log_p_BL = logits_BLV.log_softmax(-1).gather(2, batch.clean_BL[..., None]).squeeze(2)
    weight_BL = (batch.x_BL == mask_id) / batch.time_B[:, None]
    reference = -(log_p_BL * weight_BL).sum() / (BATCH * LENGTH)
    assert_same(model, nelbo(model, batch, chunk_rows), reference, 1e-6)


def test_nelbo_has_its_closed_form_on_a_tiny_language() -> None:
    """E over t and masks of the 1/t-weighted loss, by quadrature and enumeration, is minus the summed log p."""
    model = small_model("single", vocab_size=4, mask_id=3).double()
    clean = torch.tensor([[0, 2, 1]])
    nodes, weights = torch.tensor(_gauss_legendre(24), dtype=torch.float64).T
    times = EPSILON + (1 - EPSILON) * (nodes + 1) / 2
    quadrature, exact = 0.0, 0.0
    for pattern in itertools.product([False, True], repeat=3):
        masked = torch.tensor([pattern])
        count = int(masked.sum())
        if count == 0:
            continue
        seed = torch.zeros(1, dtype=torch.int64)
        batch = build_batch(clean, masked, torch.ones(1, dtype=torch.float64), seed, seed, 3, 1.0)
        value = float(nelbo(model, batch, 100).detach())  # weight 1/t is 1 at t = 1
        probability = (1 - alpha(times)) ** count * alpha(times) ** (3 - count)
        quadrature += value * float((weights / 2 * probability * nelbo_weight(times)).sum()) * (1 - EPSILON)
        exact += value * _pattern_integral(count, 3 - count)
    assert quadrature == pytest.approx(exact, rel=1e-6)


def _gauss_legendre(n: int) -> list[tuple[float, float]]:
    import numpy

    return list(zip(*numpy.polynomial.legendre.leggauss(n), strict=True))


def _pattern_integral(masked: int, visible: int) -> float:
    """Integral over t in [1e-3, 1] of m^masked (1-m)^visible / t with m = (1-1e-3) t, by the binomial theorem."""
    import math

    rate = 1 - EPSILON
    total = 0.0
    for k in range(visible + 1):
        power = masked + k
        total += math.comb(visible, k) * (-1) ** k * rate**power * (1 - EPSILON**power) / power
    return total


def test_monte_carlo_of_the_whole_pipeline_meets_the_closed_form() -> None:
    """Times, masks and weights as training draws them average to the closed form."""
    model = small_model("single", vocab_size=4, mask_id=3)
    count = 20_000
    clean = torch.tensor([[0, 2, 1]]).expand(count, 3)
    seed_B = draws.derive_seed(8, Purpose.EXAMPLE, torch.arange(count))
    time_B = stratified_time(seed_B, 0, count)
    batch = build_batch(clean, draw_mask(seed_B, time_B, 3), time_B, seed_B, seed_B, 3, float(count))
    with torch.no_grad():
        estimate = float(nelbo(model, batch, 10**6))
        exact = 0.0
        for pattern in itertools.product([False, True], repeat=3):
            if any(pattern):
                one = torch.zeros(1, dtype=torch.int64)
                single = build_batch(
                    clean[:1], torch.tensor([pattern]), torch.ones(1, dtype=torch.float64), one, one, 3, 1.0
                )
                exact += float(nelbo(model, single, 100)) * _pattern_integral(sum(pattern), 3 - sum(pattern))
    assert estimate == pytest.approx(exact / (1 - EPSILON), rel=0.03)


def dense_sdtt(
    student: Backbone, teacher: Backbone, batch: MaskedBatch, dt: float, divergence: str, policy: str
) -> Tensor:
    """SDTT as its definition reads: every tensor [B, L, V], no row left out."""
    masked_BL = batch.x_BL == student.mask_id
    seed_BL = draws.derive_seed(batch.draw_seed_B, Purpose.TEACHER, 0)[:, None].expand(BATCH, LENGTH)
    position = torch.arange(LENGTH)
    now_B = batch.time_B[:, None]
    next_B = (now_B - dt).clamp(min=0)
    reveal = (alpha(next_B) - alpha(now_B)) / (1 - alpha(now_B))
    first_BL = masked_BL & (draws.uniform(seed_BL, Purpose.REVEAL, position) >= 1 - reveal)
    keep = {"fixed": torch.ones_like(now_B), "fresh": torch.zeros_like(now_B)}.get(policy, alpha(now_B) / alpha(next_B))
    redrawn_BL = (draws.uniform(seed_BL, Purpose.KEEP, position) >= keep).long()
    with torch.no_grad():
        first_BLV = teacher.logits(batch.x_BL, batch.seed_B).double()
        uniform_R = draws.uniform(seed_BL, Purpose.TOKEN, position).flatten()
        token_BL = teacher.vocabulary.invert_cdf(first_BLV.flatten(0, 1), uniform_R).view(BATCH, LENGTH)
        next_BL = torch.where(first_BL, token_BL, batch.x_BL)
        second_BLV = teacher.logits(next_BL, batch.seed_B, redrawn_BL).double()
    target_BLV = torch.where(first_BL[..., None], first_BLV, second_BLV).log_softmax(-1)
    h = student.hidden(batch.x_BL, batch.masked)
    student_BLV = student.head(h.flatten(0, 1)).view(BATCH, LENGTH, -1).double().log_softmax(-1)
    keep_V = torch.arange(student.vocab_size) != student.mask_id
    p, q = student_BLV[..., keep_V], target_BLV[..., keep_V]
    cell = {
        "reverse_kl": p.exp() * (p - q),
        "forward_kl": q.exp() * (q - p),
        "total_variation": (p.exp() - q.exp()).abs() / 2,
        "mse": (p - q) ** 2 / keep_V.sum(),
    }[divergence]
    return (cell.sum(-1) * masked_BL).sum() / batch.total


@pytest.mark.parametrize("chunk_rows", [1000, 5])
@pytest.mark.parametrize("policy", ["fixed", "posterior", "fresh"])
@pytest.mark.parametrize("divergence", ["reverse_kl", "forward_kl", "total_variation", "mse"])
def test_sdtt_equals_the_dense_form(divergence: Divergence, policy: NoisePolicy, chunk_rows: int) -> None:
    # float64 but for the softmax of the two heads, which is float32 by design
    student, teacher = small_model(seed=1, mask_id=4).double(), small_model(seed=2, mask_id=4).double()
    teacher.requires_grad_(False)
    for dt in (0.25, 0.01):
        batch = example(student, seed=3)
        loss = sdtt(student, teacher, taught(batch, dt, policy), divergence, chunk_rows)
        assert_same(student, loss, dense_sdtt(student, teacher, batch, dt, divergence, policy), 2e-6)


def test_sdtt_of_a_step_that_reveals_nothing_is_plain_distillation() -> None:
    student, teacher = small_model(seed=1), small_model(seed=2)
    batch = example(student)
    loss = sdtt(student, teacher, taught(batch, 1e-12, "fixed"), "reverse_kl", 1000)
    p = student.logits(batch.x_BL, batch.seed_B).log_softmax(-1)
    q = teacher.logits(batch.x_BL, batch.seed_B).log_softmax(-1)
    cell = F.kl_div(q, p, log_target=True, reduction="none").sum(-1)
    assert float(loss) == pytest.approx(float((cell * (batch.x_BL == 10)).sum() / batch.total), rel=1e-5)


def test_a_student_equal_to_its_teacher_has_no_loss_before_anything_is_revealed() -> None:
    model = small_model()
    loss = sdtt(model, model, taught(example(model), 1e-12, "fixed"), "reverse_kl", 7)
    assert float(loss) == pytest.approx(0, abs=1e-6)


def test_divergences_are_finite_at_the_mask_and_zero_on_equals() -> None:
    logits = torch.randn(5, 7)
    logits[:, 3] = -1e6
    for kind in ("reverse_kl", "forward_kl", "total_variation", "mse"):
        assert float(divergence_sum(Vocabulary(7, 3), logits, logits.clone(), kind)) == pytest.approx(0, abs=1e-6)
        assert "-" not in str(float(divergence_sum(Vocabulary(7, 3), logits, logits.clone(), kind))).partition("e")[0]
        assert torch.isfinite(divergence_sum(Vocabulary(7, 3), logits, logits + torch.rand(5, 7), kind))


def test_a_batch_without_masks_gives_a_loss_of_zero_with_gradients() -> None:
    model = small_model()
    seed = torch.arange(2)
    time = torch.full((2,), 0.5, dtype=torch.float64)
    nothing = torch.zeros(2, 4, dtype=torch.bool)
    batch = build_batch(torch.ones(2, 4, dtype=torch.int64), nothing, time, seed, seed, 10, 8.0)
    loss = nelbo(model, batch, 10)
    loss.backward()
    assert float(loss) == 0


def test_times_are_stratified_over_the_global_batch() -> None:
    seed = draws.derive_seed(0, Purpose.EXAMPLE, torch.arange(64))
    time = stratified_time(seed, 0, 64)
    stratum = ((time - EPSILON) / (1 - EPSILON) * 64).floor().long()
    assert torch.equal(stratum.sort().values, torch.arange(64))
    assert torch.equal(stratified_time(seed[16:32], 16, 64), time[16:32])


@pytest.mark.parametrize("count", [1, 2, 6, 64, 100, 512])
def test_every_stratum_comes_once_and_neighbours_are_spread_out(count: int) -> None:
    found = strata(count)
    assert torch.equal(found.sort().values, torch.arange(count))
    if count >= 64:
        means = (found.double() + 0.5).view(-1, count // 4).mean(dim=1) / count  # four ranks' shares
        assert float((means - 0.5).abs().max()) < 0.03


def test_masks_have_the_rate_of_the_forward_process() -> None:
    seed = draws.derive_seed(0, Purpose.EXAMPLE, torch.arange(4000))
    for t in (1e-3, 0.3, 1.0):
        rate = draw_mask(seed, torch.full((4000,), t, dtype=torch.float64), 16).double().mean()
        assert float(rate) == pytest.approx(0.999 * t, abs=0.008)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_teacher_that_has_diverged_makes_the_loss_no_number_and_nothing_else(value: float) -> None:
    student, teacher = small_model(), small_model(seed=1)
    with torch.no_grad():
        teacher.get_parameter("output_layer.linear.bias")[2] = value
    loss = sdtt(student, teacher, taught(example(student), 0.3, "posterior"), "reverse_kl", 1000)
    assert not loss.isfinite()
