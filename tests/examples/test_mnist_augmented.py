"""An ordinary DataLoader with workers and random augmentation, resumed to the bit."""

import shutil

import torch

from src.data.mnist_augmented import AugmentedMNISTDataModule
from src.engine.data.loaders import MapLoader
from src.engine.data.order import Role
from tests.conftest import CONFIGS
from tests.stopping import run_differences, run_main


def test_images_change_with_the_epoch_and_not_with_the_number_of_workers(mnist):
    def epoch(number, num_workers):
        data = AugmentedMNISTDataModule(num_workers, root=mnist.root, batch_size=8)
        data.train_rows = torch.arange(50)
        loader = MapLoader(data.train_dataloader(), Role(seed=0))
        loader.set_epoch(number)
        images, digits = map(torch.cat, zip(*loader, strict=True))
        return images[digits.argsort(stable=True)], digits.sort().values

    (first, digits), (second, same) = epoch(0, 0), epoch(1, 0)
    assert first.shape == (50, 1, 28, 28)
    assert not any(torch.equal(a, b) for a in first for b in second)
    assert torch.equal(digits, same)
    assert torch.equal(first, epoch(0, 2)[0])


def test_a_killed_run_ends_with_the_same_bits(mnist, tmp_path):
    command = [
        *("fit", "--config", str(CONFIGS / "mnist_augmented.yaml"), *mnist.options, "--model.scheduler=null"),
        *("--trainer.callbacks=null", "--trainer.callbacks+=tests.stopping.Stop", "--trainer.max_epochs=2"),
        *("--trainer.limit_train_batches=6", "--trainer.limit_val_batches=2", "--data.batch_size=16"),
        *("--checkpoint.every_n_steps=3", "--test_after_fit=false", "--trainer.enable_progress_bar=false"),
    ]
    whole, killed = (tmp_path / name / "mnist_augmented/version_0" for name in ("whole", "killed"))
    place = f"--trainer.default_root_dir={tmp_path / 'whole'}"
    assert run_main([*command, place], ("on_train_batch_end", 4), lambda: shutil.copytree(whole, killed)) == 0
    assert run_main(["fit", "--ckpt_path", str(killed)]) == 0
    assert run_differences(whole, killed) == []
