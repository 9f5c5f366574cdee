"""Modules: steps, losses, metrics, optimizers and schedules."""
