"""The backbone and its mask embeddings: plain torch modules."""

from imdm_dist.model.backbone import DiT
from imdm_dist.model.mask_embedding import FiniteMask, InfiniteMask, MaskedRows, masked_rows
from imdm_dist.model.vocabulary import Vocabulary

__all__ = ["DiT", "FiniteMask", "InfiniteMask", "MaskedRows", "Vocabulary", "masked_rows"]
