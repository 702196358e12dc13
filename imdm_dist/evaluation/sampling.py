"""Samples of a model for evaluation: unconditional or completions, a function of the sampling seed.

Shape suffixes: B batch, L length, P prompts.
"""

from __future__ import annotations

import torch
from torch import Tensor
from tqdm import tqdm

from imdm_dist import draws
from imdm_dist.config.evaluation import EvaluationConfig
from imdm_dist.config.setting import require
from imdm_dist.diffusion.draw_source import DrawSource
from imdm_dist.diffusion.sampler import sample
from imdm_dist.draws import Purpose
from imdm_dist.model import Backbone
from imdm_dist.registry import SOURCES


def draw_samples(
    model: Backbone, config: EvaluationConfig, length: int, steps: int, seed: int, prompts_PL: Tensor | None = None
) -> Tensor:
    """Sequences [config.samples, L], int64; sample i is keyed by a child of `seed` and starts from prompt i mod P.

    Args:
        length: L of unconditional samples.
        prompts_PL: tokens with the mask id where to generate; None starts from masks alone.

    Raises:
        ValueError: `steps` is below 1, `config.source` cannot be imported, or the model has diverged.
    """
    require(steps >= 1, f"steps is {steps}: sample in 1 step or more")
    index = torch.arange(config.samples)
    seeds = draws.derive_seed(seed, Purpose.SAMPLE, index)
    if prompts_PL is None:
        prompts_PL = torch.full((1, length), model.mask_id)
    starts = prompts_PL[index % len(prompts_PL)]
    batches = list(zip(starts.split(config.batch), seeds.split(config.batch), strict=True))
    source: DrawSource = SOURCES.get(config.source)()
    drawn = []
    with tqdm(batches, desc=f"{steps} steps, seed {seed}", unit="batch", leave=False) as bar:
        for start_BL, seed_B in bar:
            drawn.append(sample(model, start_BL, seed_B, steps, config.noise_policy, source=source).tokens_BL)
    return torch.cat(drawn)
