"""Checkpoints: their format, how they are written and kept, and the models that are taken out of them."""
