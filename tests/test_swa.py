"""The mean of the weights over the last epochs."""

from typing import ClassVar

import torch
from lightning.pytorch import Callback

from tests.stopping import config, killed_at, resume, run_differences


class Weights(Callback):
    """Keeps the weights after each sixth step, and those that are validated then: twice an epoch."""

    trained: ClassVar[list[torch.Tensor]] = []
    validated: ClassVar[list[torch.Tensor]] = []

    def on_train_batch_end(self, trainer, module, *rest):
        if trainer.global_step % 6 == 0:
            self.trained.append(module.net[0].weight.detach().clone())

    def on_validation_epoch_start(self, trainer, module):
        if not trainer.sanity_checking:
            self.validated.append(module.net[0].weight.detach().clone())


def test_the_mean_of_the_last_epochs_is_saved_validated_and_tested(cli, fit_sums):
    Weights.trained.clear()
    Weights.validated.clear()
    last = ("--trainer.callbacks.start=0.5", "--trainer.max_epochs=4", f"--trainer.callbacks+={__name__}.Weights")
    done = fit_sums("callbacks/swa.yaml", *last, "--test_after_fit=true", "--trainer.val_check_interval=6")
    *current, _, third, _, fourth = Weights.trained  # the mean begins with the third epoch's end
    mean = (third + fourth) / 2
    saved = torch.load("runs/sums/version_0/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert torch.allclose(saved["net.0.weight"], mean, atol=1e-6)
    for trained, validated in zip([*current, current[-1], third, third, mean], Weights.validated, strict=True):
        assert torch.allclose(trained, validated, atol=1e-6)
    best = "runs/sums/version_0/checkpoints/best.ckpt"
    assert cli("test", "--ckpt_path", best).metrics["test/loss"] == done.metrics["test/loss"]


def test_a_resumed_average_has_the_same_bits(tmp_path):
    swa = {"class_path": "src.callbacks.swa.Swa", "init_args": {"start": 0.25}}
    whole, killed = killed_at(("on_train_epoch_start", 3), tmp_path, config(callbacks=(swa,)))
    assert resume(killed) == 0
    assert run_differences(whole, killed) == []
