"""The DiT of MDLM: the first family of backbones."""

from imdm_dist.model.dit.model import DiT
from imdm_dist.model.dit.settings import DitConfig

__all__ = ["DiT", "DitConfig"]
