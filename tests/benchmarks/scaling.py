"""Speed on several processes: measured here, and predicted for 8, 64 and 512 GPUs.

    python -m tests.benchmarks.scaling                      both tables; 1 and 2 processes, or all GPUs that are here
    python -m tests.benchmarks.scaling --parameters 7e9 --step-ms 900    the prediction for a net of your own

The prediction is the cost model of a ring all-reduce: W GPUs exchange G bytes of gradients in 2 (W - 1) messages of
G / W bytes each, over the slowest link of the ring.

    exchange = 2 (W - 1) (G / W / bandwidth + latency)
    efficiency = step / (step + the part of the exchange that is not hidden)

In the worst case nothing is hidden; at best all that fits behind the backward pass, two thirds of a step. A step's own
time, with batch_size samples per GPU, does not change with W. Up to 8 GPUs stand in one machine. On many machines NCCL
takes a tree where messages are small: its latency grows with log W only, so small nets do better than the ring says.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.child import PROJECT

GPUS = (8, 64, 512)
BACKWARD = 2 / 3  # of a step: it computes two products for each one of the forward pass


@dataclass
class Link:
    """What a message crosses.

    Args:
        bandwidth: Bytes a second that a GPU sends, as all-reduce reaches them.
        latency_s: Of a message.
    """

    bandwidth: float
    latency_s: float


# Assumed, not measured: NVLink of the last generations, and a network card of 400 Gbit/s for each GPU.
INSIDE = Link(bandwidth=200e9, latency_s=3e-6)
BETWEEN = Link(bandwidth=40e9, latency_s=8e-6)


@dataclass
class Net:
    """What is trained.

    Args:
        name: For the table.
        parameters: Each has one gradient.
        bytes_each: Of a gradient.
        step_s: Time of a step on one GPU; assumed.
    """

    name: str
    parameters: float
    bytes_each: int
    step_s: float


NETS = (
    Net("MNIST, 203,530 parameters", 203_530, 4, 1e-3),
    Net("ResNet-50, 25.6 M", 25.6e6, 4, 150e-3),
    Net("transformer, 1.3 B, bf16", 1.3e9, 2, 600e-3),
)


def exchange_s(gradient_bytes: float, num_gpus: int) -> float:
    """Time of the all-reduce of a step's gradients."""
    link = INSIDE if num_gpus <= 8 else BETWEEN
    return 2 * (num_gpus - 1) * (gradient_bytes / num_gpus / link.bandwidth + link.latency_s)


def efficiency(net: Net, num_gpus: int, hidden: float) -> float:
    """Speed on W GPUs over W times the speed on one.

    Args:
        net: What is trained.
        num_gpus: W.
        hidden: The part of a step behind which the exchange may hide, 0 to 1.
    """
    left_s = max(0.0, exchange_s(net.parameters * net.bytes_each, num_gpus) - hidden * net.step_s)
    return net.step_s / (net.step_s + left_s)


def predict(nets: tuple[Net, ...]) -> str:
    """The table, in Markdown: efficiency with nothing hidden, and with all that the backward pass can hide."""
    lines = [
        "| net | step (assumed) | gradients | " + " | ".join(f"{gpus} GPUs" for gpus in GPUS) + " |",
        "| --- | --- | --- |" + " --- |" * len(GPUS),
    ]
    for net in nets:
        size = f"{net.parameters * net.bytes_each / 1e6:,.1f} MB"
        ranges = [f"{efficiency(net, gpus, 0):.0%} to {efficiency(net, gpus, BACKWARD):.0%}" for gpus in GPUS]
        lines.append(f"| {net.name} | {net.step_s * 1e3:g} ms | {size} | {' | '.join(ranges)} |")
    return "\n".join(lines)


def images_per_s(num_processes: int, accelerator: str, root: str, epochs: int = 2) -> float:
    """Of the real command, with 512 images per process in a step."""
    options = {"accelerator": accelerator, "devices": num_processes, "max_epochs": epochs}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        command = [sys.executable, "-m", "src", "fit", "--config", "configs/mnist.yaml", "--test_after_fit=false"]
        command += [f"--trainer.{name}={value}" for name, value in options.items()]
        command += ["--trainer.strategy=ddp"] if num_processes > 1 else []
        command += [f"--trainer.default_root_dir={folder}", f"--data.root={root}"]
        # A thread each, so that two processes have twice what one has.
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    found = re.search(r"([\d,]+) samples/s", done.stdout)
    if done.returncode != 0 or not found:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return float(found[1].replace(",", ""))


def measure(root: str) -> tuple[str, dict[int, float]]:
    """Images per second by the number of processes: 1 and 2, on GPUs all powers of two that are here."""
    import torch

    gpus = torch.cuda.device_count()
    numbers = [number for number in (1, 2, 4, 8) if number <= (gpus or 2)]
    accelerator = "cuda" if gpus else "cpu"
    return accelerator, {number: images_per_s(number, accelerator, root) for number in numbers}


def main() -> None:
    """Print what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--parameters", type=float, help="of a net of your own: predict for it, measure nothing")
    parser.add_argument("--bytes", type=int, default=2, help="of each of its gradients; 2 by default (bf16)")
    parser.add_argument("--step-ms", type=float, default=500, help="its time of a step on one GPU; 500 by default")
    parser.add_argument("--only-predict", action="store_true", help="measure nothing")
    parser.add_argument("--root", type=Path, default=PROJECT / "data", help="folder of the data; by default data")
    args: Any = parser.parse_args()
    nets = NETS
    if args.parameters:
        nets = (Net(f"yours, {args.parameters:,.0f}", args.parameters, args.bytes, args.step_ms / 1e3),)
    elif not args.only_predict:
        accelerator, speeds = measure(str(args.root.resolve()))
        print(f"| MNIST, processes ({accelerator}) | images/s | efficiency |\n| --- | --- | --- |")
        for number, speed in speeds.items():
            print(f"| {number} | {speed:,.0f} | {speed / number / speeds[1]:.0%} |")
        print()
    print(predict(nets))


if __name__ == "__main__":
    main()
