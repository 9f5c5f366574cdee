"""Data loaders: their order, their random numbers, and how they continue after a resume."""
