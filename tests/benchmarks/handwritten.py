"""The loops that somebody who knows PyTorch writes by hand, without Lightning: what the template is measured against.

They hold what makes a loop fast: the data in memory on the device as stored, one index operation a batch, the
whole batch normalised at once, a fused optimizer, no wait for the device within an epoch. They are written as one
writes: `images[batch]`, where `images.index_select(0, batch)` would take a tenth off the CPU's time.
"""

import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torchvision.datasets import MNIST

from src.models.mnist import MnistMLP
from src.models.xor import XorMLP
from tests.benchmarks.child import experiment
from tests.benchmarks.stopwatch import stopwatch


def mnist(root: str, seed: int, device: str = "cpu", batch_size: int = 512) -> dict[str, Any]:
    """The experiment of configs/mnist.yaml: its net, loss, optimizer, schedule and number of epochs.

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
    """Mean loss and accuracy over `rows`."""
    net.eval()
    loss_sum = torch.zeros((), device=images.device)
    correct = torch.zeros((), dtype=torch.int64, device=images.device)
    for batch in rows.split(batch_size):
        logits, target = net(normalize(images[batch])), digits[batch]
        loss_sum += nn.functional.cross_entropy(logits, target, reduction="sum")
        correct += (logits.argmax(dim=1) == target).sum()
    return loss_sum.item() / len(rows), correct.item() / len(rows)


def test(net: nn.Module, root: str, device: str) -> float:
    """Accuracy on the test images."""
    data = MNIST(root, train=False)
    rows = torch.arange(len(data), device=device)
    return evaluate(net, data.data.to(device), data.targets.to(device), rows, 512)[1]


def mnist_in_cuda_graphs(root: str, seed: int, batch_size: int = 512) -> dict[str, Any]:
    """The training part of `mnist` with the whole step captured in one CUDA graph: what a GPU can do at most.

    The betas stay as they are, where one-cycle would move them: a graph keeps numbers as they were at its capture.
    The last, smaller batch is left out, as a graph's shapes are fixed.

    Returns:
        `epoch_seconds`, `images` of an epoch, and `test_acc`.
    """
    config = experiment()
    num_epochs = config["trainer"]["max_epochs"]
    adamw = {**config["model"]["optimizer"]["init_args"], "capturable": True}
    one_cycle = {**config["model"]["scheduler"]["init_args"], "cycle_momentum": False}
    torch.manual_seed(seed)
    data = MNIST(root, train=True)
    images, digits = data.data.cuda(), data.targets.cuda()
    rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(42)).cuda()[5_000:]
    num_batches = len(rows) // batch_size
    net = MnistMLP().cuda()
    loss_fn = nn.CrossEntropyLoss(**config["model"]["loss"].get("init_args", {}))
    lr = torch.tensor(adamw.pop("lr"), device="cuda")  # a tensor, so that the graph reads what the scheduler writes
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, **adamw)
    batch = rows[:batch_size].clone()  # the graph's input

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss_fn(net(normalize(images[batch])), digits[batch]).backward()
        optimizer.step()

    # Capture wants a few steps before it, on a side stream, for what is made at first use.
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    # Made after the capture, so that its own first step does not count the warm-up.
    scheduler = OneCycleLR(optimizer, **{**one_cycle, "total_steps": num_epochs * num_batches + 1})
    epoch_seconds = []
    for _ in range(num_epochs):
        torch.cuda.synchronize()
        start_s = time.perf_counter()
        order = rows[torch.randperm(len(rows), device="cuda")]
        for number in range(num_batches):
            batch.copy_(order[number * batch_size : (number + 1) * batch_size])
            graph.replay()
            scheduler.step()
        torch.cuda.synchronize()
        epoch_seconds.append(time.perf_counter() - start_s)
    return {"epoch_seconds": epoch_seconds, "images": num_batches * batch_size, "test_acc": test(net, root, "cuda")}


def xor() -> dict[str, Any]:
    """The lesson's program: 2,000 full-batch steps of SGD and its table.

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


def has_cuda() -> dict[str, Any]:
    """Whether there is a GPU to measure on."""
    return {"cuda": torch.cuda.is_available()}
