"""The command line: Lightning's, plus a config in each checkpoint and a folder for each run."""

import copy
import io
import signal
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import yaml
from dotenv import load_dotenv
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning_utilities.core.apply_func import apply_to_collection

from src.engine.always_on import ALWAYS_ON, callbacks
from src.engine.checkpoint.build import Transfer
from src.engine.checkpoint.files import find_checkpoint, read_checkpoint
from src.engine.config.compose import as_yaml as as_yaml
from src.engine.config.compose import compose as compose
from src.engine.config.compose import given, read_text
from src.engine.config.messages import nearest
from src.engine.config.parser import Parser, instantiate
from src.engine.data.adopt import adopt
from src.engine.data.seeding import STREAMS, hash_seed, seeded, settle_seed
from src.engine.errors import UserError, one_line
from src.engine.lightning_fixes.trainer import spare_the_question_for_a_gpu
from src.engine.processes import is_rank_zero
from src.engine.run.failures import READ_WELL, explained, quiet
from src.engine.run.folder import begin, find_interrupted, give_back, runs_folder
from src.engine.run.run import Run
from src.module import LitModule

VERBS = ("fit", "validate", "test", "predict")
ABOUT = """\
Train and use a net that a YAML file describes: its net, loss, metrics, optimizer, data and trainer.

examples:
  python -m src fit --config configs/rows.yaml --trainer.max_epochs 5
  python -m src fit --ckpt_path runs/rows/version_0 --trainer.max_epochs 10
  python -m src test --ckpt_path runs/rows/version_0/checkpoints/best.ckpt --data.batch_size 64

rules:
  --config a.yaml --config b.yaml  the later file wins, options win over files
  dicts, lists                     dicts merge, lists are replaced, `callbacks+:` appends
  null                             deletes an entry
  another class_path               drops the old class's arguments
  config: [base.yaml]              builds on another file
  ${trainer.max_epochs}            refers to another value
  local.yaml, .env                 defaults of this machine"""
# Options that a checkpoint's config does not set for another verb.
PLACE = {"accelerator", "devices", "num_nodes", "strategy"}


class CLI(LightningCLI):
    """Runs one of `fit`, `validate`, `test` and `predict` with options of the trainer, the model and the data."""

    def __init__(self, words: list[str], callbacks: Iterable[pl.Callback] = (), folder: Path | None = None) -> None:
        self.verb, *self._words = words
        self._callers, self._folder = list(callbacks), folder
        quiet()
        spare_the_question_for_a_gpu()
        super().__init__(
            LightningModule,
            LightningDataModule,
            trainer_class=pl.Trainer,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=42,
            trainer_defaults={"default_root_dir": "runs", "logger": False, "enable_model_summary": False},
            parser_class=Parser,
            parser_kwargs={"description": ABOUT, "usage": f"python -m src {self.verb} [options]"},
            save_config_callback=None,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,  # the checkpoint carries the config
            run=False,  # one verb, one parser: the options of each take 50 ms to build
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--experiment", type=str | None, help="Names the run's folder; by default the config does.")
        parser.add_argument("--note", type=str | None, help="A word on the run, shown by `python -m src runs`.")
        parser.add_argument("--test_after_fit", type=bool, default=False, help="Test the best checkpoint after a fit.")
        parser.add_argument("--ckpt_path", type=str | None, help="A checkpoint; a run's folder means its last.ckpt.")
        for name, kind in (*ALWAYS_ON, ("transfer", Transfer)):
            parser.add_class_arguments(kind, name)
        # Any LightningModule may be named; this one need not be.
        parser.set_defaults({"model": {"class_path": f"{LitModule.__module__}.{LitModule.__qualname__}"}})

    def parse_arguments(self, parser: Parser, args: ArgsType) -> None:  # type: ignore[override]
        """Merge the checkpoint's config, the files and the options, and parse the result."""
        if (variables := Path(".env")).is_file():
            load_dotenv(stream=io.StringIO(read_text(variables)))
        paths, files = given(self._words, "ckpt_path"), given(self._words, "config", "c")
        if paths and given(self._words, "transfer.weights"):
            raise UserError("--ckpt_path resumes a run, --transfer.weights begins one. Give one of them.")
        self.ckpt_path = find_checkpoint(paths[-1]) if paths else None
        carried: dict[str, Any] = dict(read_checkpoint(self.ckpt_path)["config"]) if self.ckpt_path else {}
        if carried and self.verb != "fit":
            carried["trainer"] = {name: value for name, value in carried["trainer"].items() if name not in PLACE}
        given_config, left = compose(carried, self._words)
        if given_config.pop("ckpt_path", None):
            raise UserError("ckpt_path in a config file has no effect. Give it on the command line: --ckpt_path PATH.")
        text = ["--config", as_yaml(given_config)] if given_config else []
        self.config = parser.parse(lambda: parser.parse_args([*text, *left]))
        asked = self.config.seed_everything = settle_seed(self.config.seed_everything)
        self.seed = carried.get("seed_everything", asked)
        if self.verb == "fit" and self.seed != asked:
            note = f"note: seed_everything={asked} has no effect: the run keeps {self.seed}\n"
            sys.stderr.write(note if is_rank_zero() else "")
            self.config.seed_everything = self.seed
        self.config.experiment = self.config.experiment or (Path(files[0]).stem if files else "run")

    def before_instantiate_classes(self) -> None:
        # Plain values, as YAML and a checkpoint hold them. JSON would turn the keys 4 and None into texts.
        values = yaml.safe_load(self.parser.dump(self.config, skip_unset=False, skip_validation=True, format="yaml"))
        values = {name: value for name, value in values.items() if name not in ("config", "ckpt_path")}
        # References are resolved; a text that looks like one is escaped, to be read as a text again.
        self.run = Run(self.verb, apply_to_collection(values, str, str.replace, "${", r"\${"))
        self.root = runs_folder(self.config.trainer.default_root_dir, self.config.experiment)
        if self.verb == "fit" and not self._folder:
            self.ckpt_path = find_interrupted(self.root, self.run.config) or self.ckpt_path
        self.run.source = self.ckpt_path

    def instantiate_classes(self) -> None:
        # Another verb may have another seed; objects of the config are made with that of the fit.
        with nullcontext() if self.verb == "fit" else seeded(self.seed):
            own_seed = partial(seeded, hash_seed(self.seed, STREAMS["__init__"]))
            self.config_init = instantiate(self.parser, self.config, own_seed)
        self.model, self.datamodule = self.config_init.model, self.config_init.data
        sources = (self.model, self.datamodule)
        if self.run.config.get("test_after_fit") and not any(
            is_overridden("test_dataloader", each) for each in sources
        ):
            names = " nor ".join(type(each).__name__ for each in sources)
            advice = "Write one, or give --test_after_fit false."
            raise UserError(f"test_after_fit: neither {names} has a test_dataloader. {advice}")
        if self.ckpt_path:
            # What the data module learned (a mean, a vocabulary) may be needed in `setup`; Lightning restores it later.
            state = read_checkpoint(self.ckpt_path).get(type(self.datamodule).__qualname__)
            if state is not None:  # tensors are read when they are used: by then the file may be another one
                self.datamodule.load_state_dict(copy.deepcopy(state))
        else:
            self.config_init.transfer.into(getattr(self.model, "net", self.model))
        self.trainer = self.instantiate_trainer()
        adopt(self.trainer, self.model, self.datamodule, seed=self.seed)

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Claim the run's folder; add the always-on callbacks to those of the config."""
        config = self.config_init
        every = callbacks(config.trainer, {name: config[name] for name, _ in ALWAYS_ON}, self.run, self._callers)
        begin(self.run, self.root, self._folder)
        try:
            return super().instantiate_trainer(callbacks=every, default_root_dir=str(self.run.folder), **kwargs)
        except (ValueError, TypeError, RuntimeError, ModuleNotFoundError, *READ_WELL) as error:
            # Lightning rejects the options.
            if not self._folder:
                give_back(self.run.folder)
            raise UserError(f"trainer: {one_line(error).rstrip('.!')}. See python -m src fit --help.") from error

    def after_instantiate_classes(self) -> None:
        """Run the verb, and a test after a fit if the config asks for it."""
        # The summary has the metrics in one line. Predictions go to files; Lightning would keep all in memory.
        silent = {"fit": {}, "predict": {"return_predictions": False}}.get(self.verb, {"verbose": False})
        parts: dict[str, Any] = {"datamodule": self.datamodule, "weights_only": True}
        getattr(self.trainer, self.verb)(self.model, ckpt_path=self.ckpt_path, **parts, **silent)
        if self.run.test_follows(self.verb):
            self.trainer.test(self.model, ckpt_path=self.run.best, verbose=False, **parts)


def main(args: Iterable[Any] | None = None, callbacks: Iterable[pl.Callback] = (), folder: Path | None = None) -> CLI:
    """Run the command line; a user's mistake exits with one line and a nonzero code.

    Args:
        args: Words after `python -m src`, also paths and numbers; by default those of the process.
        callbacks: Extra callbacks, which the config does not name.
        folder: Folder of the run, in place of the next `version_<n>`; it may exist.

    Returns:
        The finished command line, with `trainer`, `model` and `datamodule` for a notebook.
    """
    try:
        words = sys.argv[1:] if args is None else [str(each) for each in args]
        verb = words[0] if words else ""
        if verb not in VERBS:
            raise UserError(f"Name a verb first, one of {', '.join(VERBS)}; got {verb!r}{nearest(verb, VERBS)}")
        return CLI(words, callbacks, folder)
    except (KeyboardInterrupt, SystemExit) as stop:
        # Lightning turns a Ctrl-C into the exit code 1.
        if not isinstance(stop, KeyboardInterrupt) and not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        sys.stderr.write("SIGINT before the first step; nothing was to save\n")
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        if message := explained(error):
            sys.exit("\n".join([f"error: {message}", *getattr(error, "__notes__", [])]))
        raise
