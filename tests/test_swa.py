"""The mean of the weights over the last epochs."""

from typing import ClassVar

import pytest
import torch
from lightning.pytorch import Callback

from tests.stopping import config, fit, resume, rows, run_differences


def swa(start):
    return {"class_path": "src.callbacks.swa.Swa", "init_args": {"start": start}}


class Ends(Callback):
    """Keeps the weights at the end of each epoch's training."""

    weights: ClassVar[list[torch.Tensor]] = []

    def on_train_batch_end(self, trainer, module, *rest):
        if trainer.is_last_batch:
            self.weights.append(module.net[0].weight.detach().clone())


def test_the_mean_of_the_last_epochs_is_saved_validated_and_tested(tmp_path, cli, fit_sums):
    Ends.weights.clear()
    run = fit(tmp_path / "mean", config(callbacks=(swa(0.5), {"class_path": f"{__name__}.Ends"}), max_epochs=4))
    last = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]["net.0.weight"]
    assert torch.allclose(last, torch.stack(Ends.weights[2:]).mean(dim=0), atol=1e-6)
    alone = fit(tmp_path / "alone", config(max_epochs=4))
    validated = [[row["val/loss"] for row in rows(each)] for each in (run, alone)]
    assert validated[0][:2] == validated[1][:2]  # before the mean begins, those of the current weights
    assert validated[0][3] != validated[1][3]
    done = fit_sums("callbacks/swa.yaml", "--test_after_fit=true")
    best = "runs/sums/version_0/checkpoints/best.ckpt"
    assert cli("test", "--ckpt_path", best).metrics["test/loss"] == done.metrics["test/loss"]


@pytest.mark.parametrize("stop", [("on_train_batch_end", 17), ("on_train_epoch_start", 3)])
def test_a_resumed_average_has_the_same_bits(stop, tmp_path):
    whole = fit(tmp_path / "whole", config(callbacks=(swa(0.25),)))
    run = fit(tmp_path / "stopped", config(callbacks=(swa(0.25),)), stop)
    assert resume(run) == 0
    assert run_differences(whole, run) == []
