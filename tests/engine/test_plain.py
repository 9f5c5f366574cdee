"""What data modules, modules, callbacks and metrics put into a checkpoint comes back as it was, or is refused."""

import datetime
import functools
import io
from collections import deque
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule
from torch import nn
from torchmetrics import (
    MeanAbsoluteError,
    MeanMetric,
    MeanSquaredError,
    Metric,
    MetricCollection,
    MetricTracker,
    MinMaxMetric,
    R2Score,
)
from torchmetrics.wrappers import Running

from src.engine.checkpoint.files import read_checkpoint
from src.engine.checkpoint.plain import changed_states, common_states, metric_states, pack, set_metric_states, unpack
from src.engine.errors import UserError
from src.module import LitModule
from tests import stopping

VALUES = {
    "int64": np.arange(6).reshape(2, 3),
    "float64": np.array([0.1, np.nan]),
    "bool": np.array([True, False]),
    "big-endian": np.arange(4, dtype=">i8")[::2],
    "float16": np.ones(2, np.float16),
    "unsigned": np.array([2**64 - 1], np.uint64),
    "complex": np.array([1j]),
    "texts": np.array(["spam", "é"]),
    "bytes": np.array([b"a"]),
    "dates": np.array(["2024-02-29"], "datetime64[D]"),
    "record": np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")]),
    "no dimension": np.array(5),
    "empty": np.empty((0, 3), "U4"),
    "another order": np.ones((2, 3)).T,
    "scalar": np.float64(1.5),
    "scalar text": np.str_("spam"),
    "scalar date": np.datetime64("2024-02-29"),
    "path": Path("a/b"),
    "sets": [{1, "a"}, frozenset({Path("a")}), deque([np.ones(1)], 3)],
    "keys": {np.int64(3): np.bool_(True), np.str_("a"): 1, Path("x"): [np.ones(1)]},
    "nested": {"a": [(np.ones(1), {"b": np.arange(2)}), "c", None]},
    "plain": {"a": [1, 0.5, "b", None, True, (2,), {1}, b"c", torch.ones(2)]},
}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return type(a) is type(b) and all(same(*pair) for pair in zip(a.items(), b.items(), strict=True))
    if isinstance(a, list | tuple):
        return type(a) is type(b) and all(same(*pair) for pair in zip(a, b, strict=True))
    if isinstance(a, np.ndarray | np.generic):
        return type(a) is type(b) and (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    return type(a) is type(b) and (torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b)


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
def test_a_value_comes_back_through_a_file_that_holds_plain_values(value):
    file = io.BytesIO()
    torch.save(pack(value, "it"), file)
    file.seek(0)
    assert same(unpack(torch.load(file, weights_only=True)), value)


REFUSED = {
    "objects": np.array(["a", None], object),
    "masked": np.ma.array([1, 2], mask=[True, False]),
    "date": datetime.date(2024, 2, 29),
    "function": len,
    "open file": io.StringIO(),
    "net": torch.nn.Linear(1, 1),
}


@pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED.keys())
def test_anything_else_is_refused_with_its_place(value):
    with pytest.raises(UserError, match=r"^it\['a'\]\[1\] is more than tensors and plain values: "):
        pack({"a": [0, value]}, "it")


class Kept:
    """What the classes below keep, and what they got back."""

    state: ClassVar[Any] = {}
    seen: ClassVar[list[Any]] = []


class Learned(stopping.Sums):
    """A data module with a state."""

    def state_dict(self) -> dict[str, Any]:
        return {"state": Kept.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        Kept.seen.append(state["state"])


class Counting(Callback):
    """A callback with a state."""

    def state_dict(self) -> dict[str, Any]:
        return {"state": Kept.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        Kept.seen.append(state["state"])


class Adding(LitModule):
    """A module that adds to the checkpoint, and keeps a net among its hyperparameters."""

    def __init__(self, *args: Any, name: str = "mine", where: Path = Path("there"), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.save_hyperparameters()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        assert "net.0.weight" in checkpoint["state_dict"]
        checkpoint["added"] = Kept.state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        Kept.seen.append(checkpoint["added"])


def write(folder: Path, kinds: set[str], **changes: Any) -> None:
    experiment = stopping.config(**changes)
    if "data" in kinds:
        experiment["data"] = {"class_path": f"{__name__}.Learned"}
    if "callback" in kinds:
        experiment["trainer"]["callbacks"].append({"class_path": f"{__name__}.Counting"})
    if "module" in kinds:
        experiment["model"] = {"class_path": f"{__name__}.Adding", "init_args": experiment["model"]}
    (folder / "sums.yaml").write_text(yaml.safe_dump(experiment))


def test_a_resume_and_a_test_get_back_arrays_and_paths(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(Kept, "state", VALUES)
    monkeypatch.setattr(Kept, "seen", [])
    write(tmp_path, {"data", "callback", "module"}, max_epochs=1)
    assert cli("fit", "--config", "sums.yaml").code == 0
    last = "runs/sums/version_0/checkpoints/last.ckpt"
    held = torch.load(last, weights_only=True)["hyper_parameters"]
    assert {"name": "mine", "where": "there"}.items() <= held.items()
    assert "net" not in held
    for verb in ("test", "fit"):
        done = cli(verb, "--ckpt_path", "runs/sums/version_0", *(["--trainer.max_epochs=2"] * (verb == "fit")))
        assert done.code == 0, done.err
    # Both times the data module, before its setup and again by Lightning, the module and the callback.
    assert len(Kept.seen) == 8
    assert all(same(each, VALUES) for each in Kept.seen)
    assert same(read_checkpoint(last)["added"], VALUES)
    LitModule.load_from_checkpoint("runs/sums/version_0")


PLACES = {"data": "['Learned']['state']", "callback": "['callbacks']['Counting']['state']", "module": "['added']"}


@pytest.mark.parametrize("kind", PLACES)
def test_what_cannot_be_kept_is_refused_before_the_first_step(kind, cli, tmp_path, monkeypatch):
    monkeypatch.setattr(Kept, "state", {"when": datetime.date(2024, 2, 29)})
    monkeypatch.setattr(LitModule, "training_step", lambda *_: pytest.fail("a step was taken"))
    write(tmp_path, {kind})
    done = cli("fit", "--config", "sums.yaml")
    assert done.code == 1
    (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert f"checkpoint{PLACES[kind]}['when'] is more than tensors and plain values: datetime.date" in line
    assert "Traceback" not in done.err


def test_tensors_are_packed_without_a_copy():
    """With weights of gigabytes each checkpoint would take them twice."""
    value = torch.nn.Linear(1, 1).state_dict()
    packed = pack(value, "checkpoint")
    assert all(packed[name] is value[name] for name in value)
    assert packed._metadata == value._metadata


class Keeping(Metric):
    """A metric of one's own, with attributes that are no states."""

    full_state_update = False

    def __init__(self):
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.best, self.last, self.values, self.seen = None, deque(maxlen=2), np.zeros(0), {"names": set()}

    def update(self, guess, target):
        self.total = self.total + (guess - target).abs().sum()

    def compute(self):
        value = float(self.total)
        self.best = value if self.best is None else min(self.best, value)
        self.last.append(value)
        self.values = np.append(self.values, value)
        self.seen["names"].add(len(self.values))
        return torch.tensor(self.best + sum(self.last) + self.values.sum() + max(self.seen["names"]))


class Plain(LightningModule):
    """Keeps metrics in attributes, lists and dicts."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 1)
        errors = {"mae": MeanAbsoluteError(), "mse": MeanSquaredError()}
        self.tracker = MetricTracker(MetricCollection(errors), [False] * 2)
        self.held = nn.ModuleList([MinMaxMetric(MeanSquaredError()), Keeping()])
        self.running = nn.ModuleDict({"loss": Running(MeanMetric(), window=5)})
        self.several = MetricCollection({"mae": MeanAbsoluteError(), "mse": MeanSquaredError(), "r2": R2Score()})

    def training_step(self, batch, batch_idx):
        guess = self.net(batch[0])
        loss = (guess - batch[1]).square().mean()
        self.running["loss"].update(loss.detach())
        self.log("train/running", self.running["loss"].compute())
        self.several.update(guess, batch[1])
        self.log_dict(self.several, on_step=False, on_epoch=True)
        return loss

    def on_validation_epoch_start(self):
        self.tracker.increment()

    def validation_step(self, batch, batch_idx):
        for metric in (self.tracker, *self.held):
            metric.update(self.net(batch[0]), batch[1])
        self.log("val/loss", (self.net(batch[0]) - batch[1]).square().mean())

    def on_validation_epoch_end(self):
        best, step = self.tracker.best_metric(return_step=True)
        self.log_dict({"val/best": best["mae"], "val/step": float(step["mae"]), "val/n": float(self.tracker.n_steps)})
        self.log_dict({f"val/{name}": value for name, value in self.held[0].compute().items()})
        self.log("val/kept", self.held[1].compute())
        for metric in self.held:
            metric.reset()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


class TwoSets(stopping.Sums):
    """Validates on two sets of data."""

    def val_dataloader(self):
        return [self._loader(torch.arange(48, 56)), self._loader(torch.arange(56, 64))]


def experiment(kind, **trainer):
    made = stopping.config(every_n_steps=1, **trainer)
    if kind == "Plain":
        made["model"] = {"class_path": f"{__name__}.Plain"}
    else:
        made["data"] = {"class_path": f"{__name__}.TwoSets"}
        base = {"class_path": "torchmetrics.MeanAbsoluteError"}
        made["model"]["metrics"] = {
            "mm": {"class_path": "torchmetrics.MinMaxMetric", "init_args": {"base_metric": base}},
            "kept": {"class_path": f"{__name__}.Keeping"},
        }
    return made


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of each kind that nothing stops."""
    return functools.cache(lambda kind: stopping.fit(tmp_path_factory.mktemp(kind), experiment(kind)))


@pytest.mark.parametrize("kind", ["Plain", "Lit"])
def test_a_sanity_check_leaves_nothing_in_metrics(kind, whole, tmp_path):
    run = stopping.fit(tmp_path, experiment(kind, num_sanity_val_steps=0))
    assert stopping.rows(run) == stopping.rows(whole(kind))


@pytest.mark.parametrize("stop", [("on_train_batch_end", 16), ("on_train_epoch_start", 3)], ids=["within", "between"])
@pytest.mark.parametrize("kind", ["Plain", "Lit"])
def test_a_resume_ends_with_the_same_rows(kind, stop, whole, tmp_path):
    run = stopping.fit(tmp_path, experiment(kind), stop)
    assert stopping.resume(run) == 0
    assert (run / "metrics.csv").read_bytes() == (whole(kind) / "metrics.csv").read_bytes()


def test_a_test_after_a_fit_knows_nothing_of_the_validation(cli, tmp_path):
    run = stopping.fit(tmp_path, experiment("Lit") | {"test_after_fit": True})
    tested = {name: value for name, value in stopping.rows(run)[-1].items() if name.startswith("test/") and value}
    assert tested["test/mm/min"] == tested["test/mm/max"] == tested["test/mm/raw"]


class Odd(Metric):
    """Keeps what no checkpoint can hold."""

    def __init__(self):
        super().__init__()
        self.thing = object()

    def update(self):
        self.thing = object()

    def compute(self):
        return torch.tensor(0.0)


def test_what_a_checkpoint_cannot_hold_is_named():
    module = nn.ModuleDict({"odd": Odd()})
    before = metric_states(module)
    module["odd"].update()
    with pytest.warns(UserWarning, match="a checkpoint cannot hold thing of the metric odd"):
        assert "thing" not in changed_states(before, metric_states(module))["odd"]


def test_another_number_of_processes_takes_up_what_all_had_but_no_counts():
    module = nn.ModuleDict({"a": MinMaxMetric(MeanSquaredError()), "b": MeanSquaredError()})
    before = metric_states(module)
    for metric in module.values():
        metric.update(torch.ones(2), torch.zeros(2))
    module["a"].compute()
    module["a"].reset()
    changes = changed_states(before, metric_states(module))
    common = common_states(module, [changes, changes])
    assert common.keys() == {"a"}
    set_metric_states(module, before)
    set_metric_states(module, common)
    assert (float(module["a"].max_val), float(module["b"].total)) == (1.0, 0.0)
