"""Trackers beside metrics.csv: what each one needs, how it goes on after a resume, and what it is sent."""
