"""An ordinary DataLoader with workers and random augmentation, resumed to the bit."""

import shutil

import torch
from torch.utils.data import DataLoader

from src.data.mnist_augmented import AugmentedMNISTDataModule
from src.engine.data.loaders import MapLoader
from src.engine.data.order import Role
from tests.conftest import CONFIGS
from tests.stopping import run_differences, run_main


def make_loader(mnist, num_workers=0):
    made = AugmentedMNISTDataModule(num_workers, root=mnist.root, batch_size=8)
    made.train_rows = torch.arange(50)
    return made.train_dataloader()


def epochs(loader):
    torch.manual_seed(0)
    made, found = MapLoader(loader, Role()), []
    for epoch in range(2):
        made.set_epoch(epoch)
        images, digits = zip(*made, strict=True)
        found.append((torch.cat(images), torch.cat(digits)))
    return found


def test_images_change_with_the_epoch_and_not_with_the_number_of_workers(mnist):
    assert type(make_loader(mnist)) is DataLoader
    first, second = epochs(make_loader(mnist))
    assert first[0].shape == (50, 1, 28, 28)
    assert not any(torch.equal(a, b) for a in first[0] for b in second[0])
    assert torch.equal(first[1].sort().values, second[1].sort().values)
    assert (first[0].dtype, first[1].dtype) == (torch.float32, torch.int64)
    for alone, by_workers in zip((first, second), epochs(make_loader(mnist, 2)), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(alone, by_workers, strict=True))


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
