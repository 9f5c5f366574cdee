"""A loss of NaN or infinity stops the run before the weights are spoilt."""

from typing import Any

import pytest
import torch

from src.data.loader import TensorLoader
from tests.stopping import Sums, config, fit, resume, run_main


class SpoiltSums(Sums):
    """Sums with a value that is no number, or so large that the loss is infinite."""

    def __init__(self, value: float = float("nan")) -> None:
        super().__init__()
        self.data[0][40] = value


def experiment(value: float, **trainer: Any) -> dict[str, Any]:
    return config(**trainer) | {"data": {"class_path": f"{__name__}.SpoiltSums", "init_args": {"value": value}}}


@pytest.mark.parametrize(("value", "loss"), [(float("nan"), "nan"), (float("inf"), "nan"), (1e38, "inf")])
def test_it_stops_with_step_rate_and_last_good_checkpoint(value, loss, tmp_path, capfd):
    loader = TensorLoader((torch.arange(48),), 4, shuffle=True, seed=0)
    step = next(k for k, (rows,) in enumerate(loader, start=1) if 40 in rows)
    run = fit(tmp_path, experiment(value, val_check_interval=0.25))
    err = capfd.readouterr().err
    assert f"error: The loss is {loss} at step {step} (epoch 0, lr 0.01). The last good checkpoint is {run}" in err
    assert "Traceback" not in err
    for file in run.glob("checkpoints/*.ckpt"):
        weights = torch.load(file, weights_only=True)["state_dict"]
        assert all(value.isfinite().all() for value in weights.values())
    assert resume(run, "--data=tests.stopping.Sums") == 0


def test_the_exit_code_says_so_with_accumulated_gradients_too(tmp_path, capfd):
    fit(tmp_path, experiment(float("nan"), accumulate_grad_batches=3))
    assert "error: The loss is nan" in capfd.readouterr().err
    command = ["fit", "--config", str(tmp_path / "experiment.yaml"), f"--trainer.default_root_dir={tmp_path}"]
    assert run_main(command) == 1


def test_an_option_turns_it_off(tmp_path):
    run = fit(tmp_path, experiment(float("nan")) | {"finite": {"enabled": False}})
    weights = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert not all(value.isfinite().all() for value in weights.values())


class RootOfZero(torch.nn.Linear):
    """Its output is finite, the gradient of sqrt(0) is not."""

    def __init__(self) -> None:
        super().__init__(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        return y + (y - y).pow(2).sum(dim=1, keepdim=True).sqrt()


def test_weights_spoilt_by_a_gradient_alone_are_not_saved(tmp_path, capfd):
    broken = config(every_n_steps=1)
    broken["model"]["net"] = {"class_path": f"{__name__}.RootOfZero"}
    run = fit(tmp_path, broken)
    assert "NaN or infinite weights" in capfd.readouterr().err
    assert not list(run.glob("checkpoints/*.ckpt"))
