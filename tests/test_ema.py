"""An exponential moving average of the weights."""

import threading

import pytest
import torch

from tests.conftest import CONFIGS
from tests.processes import IN_DOUBLE, XOR, assert_equal_runs, launch, processes
from tests.stopping import Sums, config, killed_at, resume, run_differences


class Locked(Sums):
    """Data with a lock, which cannot be copied with the weights."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


def test_the_average_is_saved_and_tested_in_the_run_and_from_the_file(fit_sums, cli):
    done = fit_sums("callbacks/ema.yaml", "--test_after_fit=true", f"--data={__name__}.Locked")
    best = "runs/sums/version_0/checkpoints/best.ckpt"
    saved = torch.load(best, weights_only=True)
    assert not torch.equal(saved["state_dict"]["net.0.weight"], saved["current_model_state"]["net.0.weight"])
    assert cli("test", "--ckpt_path", best).metrics["test/loss"] == done.metrics["test/loss"]


def test_a_resumed_average_has_the_same_bits(tmp_path):
    ema = {"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging", "init_args": {"decay": 0.9}}
    whole, killed = killed_at(("on_train_batch_end", 17), tmp_path, config(callbacks=(ema,)))
    assert resume(killed) == 0
    assert run_differences(whole, killed) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_two_processes_average_what_one_does(kind, tmp_path):
    fragment = CONFIGS / f"callbacks/{kind}.yaml"
    if not fragment.is_file():
        pytest.skip(f"{kind} was removed")
    options = ("fit", *XOR, "--config", fragment, *IN_DOUBLE, "--data.passes=30", "--trainer.max_epochs=6")
    for number in (1, 2):
        devices = (*processes(number), f"--data.batch_size={4 // number}", f"--trainer.default_root_dir={number}")
        launch(*options, *devices, cwd=tmp_path)
    assert_equal_runs(tmp_path / "1/xor/version_0", tmp_path / "2/xor/version_0", 1e-9)
