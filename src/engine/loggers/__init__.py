"""Loggers: metrics.csv, trackers, predictions and plots."""
