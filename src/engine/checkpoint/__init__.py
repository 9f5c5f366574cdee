"""Checkpoints: when they are written, how they are read, and what a resume restores."""
