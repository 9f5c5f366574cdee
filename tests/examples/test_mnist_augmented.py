"""An ordinary DataLoader with workers and random augmentation, resumed amid an epoch."""

import os
import signal
import subprocess
import sys

import pytest
import torch

from src.data.mnist_augmented import Augmented, AugmentedMNISTDataModule, EpochLoader, EpochSampler
from tests.conftest import CONFIGS, PROJECT
from tests.stopping import run_differences, run_main

# Workers of a run that was stopped amid an epoch are joined, for minutes, wherever the garbage collector finds them.
pytestmark = pytest.mark.slow

pytest.importorskip("torchdata")


def loader(num_workers: int, num_images: int = 50) -> EpochLoader:
    """Each image is a shade of its own, each digit its number."""
    images = torch.arange(num_images, dtype=torch.uint8)[:, None, None].expand(-1, 28, 28)
    dataset = Augmented(images, torch.arange(num_images), AugmentedMNISTDataModule().transform, seed=1)
    sampler = EpochSampler(dataset, num_replicas=1, rank=0, seed=1)
    return EpochLoader(dataset, 8, sampler=sampler, num_workers=num_workers, generator=torch.Generator())


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("epoch", [0, 3])
def test_each_sample_comes_once_per_epoch_across_a_stop(num_workers, epoch):
    whole = loader(0)
    whole.sampler.set_epoch(epoch)
    expected = list(whole)
    first = loader(num_workers)
    first.sampler.set_epoch(epoch)
    batches = iter(first)
    before = [next(batches) for _ in range(3)]
    state = first.state_dict()
    second = loader(num_workers)
    second.load_state_dict(state)
    batches = iter(second)
    second.sampler.set_epoch(epoch)
    after = list(batches)
    assert torch.cat([digits for _, digits in before + after]).sort().values.tolist() == list(range(50))
    for (x, digits), (x_expected, digits_expected) in zip(before + after, expected, strict=True):
        assert torch.equal(x, x_expected)
        assert torch.equal(digits, digits_expected)


def test_a_position_in_one_epoch_says_nothing_about_another():
    first, second = loader(0), loader(0)
    batches = iter(first)
    next(batches)
    second.load_state_dict(first.state_dict())
    second.sampler.set_epoch(1)
    assert sorted(torch.cat([digits for _, digits in second]).tolist()) == list(range(50))


def test_the_next_epoch_is_whole_and_another(tmp_path):
    it = loader(0)
    epochs = []
    for epoch in range(2):
        it.sampler.set_epoch(epoch)
        epochs.append(list(it))
    assert all(sorted(torch.cat([d for _, d in batches]).tolist()) == list(range(50)) for batches in epochs)
    assert not torch.equal(epochs[0][0][1], epochs[1][0][1])


def test_an_image_is_changed_in_another_way_in_each_epoch():
    dataset = Augmented(
        torch.randint(0, 255, (1, 28, 28), dtype=torch.uint8), torch.zeros(1), AugmentedMNISTDataModule().transform, 1
    )
    assert torch.equal(dataset[0, 0][0], dataset[0, 0][0])
    assert not torch.equal(dataset[0, 0][0], dataset[1, 0][0])


def short_fit(mnist) -> list[str]:
    """A run of two epochs."""
    return [
        *("fit", "--config", str(CONFIGS / "mnist_augmented.yaml"), *mnist.options),
        *("--trainer.callbacks+=tests.stopping.Stop", "--trainer.max_epochs=2"),
        *("--trainer.limit_val_batches=2", "--data.batch_size=32", "--checkpoint.every_n_steps=3"),
        *("--test_after_fit=false", "--model.scheduler=null", "--trainer.enable_progress_bar=false"),
    ]


@pytest.mark.parametrize("stop", [("on_train_batch_end", 8), ("on_train_epoch_start", 2), ("on_train_batch_end", 20)])
def test_a_run_resumed_amid_an_epoch_ends_with_the_same_bits(stop, mnist, tmp_path):
    command = [*short_fit(mnist), "--trainer.limit_train_batches=12"]
    assert run_main([*command, f"--trainer.default_root_dir={tmp_path / 'whole'}"]) == 0
    assert run_main([*command, f"--trainer.default_root_dir={tmp_path / 'stopped'}"], stop) == -1
    run = tmp_path / "stopped/mnist_augmented/version_0"
    assert run_main(["fit", "--ckpt_path", str(run)]) == 0
    assert run_differences(tmp_path / "whole/mnist_augmented/version_0", run) == []


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_to_the_whole_job_finds_the_workers_alive_until_the_run_is_saved(name, code, mnist, tmp_path):
    """As a terminal's Ctrl-C and a scheduler send it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "src", *short_fit(mnist)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    run = tmp_path / "runs/mnist_augmented/version_0"
    while not (run / "checkpoints/last.ckpt").exists():
        assert process.poll() is None
    os.killpg(process.pid, getattr(signal, name))
    _, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert "Traceback" not in err
    step = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert f"{name} at step {step}; go on with: python -m src fit --ckpt_path" in err


def test_overfitting_takes_the_images_as_they_are(cli, mnist):
    done = cli(*short_fit(mnist), "--trainer.overfit_batches=1")
    assert done.code == 0, done.err
