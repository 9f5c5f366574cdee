"""Times this template against hand-written loops and the usual pipeline: `python -m tests.benchmarks`."""
