"""The metrics, a file each; `evaluation.metrics` lists those that run, and `registry.METRICS` has their names."""
