"""The mean of the weights over the last epochs."""

from typing import ClassVar

import pytest
import torch
from lightning.pytorch import Callback

from tests.stopping import config, fit, resume, rows, run_differences

SWA = {"class_path": "src.callbacks.swa.Swa", "init_args": {"start": 0.25}}


def load(number=0):
    return torch.load(f"runs/sums/version_{number}/checkpoints/last.ckpt", weights_only=True)


def test_swa_saves_the_mean_and_tests_from_the_file(fit_sums, cli):
    fit_sums(
        "callbacks/swa.yaml",
        "--trainer.callbacks.start=0.5",
        "--trainer.max_epochs=4",
        "--model.optimizer=torch.optim.SGD",
        "--model.optimizer.lr=0.1",
    )
    fit_sums("--trainer.max_epochs=4", "--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.1")
    plain, mean = load(number=1)["state_dict"], load(number=0)["state_dict"]
    assert not torch.equal(plain["net.0.weight"], mean["net.0.weight"])
    assert cli("test", "--ckpt_path", "runs/sums/version_0").code == 0


@pytest.mark.parametrize("stop", [("on_train_batch_end", 17), ("on_train_epoch_start", 3)])
def test_the_average_goes_on_with_the_same_bits(stop, tmp_path):
    whole = fit(tmp_path / "whole", config(callbacks=(SWA,)))
    run = fit(tmp_path / "stopped", config(callbacks=(SWA,)), stop)
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
