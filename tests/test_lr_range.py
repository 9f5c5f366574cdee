"""A look for a learning rate."""

import csv
from pathlib import Path
from typing import ClassVar

import pytest
from lightning.pytorch import Callback


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


class Losses(Callback):
    """Notes the loss of each batch, and the rate of each step of the optimizer."""

    losses: ClassVar[list[float]] = []
    rates: ClassVar[list[float]] = []

    def on_before_backward(self, trainer, module, loss):
        self.losses.append(float(loss) * trainer.accumulate_grad_batches)

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.rates.append(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize("val_check_interval", [1.0, 3])
def test_with_accumulated_gradients_a_row_is_a_step_of_the_optimizer(fit_sums, val_check_interval):
    Losses.losses, Losses.rates = [], []
    # 10 batches: two steps of 4 batches, one of the 2 that are left over.
    accumulate = ("--trainer.accumulate_grad_batches=4", "--trainer.limit_train_batches=10")
    every = f"--trainer.val_check_interval={val_check_interval}"
    watched = ("--trainer.callbacks.num_steps=30", f"--trainer.callbacks+={__name__}.Losses", "--trainer.max_epochs=20")
    done = fit_sums("debug/lr_range.yaml", *accumulate, *watched, every)
    with Path("runs/sums/version_0/lr_range.csv").open() as file:
        rows = [[float(value) for value in row] for row in csv.reader(file) if row[0] != "lr"]
    assert [rate for rate, _ in rows] == pytest.approx(Losses.rates)
    assert 15 < len(rows) <= 30
    assert rows[1][0] / rows[0][0] == pytest.approx(1e7 ** (1 / 29))
    sizes, steps, mean = [4, 4, 2] * 20, [], 0.0
    batches = list(Losses.losses)
    for number, (size, (_, smooth)) in enumerate(zip(sizes, rows, strict=False), start=1):
        loss, batches = sum(batches[:size]) / size, batches[size:]
        mean = 0.95 * mean + 0.05 * loss
        steps.append(mean / (1 - 0.95**number))
        assert smooth == pytest.approx(steps[-1], rel=1e-5)
    assert batches == []
    assert f", {len(rows)} steps," in done.out
