"""The kinds of mask embedding, a file each; `imdm_dist.registry` names them."""
