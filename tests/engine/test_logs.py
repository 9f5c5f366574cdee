"""Whatever is logged, in whichever way: W processes log what one logs, and a resume ends with the same metrics.csv."""

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanAbsoluteError, MeanSquaredError, MetricCollection, R2Score

from src.engine.run.report import add_row
from src.module import LitModule
from tests.engine.test_step import SumOverWeight
from tests.processes import launch, processes, rows
from tests.stopping import config, fit, killed_at, resume, resume_diff, write

EPOCH = {"on_step": False, "on_epoch": True}
BOTH = {"on_step": True, "on_epoch": True}


class Ways:
    """Logs in each way that Lightning has; for a module with `net`."""

    def __init__(self, *args):
        super().__init__(*args)
        several = MetricCollection({"mse": MeanSquaredError(), "r2": R2Score()})
        stages = ("train", "val", "test")
        self.single = nn.ModuleDict({f"{stage}_": MeanAbsoluteError() for stage in stages})
        self.several = nn.ModuleDict({f"{stage}_": several.clone(prefix=f"{stage}/several_") for stage in stages})

    def on_train_start(self):
        self.log("train/began", 2.0 / self.trainer.world_size, reduce_fx="sum", **EPOCH)

    def log_all(self, stage, batch, batch_idx):
        x, target = batch
        guess = self.net(x)
        errors = (guess - target).square()
        loss = errors.mean()
        self.log(f"{stage}/plain", loss, **EPOCH)
        self.log(f"{stage}/default", loss)
        self.log(f"{stage}/asked", loss, sync_dist=True, **BOTH)
        self.log_dict({f"{stage}/pair_a": loss, f"{stage}/pair_b": guess.mean()}, **EPOCH)
        self.log_dict({f"{stage}/sized": loss}, batch_size=len(x), **BOTH)
        self.log(f"{stage}/max", errors.max(), reduce_fx="max", **EPOCH)
        self.log(f"{stage}/min", errors.min(), reduce_fx=min, **EPOCH)
        self.log(f"{stage}/sum_both", errors.sum(), reduce_fx=sum, **BOTH)
        # Names that one process has alone, in an order of its own.
        for row, error in zip(x, errors, strict=True):
            self.log(f"{stage}/part_{int(row[0] > 0)}{int(row[1] > 0)}", error.mean(), batch_size=1, **EPOCH)
        if batch_idx == 0:
            self.log(f"{stage}/first", loss, **EPOCH)
            self.log(f"{stage}/first_max", errors.max(), reduce_fx="max", **EPOCH)
            self.log(f"{stage}/first_step", errors.sum(), reduce_fx="sum", on_step=True, on_epoch=False)
        if self.trainer.is_global_zero:
            self.log(f"{stage}/zero_alone", 1.0, rank_zero_only=True, **EPOCH)
        single, several = self.single[f"{stage}_"], self.several[f"{stage}_"]
        single(guess, target)
        self.log(f"{stage}/single", single, **EPOCH)
        several.update(guess, target)
        self.log_dict(several, **EPOCH)
        return loss

    def training_step(self, batch, batch_idx):
        loss = self.log_all("train", batch, batch_idx)
        return super().training_step(batch, batch_idx) if isinstance(self, LitModule) else loss

    def validation_step(self, *batch):
        self.log_all("val", *batch[:2])
        return super().validation_step(*batch) if isinstance(self, LitModule) else None

    def test_step(self, *batch):
        self.log_all("test", *batch[:2])
        return super().test_step(*batch) if isinstance(self, LitModule) else None


class Plain(Ways, LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 1)

    def on_before_optimizer_step(self, optimizer):
        self.log("grad", self.net.weight.grad.norm())

    def on_train_epoch_start(self):
        self.log("started", float(self.trainer.current_epoch), reduce_fx="max")

    def on_train_epoch_end(self):
        self.log("train/weight", self.net.weight.sum())

    def on_validation_epoch_end(self):
        self.log("val/weight", self.net.weight.sum())
        self.log_dict({"val/loss": self.trainer.callback_metrics.get("val/plain/dataloader_idx_0", torch.tensor(1.0))})

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


class Lit(Ways, LitModule):
    """A LitModule that logs besides; the weight of its loss differs between batches."""

    def __init__(self):
        super().__init__(nn.Linear(2, 1), SumOverWeight(), lambda params: torch.optim.SGD(params, lr=0.05))


class Rows(LightningDataModule):
    """Rows that two processes cannot share evenly; `batch_size` counts those of one process."""

    def __init__(self, batch_size=8):
        super().__init__()
        self.batch_size = batch_size

    def loader(self, seed, num_rows):
        x = torch.randn(num_rows, 2, generator=torch.Generator().manual_seed(seed))
        return DataLoader(TensorDataset(x, x.prod(1, keepdim=True)), self.batch_size, shuffle=seed == 0)

    def train_dataloader(self):
        return self.loader(0, 29)

    def val_dataloader(self):
        return [self.loader(1, 21), self.loader(2, 10)]

    def test_dataloader(self):
        return self.loader(3, 17)


def experiment(kind, batch_size=8):
    made = config(max_epochs=2, every_n_steps=1)
    made["data"] = {"class_path": f"{__name__}.Rows", "init_args": {"batch_size": batch_size}}
    return made | {"model": {"class_path": f"{__name__}.{kind}"}, "test_after_fit": True}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Plain", "Lit"])
def test_two_processes_log_what_one_logs(kind, tmp_path):
    """In training, validation and test; each way to log, with rows and batches that do not split evenly."""
    one = fit(tmp_path / "one", experiment(kind))
    file = write(tmp_path, experiment(kind, batch_size=4))
    launch("fit", "--config", file, *processes(2), f"--trainer.default_root_dir={tmp_path / 'two'}", cwd=tmp_path)
    two = tmp_path / "two/sums/version_0"
    assert len(rows(one)) == 3  # two epochs, the test
    for alone, together in zip(rows(one), rows(two), strict=True):
        assert together == pytest.approx(alone, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize(
    ("kind", "stops"),
    [("Plain", [("on_train_batch_end", 3), ("on_train_epoch_end", 1)]), ("Lit", [("on_train_batch_start", 8)])],
)
def test_a_resume_within_an_epoch_ends_with_the_same_rows(kind, stops, tmp_path):
    whole, run = killed_at(stops[0], tmp_path, experiment(kind))
    assert resume_diff(whole, run, stops=stops[1:]) == []
    assert (run / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


def test_a_row_is_appended_and_a_new_name_is_a_column_of_all_rows(tmp_path):
    file = tmp_path / "a.csv"
    add_row(file, {"step": 1})
    add_row(file, {"step": 2, "loss": 0.5})
    written = file.stat().st_ino
    add_row(file, {"loss": 0.1})
    assert file.stat().st_ino == written
    assert file.read_bytes() == b"step,loss\r\n1,\r\n2,0.5\r\n,0.1\r\n"


def test_only_epochs_with_a_validation_have_its_numbers(tmp_path):
    found = rows(fit(tmp_path, config(check_val_every_n_epoch=2)))
    assert [(row["epoch"], "val/loss" in row) for row in found] == [(1, False), (2, True), (3, False)]


def test_validations_have_rows_and_a_resume_cuts_off_those_after_the_checkpoint(tmp_path):
    made = config(val_check_interval=5, max_epochs=2)
    whole, run = fit(tmp_path / "whole", made), fit(tmp_path, made, ("on_train_batch_end", 18))
    # The first row has fewer columns than the later ones.
    found = [(row["step"], "val/loss" in row, "train/loss" in row) for row in rows(whole)]
    assert found[:3] == [(5, True, False), (10, True, False), (12, False, True)]
    with (run / "metrics.csv").open("a", newline="") as file:
        file.write("3,36,half a ro")
    assert resume_diff(whole, run) == []
    assert (run / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


class Lazy(LitModule):
    """Tests as it validates, under the same names."""

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val/twice", 2.0)
        self.log("plain", 3.0)

    test_step = validation_step


def test_numbers_of_a_test_get_the_name_of_a_test(tmp_path, capfd):
    made = config(max_epochs=1) | {"test_after_fit": True}
    made["model"] = {"class_path": f"{__name__}.Lazy", "init_args": made["model"]}
    tested = rows(fit(tmp_path, made))[-1]
    assert {"test/twice", "test/plain"} <= tested.keys()
    assert "val/twice" not in tested
    assert "test/twice 2.0000" in next(line for line in capfd.readouterr().out.splitlines() if line.startswith("test "))


def test_checkpoints_of_lightning_resume_to_the_same_rows_or_are_refused(tmp_path, capfd):
    options = {"save_top_k": -1, "every_n_epochs": 1}
    train = {"filename": "train-{epoch}", "save_on_train_epoch_end": True}
    val = {"filename": "val-{epoch}", "save_on_train_epoch_end": False, "monitor": "val/loss"}
    within = {"filename": "own-{step}", "every_n_train_steps": 3, "every_n_epochs": None}
    own = tuple({"class_path": "ModelCheckpoint", "init_args": options | each} for each in (train, val, within))
    run = fit(tmp_path, config(callbacks=own, val_check_interval=6, max_epochs=2))
    for number, name in enumerate(["train-epoch=0", "val-epoch=0-v1", "own-step=3"], 1):
        assert resume(run / f"checkpoints/{name}.ckpt") == 0
        again = run.with_name(f"version_{number}") / "metrics.csv"
        assert again.read_bytes() == (run / "metrics.csv").read_bytes(), name
    assert resume(run / "checkpoints/own-step=6.ckpt") == 1
    assert "right before a validation" in capfd.readouterr().err
