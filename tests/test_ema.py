"""An exponential moving average of the weights."""

import pytest
import torch

from tests.stopping import config, fit, resume, run_differences

EMA = {"class_path": "src.callbacks.ema.Ema", "init_args": {"decay": 0.9}}


def load(name="last", number=0):
    return torch.load(f"runs/sums/version_{number}/checkpoints/{name}.ckpt", weights_only=True)


def test_ema_is_what_is_saved_validated_and_tested_in_the_same_run_and_from_the_file(fit_sums, cli):
    done = fit_sums("callbacks/ema.yaml", "--test_after_fit=true")
    saved = load("best")
    assert not torch.equal(saved["state_dict"]["net.0.weight"], saved["current_model_state"]["net.0.weight"])
    alone = cli("test", "--ckpt_path", "runs/sums/version_0/checkpoints/best.ckpt").metrics
    assert alone["test/loss"] == done.metrics["test/loss"]


@pytest.mark.parametrize("stop", [("on_train_batch_end", 17), ("on_train_epoch_start", 3)])
def test_the_average_goes_on_with_the_same_bits(stop, tmp_path):
    whole = fit(tmp_path / "whole", config(callbacks=(EMA,)))
    run = fit(tmp_path / "stopped", config(callbacks=(EMA,)), stop)
    assert resume(run) == 0
    assert run_differences(whole, run) == []
