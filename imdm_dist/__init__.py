"""imdm_dist: few-step text generation by Infinite Mask Diffusion (arXiv 2605.10518), at scale."""

import os

# Threads of a small operation that wait by spinning bring a busy machine to a standstill. Read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
