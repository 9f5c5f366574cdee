"""What data modules, modules and callbacks put into a checkpoint comes back as it was, or is refused at once."""

import datetime
import io
from collections import deque
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Callback

from src.engine.checkpoint.files import read_checkpoint
from src.engine.checkpoint.plain import pack, unpack
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
    torch.load("runs/sums/version_0/checkpoints/last.ckpt", weights_only=True)
    for verb in ("test", "fit"):
        done = cli(verb, "--ckpt_path", "runs/sums/version_0", *(["--trainer.max_epochs=2"] * (verb == "fit")))
        assert done.code == 0, done.err
    # Both times the data module, before its setup and again by Lightning, the module and the callback.
    assert len(Kept.seen) == 8
    assert all(same(each, VALUES) for each in Kept.seen)
    assert same(read_checkpoint("runs/sums/version_0/checkpoints/last.ckpt")["added"], VALUES)
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
    assert "str(...)" in line
    assert "Traceback" not in done.err


def test_hyperparameters_are_kept_as_far_as_a_checkpoint_can_hold_them(cli, tmp_path):
    write(tmp_path, {"module"}, max_epochs=1)
    done = cli("fit", "--config", "sums.yaml")
    assert done.code == 0, done.err
    held = torch.load("runs/sums/version_0/checkpoints/last.ckpt", weights_only=True)["hyper_parameters"]
    assert {"name": "mine", "where": "there"}.items() <= held.items()
    assert "net" not in held


def test_tensors_are_packed_without_a_copy():
    """With weights of gigabytes each checkpoint would take them twice."""
    value = torch.nn.Linear(1, 1).state_dict()
    packed = pack(value, "checkpoint")
    assert all(packed[name] is value[name] for name in value)
    assert packed._metadata == value._metadata
