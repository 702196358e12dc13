"""The backbones and their mask embeddings: plain torch modules."""

from imdm_dist.model.backbone import Backbone, build_backbone
from imdm_dist.model.mask_embedding import FiniteMask, InfiniteMask, MaskedRows, masked_rows
from imdm_dist.model.vocabulary import Vocabulary

__all__ = ["Backbone", "FiniteMask", "InfiniteMask", "MaskedRows", "Vocabulary", "build_backbone", "masked_rows"]
