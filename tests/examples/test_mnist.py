import csv
from pathlib import Path

import pytest
import torch
from torchvision.datasets import MNIST

from src.data.mnist import MNISTDataModule, normalize
from tests.conftest import CONFIGS


def set_up(mnist, stage="fit", **options):
    data = MNISTDataModule(root=mnist.root, val_size=mnist.val_size, **options)
    data.setup(stage)
    return data


def test_train_and_validation_are_disjoint_complete_and_decided_by_split_seed(mnist):
    torch.manual_seed(1)
    data, other = set_up(mnist, split_seed=7), set_up(mnist, split_seed=8)
    torch.manual_seed(2)
    assert torch.equal(data.val_rows, set_up(mnist, split_seed=7).val_rows)
    assert not torch.equal(data.val_rows, other.val_rows)
    assert len(data.val_rows) == mnist.val_size
    assert sorted([*data.train_rows.tolist(), *data.val_rows.tolist()]) == list(range(mnist.num_train))


def test_images_stay_uint8_and_the_test_set_is_whole_and_in_order(mnist):
    data, official = set_up(mnist, "test"), MNIST(mnist.root, train=False)
    assert data.images[0].dtype == torch.uint8
    images, digits = (torch.cat(column) for column in zip(*data.test_dataloader(), strict=True))
    assert torch.equal(digits, official.targets)
    assert torch.equal(images, normalize(official.data))
    assert images.shape == (mnist.num_test, 1, 28, 28)
    if mnist.real:
        pixels = normalize(MNIST(mnist.root).data)
        assert float(pixels.mean()) == pytest.approx(0, abs=1e-3)
        assert float(pixels.std()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("epochs", "least"), [(2, 0.95), pytest.param(10, 0.98, marks=pytest.mark.slow)])
def test_mnist_reaches_98_percent_in_10_epochs_and_predicts_images(epochs, least, cli, mnist):
    short = [f"--trainer.max_epochs={epochs}"] if mnist.real else ["--trainer.max_epochs=8", "--data.batch_size=64"]
    short += ["--trainer.callbacks=null"]
    fitted = cli("fit", "--config", CONFIGS / "mnist.yaml", *mnist.options, *short)
    best = "runs/mnist/version_0/checkpoints/best.ckpt"
    assert f"python -m src predict --ckpt_path {best} --data.predict_path PATH" in fitted.out
    tested = cli("test", "--ckpt_path", best)
    assert tested.metrics["test/acc"] >= (least if mnist.real else 0.9)
    official, folder = MNIST(mnist.root, train=False), Path("digits")
    folder.mkdir()
    for number in range(10):
        official[number][0].save(folder / f"{number}.png")
    (folder / "notes.txt").write_text("no image")
    (folder / "half.png").write_bytes((folder / "0.png").read_bytes()[:60])
    done = cli("predict", "--ckpt_path", "runs/mnist/version_0", f"--data.predict_path={folder}")
    assert done.code == 0, done.err
    assert [line.split()[1] for line in done.err.splitlines() if "left out" in line] == ["digits/half.png"]
    with Path("runs/mnist/version_2/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [f"digits/{number}.png" for number in range(10)]
    right = [int(row["digit"]) == digit for row, digit in zip(rows, official.targets, strict=False)].count(True)
    assert right >= (9 if mnist.real else 0)  # a synthetic bar loses its place when it is centred
    assert all(0 < float(row["probability"]) <= 1 for row in rows)
