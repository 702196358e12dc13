"""The backbone is a public format: names, shapes, sizes and numerics."""

import copy
import math
from collections.abc import Mapping
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from imdm_dist.config.model import MaskConfig, ModelConfig
from imdm_dist.model import Backbone, MaskEmbedding, build_backbone, masked_rows
from imdm_dist.model.dit import DitConfig
from imdm_dist.model.layers import capped_attention
from imdm_dist.model.mask_embedding import MaskedRows, build_mask, deduce_mask
from tests.small import small_config, small_model

Size = Literal["tiny", "small", "medium", "large"]
GPT2, BERT = (50258, 50257), (30522, 103)
PUBLISHED = [  # millions of parameters and tensors of the public checkpoints
    ("tiny", GPT2, 80.06, 90),
    ("tiny", BERT, 59.83, 90),
    ("small", GPT2, 169.63, 130),
    ("small", BERT, 139.29, 130),
    ("medium", GPT2, 424.48, 250),
    ("medium", BERT, 384.04, 250),
    ("large", GPT2, 863.16, 250),
    ("large", BERT, 802.51, 250),
]


def count(config: ModelConfig, vocab: tuple[int, int]) -> list[int]:
    with torch.device("meta"):
        return [p.numel() for p in build_backbone(config, *vocab).parameters()]


@pytest.mark.parametrize(("size", "vocab", "millions", "tensors"), PUBLISHED)
def test_sizes(size: Size, vocab: tuple[int, int], millions: float, tensors: int) -> None:
    sizes = count(DitConfig(size=size), vocab)
    assert round(sum(sizes) / 1e6, 2) == millions
    assert len(sizes) == tensors


@pytest.mark.parametrize(
    ("size", "noise_dim", "millions"), [("large", 2048, 22.03), ("small", 768, 4.72), ("small", 2048, 8.65)]
)
def test_noise_mlp_sizes(size: Size, noise_dim: int, millions: float) -> None:
    mask = MaskConfig(kind="infinite", noise_dim=noise_dim)
    more = sum(count(DitConfig(size=size, mask=mask), GPT2)) - sum(count(DitConfig(size=size), GPT2))
    assert round(more / 1e6, 2) == millions


def test_finite_mask_of_the_paper_matches_the_mlp() -> None:
    mask = MaskConfig(kind="finite", n_states=6144)
    more = sum(count(DitConfig(mask=mask), BERT)) - sum(count(DitConfig(), BERT))
    assert more == 6144 * 768


def test_names_and_shapes() -> None:
    with torch.device("meta"):
        state = build_backbone(DitConfig(mask=MaskConfig(kind="infinite")), *GPT2).state_dict()
    d = 768
    expected = {
        "vocab_embed.embedding": (50258, d),
        "vocab_embed.imdm_mlp.0.weight": (4 * d, 768),
        "vocab_embed.imdm_mlp.0.bias": (4 * d,),
        "vocab_embed.imdm_mlp.2.weight": (d, 4 * d),
        "sigma_map.mlp.0.weight": (128, 256),
        "sigma_map.mlp.2.bias": (128,),
        "rotary_emb.inv_freq": (32,),
        "blocks.11.norm1.weight": (d,),
        "blocks.11.attn_qkv.weight": (3 * d, d),
        "blocks.11.attn_out.weight": (d, d),
        "blocks.11.mlp.0.weight": (4 * d, d),
        "blocks.11.mlp.2.bias": (d,),
        "blocks.11.adaLN_modulation.weight": (6 * d, 128),
        "output_layer.norm_final.weight": (d,),
        "output_layer.linear.weight": (50258, d),
        "output_layer.linear.bias": (50258,),
        "output_layer.adaLN_modulation.bias": (2 * d,),
    }
    assert {name: tuple(state[name].shape) for name in expected} == expected
    assert len(state) == 130 + 3 + 1


def test_order_of_parameters_is_that_of_the_unnamed_ema_list() -> None:
    names = [name for name, _ in small_model("single").named_parameters()]
    assert names[:5] == ["vocab_embed.embedding"] + [
        f"sigma_map.mlp.{i}.{k}" for i in (0, 2) for k in ("weight", "bias")
    ]
    block = "norm1.weight attn_qkv.weight attn_out.weight norm2.weight mlp.0.weight mlp.0.bias mlp.2.weight mlp.2.bias"
    block += " adaLN_modulation.weight adaLN_modulation.bias"
    assert names[5:15] == [f"blocks.0.{name}" for name in block.split()]
    last = "norm_final.weight linear.weight linear.bias adaLN_modulation.weight adaLN_modulation.bias"
    assert names[-5:] == [f"output_layer.{name}" for name in last.split()]


def reference_logits(state: Mapping[str, Tensor], x: Tensor, heads: int, soft_cap: float = 0.0) -> Tensor:
    """The published architecture written out on its own, one sequence at a time."""
    hidden = state["vocab_embed.embedding"].shape[1]
    width = hidden // heads

    def norm(h: Tensor, weight: Tensor) -> Tensor:
        centred = h - h.mean(-1, keepdim=True)
        return centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-5) * weight

    cond = torch.cat([torch.ones(128), torch.zeros(128)]).to(hidden_dtype := state["vocab_embed.embedding"].dtype)
    cond = F.silu(state["sigma_map.mlp.0.weight"] @ cond + state["sigma_map.mlp.0.bias"])
    cond = F.silu(state["sigma_map.mlp.2.weight"] @ cond + state["sigma_map.mlp.2.bias"])
    length = len(x)
    theta = torch.arange(length)[:, None] / 10_000 ** (torch.arange(0, width, 2) / width)
    cos, sin = theta.cos().to(hidden_dtype), theta.sin().to(hidden_dtype)
    h = state["vocab_embed.embedding"][x]
    for block in range(1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))):
        p = {name.split(".", 2)[2]: value for name, value in state.items() if name.startswith(f"blocks.{block}.")}
        shift1, scale1, gate1, shift2, scale2, gate2 = (
            p["adaLN_modulation.weight"] @ cond + p["adaLN_modulation.bias"]
        ).split(hidden)
        y = norm(h, p["norm1.weight"]) * (1 + scale1) + shift1
        q, k, v = (p["attn_qkv.weight"] @ y.T).T.split(hidden, dim=-1)
        out = []
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)

            def turn(z: Tensor) -> Tensor:
                a, b = z[:, : width // 2], z[:, width // 2 :]
                return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)

            score = turn(q[:, part]) @ turn(k[:, part]).T / math.sqrt(width)
            if soft_cap:
                score = soft_cap * torch.tanh(score / soft_cap)
            out.append(score.softmax(-1) @ v[:, part])
        h = h + gate1 * (torch.cat(out, -1) @ p["attn_out.weight"].T)
        y = norm(h, p["norm2.weight"]) * (1 + scale2) + shift2
        y = F.gelu(y @ p["mlp.0.weight"].T + p["mlp.0.bias"], approximate="tanh")
        h = h + gate2 * (y @ p["mlp.2.weight"].T + p["mlp.2.bias"])
    shift, scale = (
        state["output_layer.adaLN_modulation.weight"] @ cond + state["output_layer.adaLN_modulation.bias"]
    ).split(hidden)
    y = norm(h, state["output_layer.norm_final.weight"]) * (1 + scale) + shift
    logits: Tensor = y @ state["output_layer.linear.weight"].T + state["output_layer.linear.bias"]
    return logits


@pytest.mark.parametrize("soft_cap", [0.0, 2.0])
def test_logits_equal_an_independent_implementation(soft_cap: float) -> None:
    model = small_model("single", attention_soft_cap=soft_cap)
    x = torch.randint(0, 11, (3, 7), generator=torch.Generator().manual_seed(0))
    ours = model.logits(x, torch.arange(3))[..., :10]
    theirs = torch.stack([reference_logits(model.state_dict(), row, 2, soft_cap) for row in x])[..., :10]
    assert torch.allclose(ours, theirs, atol=1e-5)


# --- reduced precision


@pytest.mark.parametrize("autocast", [False, True], ids=["bf16", "autocast"])
@pytest.mark.parametrize("largest", [5.0, 17.0, 40.0])
def test_soft_capped_attention_keeps_its_scores_in_float32(largest: float, autocast: bool) -> None:
    """Formed in bfloat16 they cost 0.006, 0.013 and 0.018 of the output at these scores; its own rounding is 0.002."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 4, 64, 32, generator=generator) for _ in range(3))
    factor = math.sqrt(largest / float((q @ k.mT / math.sqrt(32)).abs().max()))
    q, k, v = (x.bfloat16() for x in (factor * q, factor * k, v))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        ours = capped_attention(q, k, v, 50.0)
    score = 50 * torch.tanh(q.double() @ k.double().mT / math.sqrt(32) / 50)
    exact = score.softmax(-1) @ v.double()
    assert ours.dtype == torch.bfloat16
    assert (ours - exact).norm() < 0.003 * exact.norm()


def deep_model(gate: float = 0.1, vocab: int = 100) -> Backbone:
    """24 blocks that each add little to a stream of size three, as those of trained models do."""
    model = build_backbone(small_config(n_blocks=24, hidden_dim=64), vocab, vocab - 1).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            random = torch.randn(p.shape, generator=generator)
            p.copy_(
                random / math.sqrt(p.shape[-1])
                if p.ndim == 2
                else torch.ones(p.shape)
                if "norm" in name
                else gate * random
            )
        model.get_parameter("vocab_embed.embedding").mul_(3 * math.sqrt(64))
    return model


def test_bf16_keeps_the_residual_stream_in_float32() -> None:
    """With a stream in bfloat16 the divergence is 7e-5; what the products round is 9e-6, as under autocast."""
    model = deep_model()
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(0, 99, (8, 32), generator=generator).masked_fill_(
        torch.rand(8, 32, generator=generator) < 0.5, 99
    )
    seed = torch.arange(8)

    def log_probability(of: Backbone) -> torch.Tensor:
        return of.logits(x, seed)[..., :99].detach().double().log_softmax(-1)

    exact = log_probability(model)
    with torch.autocast("cpu", torch.bfloat16):
        autocast = log_probability(model)
    half = copy.deepcopy(model).bfloat16()
    kl, kl_autocast = ((exact.exp() * (exact - other)).sum(-1).mean() for other in (log_probability(half), autocast))
    assert half.hidden(x, masked_rows(x == 99, seed)).dtype == torch.float32
    assert 0 < kl < 2e-5 and kl < 1.5 * kl_autocast


@pytest.mark.parametrize("kind", ["infinite", "finite"])
def test_a_new_mask_embedding_changes_nothing_bit_for_bit(kind: str) -> None:
    plain = small_model("single")
    noisy = build_backbone(small_config(kind), 11, 10).eval()
    noisy.load_state_dict(plain.state_dict(), strict=False)
    x = torch.full((2, 6), 10)
    x[0, 1] = 3
    seed = torch.tensor([5, 6])
    assert torch.equal(plain.logits(x, seed), noisy.logits(x, seed))


@pytest.mark.parametrize("kind", ["infinite", "finite"])
def test_noise_reaches_masked_positions_alone(kind: str) -> None:
    model = small_model(kind)
    visible = torch.tensor([[1, 2, 3, 4]])
    assert torch.equal(model.logits(visible, torch.tensor([1])), model.logits(visible, torch.tensor([2])))
    masked = torch.tensor([[1, 10, 3, 4]])
    outputs = [model.logits(masked, torch.tensor([seed])) for seed in range(8)]
    assert any(not torch.equal(outputs[0], other) for other in outputs[1:])
    again = model.logits(masked, torch.tensor([0]), torch.tensor([[7, 0, 7, 7]]))
    assert torch.equal(outputs[0], again)


def test_untrained_logits_are_uniform() -> None:
    model = build_backbone(small_config("single"), 11, 10)
    probability = model.logits(torch.tensor([[1, 10]]), torch.tensor([0])).softmax(-1)
    assert torch.allclose(probability[..., :10], torch.tensor(0.1))
    assert probability[..., 10].max() == 0


@pytest.mark.parametrize("output_bias", [False, True])
def test_output_bias_is_a_choice(output_bias: bool) -> None:
    config = DitConfig(size="tiny", mask=MaskConfig(kind="infinite", output_bias=output_bias))
    with torch.device("meta"):
        names = build_backbone(config, *GPT2).state_dict()
    assert ("vocab_embed.imdm_mlp.2.bias" in names) == output_bias


class PositionMask(MaskEmbedding):
    """A mask of a user's own: a learned vector, times the position."""

    def __init__(self, config: MaskConfig, hidden_dim: int) -> None:
        super().__init__()
        self.vector = torch.nn.Parameter(torch.zeros(hidden_dim))

    def offset(self, rows: MaskedRows) -> Tensor:
        return rows.position_M[:, None] * self.vector


def test_a_mask_of_ones_own_goes_by_its_place() -> None:
    model = small_model("tests.model.test_backbone:PositionMask")
    assert model.get_parameter("vocab_embed.imdm_mlp.vector").any()
    x = torch.tensor([[10, 1, 10, 2]])
    h = model.hidden(x, masked_rows(x == 10, torch.arange(1)))
    with torch.no_grad():
        model.get_parameter("vocab_embed.imdm_mlp.vector").zero_()
    assert not torch.allclose(h, model.hidden(x, masked_rows(x == 10, torch.arange(1))))


@pytest.mark.parametrize(("kind", "told"), [("single", {}), ("infinite", {"noise_dim": 6, "output_bias": True})])
def test_a_published_mask_is_known_by_its_parameters(kind: str, told: dict[str, Any]) -> None:
    mask = build_mask(MaskConfig(kind=kind, noise_dim=6, output_bias=True), 8)
    assert deduce_mask(dict(mask.named_parameters())) == {"kind": kind, **told}
