"""The norm of the gradients: shows whether training explodes or stands still."""

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer


class GradNorm(Callback):
    """Logs `train/grad_norm`, the 2-norm over all parameters of the optimizer, as the mean over an epoch's steps.

    The norm is taken before clipping. A second optimizer logs `train/grad_norm/1`. A step that 16-bit precision skips
    counts with its infinite norm. Under FSDP and DeepSpeed it is the norm of the part that a process holds.
    """

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
        # With manual optimization Lightning may pass a wrapper; both share one list of groups.
        number = [each.param_groups for each in trainer.optimizers].index(optimizer.param_groups)
        gradients = [each.grad for group in optimizer.param_groups for each in group["params"] if each.grad is not None]
        name = f"train/grad_norm/{number}" if number else "train/grad_norm"
        module.log(name, get_total_norm(gradients), on_step=False, on_epoch=True, batch_size=1)
