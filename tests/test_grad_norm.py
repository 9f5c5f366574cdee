"""The logged norm is that of the gradients before each step, and a resume within an epoch changes no digit of it."""

import pytest
from lightning.pytorch import Callback

from tests.stopping import config, fit, resume, rows

NORM = {"class_path": "src.callbacks.grad_norm.GradNorm"}
NOTES = {"class_path": f"{__name__}.Notes"}


class Notes(Callback):
    """Notes the norm before each step, worked out by hand."""

    norms: list[float] = []  # noqa: RUF012 -- shared with the test

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.norms.append(sum(float(each.grad.square().sum()) for each in module.parameters()) ** 0.5)


def test_grad_norm_is_the_mean_over_an_epochs_steps(tmp_path):
    Notes.norms.clear()
    run = fit(tmp_path, config(callbacks=(NORM, NOTES), max_epochs=2, gradient_clip_val=0.1))
    logged = [float(row["train/grad_norm"]) for row in rows(run)]
    assert logged == pytest.approx([sum(Notes.norms[:12]) / 12, sum(Notes.norms[12:]) / 12])


def test_grad_norm_resumes_within_an_epoch(tmp_path):
    whole = fit(tmp_path / "whole", config(callbacks=(NORM,), max_epochs=2))
    stopped = fit(tmp_path / "stopped", config(callbacks=(NORM,), max_epochs=2), stop_at=("on_train_batch_end", 19))
    assert resume(stopped) == 0
    assert (stopped / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
