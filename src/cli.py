"""The command line: Lightning's own, with a checkpoint that carries its config, a folder for each run, and short errors."""

import argparse
import importlib
import json
import logging
import os
import pkgutil
import shlex
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any, NoReturn

import yaml
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from src import callbacks
from src.checkpoint import RunCheckpoint, find_checkpoint, read_checkpoint
from src.module import LitModule

# Options of one verb, not of the experiment: they stay out of the config that a checkpoint carries.
VERB_OPTIONS = {"config", "ckpt_path", "weights_only", "verbose", "return_predictions"}
# Where a run was trained does not decide where it is evaluated.
PLACE_OPTIONS = ("accelerator", "devices", "num_nodes", "strategy")


class Parser(LightningArgumentParser):
    """Answers a mistake with one line in place of the usage text."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the mistake and exit with 2."""
        sys.stderr.write(f"error: {message}\n")
        sys.exit(2)


def always_on() -> dict[str, type[Callback]]:
    """The callback of each file in `src/callbacks`, by the file's name: on in every run, its arguments are options."""
    found = {}
    for info in pkgutil.iter_modules(callbacks.__path__):
        module = importlib.import_module(f"{callbacks.__name__}.{info.name}")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Callback) and value.__module__ == module.__name__:
                found[info.name] = value
    return found


class CLI(LightningCLI):
    """`fit`, `validate`, `test` and `predict`, each with the options of the trainer, the model and the data.

    Args:
        args: The command line after the program's name; that of the process by default.
    """

    def __init__(self, args: list[str] | None = None) -> None:
        self.args = sys.argv[1:] if args is None else args
        self.always_on = {"checkpoint": RunCheckpoint, **always_on()}
        super().__init__(
            LitModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=42,
            trainer_defaults={"default_root_dir": "runs", "logger": False, "enable_model_summary": False},
            parser_class=Parser,
            save_config_callback=None,
            auto_configure_optimizers=False,
            args=args,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the experiment's options and those of the callbacks that are always on."""
        parser.add_argument(
            "--experiment", type=str | None, help="Names the run's folder; by default after the first config file."
        )
        parser.add_argument(
            "--test_after_fit", type=bool, default=False, help="Whether fit ends with the test of its best checkpoint."
        )
        for name, callback in self.always_on.items():
            parser.add_class_arguments(callback, name)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, with the config of the checkpoint, if one is named, before everything else."""
        early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        early.add_argument("verb", nargs="?")
        early.add_argument("--ckpt_path")
        known, _ = early.parse_known_args(self.args)
        arguments = list(self.args)
        if known.ckpt_path:
            self.ckpt_path: Path | None = find_checkpoint(known.ckpt_path)
            config = self._config_of(self.ckpt_path, known.verb)
            at = arguments.index(known.verb) + 1
            arguments = [*arguments[:at], "--config", json.dumps(config), *arguments[at:]]
        else:
            self.ckpt_path = None
        self.config = parser.parse_args(arguments)
        verb = self.config[self.config.subcommand]
        # Lightning would let what the file says overwrite the command line: it gets the path later.
        verb.ckpt_path = None
        verb.weights_only = True
        # The summary shows the metrics in a line; Lightning's table is there for who asks.
        if not any(argument.startswith("--verbose") for argument in arguments) and "verbose" in verb:
            verb.verbose = False
        if verb.experiment is None:
            files = [Path(str(path)) for path in verb.config or [] if path is not None]
            verb.experiment = files[0].stem if files else "run"

    def _config_of(self, path: Path, verb: str) -> dict[str, Any]:
        config: dict[str, Any] = read_checkpoint(path)["config"]
        core = {"seed_everything", "trainer", "model", "data", "experiment", "test_after_fit"}
        # An extra that was deleted since has no say.
        config = {key: value for key, value in config.items() if key in core or key in self.always_on}
        if verb != "fit":
            config["trainer"] = {k: v for k, v in config["trainer"].items() if k not in PLACE_OPTIONS}
        return config

    def before_instantiate_classes(self) -> None:
        """Give the verb its checkpoint back."""
        self.config[self.subcommand].ckpt_path = str(self.ckpt_path) if self.ckpt_path else None

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add the callbacks that are always on, and the run's folder."""
        config = self.config_init[self.subcommand]
        given = config.trainer.callbacks or []
        given = given if isinstance(given, list) else [given]
        ours = [config[name] for name in self.always_on]
        off = [kind for kind, on in self._kinds(config.trainer).items() if not on or any(isinstance(c, kind) for c in given)]
        ours = [callback for callback in ours if not isinstance(callback, tuple(off))]
        plain = self.plain_config()
        for callback in ours:
            if isinstance(callback, RunCheckpoint):
                callback.config = plain
        self.run_dir = self._claim_folder()
        if rank_zero_only.rank == 0 and not (self.run_dir / "config.yaml").exists():
            (self.run_dir / "config.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
        return super().instantiate_trainer(callbacks=[*given, *ours], default_root_dir=str(self.run_dir), **kwargs)

    @staticmethod
    def _kinds(trainer: Any) -> dict[type[Callback], bool]:
        return {
            Checkpoint: trainer.enable_checkpointing is not False and not trainer.barebones,
            ProgressBar: trainer.enable_progress_bar is not False and not trainer.barebones,
        }

    def plain_config(self) -> dict[str, Any]:
        """The experiment's config as plain values: what YAML and a checkpoint can hold."""
        config: dict[str, Any] = json.loads(self.parser.dump(self.config, skip_none=False, format="json"))
        return {key: value for key, value in config[self.subcommand].items() if key not in VERB_OPTIONS}

    def _claim_folder(self) -> Path:
        config = self.config[self.subcommand]
        if self.subcommand == "fit" and self.ckpt_path is not None and self.ckpt_path.parent.name == "checkpoints":
            return self.ckpt_path.parent.parent
        root = Path(config.trainer.default_root_dir, config.experiment)
        if rank_zero_only.rank != 0:
            return root
        root.mkdir(parents=True, exist_ok=True)
        taken = [int(n) for path in root.glob("version_*") if (n := path.name.removeprefix("version_")).isdigit()]
        number = max(taken, default=-1) + 1
        while True:
            folder = root / f"version_{number}"
            try:
                # Whoever makes the folder owns it, however many start at the same instant.
                folder.mkdir()
                return folder
            except FileExistsError:
                number += 1

    def after_fit(self) -> None:
        """Test the best checkpoint, where the config says so."""
        if self.config[self.subcommand].test_after_fit:
            best = self.trainer.checkpoint_callback.best_model_path or None
            self.trainer.test(self.model, datamodule=self.datamodule, ckpt_path=best, verbose=False, weights_only=True)


def is_a_users_mistake(error: BaseException) -> bool:
    """Whether the message says it all: Lightning's or our own word on the input, or the machine's on a file."""
    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    return isinstance(error, OSError | MisconfigurationException) or (
        isinstance(error, ValueError) and Path(__file__).parent in raised_in.parents
    )


# Warnings that a user of this template can do nothing about, by the start of their text.
IDLE_WARNINGS = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning on torch's pytree
    r"It is recommended to use `self.log\(.*sync_dist=True\)`",  # the means are reduced before they are logged
    r"The number of training batches .* is smaller than the logging interval",  # the default of a Lightning option
    r"Lightning couldn't infer the indices fetched",  # Predictions orders by rank
    r"Checkpoint directory .* exists and is not empty",
)


def quiet() -> None:
    """Leave Lightning's reports on its own workings out; what it warns of stays."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in IDLE_WARNINGS:
        warnings.filterwarnings("ignore", text)
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="jsonargparse|lightning")


def main(args: list[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: What follows `python -m src`; by default what the process was given.
    """
    quiet()
    try:
        CLI(args)
    except Exception as error:
        if not is_a_users_mistake(error):
            raise
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
