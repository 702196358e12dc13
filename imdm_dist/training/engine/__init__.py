"""What runs optimizer steps on a backbone."""

from imdm_dist.training.engine.deepspeed import QUANTITIES, Engine, Fragment, Fragments, Quantity

__all__ = ["QUANTITIES", "Engine", "Fragment", "Fragments", "Quantity"]
