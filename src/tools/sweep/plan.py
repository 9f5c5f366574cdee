"""What a sweep is: read from a YAML and the command line once, kept in its folder, the same for all who work on it."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import get_loader

from src.tools.sweep.space import Space, read_space, refuse

KEYS = ("space", "metric", "direction", "sampler", "pruner", "trials")
DIRECTIONS = ("minimize", "maximize")
SAMPLER = {"class_path": "optuna.samplers.TPESampler"}
EXAMPLES = {"sampler": SAMPLER["class_path"], "pruner": "optuna.pruners.MedianPruner"}
GRID = "GridSampler"


@dataclass(frozen=True)
class Plan:
    """All that decides what the trials of a sweep are.

    Attributes:
        space: As the YAML has it.
        metric: The validation metric that is compared.
        direction: `minimize` or `maximize`.
        sampler: `class_path` and `init_args`, of Optuna's or another.
        pruner: The same; None lets every trial come to its end.
        options: What every trial is given, for the command line of `fit`.
    """

    space: dict[str, Any]
    metric: str
    direction: Literal["minimize", "maximize"]
    sampler: dict[str, Any]
    pruner: dict[str, Any] | None
    options: list[str]

    @property
    def read(self) -> Space:
        """The space."""
        return read_space(self.space)

    @property
    def forced(self) -> list[str]:
        """Further options of every trial: the validation decides, on one device."""
        mode = "min" if self.direction == "minimize" else "max"
        return [
            "--test_after_fit=false",
            "--trainer.devices=1",
            f"--checkpoint.monitor={self.metric}",
            f"--checkpoint.mode={mode}",
        ]

    @property
    def is_grid(self) -> bool:
        """Whether each point of the space is a trial."""
        return str(self.sampler["class_path"]).rpartition(".")[2] == GRID

    def differences(self, other: dict[str, Any]) -> list[str]:
        """Where another plan is not the same, in words."""
        mine, found = asdict(self), []
        for key in mine:
            if key == "space":
                found += _changes(dict(other.get(key) or {}), mine[key])
            elif mine[key] != other.get(key):
                found.append(f"{key} was {_short(other.get(key))}, now {_short(mine[key])}")
        return found


def _changes(was: dict[str, Any], now: dict[str, Any]) -> list[str]:
    names = [name for name in {**was, **now} if was.get(name, ...) != now.get(name, ...)]
    return [
        f"{name} " + (f"was {_short(was[name])}, " if name in was else "was not there, ")
        + (f"now {_short(now[name])}" if name in now else "is gone now")
        for name in names
    ]  # fmt: skip


def _short(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return repr(" ".join(value))
    return yaml.safe_dump(value, default_flow_style=True, width=1_000_000).removesuffix("\n...\n").strip()


def read_sweep(path: str) -> dict[str, Any]:
    """The YAML of a sweep.

    Args:
        path: As the user gave it.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        refuse(f"--sweep {path}: there is no such file.")
    try:
        given = get_loader("yaml")(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        refuse(f"--sweep {path}: this is no YAML: {' '.join(str(error).split())}.")
    if not isinstance(given, dict) or not given.keys() <= set(KEYS) or "space" not in given:
        got = ", ".join(map(str, given)) if isinstance(given, dict) else type(given).__name__
        refuse(f"--sweep {path}: expected `space` and, if you like, {', '.join(KEYS[1:])}; got {got}.")
    if given.get("direction") not in (None, *DIRECTIONS):
        refuse(f"direction: {given['direction']} must be {' or '.join(DIRECTIONS)}.")
    for key in ("sampler", "pruner"):
        if isinstance(given.get(key), str):
            given[key] = {"class_path": given[key]}
        if given.get(key) is not None and "class_path" not in given[key]:
            refuse(f"{key}: expected a class_path, such as {EXAMPLES[key]}.")
        if given.get(key) is not None and given[key].get("init_args", ...) is None:
            del given[key]["init_args"]  # left empty
    trials = given.get("trials")
    if trials is not None and (not isinstance(trials, int) or trials < 1):
        refuse(f"trials: {trials} must be a number of trials, at least 1.")
    return given
