"""Hand-written PyTorch loops without Lightning, which the template is measured against.

They are fast: data in memory on the device, one index operation per batch, a fused optimizer, no wait for the device
within an epoch.
"""

import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torchvision.datasets import MNIST

from src.models.mnist import MnistMLP
from src.models.xor import XorMLP
from tests.benchmarks.child import experiment, stopwatch


def mnist(root: str, seed: int, device: str = "cpu", batch_size: int = 512) -> dict[str, Any]:
    """Train MNIST with the net, loss, optimizer, schedule and number of epochs of configs/mnist.yaml.

    Args:
        root: Folder of the data.
        seed: Of weights and order.
        device: Where everything lies.
        batch_size: Images in a step.

    Returns:
        `seconds` from loading the data to the last validation, `peak_mib`, `epoch_seconds` of the training part of each
        epoch, `steps` and `test_acc`.
    """
    config = experiment()
    num_epochs = config["trainer"]["max_epochs"]
    adamw = config["model"]["optimizer"]["init_args"]
    one_cycle = config["model"]["scheduler"]["init_args"]
    result: dict[str, Any] = {"epoch_seconds": []}
    with stopwatch(result):
        torch.manual_seed(seed)
        data = MNIST(root, train=True)
        images, digits = data.data.to(device), data.targets.to(device)
        rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(42)).to(device)
        val_rows, train_rows = rows[:5_000], rows[5_000:]
        num_batches = -(-len(train_rows) // batch_size)
        net = MnistMLP().to(device)
        loss_fn = nn.CrossEntropyLoss(**config["model"]["loss"].get("init_args", {}))
        optimizer = torch.optim.AdamW(net.parameters(), **adamw)
        scheduler = OneCycleLR(optimizer, **{**one_cycle, "total_steps": num_epochs * num_batches})
        for epoch in range(num_epochs):
            start_s = time.perf_counter()
            net.train()
            loss_sum = torch.zeros((), device=device)
            order = torch.randperm(len(train_rows)).to(device)
            for batch in train_rows[order].split(batch_size):
                loss = loss_fn(net(normalize(images[batch])), digits[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()
                loss_sum += loss.detach() * len(batch)
            train_loss = loss_sum.item() / len(train_rows)  # waits for the device, so the clock may be read
            result["epoch_seconds"].append(time.perf_counter() - start_s)
            val_loss, val_acc = evaluate(net, images, digits, val_rows, batch_size)
            print(f"epoch {epoch + 1}  train {train_loss:.4f}  val {val_loss:.4f}  accuracy {val_acc:.4f}")
    return result | {"steps": num_epochs * num_batches, "test_acc": test(net, root, device)}


def normalize(images: Tensor) -> Tensor:
    """(B, 28, 28) uint8 to (B, 1, 28, 28) float32 with mean 0 and standard deviation 1."""
    return images.unsqueeze(1).float().div_(255 * 0.3081).sub_(0.1307 / 0.3081)


@torch.no_grad()
def evaluate(net: nn.Module, images: Tensor, digits: Tensor, rows: Tensor, batch_size: int) -> tuple[float, float]:
    """Return mean loss and accuracy over `rows`."""
    net.eval()
    loss_sum = torch.zeros((), device=images.device)
    correct = torch.zeros((), dtype=torch.int64, device=images.device)
    for batch in rows.split(batch_size):
        logits, target = net(normalize(images[batch])), digits[batch]
        loss_sum += nn.functional.cross_entropy(logits, target, reduction="sum")
        correct += (logits.argmax(dim=1) == target).sum()
    return loss_sum.item() / len(rows), correct.item() / len(rows)


def test(net: nn.Module, root: str, device: str) -> float:
    """Return the accuracy on the test images."""
    data = MNIST(root, train=False)
    rows = torch.arange(len(data), device=device)
    return evaluate(net, data.data.to(device), data.targets.to(device), rows, 512)[1]


def xor() -> dict[str, Any]:
    """Train XOR in 2,000 full-batch steps of SGD and print its table.

    Returns:
        `seconds`, `peak_mib`, `final_loss` and the four `outputs`.
    """
    result: dict[str, Any] = {}
    with stopwatch(result):
        torch.manual_seed(42)
        x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
        target = torch.tensor([[0.0], [1.0], [1.0], [0.0]])
        net = XorMLP()
        loss_fn = nn.BCEWithLogitsLoss()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
        for step in range(1, 2_001):
            logits = net(x)
            loss = loss_fn(logits, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step == 1 or step % 250 == 0:
                hard = (logits > 0).int().flatten().tolist()
                print(f"step {step:>5}  loss {loss.item():.4f}  predictions {hard}")
        with torch.no_grad():
            outputs = net(x).sigmoid().flatten().tolist()
        for row, output, truth in zip(x, outputs, target.flatten(), strict=True):
            print(f"{row[0]:.0f} {row[1]:.0f}     {output:.3f}   {truth:.0f}")
    return result | {"final_loss": loss.item(), "outputs": outputs}
