"""A loss of NaN or infinity stops the run before the weights are spoilt."""

import json

import pytest
import torch

from src.data.loader import TensorLoader
from tests.stopping import Sums, config, fit, resume


class SpoiltSums(Sums):
    def __init__(self, value: float = float("nan")) -> None:
        super().__init__()
        self.data[0][40] = value


@pytest.mark.parametrize(("value", "loss", "accumulate"), [(float("nan"), "nan", 3), (1e38, "inf", 1)])
def test_it_stops_with_step_rate_and_last_good_checkpoint(value, loss, accumulate, tmp_path, capfd):
    loader = TensorLoader((torch.arange(48),), 4, shuffle=True, seed=0)
    batch = next(k for k, (rows,) in enumerate(loader) if 40 in rows)
    made = config(every_n_steps=1, accumulate_grad_batches=accumulate)
    run = fit(tmp_path, made | {"data": {"class_path": f"{__name__}.SpoiltSums", "init_args": {"value": value}}})
    at = f"step {batch // accumulate + 1} (epoch 0, lr 0.01)"
    err = capfd.readouterr().err
    assert f"error: The loss is {loss} at {at}. The last good checkpoint is {run}" in err
    assert "Traceback" not in err
    for file in run.glob("checkpoints/*.ckpt"):
        weights = torch.load(file, weights_only=True)["state_dict"]
        assert all(value.isfinite().all() for value in weights.values())
    if accumulate == 1:
        assert resume(run) == 1  # the same value again
        assert resume(run, "--data=tests.stopping.Sums", "--trainer.max_epochs=1") == 0


class RootOfZero(torch.nn.Linear):
    """Its output is finite, the gradient of sqrt(0) is not."""

    def __init__(self) -> None:
        super().__init__(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        return y + (y - y).pow(2).sum(dim=1, keepdim=True).sqrt()


@pytest.mark.parametrize("enabled", [True, False])
def test_weights_spoilt_by_a_gradient_alone_are_not_saved_unless_an_option_says_so(enabled, tmp_path, capfd):
    broken = config(every_n_steps=1, max_epochs=1) | {"finite": {"enabled": enabled}}
    broken["model"]["net"] = {"class_path": f"{__name__}.RootOfZero"}
    run = fit(tmp_path, broken)
    assert ("NaN or infinite weights" in capfd.readouterr().err) == enabled
    assert (run / "checkpoints/last.ckpt").exists() != enabled
    if not enabled:
        assert json.loads((run / "summary.json").read_text())["metrics"]["val/loss"] == "nan"
