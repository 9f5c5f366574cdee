"""A sweep's folder, `runs/<experiment>/sweep_<n>/`: claimed by one process, and what it says of the sweep."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from src.tools.sweep.plan import Plan
from src.tools.sweep.space import refuse

FILE = "sweep.yaml"


@dataclass
class Sweep:
    """A sweep at hand.

    Attributes:
        folder: Its own.
        plan: What its trials are.
        trials: How many there are to be.
        storage: `sqlite` or `journal`, a file in the folder; or the address of a database.
    """

    folder: Path
    plan: Plan
    trials: int
    storage: str

    def run_folder(self, number: int) -> Path:
        """Where a trial lies."""
        return self.folder / f"version_{number}"

    def save(self) -> None:
        """Write it down for the other processes, and for those who go on with it."""
        values = asdict(self.plan) | {"trials": self.trials, "storage": self.storage}
        replace(self.folder / FILE, yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120))


def load(folder: Path) -> Sweep:
    """The sweep that lies in a folder."""
    try:
        values: dict[str, Any] = yaml.safe_load((folder / FILE).read_text(encoding="utf-8"))
        trials, storage = values.pop("trials"), values.pop("storage")
        return Sweep(folder, Plan(**values), trials, storage)
    except OSError as error:
        refuse(f"{folder} is no sweep: {FILE}: {error.strerror}. Name the folder of one, runs/<experiment>/sweep_<n>.")
    except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        refuse(f"{folder / FILE} is not as the sweep wrote it: {' '.join(str(error).split())}.")


def claim(root: Path) -> Path:
    """A folder `sweep_<n>` that nobody else has, however many ask at the same instant."""
    if "::" in str(root.absolute()):
        refuse(f"{root}: a folder of runs cannot have `::` in its path. Set --experiment to another name.")
    number = 0
    while True:
        try:
            (root / f"sweep_{number}").mkdir(parents=True)
            return root / f"sweep_{number}"
        except FileExistsError:
            number += 1
        except OSError as error:
            refuse(f"Cannot make a folder under {root}: {error.strerror}. Name another: --trainer.default_root_dir.")


def replace(path: Path, text: str) -> None:
    """Write a file whole or not at all, whoever reads or writes it at the same time."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
