from types import SimpleNamespace

import pytest
import torch

from src.data.mnist import MNISTDataModule, normalize
from tests.conftest import CONFIGS


@pytest.fixture
def set_up(mnist):
    def build(stage="fit", **options):
        data = MNISTDataModule(root=mnist.root, **{"val_size": mnist.val_size} | options)
        device = SimpleNamespace(root_device=torch.device("cpu"))
        data.trainer = SimpleNamespace(
            strategy=device, global_rank=0, world_size=1, predicting=False, overfit_batches=0
        )
        data.setup(stage)
        return data

    return build


def test_train_and_validation_are_disjoint_and_complete(set_up, mnist):
    data = set_up()
    train, val = set(data.train_rows.tolist()), set(data.val_rows.tolist())
    assert not train & val
    assert train | val == set(range(mnist.num_train))
    assert len(val) == mnist.val_size


def test_the_split_is_a_function_of_its_own_seed(set_up):
    torch.manual_seed(1)
    first = set_up(split_seed=7).val_rows
    torch.manual_seed(2)
    assert torch.equal(first, set_up(split_seed=7).val_rows)
    assert not torch.equal(first, set_up(split_seed=8).val_rows)


def test_the_test_images_are_whole_in_order_and_never_trained_on(set_up, mnist):
    batches = list(set_up("test").test_dataloader())
    images, digits = (torch.cat(column) for column in zip(*batches, strict=True))
    assert len(images) == mnist.num_test
    from torchvision.datasets import MNIST

    official = MNIST(mnist.root, train=False)
    assert torch.equal(digits, official.targets)
    assert torch.equal(images, normalize(official.data))
    assert len(set_up("fit").images[0]) == mnist.num_train


def test_images_stay_as_stored_and_are_normalised_by_the_batch(set_up):
    data = set_up()
    assert data.images[0].dtype == torch.uint8
    x, target = next(iter(data.train_dataloader()))
    assert x.shape[1:] == (1, 28, 28)
    assert (x.dtype, target.dtype) == (torch.float32, torch.int64)


def test_normalised_images_have_mean_0_and_deviation_1(set_up, mnist):
    if not mnist.real:
        pytest.skip("the constants are those of the real MNIST, which is not here")
    pixels = normalize(set_up().images[0])
    assert abs(pixels.mean()) < 1e-3
    assert abs(pixels.std() - 1) < 1e-3


def test_mnist_reaches_98_percent_from_the_best_checkpoint(cli, mnist):
    if not mnist.real:
        pytest.skip("needs the real MNIST under data/")
    assert cli("fit", "--config", CONFIGS / "mnist.yaml", *mnist.options).code == 0
    assert cli("test", "--ckpt_path", "runs/mnist/version_0/checkpoints/best.ckpt").metrics["test/acc"] >= 0.980


def test_mnist_learns_on_the_synthetic_set(cli, mnist):
    if mnist.real:
        pytest.skip("the real MNIST is here, and learned above")
    done = cli(
        "fit", "--config", CONFIGS / "mnist.yaml", *mnist.options, "--trainer.max_epochs=3", "--data.batch_size=64"
    )
    assert done.code == 0, done.err
    assert done.metrics["test/acc"] > 0.9
