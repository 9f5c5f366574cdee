"""Plain PyTorch, which the template is measured against: loops without Lightning, and bare DataLoaders.

The loops are fast: data in memory, one index operation per batch, no wait for the device in an epoch. Each function
of a row takes a seed and returns `seconds` and `work`, the steps or samples, which is the same for both of a pair.
"""

import time
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, Subset, TensorDataset
from torchvision.datasets import MNIST
from torchvision.transforms import Compose, Normalize, ToTensor

from src.models.mnist import MnistMLP
from src.models.xor import XorMLP


def mnist(seed: int) -> dict[str, Any]:
    """Train MNIST with the optimizer, schedule and number of epochs of configs/mnist.yaml."""
    config = yaml.safe_load(Path("configs/mnist.yaml").read_text())
    num_epochs, batch_size = config["trainer"]["max_epochs"], 512
    optimizer_args, schedule_args = (config["model"][name]["init_args"] for name in ("optimizer", "scheduler"))
    start_s = time.perf_counter()
    torch.manual_seed(seed)
    data = MNIST("data")
    images, digits = data.data, data.targets
    rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(42))
    val_rows, train_rows = rows[:5_000], rows[5_000:]
    steps = num_epochs * -(-len(train_rows) // batch_size)
    net, loss_fn = MnistMLP(), nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(net.parameters(), **optimizer_args)
    schedule_args |= {"max_lr": optimizer_args["lr"], "total_steps": steps}
    scheduler = OneCycleLR(optimizer, **schedule_args)
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
        net.eval()
        val_sum, correct = torch.zeros(()), torch.zeros((), dtype=torch.int64)
        with torch.no_grad():
            for batch in val_rows.split(batch_size):
                logits = net(normalize(images[batch]))
                val_sum += loss_fn(logits, digits[batch]) * len(batch)
                correct += (logits.argmax(dim=1) == digits[batch]).sum()
        val_loss, val_acc = val_sum / len(val_rows), correct / len(val_rows)
        print(f"epoch {epoch + 1}  train {loss_sum / len(train_rows):.4f}  val {val_loss:.4f}  accuracy {val_acc:.4f}")
    return {"seconds": time.perf_counter() - start_s, "work": steps}


def normalize(images: Tensor) -> Tensor:
    """(B, 28, 28) uint8 to (B, 1, 28, 28) float32 with mean 0 and standard deviation 1."""
    return images.unsqueeze(1).float().div_(255 * 0.3081).sub_(0.1307 / 0.3081)


def xor(seed: int) -> dict[str, Any]:
    """Train XOR in 2,000 full-batch steps of SGD and print its progress."""
    start_s = time.perf_counter()
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
    return {"seconds": time.perf_counter() - start_s, "work": 2_000}


def image_loader() -> DataLoader[Any]:
    """Return a DataLoader that reads 20,000 images through PIL and transforms."""
    images = MNIST("data", transform=Compose([ToTensor(), Normalize((0.1307,), (0.3081,))]))
    return DataLoader(Subset(images, range(20_000)), 128, shuffle=True)


def tensor_loader() -> DataLoader[Any]:
    """Return a DataLoader over tensors with a collate function of its own."""

    def stack(samples: Any) -> Any:
        x, target = zip(*samples, strict=True)
        return torch.stack(x), torch.stack(target)

    data = TensorDataset(torch.randn(20_000, 8), torch.arange(20_000))
    return DataLoader(data, 128, shuffle=True, collate_fn=stack)


def drain(batches: Any, passes: int) -> dict[str, Any]:
    """Take all batches of some epochs."""
    start_s = time.perf_counter()
    samples = sum(len(x) for _ in range(passes) for x, _ in batches)
    return {"seconds": time.perf_counter() - start_s, "work": samples}


def images(seed: int) -> dict[str, Any]:
    return drain(image_loader(), passes=1)


def tensors(seed: int) -> dict[str, Any]:
    return drain(tensor_loader(), passes=20)
