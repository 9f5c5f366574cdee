"""Averages of the weights: exponential, and over the last epochs."""

from typing import ClassVar

import pytest
import torch
from lightning.pytorch import Callback

from tests.stopping import config, fit, resume, rows, run_differences

SWA = {"class_path": "src.callbacks.swa.Swa", "init_args": {"start": 0.25}}
EMA = {"class_path": "src.callbacks.ema.Ema", "init_args": {"decay": 0.9}}


def load(name="last", number=0):
    return torch.load(f"runs/sums/version_{number}/checkpoints/{name}.ckpt", weights_only=True)


def test_ema_is_what_is_saved_validated_and_tested_in_the_same_run_and_from_the_file(fit_sums, cli):
    done = fit_sums("callbacks/ema.yaml", "--test_after_fit=true")
    saved = load("best")
    assert not torch.equal(saved["state_dict"]["net.0.weight"], saved["current_model_state"]["net.0.weight"])
    alone = cli("test", "--ckpt_path", "runs/sums/version_0/checkpoints/best.ckpt").metrics
    assert alone["test/loss"] == done.metrics["test/loss"]


@pytest.mark.parametrize("average", [EMA, SWA], ids=["ema", "swa"])
@pytest.mark.parametrize("stop", [("on_train_batch_end", 17), ("on_train_epoch_start", 3)])
def test_the_average_goes_on_with_the_same_bits(stop, average, tmp_path):
    whole = fit(tmp_path / "whole", config(callbacks=(average,)))
    run = fit(tmp_path / "stopped", config(callbacks=(average,)), stop)
    assert resume(run) == 0
    assert run_differences(whole, run) == []


class Ends(Callback):
    """Keeps the weights at the end of each epoch's training."""

    weights: ClassVar[list[torch.Tensor]] = []

    def on_train_batch_end(self, trainer, module, *rest):
        if trainer.is_last_batch:
            self.weights.append(module.net[0].weight.detach().clone())


def test_swa_is_the_mean_of_the_last_epochs_and_before_them_the_weights_of_now(tmp_path):
    Ends.weights.clear()
    ends = {"class_path": f"{Ends.__module__}.Ends"}
    run = fit(tmp_path, config(callbacks=({**SWA, "init_args": {"start": 0.5}}, ends), max_epochs=4))
    last = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]["net.0.weight"]
    assert torch.allclose(last, torch.stack(Ends.weights[2:]).mean(dim=0), atol=1e-6)
    alone = fit(tmp_path / "alone", config(max_epochs=4))
    validated = [[row["val/loss"] for row in rows(each)] for each in (run, alone)]
    assert validated[0][:2] == validated[1][:2]
    assert validated[0][3] != validated[1][3]
