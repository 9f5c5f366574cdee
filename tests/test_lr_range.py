"""A learning rate range test."""

import csv
from pathlib import Path
from typing import ClassVar

import pytest
from lightning.pytorch import Callback


class Rates(Callback):
    """Notes the rate of each step of the optimizer."""

    rates: ClassVar[list[float]] = []

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.rates.append(optimizer.param_groups[0]["lr"])


def read_rows():
    with Path("runs/sums/version_0/lr_range.csv").open() as file:
        return [[float(value) for value in row] for row in csv.reader(file) if row[0] != "lr"]


def test_it_names_a_rate_within_the_range_in_which_the_net_learns(fit_sums):
    done = fit_sums("debug/lr_range.yaml", "--trainer.max_epochs=20")
    (line,) = [line for line in done.out.splitlines() if line.startswith("lr ")]
    rates, losses = zip(*read_rows(), strict=True)
    assert list(rates) == sorted(rates)
    assert rates[0] == pytest.approx(1e-6)
    assert len(rates) <= 100
    assert 1e-4 < float(line.split()[1].rstrip(":")) < 1
    assert min(losses) < 0.8 * max(losses[:-10])


def test_too_few_steps_are_counted(fit_sums):
    done = fit_sums("debug/lr_range.yaml", "--trainer.max_epochs=1")
    assert "12 steps are too few to find a rate, 16 are needed" in done.out


def test_with_accumulated_gradients_a_row_is_a_step_of_the_optimizer(fit_sums):
    Rates.rates.clear()
    # 10 batches: two steps of 4 batches, one of the 2 that are left over.
    accumulate = ("--trainer.accumulate_grad_batches=4", "--trainer.limit_train_batches=10")
    watched = ("--trainer.callbacks.num_steps=30", f"--trainer.callbacks+={__name__}.Rates", "--trainer.max_epochs=20")
    fit_sums("debug/lr_range.yaml", *accumulate, *watched, "--trainer.val_check_interval=3")
    rows = read_rows()
    assert [rate for rate, _ in rows] == pytest.approx(Rates.rates)
    assert 15 < len(rows) <= 30
    assert rows[1][0] / rows[0][0] == pytest.approx(1e7 ** (1 / 29))
