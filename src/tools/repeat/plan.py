"""What is repeated: read from the command line once, checked before anything runs, and kept in the repeat's folder."""

import json
import pydoc
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from src.tools.common import Parser, claim, composed, refuse, write

FILE = "repeat.json"
MOST_SEED = 2**32 - 1  # NumPy's


@dataclass(frozen=True)
class Plan:
    """All that decides what the fits are.

    Attributes:
        kind: `seed` or `fold`, in which they differ.
        values: Of each fit its seed or the number of its fold.
        options: What each is given for `fit`, beside that.
        stage: `test` or `val`, whose metrics are told.
        accelerator: What a fit was told to run on; its evaluation runs there, too.
        alone: Whether a fit is one process.
        monitor: The metric by which a fit chooses its best checkpoint.
    """

    kind: str
    values: list[int]
    options: list[str]
    stage: str = "test"
    accelerator: str = "auto"
    alone: bool = True
    monitor: str = "val/loss"

    def own(self, number: int) -> list[str]:
        """The options of `fit` in which the `number`-th fit differs from the others."""
        tested = f"--test_after_fit={str(self.stage == 'test').lower()}"
        if self.kind == "seed":
            return [f"--seed_everything={self.values[number]}", tested]
        return [f"--data.fold=[{self.values[number]}, {len(self.values)}]", tested]


def read_seeds(words: list[str]) -> list[int]:
    """`5` is 0 to 4; `1 7 9`, `1,7,9` and `[1, 7, 9]` are these three."""
    text = " ".join(words)
    parts = text.strip("[]").replace(",", " ").split()
    if not parts or not all(part.isdecimal() for part in parts):
        refuse(f"--seeds {text} must be a number of seeds (5 are the seeds 0 to 4) or a list of them: --seeds 1 7 9.")
    if too_high := [part for part in parts if int(part) > MOST_SEED]:
        refuse(f"--seeds {text}: {too_high[0]} is no seed; they go from 0 to {MOST_SEED}.")
    if text.isdecimal():
        parts = [str(seed) for seed in range(int(text))]
    if not parts or len(set(map(int, parts))) < len(parts):
        refuse(f"--seeds {text}: {'a seed stands there twice' if parts else 'there is nothing to do'}.")
    return [int(part) for part in parts]


def read_folds(number: int) -> list[int]:
    """The numbers of the folds."""
    if number < 2:
        refuse(f"--folds {number} must be at least 2.")
    return list(range(number))


def begin(kind: str, values: list[int], options: list[str]) -> tuple[Path, Plan]:
    """Check everything that can be known before a fit, then claim `runs/<experiment>/repeat_<n>`."""
    own = {"seed": ("--seed_everything", "--seeds"), "fold": ("--data.fold", "--folds")}[kind]
    early = Parser("python -m src repeat", add_help=False, allow_abbrev=False)
    early.add_argument("-c", "--config", action="append")
    early.add_argument("--ckpt_path")
    early.add_argument(own[0], dest="own")
    early.add_argument("--test_after_fit", nargs="?", const="")
    early.add_argument("--print_config", nargs="?", const="")
    given = early.parse_known_args(options)[0]
    if given.print_config is not None:
        refuse("repeat prints no config: python -m src fit --print_config does, with the same options.")
    if given.test_after_fit is not None:
        refuse("repeat sets --test_after_fit, true for seeds where there is a test, false for folds: leave it out.")
    if given.own is not None:
        refuse(f"{own[1]} sets {own[0]}: leave it out.")
    if given.ckpt_path is not None:
        refuse("a repeat begins new runs: leave out --ckpt_path. To start from weights: --transfer.weights.")
    if not given.config:
        refuse("name the YAML of an experiment first, --config configs/<name>.yaml.")
    plan = Plan(kind, values, options)
    config = composed(options)
    if kind == "fold":
        refuse_without_folds(config)
    composed([*options, *plan.own(0)])
    trainer = config["trainer"]
    if trainer["fast_dev_run"] or trainer["barebones"] or trainer["enable_checkpointing"] is False:
        refuse("a repeat needs checkpoints: leave out fast_dev_run, barebones and enable_checkpointing.")
    stage = "val" if kind == "fold" else test_or_val(config)
    monitor = config["checkpoint"]["monitor"]
    plan = Plan(kind, values, options, stage, str(trainer["accelerator"]), is_alone(trainer), monitor)
    root, experiment = str(trainer["default_root_dir"] or "."), config["experiment"]
    if "://" in root:
        refuse(f"trainer.default_root_dir={root} is an address. Name a folder on a disk of this machine.")
    experiment = experiment or Path(given.config[0]).stem
    folder = claim(Path(root).expanduser() / experiment, "repeat")
    write(folder / FILE, json.dumps(asdict(plan), indent=1) + "\n")
    return folder, plan


def test_or_val(config: dict[str, Any]) -> str:
    """The stage whose metrics are told: the test where there is data for it."""
    from lightning.pytorch import LightningDataModule, LightningModule

    for part, base in (("data", LightningDataModule), ("model", LightningModule)):
        found = pydoc.locate((config[part] or {}).get("class_path", ""))
        if getattr(found, "test_dataloader", base.test_dataloader) is not base.test_dataloader:
            return "test"
    print(
        "note: there is no test_dataloader; the metrics are those of the best checkpoint's validation", file=sys.stderr
    )
    return "val"


def refuse_without_folds(config: dict[str, Any]) -> None:
    """End with one line if the data module has no option `fold`."""
    data = config["data"] or {}
    if "fold" not in data.get("init_args", {}):
        refuse(
            f"{data.get('class_path', 'the experiment')} has no folds. Give the data module an option "
            "`fold: tuple[int, int] | None = None` and in setup, by fold_of of src/engine/data/splits.py, the line: "
            "self.train_rows, self.val_rows = fold_of(len(x), self.fold, seed)."
        )


def is_alone(trainer: dict[str, Any]) -> bool:
    """Whether a fit is surely one process: Lightning starts others by this process's own command line."""
    import torch

    devices, cpu = trainer["devices"], trainer["accelerator"] == "cpu"
    one = devices in (1, "1") or (isinstance(devices, list) and len(devices) == 1)
    whole = devices == "auto" and (cpu or torch.accelerator.device_count() <= 1)
    return (one or whole) and trainer["num_nodes"] == 1 and trainer["strategy"] == "auto"


def read_plan(folder: Path) -> Plan:
    """That of a repeat which goes on."""
    try:
        return Plan(**json.loads((folder / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        refuse(f"--resume {folder} is no repeat: there is no {FILE}, or it is broken.")
