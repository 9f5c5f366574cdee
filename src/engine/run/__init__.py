"""A run: its folder, its record, its console output, and how it stops."""
