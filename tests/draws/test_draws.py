"""Keyed draws: the published generator, the stated laws, and no dependence on batching."""

import math

import pytest
import torch
from torch import Tensor

from imdm_dist import draws
from imdm_dist.config.model import MaskConfig
from imdm_dist.draws import Purpose
from imdm_dist.draws.philox import WORD, philox4x32

KNOWN_ANSWERS = [  # Random123, kat_vectors, philox4x32 with 10 rounds
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((WORD,) * 4, (WORD,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_philox_known_answers(
    counter: tuple[int, int, int, int], key: tuple[int, int], answer: tuple[int, ...]
) -> None:
    c0, c1, c2, c3, k0, k1 = map(torch.tensor, counter + key)
    assert tuple(int(word) for word in philox4x32((c0, c1, c2, c3), (k0, k1))) == answer


def test_a_draw_does_not_depend_on_what_it_is_drawn_with() -> None:
    seed_R = draws.derive_seed(5, Purpose.SAMPLE, torch.arange(20))
    position_R, redraw_R = torch.arange(20) % 7, torch.arange(20) % 3
    whole = draws.noise(seed_R, position_R, redraw_R, 13, "uniform")
    for row in (0, 7, 19):
        one = draws.noise(seed_R[row : row + 1], position_R[row : row + 1], redraw_R[row : row + 1], 13, "uniform")
        assert torch.equal(one[0], whole[row])
    longer = draws.noise(seed_R, position_R, redraw_R, 40, "uniform")
    assert torch.equal(longer[:, :13], whole)


@pytest.mark.parametrize("law", ["uniform", "gaussian"])
def test_law_of_the_noise(law: str) -> None:
    n, dim = 4000, 64
    seed_R = draws.derive_seed(1, Purpose.SAMPLE, torch.arange(n))
    zero_R = torch.zeros(n, dtype=torch.int64)
    noise = draws.noise(seed_R, zero_R, zero_R, dim, law).double()
    variance = 1 / 3 if law == "uniform" else 1.0
    count = noise.numel()
    assert abs(noise.mean()) < 4 * math.sqrt(variance / count)
    fourth = {"uniform": 1 / 5, "gaussian": 3.0}[law]
    assert abs(noise.var() - variance) < 4 * math.sqrt((fourth - variance**2) / count)
    if law == "uniform":
        histogram = torch.histc(noise, 50, -1, 1)
        chi_square = ((histogram - count / 50).square() / (count / 50)).sum()
        assert chi_square < 49 + 5 * math.sqrt(2 * 49)
        assert noise.abs().max() < 1
    else:
        for point, beyond in ((1.0, 0.31731), (2.0, 0.0455), (3.0, 0.0027)):
            share = (noise.abs() > point).double().mean()
            assert abs(share - beyond) < 5 * math.sqrt(beyond / count)


def test_bits_of_the_noise_stay_what_they_are() -> None:
    keys = torch.tensor([5, -9]), torch.tensor([0, 3]), torch.tensor([0, 2])
    numerators = (draws.noise(*keys, 5, "uniform") * 2**24).long().tolist()
    assert numerators == [
        [-7431905, -7120127, 6443263, -14376355, 8492323],
        [-12374709, 10046551, 13902993, -15316737, -7686363],
    ]
    gaussian = torch.tensor([[-0.376229554, 1.554039836, 0.772799015], [0.615701556, -1.919088721, 0.407477319]])
    assert torch.allclose(draws.noise(*keys, 3, "gaussian"), gaussian, atol=1e-6)


def coin(seed_R: Tensor, position_R: Tensor, redraw_R: Tensor, dim: int) -> Tensor:
    """A law of a user's own: -1 or 1."""
    return ((draws.noise_words(seed_R, position_R, redraw_R, dim) >> 31) * 2 - 1).float()[:, :dim]


def test_a_law_of_ones_own_goes_by_its_place() -> None:
    seed_R, zero_R = torch.arange(2000), torch.zeros(2000, dtype=torch.int64)
    law = "tests.draws.test_draws:coin"
    noise = draws.noise(seed_R, zero_R, zero_R, 3, MaskConfig(law=law).law)
    assert noise.shape == (2000, 3) and noise.abs().eq(1).all() and abs(noise.mean()) < 4 / math.sqrt(6000)
    with pytest.raises(ValueError, match="model.mask.law is 'gausian': did you mean gaussian"):
        MaskConfig(law="gausian")


@pytest.mark.parametrize("neighbour", ["seed", "position", "redraw", "dimension", "purpose"])
def test_neighbouring_keys_are_uncorrelated(neighbour: str) -> None:
    n = 50_000
    key = torch.arange(n)
    zero = torch.zeros_like(key)
    if neighbour == "dimension":
        pair = draws.noise(key, zero, zero, 2, "uniform").double().T
    elif neighbour == "purpose":
        pair = torch.stack([draws.uniform(key, p, zero) for p in (Purpose.KEEP, Purpose.REVEAL)])
    else:
        a = draws.uniform(
            key if neighbour == "seed" else zero + 9,
            Purpose.TEST,
            key if neighbour == "position" else zero,
            key if neighbour == "redraw" else zero,
        )
        pair = torch.stack((a[:-1], a[1:]))
    assert abs(torch.corrcoef(pair)[0, 1]) < 5 / math.sqrt(n)


def test_uniform_lies_strictly_inside_and_is_uniform() -> None:
    value = draws.uniform(torch.arange(200_000), Purpose.TEST, 0)
    assert value.min() > 0 and value.max() < 1
    histogram = torch.histc(value, 100, 0, 1)
    assert ((histogram - 2000).square() / 2000).sum() < 99 + 5 * math.sqrt(2 * 99)


def test_integers_are_uniform() -> None:
    value = draws.integer(torch.arange(60_000), Purpose.NOISE, 0, 0, 6)
    count = torch.bincount(value, minlength=6).double()
    assert len(count) == 6
    assert ((count - 10_000).square() / 10_000).sum() < 5 + 5 * math.sqrt(2 * 5)


def test_child_seeds_use_all_bits_and_do_not_collide() -> None:
    seeds = draws.derive_seed(3, Purpose.PAIR, torch.arange(100_000))
    assert len(seeds.unique()) == 100_000
    bits = torch.stack([(seeds >> bit) & 1 for bit in range(64)]).double().mean(dim=1)
    assert (bits - 0.5).abs().max() < 5 * 0.5 / math.sqrt(100_000)
    assert draws.derive_seed(torch.tensor([3]), Purpose.PAIR, 7) == seeds[7]
    assert draws.derive_seed(3, Purpose.SAMPLE, 7) != seeds[7]
