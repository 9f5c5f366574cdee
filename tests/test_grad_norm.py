"""The logged norm is that of the gradients before each step, and a resume within an epoch changes no digit of it."""

from typing import ClassVar

import pytest
from lightning.pytorch import Callback

from tests.stopping import config, killed_at, resume, rows


class Notes(Callback):
    """Notes the norm before each step, worked out by hand."""

    norms: ClassVar[list[float]] = []

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.norms.append(sum(float(each.grad.square().sum()) for each in module.parameters()) ** 0.5)


def test_grad_norm_is_the_mean_over_an_epochs_steps_also_after_a_resume(tmp_path):
    callbacks = ({"class_path": "src.callbacks.grad_norm.GradNorm"}, {"class_path": f"{__name__}.Notes"})
    made = config(callbacks=callbacks, max_epochs=2, gradient_clip_val=0.1)
    Notes.norms.clear()
    whole, killed = killed_at(("on_train_batch_end", 19), tmp_path, made)
    logged = [float(row["train/grad_norm"]) for row in rows(whole)]
    assert logged == pytest.approx([sum(Notes.norms[:12]) / 12, sum(Notes.norms[12:]) / 12])
    assert resume(killed) == 0
    assert (killed / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
