"""Training runs: the loop, its engine, its state and its record."""
