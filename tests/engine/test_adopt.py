"""`adopt` in a notebook: the same objects again and again, by other trainers, copied, after a failure."""

import copy
import functools

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from src.engine.data.adopt import adopt
from src.module import LitModule
from tests.test_module import trainer


class Net(LightningModule):
    """Its gradient is 1, and its rate: its weight counts the steps; it counts how often its own `backward` ran."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.backwards = 0

    def training_step(self, batch, batch_idx):
        return self.weight.sum()

    def test_step(self, batch, batch_idx):
        self.log("mean", batch[0].mean())

    def predict_step(self, batch, batch_idx):
        return batch[0]

    def backward(self, loss, *args, **kwargs):
        self.backwards += 1
        super().backward(loss, *args, **kwargs)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)

    def counts(self):
        return -self.weight.item(), self.backwards


def loader(num_rows=5):
    return DataLoader(TensorDataset(torch.arange(1.0, num_rows + 1)[:, None]), shuffle=True)


class Data(LightningDataModule):
    def train_dataloader(self):
        return loader()

    test_dataloader = predict_dataloader = train_dataloader


def run(verb, module, data=None, adopts=True, **options):
    made = trainer(**{"max_epochs": 1} | options)
    if adopts:
        adopt(made, module, *([data] if data else []))
    return getattr(made, verb)(module, datamodule=data)


@pytest.mark.parametrize("case", ["adopted again", "not adopted again", "another module", "a copy"])
def test_a_second_fit_scales_the_gradients_by_itself(case):
    first, data = Net(), Data()
    run("fit", first, data, accumulate_grad_batches=4)
    assert first.counts() == (2, 5)
    second = {"another module": Net(), "a copy": copy.deepcopy(first)}.get(case, first)
    before = second.counts()
    run("fit", second, copy.deepcopy(data) if case == "a copy" else data, adopts=case != "not adopted again")
    assert second.counts() == (before[0] + 5, before[1] + 5)
    assert second is first or first.counts() == (2, 5)
    assert run("test", second, data) == [{"mean": 3.0}]
    assert len(run("predict", second, data)) == 5


def test_a_hook_that_was_set_on_the_object():
    module = Net()
    module.train_dataloader = functools.partial(loader, 3)
    run("fit", module, accumulate_grad_batches=3)
    run("fit", module)
    assert module.counts() == (4, 6)


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
        run("fit", module, Data(), max_epochs=2)
    module.broken = False
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    run("fit", module, Data())
    assert module.trainer.lr_scheduler_configs[0].scheduler.total_steps == 5
    assert float(module.trainer.callback_metrics["train/loss"]) == pytest.approx(11.0, rel=0.05)  # of 1, 4, 9, 16, 25


def test_a_later_data_module_without_adopt_has_its_batch_hooks():
    class Doubles(Data):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return [2 * part for part in batch]

    module = Net()
    run("fit", module, Data())
    for data, mean in ((Doubles(), 6.0), (Data(), 3.0)):
        assert run("test", module, data, adopts=False)[0]["mean"] == mean
