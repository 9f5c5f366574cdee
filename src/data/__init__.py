"""Data modules, and the loader they share."""
