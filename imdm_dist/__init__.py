"""imdm_dist: few-step text generation by Infinite Mask Diffusion (arXiv 2605.10518), at scale."""

__version__ = "0.1.0"
