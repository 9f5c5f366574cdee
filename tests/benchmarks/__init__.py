"""`python -m tests.benchmarks` times this template against loops and pipelines written for comparison.

`rows.py` says what is compared, `handwritten.py` and `usual.py` hold the others, `ours.py` starts the template as
a user does, `child.py` gives each measured run a process of its own, `__main__.py` prints the table.
"""
