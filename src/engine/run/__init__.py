"""A run: its folder, its record, what it reports, and how it stops."""
