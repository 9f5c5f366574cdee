"""A look for a learning rate."""

import csv
from pathlib import Path

import pytest


def test_lr_range_names_a_rate_and_writes_all_of_them(fit_sums):
    done = fit_sums("debug/lr_range.yaml", "--trainer.max_epochs=20")
    (line,) = [line for line in done.out.splitlines() if line.startswith("lr ")]
    with Path("runs/sums/version_0/lr_range.csv").open() as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    rates = [row["lr"] for row in rows]
    assert rates == sorted(rates)
    assert rates[0] == pytest.approx(1e-6)
    assert len(rows) <= 100
    assert 1e-4 < float(line.split()[1].rstrip(":")) < 1
    # It is a range in which the net learns.
    losses = [row["smoothed_loss"] for row in rows]
    assert min(losses) < 0.8 * max(losses[:-10])


def test_too_few_steps_are_told(fit_sums):
    done = fit_sums("debug/lr_range.yaml", "--trainer.max_epochs=1")
    assert "12 steps are too few to find a rate, 16 are needed" in done.out
