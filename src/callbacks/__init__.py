"""Callbacks that a YAML names under `trainer.callbacks`; none is on by itself. Yours go here, too."""
