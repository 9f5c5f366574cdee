"""What modules, data modules and callbacks of one's own do and keep is part of a run: a resume changes none of it."""

import copy
from typing import Any, ClassVar

import lightning as L
import pytest
import torch
from torch import nn
from torchmetrics import MeanAbsoluteError, MeanMetric, MeanSquaredError, MetricCollection
from torchmetrics.wrappers import MinMaxMetric, Running

from tests.stopping import Sums, config, differences, fit, killed_at, resume_diff, rows


class Own(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return nn.functional.mse_loss(self.head(self.body(batch[0]).relu()), batch[1])

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val/loss", Own.training_step(self, batch, batch_idx))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.01)


class Busy(Own):
    """Uses the hooks: logs, draws, keeps a slow copy, thaws and freezes, and keeps metrics and more than tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.slow = copy.deepcopy(self.body).requires_grad_(False)
        self.body.requires_grad_(False)
        self.register_buffer("validations", torch.zeros(()))
        self.held = nn.ModuleList([MinMaxMetric(MeanSquaredError())])
        self.running = nn.ModuleDict({"loss": Running(MeanMetric(), window=5)})
        self.several = MetricCollection({"mae": MeanAbsoluteError(), "mse": MeanSquaredError()})

    def on_train_epoch_start(self) -> None:
        self.log("train/begun", float(self.current_epoch))
        if self.current_epoch == 1:
            self.body.requires_grad_(True)
            self.head.requires_grad_(False)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.running["loss"].update(loss.detach())
        self.log("train/running", self.running["loss"].compute())
        self.several.update(self.head(self.body(batch[0])), batch[1])
        self.log_dict(self.several, on_step=False, on_epoch=True)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.log("train/x", batch[0].mean(), on_step=False, on_epoch=True, batch_size=len(batch[0]))
        for slow, fast in zip(self.slow.parameters(), self.body.parameters(), strict=True):
            slow.lerp_(fast.detach(), 0.1)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(batch, batch_idx)
        self.log("val/drawn", torch.rand(()))
        self.held[0].update(self.head(self.body(batch[0])), batch[1])

    def on_validation_epoch_end(self) -> None:
        self.log_dict({f"val/{name}": value for name, value in self.held[0].compute().items()})
        self.held[0]._base_metric.reset()

    def on_validation_end(self) -> None:
        self.validations += 1

    def get_extra_state(self) -> dict[str, Any]:
        return {"scale": 2.0, "history": torch.ones(2)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        assert state["scale"] == 2.0

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["added"] = Keeping.state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        Keeping.loaded.append(checkpoint["added"])


class Keeping:
    state: ClassVar[dict[str, Any]] = {"best": [1.5, torch.ones(2)], "seen": {1, 2}}
    loaded: ClassVar[list[Any]] = []

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loaded.append(state)


class Data(Keeping, Sums):
    """A data module with a state."""


class Counting(Keeping, L.Callback):
    """A callback with a state."""


class Skips(Own):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if batch_idx == 10 else None


class Backbone(Own):
    """Has the name that Lightning's callback looks for."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = self.body

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([each for each in self.parameters() if each.requires_grad], 0.01)


class TwoSets(Sums):
    def val_dataloader(self) -> Any:
        return [self._loader(torch.arange(48, 56)), self._loader(torch.arange(56, 64))]


class Anneals(Own):
    def on_train_epoch_start(self) -> None:
        self.weight, self.graph = 1 / (1 + self.current_epoch), torch.eye(2).to_sparse()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.weight * super().training_step(batch, batch_idx)


ACCUMULATION = {"class_path": "GradientAccumulationScheduler", "init_args": {"scheduling": {0: 2, 1: 4}}}
FINETUNING = {
    "class_path": "lightning.pytorch.callbacks.BackboneFinetuning",
    "init_args": {"unfreeze_backbone_at_epoch": 1, "backbone_initial_lr": 0.01},
}


def experiment(kind: type[Own], *callbacks: dict[str, Any], **trainer: Any) -> dict[str, Any]:
    made = config(every_n_steps=2, callbacks=callbacks, **trainer)
    made["model"] = {"class_path": f"{__name__}.{kind.__name__}"}
    return made


@pytest.mark.parametrize(("kind", "callbacks"), [(Skips, ()), (Backbone, (FINETUNING,)), (Anneals, (ACCUMULATION,))])
def test_hooks_and_callbacks_survive_a_stop(kind, callbacks, tmp_path):
    made = experiment(kind, *callbacks, max_epochs=2)
    assert resume_diff(*killed_at(("on_train_batch_start", 21), tmp_path, made)) == []


@pytest.mark.parametrize(
    "stop", [("on_train_batch_start", 30), ("on_train_batch_end", 16), ("on_train_epoch_start", 2)]
)
def test_hooks_states_and_metrics_survive_a_stop_without_a_sanity_check(stop, tmp_path):
    made = experiment(Busy, {"class_path": f"{__name__}.Counting"}, val_check_interval=4)
    whole, run = killed_at(stop, tmp_path, made | {"data": {"class_path": f"{__name__}.Data"}})
    first = rows(whole)[0]
    assert first["val/max"] == first["val/raw"]  # no trace of the sanity check, whose error is larger
    Keeping.loaded.clear()
    found = resume_diff(whole, run, "--trainer.num_sanity_val_steps=0")
    assert [text for text in found if "num_sanity_val_steps" not in text] == []
    # The data module gets its state before its setup, and again by Lightning.
    assert differences(Keeping.loaded, [Keeping.state] * 4) == []


def test_one_of_several_validation_sets_decides(tmp_path, capfd):
    made = experiment(Own, max_epochs=1) | {"data": {"class_path": f"{__name__}.TwoSets"}}
    assert not (fit(tmp_path / "default", made) / "checkpoints/best.ckpt").exists()
    assert capfd.readouterr().err.count("is not logged; there are val/loss/dataloader_idx_0, val/loss/dataloader") == 1
    made["checkpoint"] |= {"monitor": "val/loss/dataloader_idx_1"}
    assert (fit(tmp_path / "second", made) / "checkpoints/best.ckpt").exists()
