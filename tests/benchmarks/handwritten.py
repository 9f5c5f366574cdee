"""Hand-written PyTorch loops without Lightning, which the template is measured against.

They are fast: data in memory, one index operation per batch, a fused optimizer, no wait for the device in an epoch.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torchvision.datasets import MNIST

from src.models.mnist import MnistMLP
from src.models.xor import XorMLP
from tests.benchmarks.child import experiment, stopwatch


def mnist(root: str, seed: int, folder: str) -> dict[str, Any]:
    """Train MNIST with the net, loss, optimizer, schedule and number of epochs of configs/mnist.yaml.

    Returns:
        `seconds` from loading the data to the last validation, `peak_mib`, `steps` and `test_acc`.
    """
    config = experiment()
    num_epochs, batch_size = config["trainer"]["max_epochs"], 512
    result: dict[str, Any] = {}
    with stopwatch(result):
        torch.manual_seed(seed)
        data = MNIST(root, train=True)
        images, digits = data.data, data.targets
        rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(42))
        val_rows, train_rows = rows[:5_000], rows[5_000:]
        steps = num_epochs * -(-len(train_rows) // batch_size)
        net = MnistMLP()
        loss_fn = nn.CrossEntropyLoss(**config["model"]["loss"].get("init_args", {}))
        optimizer = torch.optim.AdamW(net.parameters(), **config["model"]["optimizer"]["init_args"])
        scheduler = OneCycleLR(optimizer, **{**config["model"]["scheduler"]["init_args"], "total_steps": steps})
        for epoch in range(num_epochs):
            net.train()
            loss_sum = torch.zeros(())
            for batch in train_rows[torch.randperm(len(train_rows))].split(batch_size):
                loss = loss_fn(net(normalize(images[batch])), digits[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()
                loss_sum += loss.detach() * len(batch)
            val_loss, val_acc = evaluate(net, images[val_rows], digits[val_rows], batch_size)
            train_loss = loss_sum.item() / len(train_rows)
            print(f"epoch {epoch + 1}  train {train_loss:.4f}  val {val_loss:.4f}  accuracy {val_acc:.4f}")
    test = MNIST(root, train=False)
    return result | {"steps": steps, "test_acc": evaluate(net, test.data, test.targets, batch_size)[1]}


def normalize(images: Tensor) -> Tensor:
    """(B, 28, 28) uint8 to (B, 1, 28, 28) float32 with mean 0 and standard deviation 1."""
    return images.unsqueeze(1).float().div_(255 * 0.3081).sub_(0.1307 / 0.3081)


@torch.no_grad()
def evaluate(net: nn.Module, images: Tensor, digits: Tensor, batch_size: int) -> tuple[float, float]:
    """Return mean loss and accuracy."""
    net.eval()
    loss_sum, correct = torch.zeros(()), torch.zeros((), dtype=torch.int64)
    for x, target in zip(images.split(batch_size), digits.split(batch_size), strict=True):
        logits = net(normalize(x))
        loss_sum += nn.functional.cross_entropy(logits, target, reduction="sum")
        correct += (logits.argmax(dim=1) == target).sum()
    return loss_sum.item() / len(images), correct.item() / len(images)


def xor(root: str, seed: int, folder: str) -> dict[str, Any]:
    """Train XOR in 2,000 full-batch steps of SGD and print its progress.

    Returns:
        `seconds`, `peak_mib`, `steps` and the four `outputs`.
    """
    result: dict[str, Any] = {}
    with stopwatch(result):
        torch.manual_seed(42)
        x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
        target = torch.tensor([[0.0], [1.0], [1.0], [0.0]])
        net, loss_fn = XorMLP(), nn.BCEWithLogitsLoss()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
        for step in range(1, 2_001):
            loss = loss_fn(net(x), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step == 1 or step % 250 == 0:
                print(f"step {step:>5}  loss {loss.item():.4f}")
        with torch.no_grad():
            outputs = net(x).sigmoid().flatten().tolist()
    return result | {"steps": 2_000, "outputs": outputs}
