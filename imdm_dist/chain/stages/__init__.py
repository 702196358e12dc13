"""The kinds of stage, a file each; `imdm_dist/registry.py` lists them."""
