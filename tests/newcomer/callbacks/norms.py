from typing import Any
from lightning.pytorch import Callback, LightningModule, Trainer

class GradNorm(Callback):
    def __init__(self, every: int = 50, names: list = None) -> None:
        self.every = every
        self.names = names
        self.last = None
        self.history = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        if trainer.global_step % self.every == 0:
            norms = {}
            for name, p in pl_module.named_parameters():
                if p.grad is not None and (not self.names or name in self.names):
                    norms[name] = p.grad.norm().item()
            total = sum(v ** 2 for v in norms.values()) ** 0.5
            self.last = total
            self.history.append((trainer.global_step, total))
            pl_module.log("grad_norm", total)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        print("largest gradient norm: ", max(v for _, v in self.history), "at the end: ", self.last)
        # names: of the classes
        print("classes:", trainer.datamodule.labels, trainer.callback_metrics["val/loss"].item())
