"""Counter-based random draws: every value is a pure function of its keys."""

from imdm_dist.draws.keyed import Purpose, derive_seed, integer, noise, noise_words, uniform

__all__ = ["Purpose", "derive_seed", "integer", "noise", "noise_words", "uniform"]
