"""Plan a repeat: read from the command line, checked before anything runs, and kept in the repeat's folder."""

import json
import pydoc
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from src.tools.common import claim, composed, refuse, write

FILE = "repeat.json"
MAX_SEED = 2**32 - 1  # NumPy's
REFUSED = {
    "--print_config": "repeat prints no config. `python -m src fit --print_config` does, with the same options.",
    "--test_after_fit": "repeat sets it, true for seeds where there is a test, false for folds. Leave it out.",
    "--ckpt_path": "a repeat begins new runs. Leave it out; to start from weights: --transfer.weights.",
}


@dataclass(frozen=True)
class Plan:
    """All that decides what the fits are."""

    kind: str  # `seed` or `fold`, in which they differ
    values: list[int]  # the seed or the fold of each
    options: list[str]  # those of `fit` that all have
    stage: str = "val"  # or `test`: whose metrics are compared
    accelerator: str = "auto"
    alone: bool = True  # whether a fit is one process
    monitor: str | None = None  # the metric by which a fit chooses its best checkpoint

    def own(self, number: int) -> str:
        """Return the option of `fit` in which the `number`-th fit differs from the others."""
        value = self.values[number]
        return f"--seed_everything={value}" if self.kind == "seed" else f"--data.fold=[{value}, {len(self.values)}]"


def read_seeds(words: list[str]) -> list[int]:
    """Read seeds: `5` is 0 to 4; `1 7 9`, `1,7,9` and `[1, 7, 9]` are these three."""
    text = " ".join(words)
    parts = text.strip("[]").replace(",", " ").split()
    seeds = [int(part) for part in parts if part.isdecimal() and int(part) <= MAX_SEED]
    if not 0 < len(parts) == len(set(seeds)) or text == "0":
        refuse(f"--seeds {text}: name how many (5 are the seeds 0 to 4) or different ones from 0 to {MAX_SEED}: 1 7 9.")
    return list(range(int(text))) if text.isdecimal() else seeds


def begin(kind: str, values: list[int], options: list[str], name: str) -> tuple[Path, Plan]:
    """Check everything that can be known before a fit, then claim `runs/<experiment>/repeat_<n>`.

    An experiment that the config does not name gets the given name.
    """
    own = Plan(kind, values, options).own(0)
    for option in (word.partition("=")[0] for word in options):
        if option in REFUSED:
            refuse(f"{option}: {REFUSED[option]}")
        if option == own.partition("=")[0]:
            refuse(f"--{kind}s sets {option}: leave it out.")
    config = composed(options)
    data, trainer = config["data"] or {}, config["trainer"]
    if kind == "fold" and "fold" not in data.get("init_args", {}):
        refuse(
            f"{data.get('class_path', 'the experiment')} has no folds. Give the data module an option "
            "`fold: tuple[int, int] | None = None` and in setup, by fold_of of src/engine/data/splits.py, the line: "
            "self.train_rows, self.val_rows = fold_of(len(x), self.fold, seed)."
        )
    if kind == "fold":
        composed([*options, own])
    if trainer["fast_dev_run"] or trainer["barebones"] or trainer["enable_checkpointing"] is False:
        refuse("a repeat needs checkpoints: leave out fast_dev_run, barebones and enable_checkpointing.")
    stage = "test" if kind == "seed" and has_test(config) else "val"
    options = [*options, f"--test_after_fit={str(stage == 'test').lower()}"]
    monitor, accelerator = config["checkpoint"]["monitor"], str(trainer["accelerator"])
    plan = Plan(kind, values, options, stage, accelerator, is_alone(trainer), monitor)
    root = str(trainer["default_root_dir"] or ".")
    if "://" in root:
        refuse(f"trainer.default_root_dir={root} is an address. Name a folder on a disk of this machine.")
    folder = claim(Path(root).expanduser() / (config["experiment"] or name), "repeat")
    write(folder / FILE, json.dumps(asdict(plan), indent=1) + "\n")
    return folder, plan


def has_test(config: dict[str, Any]) -> bool:
    """Return whether the data module or the module has data for a test."""
    from lightning.pytorch import LightningDataModule, LightningModule

    for part, base in (("data", LightningDataModule), ("model", LightningModule)):
        found = pydoc.locate((config[part] or {}).get("class_path", ""))
        if getattr(found, "test_dataloader", base.test_dataloader) is not base.test_dataloader:
            return True
    print("note: no test_dataloader; the metrics are those of the best checkpoint's validation", file=sys.stderr)
    return False


def is_alone(trainer: dict[str, Any]) -> bool:
    """Return whether a fit is surely one process: Lightning starts others by this process's own command line."""
    import torch

    devices, cpu = trainer["devices"], trainer["accelerator"] == "cpu"
    one = devices in (1, "1") or (isinstance(devices, list) and len(devices) == 1)
    whole = devices == "auto" and (cpu or torch.accelerator.device_count() <= 1)
    return (one or whole) and trainer["num_nodes"] == 1 and trainer["strategy"] == "auto"


def read_plan(folder: Path) -> Plan:
    """Read the plan of a repeat that is resumed."""
    try:
        return Plan(**json.loads((folder / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        refuse(f"--resume {folder} is no repeat: there is no {FILE}, or it is broken.")
