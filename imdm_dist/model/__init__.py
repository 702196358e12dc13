"""The backbones and their mask embeddings: plain torch modules."""

from imdm_dist.model.backbone import Backbone, build_backbone, sketch
from imdm_dist.model.mask_embedding import MaskedRows, MaskEmbedding, masked_rows
from imdm_dist.model.vocabulary import Vocabulary

__all__ = ["Backbone", "MaskEmbedding", "MaskedRows", "Vocabulary", "build_backbone", "masked_rows", "sketch"]
