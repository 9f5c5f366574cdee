"""Plan a repeat: read from the command line, checked before anything runs, and kept in the repeat's folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from src.tools.common import refuse, write
from src.tools.common.fits import claim, compose_base, load

FILE = "repeat.yaml"
MAX_SEED = 2**32 - 1  # NumPy's


@dataclass(frozen=True)
class Plan:
    """All that decides what the fits are.

    Attributes:
        folder: Where everything lies, the runs in `version_<n>`.
        base: The composed config of all fits.
        kind: `seed` or `fold`, in which they differ.
        values: The seed or the fold of each.
    """

    folder: Path
    base: dict[str, Any]
    kind: str
    values: list[int]

    @property
    def stage(self) -> str:
        """Return the stage whose metrics are compared: `test` or `val`."""
        return "test" if self.base["test_after_fit"] else "val"

    def options(self, value: int) -> list[str]:
        """Return the options in which the fit of a seed or a fold differs."""
        return [f"--seed_everything={value}" if self.kind == "seed" else f"--data.fold=[{value}, {len(self.values)}]"]


def read_seeds(given: list[int]) -> list[int]:
    """Return seeds: `5` is 0 to 4; `1 7 9` are these three."""
    seeds = list(range(given[0])) if len(given) == 1 else given
    if not seeds or len(seeds) > len(set(seeds)) or not all(0 <= seed <= MAX_SEED for seed in seeds):
        refuse(f"--seeds {given}: give a count (5 means 0 to 4), or different seeds from 0 to {MAX_SEED}, as 1 7 9.")
    return seeds


def begin(kind: str, values: list[int], files: list[str], options: list[str]) -> Plan:
    """Check the fits of a new repeat, and make its folder.

    Args:
        kind: `seed` or `fold`.
        values: The seed or the fold of each fit.
        files: What --config was given.
        options: Those of `fit`.
    """
    own = {"seed": {"seed_everything"}, "fold": {"data.fold", "test_after_fit"}}[kind]
    base, root = compose_base(files, options, own)
    data = base["data"] or {}
    if kind == "fold" and "fold" not in data.get("init_args", {}):
        name = data.get("class_path", "the experiment")
        refuse(f"{name} has no folds. Give the data module an option `fold`, which setup uses, as in src/data/rows.py.")
    base["test_after_fit"] &= kind == "seed"  # between folds the test's data stays unseen
    folder = claim(root, "repeat", base)
    write(folder / FILE, yaml.safe_dump({"kind": kind, "values": values}))
    return Plan(folder, base, kind, values)


def read_plan(folder: Path) -> Plan:
    """Read the plan of a repeat that is resumed."""
    own, base = load(folder, FILE)
    return Plan(folder, base, **own)
