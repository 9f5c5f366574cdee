"""The command line: Lightning's own, with a checkpoint that carries its config and a folder for each run."""

import signal
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import yaml
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from src.engine.always_on import ALWAYS_ON, callbacks
from src.engine.checkpoint.build import Transfer, restore_datamodule
from src.engine.checkpoint.files import carried_config, find_checkpoint
from src.engine.config.compose import compose
from src.engine.config.files import read_env_file
from src.engine.config.instantiate import instantiate
from src.engine.config.nulls import refuse_nulls
from src.engine.config.parser import Parser, look_ahead, verb_options
from src.engine.config.programs import programs
from src.engine.config.renamed import follow_renamed
from src.engine.data.adopt import adopt, refuse_a_test_without_data
from src.engine.data.seeding import seeded, settle_seed
from src.engine.errors import UserError, one_line
from src.engine.lightning_fixes.trainer import Trainer, spare_the_question_for_a_gpu
from src.engine.paths import expanded
from src.engine.processes import is_rank_zero, leave_the_seed_to_rank_zero, record_for_torchrun
from src.engine.run.failures import READ_WELL, devices_here, explained
from src.engine.run.folder import begin, end, find_interrupted, give_back, runs_folder
from src.engine.run.quiet import Quiet, warnings_in_one_line
from src.engine.run.run import Run
from src.module import LitModule

# What has options in every run, by their name.
GROUPS = {**dict(ALWAYS_ON), "quiet": Quiet, "transfer": Transfer}
# Options of one verb, not of the experiment: they stay out of the config that a checkpoint carries.
VERB_OPTIONS = {"config", "ckpt_path", "weights_only", "verbose", "return_predictions"}


class CLI(LightningCLI):
    """`fit`, `validate`, `test` and `predict`, each with the options of the trainer, the model and the data."""

    def __init__(
        self, args: list[str] | None = None, callbacks: Iterable[pl.Callback] = (), folder: Path | None = None
    ) -> None:
        self._arguments = sys.argv[1:] if args is None else args
        self._callers, self._folder = list(callbacks), folder
        leave_the_seed_to_rank_zero()
        spare_the_question_for_a_gpu()
        super().__init__(
            LightningModule,
            LightningDataModule,
            trainer_class=Trainer,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=42,
            trainer_defaults={"default_root_dir": "runs", "logger": False, "enable_model_summary": False},
            parser_class=Parser,
            parser_kwargs={"programs": programs(Path(__file__).parent / "tools")}
            | {verb: verb_options(verb) for verb in self.subcommands()},
            save_config_callback=None,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,  # the checkpoint carries the config
            args=args,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Lightning's verbs; only the one at hand if it is the first word: the options of each take 50 ms to build."""
        every = LightningCLI.subcommands()
        return {verb: skip for verb, skip in every.items() if verb in self._arguments[:1]} or every

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--experiment", type=str | None, help="Names the run's folder; by default after the first config file."
        )
        parser.add_argument("--note", type=str | None, help="A word on the run, shown by `python -m src runs`.")
        parser.add_argument("--test_after_fit", type=bool, default=False, help="Test the best checkpoint after a fit.")
        for name, kind in GROUPS.items():
            parser.add_class_arguments(kind, name)
        # Any LightningModule may be named; this one need not be.
        parser.set_defaults({"model": {"class_path": f"{LitModule.__module__}.{LitModule.__qualname__}"}})

    def parse_arguments(self, parser: Parser, args: ArgsType) -> None:  # type: ignore[override]
        """Parse; of a run that starts from a checkpoint its config first, so that options beside it win."""
        arguments = list(self._arguments)
        read_env_file(Path(".env"))
        given = look_ahead(arguments)
        self.ckpt_path = find_checkpoint(given.ckpt_path) if given.ckpt_path is not None else None
        carried: dict[str, Any] = {}
        if given.verb in self.subcommands():
            carried = carried_config(self.ckpt_path, given.verb, [*GROUPS, "note"]) if self.ckpt_path else {}
            behind = arguments.index(given.verb) + 1
            carried = follow_renamed(carried, arguments[behind:], given.config or [])
            sections = {"trainer", "model", "data", *GROUPS}
            self.given = compose(given.verb, given.config or [], carried, arguments[behind:], sections)
            arguments[behind - 1 :] = self.given.arguments()
        self.config = parser.parse_or_explain(arguments)
        refuse_nulls(self.config[self.config.subcommand], {"trainer": Trainer} | GROUPS)
        config = self.config[self.config.subcommand]
        kept = carried.get("seed_everything")
        if kept is not None and kept != config.seed_everything and given.verb == "fit":
            self.given.notes.append(f"seed_everything={config.seed_everything} has no effect: the run keeps {kept}")
            config.seed_everything = kept
        config.seed_everything = settle_seed(config.seed_everything)
        self.seed = config.seed_everything if kept is None else kept
        for note in self.given.notes if is_rank_zero() else []:
            print(f"note: {note}", file=sys.stderr)
        if config.ckpt_path and not given.ckpt_path:
            raise UserError(
                f"ckpt_path={config.ckpt_path} stands in a config file, where it comes too late: the checkpoint's own "
                f"config is read first. Give it on the command line: --ckpt_path {config.ckpt_path}."
            )
        # Lightning would let what the file says overwrite the command line: it gets the path later.
        config.ckpt_path = None
        if "verbose" in config and not any(argument.startswith("--verbose") for argument in arguments):
            config.verbose = False  # the summary has the metrics in one line
        if "return_predictions" in config and config.return_predictions is None:
            config.return_predictions = False  # the files have them: Lightning would keep all in memory
        config.experiment = config.experiment or (Path(given.config[0]).stem if given.config else "run")

    def before_instantiate_classes(self) -> None:
        # As plain values: what YAML and a checkpoint can hold. Through JSON the keys 4 and None would become texts.
        text = self.parser.dump(self.config, skip_unset=False, skip_validation=True, format="yaml")
        config = yaml.safe_load(text)[str(self.subcommand)]
        values = {key: value for key, value in config.items() if key not in VERB_OPTIONS}
        seed = {"seed_everything": self.config[str(self.subcommand)].seed_everything}  # never a reference
        self.run = Run(str(self.subcommand), self.given.carried(values) | seed)
        if self.subcommand == "fit":
            found = None if self._folder else find_interrupted(self._root(), self.run.config)
            self.ckpt_path = found or self.ckpt_path
        self.config[str(self.subcommand)].ckpt_path = str(self.ckpt_path) if self.ckpt_path else None
        self.run.source = self.ckpt_path

    def instantiate_classes(self) -> None:
        # A model is made from the run's seed, a later verb may have another: data of the config are the same for both.
        with nullcontext() if self.subcommand == "fit" else seeded(self.seed):
            self.config_init = instantiate(self.parser, expanded(self.config), self.seed)
        config = self.config_init[str(self.subcommand)]
        config.weights_only = True  # Lightning's methods take it; there is no option
        self.model, self.datamodule = config.model, config.data
        if self.run.config.get("test_after_fit"):
            refuse_a_test_without_data(self.model, self.datamodule)
        restore_datamodule(self.datamodule, self.ckpt_path)
        if not self.ckpt_path:
            config.transfer.into(getattr(self.model, "net", self.model))
        self.trainer = self.instantiate_trainer()
        adopt(self.trainer, self.model, self.datamodule, seed=self.seed)

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Claim the run's folder; add the callbacks that are always on to those of the config."""
        config = self.config_init[str(self.subcommand)]
        last = self.ckpt_path if self.subcommand == "fit" else None
        self.run.folder = begin(self._root(), last, self.run.config, self._folder)
        every = callbacks(config.trainer, {name: config[name] for name, _ in ALWAYS_ON}, self.run, self._callers)
        try:
            return super().instantiate_trainer(callbacks=every, default_root_dir=str(self.run.folder), **kwargs)
        except (ValueError, TypeError, RuntimeError, ModuleNotFoundError, *READ_WELL) as error:
            # Lightning's word on the options.
            if not self._folder:
                give_back(self.run.folder)
            asked = config.trainer.accelerator not in ("auto", "cpu") or config.trainer.devices != "auto"
            here = f" This machine has {devices_here()}." if asked else ""
            given = f"trainer.accelerator={config.trainer.accelerator}, trainer.devices={config.trainer.devices}: "
            given = given if asked else ""
            raise UserError(f"{given}{one_line(error).rstrip('.!')}.{here} See the options under --trainer.") from error

    def _root(self) -> Path:
        config = self.config[str(self.subcommand)]
        return runs_folder(config.trainer.default_root_dir, config.experiment)

    def after_fit(self) -> None:
        if self.run.config["test_after_fit"]:
            best = str(self.run.best) if self.run.best else None
            self.trainer.test(self.model, datamodule=self.datamodule, ckpt_path=best, verbose=False, weights_only=True)
        end(self.run.folder)


def main(args: Iterable[Any] | None = None, callbacks: Iterable[pl.Callback] = (), folder: Path | None = None) -> CLI:
    """Run the command line; a user's mistake ends it with one line and a code that is not 0.

    Args:
        args: What follows `python -m src`, paths and numbers too; by default what the process was given.
        callbacks: The caller's own, beside those of the config, which does not name them.
        folder: The run's, in place of the next `version_<n>`; it may be there.

    Returns:
        The finished command line; a notebook finds `trainer`, `model` and `datamodule` there.
    """
    try:
        with warnings_in_one_line():
            return CLI(None if args is None else [str(each) for each in args], callbacks, folder)
    except KeyboardInterrupt:
        sys.stderr.write("SIGINT before the first step; nothing was to save\n")
        sys.exit(128 + signal.SIGINT)
    except SystemExit as stop:
        # Lightning's own code for a Ctrl-C says nothing.
        if isinstance(stop.__context__, KeyboardInterrupt):
            sys.exit(128 + signal.SIGINT)
        raise
    except Exception as error:
        record_for_torchrun(error)
        if told := explained(error):
            sys.exit("\n".join([f"error: {told}", *getattr(error, "__notes__", [])]))
        raise
