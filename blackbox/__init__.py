"""The evaluated program: from points to numbers. Knows nothing of optimizers."""
