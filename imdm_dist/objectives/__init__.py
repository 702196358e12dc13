"""Losses, and the examples they are computed on."""
