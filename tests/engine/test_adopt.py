"""`adopt` in a notebook: the same objects again and again, by other trainers, copied, after a failure."""

import copy
import functools

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from src.engine.data.adopt import adopt
from src.module import LitModule


class Net(LightningModule):
    """Its gradient is 1; notes its gradients and how often its own `backward` ran."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.gradients, self.backwards = [], 0

    def training_step(self, batch, batch_idx):
        return self.weight * batch[0].mean() / batch[0].mean()

    def validation_step(self, batch, batch_idx):
        self.log("mean", batch[0].mean())

    test_step = validation_step

    def predict_step(self, batch, batch_idx):
        return batch[0]

    def backward(self, loss, *args, **kwargs):
        self.backwards += 1
        super().backward(loss, *args, **kwargs)

    def on_before_optimizer_step(self, optimizer):
        self.gradients.append(self.weight.grad.item())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def loader(num_rows=5):
    return DataLoader(TensorDataset(torch.arange(1.0, num_rows + 1)[:, None]), shuffle=True)


class Data(LightningDataModule):
    def train_dataloader(self):
        return loader()

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader


def run(verb, module, data=None, adopts=True, **options):
    options = {"max_epochs": 1, "num_sanity_val_steps": 0} | options
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(accelerator="cpu", enable_model_summary=False, **quiet, **options)
    if adopts:
        adopt(trainer, module, *([data] if data else []))
    module.gradients, module.backwards = [], 0
    return getattr(trainer, verb)(module, datamodule=data)


@pytest.mark.parametrize("case", ["adopted again", "not adopted again", "another module", "a copy"])
def test_a_second_fit_scales_the_gradients_by_itself(case):
    first, data = Net(), Data()
    run("fit", first, data, accumulate_grad_batches=4)
    assert first.gradients == [1.0, 1.0]
    second = {"another module": Net(), "a copy": copy.deepcopy(first)}.get(case, first)
    run("fit", second, copy.deepcopy(data) if case == "a copy" else data, adopts=case != "not adopted again")
    assert (second.gradients, second.backwards) == ([1.0] * 5, 5)
    assert second is first or (first.gradients, first.backwards) == ([1.0, 1.0], 5)
    assert run("test", second, data) == [{"mean": 3.0}]
    assert len(run("predict", second, data)) == 5


def test_a_hook_that_was_set_on_the_object():
    module = Net()
    module.train_dataloader = functools.partial(loader, 3)
    run("fit", module, limit_val_batches=0, accumulate_grad_batches=3)
    run("fit", module, limit_val_batches=0)
    assert module.gradients == [1.0] * 3


class Fails(LitModule):
    broken = True

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch * 2, batch_idx)
        if self.broken and batch_idx == 2:
            raise RuntimeError("broken")
        return loss


def test_after_a_fit_that_failed_a_module_begins_its_means_and_its_schedule_anew():
    schedule = functools.partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.0001, total_steps=None)
    optimizer = functools.partial(torch.optim.SGD, lr=0.0)
    module = Fails(nn.Linear(1, 1), nn.MSELoss(), optimizer, scheduler=schedule, scheduler_interval="step")
    with pytest.raises(RuntimeError, match="broken"):
        run("fit", module, Data(), limit_val_batches=0, max_epochs=2)
    module.broken = False
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    run("fit", module, Data(), limit_val_batches=0)
    assert module.trainer.lr_scheduler_configs[0].scheduler.total_steps == 5
    assert float(module.trainer.callback_metrics["train/loss"]) == pytest.approx(11.0, rel=0.05)  # of 1, 4, 9, 16, 25
