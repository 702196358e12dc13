"""Chains of stages: what exists and is valid is kept, what is half done goes on."""

from imdm_dist.chain.chain import Chain, Stage, load_chain
from imdm_dist.chain.runner import run_chain

__all__ = ["Chain", "Stage", "load_chain", "run_chain"]
