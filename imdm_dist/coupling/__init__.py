"""Couplings: pairs (start, noise seed, result) of a teacher's rollouts, made by any number of workers."""

from imdm_dist.coupling.coupling import Coupling
from imdm_dist.coupling.generate import generate
from imdm_dist.coupling.manifest import discard_damaged, make_plan, verify

__all__ = ["Coupling", "discard_damaged", "generate", "make_plan", "verify"]
