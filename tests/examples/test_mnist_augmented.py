"""An ordinary DataLoader with workers and random augmentation, resumed to the bit."""

import pytest
import torch
from torch.utils.data import DataLoader

from src.data.mnist_augmented import AugmentedMNISTDataModule
from src.engine.data.map_loader import MapLoader
from src.engine.data.order import Role
from tests.conftest import CONFIGS
from tests.stopping import run_differences, run_main


def data(num_workers: int, num_images: int = 50) -> AugmentedMNISTDataModule:
    """Each image has a bar at a place of its own, each digit is its number."""
    made = AugmentedMNISTDataModule(batch_size=8, num_workers=num_workers)
    images = torch.zeros(num_images, 28, 28, dtype=torch.uint8)
    for index in range(num_images):
        images[index, index % 28, :14] = 255 - index
    made.images, made.train_rows = (images, torch.arange(num_images)), torch.arange(num_images)
    return made


def test_the_loader_is_an_ordinary_one():
    loader = data(2).train_dataloader()
    assert type(loader) is DataLoader
    assert loader.num_workers == 2
    x, digits = next(iter(data(0).train_dataloader()))
    assert x.shape == (8, 1, 28, 28)
    assert x.dtype == torch.float32
    assert digits.shape == (8,)


def test_an_image_is_changed_in_another_way_in_each_epoch_and_alike_with_any_number_of_workers():
    def epochs(num_workers: int) -> list[dict[int, torch.Tensor]]:
        torch.manual_seed(0)
        made = MapLoader(data(num_workers).train_dataloader(), Role())
        found = []
        for epoch in range(2):
            made.set_epoch(epoch)
            found.append({int(digit): image for x, digits in made for image, digit in zip(x, digits, strict=True)})
        return found

    first, second = epochs(0)
    assert first.keys() == second.keys() == set(range(50))
    assert not any(torch.equal(first[digit], second[digit]) for digit in first)
    for alone, by_workers in zip((first, second), epochs(2), strict=True):
        assert all(torch.equal(image, by_workers[digit]) for digit, image in alone.items())


def test_overfitting_takes_the_same_images_changed_alike_in_each_epoch():
    made = MapLoader(data(0).train_dataloader(), Role(keep_order=True))
    epochs = []
    for epoch in range(2):
        made.set_epoch(epoch)
        epochs.append(next(iter(made)))
    assert all(torch.equal(a, b) for a, b in zip(*epochs, strict=True))
    assert epochs[0][1].tolist() == list(range(8))


def short_fit(mnist) -> list[str]:
    """A run of two epochs."""
    return [
        *("fit", "--config", str(CONFIGS / "mnist_augmented.yaml"), *mnist.options),
        *("--trainer.callbacks+=tests.stopping.Stop", "--trainer.max_epochs=2", "--trainer.limit_train_batches=12"),
        *("--trainer.limit_val_batches=2", "--data.batch_size=32", "--checkpoint.every_n_steps=3"),
        *("--test_after_fit=false", "--model.scheduler=null", "--trainer.enable_progress_bar=false"),
    ]


@pytest.mark.parametrize(
    "stop",
    [
        pytest.param(("on_train_batch_end", 8), id="amid"),
        pytest.param(("on_train_batch_start", 13), id="between", marks=pytest.mark.slow),
        pytest.param(("on_train_batch_end", 20), id="amid-the-second", marks=pytest.mark.slow),
    ],
)
def test_a_run_that_was_stopped_ends_with_the_same_bits(stop, mnist, tmp_path):
    command = short_fit(mnist)
    assert run_main([*command, f"--trainer.default_root_dir={tmp_path / 'whole'}"]) == 0
    assert run_main([*command, f"--trainer.default_root_dir={tmp_path / 'stopped'}"], stop) == -1
    run = tmp_path / "stopped/mnist_augmented/version_0"
    assert run_main(["fit", "--ckpt_path", str(run)]) == 0
    assert run_differences(tmp_path / "whole/mnist_augmented/version_0", run) == []
