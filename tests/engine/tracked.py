"""What the tests of trackers share: which of them are installed, a run that draws, and the files of W&B."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from PIL import Image

from src.engine.loggers.trackers.kinds import PACKAGES
from src.engine.loggers.trackers.media import send_picture
from src.engine.run.run import RunCallback
from tests.conftest import PROJECT
from tests.stopping import config

OPTIONS = {
    "tensorboard": "--track.tensorboard=true",
    "wandb": "--track.wandb=offline",
    "mlflow": "--track.mlflow=sqlite:///mlflow.db",
}
HERE = [name for name, (_, modules) in PACKAGES.items() if any(map(importlib.util.find_spec, modules))]
ALL = [OPTIONS[name] for name in HERE]


class Draws(RunCallback):
    """Sends a red square of 6 by 4 after the training, and a green one after the test."""

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._send(trainer, "square", (255, 0, 0))

    def on_test_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._send(trainer, "test_square", (0, 255, 0))

    def _send(self, trainer: Trainer, name: str, colour: tuple[int, int, int]) -> None:
        path = self.run.folder / f"{name}.png"
        if trainer.is_global_zero:
            Image.new("RGB", (6, 4), colour).save(path)
        send_picture(trainer.loggers, name, path, trainer.global_step)


def write_experiment(folder: Path) -> None:
    """Two epochs of the small experiment, and their test; drawn."""
    experiment = config(callbacks=({"class_path": f"{__name__}.Draws"},), max_epochs=2) | {"test_after_fit": True}
    (folder / "sums.yaml").write_text(yaml.safe_dump(experiment))


def environment(folder: Path) -> dict[str, str]:
    """Where nobody is logged in, and trackers write nothing outside the folder."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    own = {"HOME": str(folder), "PYTHONPATH": str(PROJECT)}
    return inherited | own | {"OMP_NUM_THREADS": "1"}


def run(*args: object, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `python -m src ...` there."""
    command = [sys.executable, "-m", "src", *map(str, args)]
    env = env or environment(cwd)
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False)


def wandb_records(file: Path) -> Iterator[Any]:
    """What W&B wrote offline: records in LevelDB's log format. It has no reader in Python."""
    from wandb.proto import wandb_internal_pb2

    content, place, record = file.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if (left := 32_768 - place % 32_768) < 7:  # a block's rest has no room for a header
            place += left
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # the whole of a record, or its end
            yield wandb_internal_pb2.Record.FromString(record)
            record = b""


def wandb_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a run's history."""
    found = [each.history.item for each in wandb_records(file) if each.WhichOneof("record_type") == "history"]
    return [{"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in row} for row in found]
