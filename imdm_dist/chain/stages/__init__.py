"""The kinds of stage, a file each; `imdm_dist/registry.py` lists them."""

NO_TABLE = {"models": {}, "evaluator": ""}
"""What every stage's identity says where its kind has no such keys: folders of finished stages keep their names."""
