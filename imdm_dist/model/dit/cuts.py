"""How tensor parallel divides the DiT.

qkv rows are packed (three, head, width): each of the three is cut alone, which gives every rank whole heads.
Embedding and head are cut by vocabulary rows, padded to a multiple of the ranks.
"""

from __future__ import annotations

from imdm_dist.model.cuts import Cut

CUTS = {
    r"vocab_embed\.embedding|output_layer\.linear\.(weight|bias)": Cut(0),
    r"blocks\.\d+\.attn_qkv\.weight": Cut(0, blocks=3),
    r"blocks\.\d+\.mlp\.0\.(weight|bias)": Cut(0),
    r"blocks\.\d+\.(attn_out|mlp\.2)\.weight": Cut(1),
}
