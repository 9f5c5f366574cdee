"""An exponential moving average of the weights."""

import torch


def load(name="last", number=0):
    return torch.load(f"runs/sums/version_{number}/checkpoints/{name}.ckpt", weights_only=True)


def test_ema_is_what_is_saved_validated_and_tested_in_the_same_run_and_from_the_file(fit_sums, cli):
    done = fit_sums("callbacks/ema.yaml", "--test_after_fit=true")
    saved = load("best")
    assert not torch.equal(saved["state_dict"]["net.0.weight"], saved["current_model_state"]["net.0.weight"])
    alone = cli("test", "--ckpt_path", "runs/sums/version_0/checkpoints/best.ckpt").metrics
    assert alone["test/loss"] == done.metrics["test/loss"]
