"""Ranks: how they find each other, their groups, tensor parallelism, and what happens when one fails."""
