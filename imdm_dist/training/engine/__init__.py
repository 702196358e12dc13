"""Engines: what takes optimizer steps on a backbone."""

from imdm_dist.training.engine.engine import QUANTITIES, ByName, Engine, Quantity, engine_of

__all__ = ["QUANTITIES", "ByName", "Engine", "Quantity", "engine_of"]
