"""Engines: what computes gradients and takes optimizer steps."""

from imdm_dist.training.engine.engine import QUANTITIES, ByName, Engine, Quantity, engine_of

__all__ = ["QUANTITIES", "ByName", "Engine", "Quantity", "engine_of"]
