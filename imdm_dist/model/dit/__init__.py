"""The DiT of MDLM: the first family of backbones."""

from imdm_dist.model.dit.model import DiT

__all__ = ["DiT"]
