"""Chains: a DAG of stages in one YAML file, run idempotently here or on SLURM."""

from imdm_dist.chain.chain import Chain, load_chain
from imdm_dist.chain.runner import run_chain
from imdm_dist.chain.stage import Stage, StageProgress, input_of

__all__ = ["Chain", "Stage", "StageProgress", "input_of", "load_chain", "run_chain"]
