"""One line at the start: what is trained, and where."""

import os

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class Device(Callback):
    """Prints the device that was taken, and the net with its number of parameters."""

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Print it once, not again for the test after a fit."""
        if trainer.is_global_zero and not getattr(self, "_told", False):
            net = getattr(module, "net", module)
            count = sum(parameter.numel() for parameter in net.parameters())
            source = getattr(trainer.checkpoint_callback, "source", None)
            weights = f"; weights of {source}" if source else "" if stage == "fit" else "; untrained: no --ckpt_path"
            print(f"{type(net).__name__}, {count:,} parameters, on {describe(trainer)}{weights}", flush=True)
        if not torch.cuda.is_available():
            # Adam asks at each step whether a GPU is here. Lightning has it asked in a way that spares a GPU's state
            # in forked processes and costs 0.2 ms; where there is none, nothing needs to be spared.
            os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
        self._told = True


def describe(trainer: Trainer) -> str:
    """The device in words: "2 x cuda (NVIDIA H200)", "cpu (2 threads; no CUDA or MPS device is here)"."""
    device = trainer.strategy.root_device
    times = f"{trainer.world_size} x " if trainer.world_size > 1 else ""
    if device.type == "cuda":
        here, used = torch.cuda.device_count(), trainer.world_size // trainer.num_nodes
        rest = f"; {used} of the {here} that are here" if here > used else ""
        return f"{times}cuda ({torch.cuda.get_device_name(device)}{rest})"
    if device.type != "cpu":
        return f"{times}{device.type}"
    better = [name for name, there in (("cuda", torch.cuda.is_available()), ("mps", torch.mps.is_available())) if there]
    threads = torch.get_num_threads()
    why = f"chosen, though {better[0]} is here" if better else "no CUDA or MPS device is here"
    return f"{times}cpu ({threads} thread{'s' * (threads > 1)}; {why})"
