"""Loggers: trackers, predictions and plots."""
