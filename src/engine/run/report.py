"""Report how far a run came: on the screen, in its metrics.csv and its summary.json."""

import contextlib
import csv
import json
import math
import platform
import signal
import sys
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Timer, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.utilities.model_helpers import is_overridden

from src.engine.data.batches import count_samples
from src.engine.errors import UserError, one_line
from src.engine.paths import pasted, shorten, write_whole
from src.engine.run.failures import add_notes
from src.engine.run.folder import add_entry, now
from src.engine.run.run import Run, RunCallback, metrics_of, stage_of


class Report(RunCallback):
    """Prints a run's start, its epochs and its result; writes its record, metrics.csv and summary.json.

    metrics.csv has a row per epoch, per validation within one, and per test; `lr` is the rate of the next step. A
    resumed run begins with the text in the checkpoint, and writes the later rows again: each row stands there once. In
    summary.json `started` is when the run first began, `seconds` is the sum of its parts, and numbers that JSON does
    not know are texts: "nan", "inf". A refused resume leaves all files as they were.
    """

    def __init__(self) -> None:
        self.prints_epochs = True
        self._values: dict[str, Any] = {}  # of the summary
        self._text: str | None = None  # of metrics.csv in the checkpoint, until a row is added
        self._last_epoch = [0, 0]  # epoch and step at the last epoch's end
        self._validated = False  # since then: Lightning keeps the numbers of an earlier validation
        self._num_samples = 0
        self._begun_s = self._train_start_s = self._speed = 0.0

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Send the folder that rank zero claimed to all processes."""
        self.run.folder = Path(trainer.strategy.broadcast(self.run.folder))

    def state_dict(self) -> dict[str, Any]:
        path = self.run.folder / "metrics.csv"
        text = path.read_bytes().decode() if self._text is None and path.is_file() else self._text
        return {"text": text or "", "last_epoch": self._last_epoch, "validated": self._validated}

    def on_load_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take over the state for a fit: the test after it loads the best checkpoint, whose rows do not count."""
        if trainer.state.fn == "fit" and (state := checkpoint["callbacks"].get(self.state_key)):
            self._text, self._last_epoch, self._validated = state["text"], state["last_epoch"], state["validated"]

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the record and the first summary, and print the first line, once for a fit and its test."""
        if self._values or not trainer.is_global_zero:
            return
        entry, source = add_entry(self.run, trainer), self.run.source
        number = sum(parameter.numel() for parameter in pl_module.parameters())
        self._values = self._earlier() | {"note": self.run.config.get("note"), "source": source and str(source)}
        about = {"parameters": number, "device": entry["device"], "processes": entry["processes"]}
        self._values |= about | (entry["git"] or {})
        self._write("running", trainer)
        net = type(getattr(pl_module, "net", pl_module)).__name__
        device = f"{trainer.world_size} x {entry['device']}".removeprefix("1 x ")
        weights = f"; weights of {shorten(source)}" if source else "; untrained: no --ckpt_path"
        show(f"{net}, {number:,} parameters, on {device}{weights if source or self.run.verb != 'fit' else ''}")

    on_test_start = on_predict_start = on_validation_start

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.run.first_step = trainer.global_step
        self._train_start_s = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, *_: Any) -> None:
        self._num_samples += count_samples(batch)

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Report the epoch before: only now are its numbers complete."""
        self.on_validation_start(trainer, module)
        at = [trainer.current_epoch, trainer.global_step]
        # A run resumed between two epochs comes by here a second time, perhaps at another learning rate.
        if at != self._last_epoch:
            self._last_epoch = at
            self._add_numbers(trainer, "train", *["val"] * self._validated)
            if self.prints_epochs and trainer.is_global_zero:
                of = f"/{trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""
                values = in_words(dict(sorted(metrics_of(trainer).items())))
                show(f"epoch {trainer.current_epoch}{of}  step {trainer.global_step}  {values}")
        self._validated = False

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._speed = self._num_samples * trainer.world_size / (time.monotonic() - self._train_start_s)
        self.on_train_epoch_start(trainer, module)  # the last one

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report a test, and a validation by itself or within an epoch, which may last for days."""
        if trainer.sanity_checking:
            return  # on a resume the validation before the checkpoint counts
        self._validated = trainer.state.fn == "fit" and trainer.is_last_batch  # a part of the epoch's row
        if not self._validated:
            self._add_numbers(trainer, "val")

    on_test_end = on_validation_end

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Write and print what the verb did; a fit that is to be tested is still running."""
        self.on_validation_start(trainer, module)
        if not trainer.is_global_zero:
            return
        test_follows = self.run.test_follows(stage)
        if stage == "fit":
            self._values["reason"] = why_ended(trainer, self.run.first_step)
        self._write("running" if test_follows else "finished", trainer)
        if stage == "fit":
            seconds, epochs, steps = (self._values[name] for name in ("seconds", "epochs", "steps"))
            print(f"end   {self._values['reason']}")
            print(
                f"fit   {seconds:.1f} s, {epochs:,} epoch{'s' * (epochs != 1)}, "
                f"{steps:,} step{'s' * (steps != 1)}, {self._speed:,.0f} samples/s"
            )
            if self.run.best_score is not None:
                print(f"best  {self.run.monitor} {self.run.best_score:.4f}")
        elif stage in ("validate", "test"):
            print(f"{'val' if stage == 'validate' else 'test':<5} {in_words(metrics_of(trainer))}")
        if not test_follows:
            print(f"run   {shorten(self.run.folder)}")
            if following := next_command(self.run, trainer):
                print(f"next  {following}")

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        """Write what ended the run."""
        add_notes(exception, self.run, trainer, module)
        if not trainer.is_global_zero or ((self.run.folder / "summary.json").exists() and not self._values):
            return  # a refused resume changed nothing
        self._values = self._values or self._earlier()
        state, self._values["reason"] = how_it_ended(exception)
        with contextlib.suppress(OSError):  # the disk may be full: that is what ended the run
            self._write(state, trainer)

    def _earlier(self) -> dict[str, Any]:
        """Return what an earlier part of the run left, without a test of its weights."""
        values: dict[str, Any] = {"verb": self.run.verb, "started": now(), "seconds": 0.0, "metrics": {}}
        if (path := self.run.folder / "summary.json").exists():
            values |= json.loads(path.read_text(encoding="utf-8"))
        kept = {name: value for name, value in values["metrics"].items() if stage_of(name) != "test"}
        self._begun_s = time.monotonic() - values["seconds"]
        return values | {"metrics": kept, "reason": None}

    def _add_numbers(self, trainer: Trainer, *stages: str) -> None:
        """Put the newest numbers into the summary; add those of these stages, if any, to metrics.csv as a row."""
        if not trainer.is_global_zero:
            return
        is_fit, metrics, path = trainer.state.fn == "fit", metrics_of(trainer), self.run.folder / "metrics.csv"
        self._values["metrics"] |= {name: x if math.isfinite(x) else str(x) for name, x in metrics.items()}
        self._write("running", trainer)
        # In alphabetical order: a resumed run may log in another one.
        row = {name: value for name, value in sorted(metrics.items()) if not is_fit or stage_of(name) in stages}
        if row and not getattr(trainer, "fast_dev_run", False):
            if self._text is not None:
                with write_whole(path) as part:
                    part.write_bytes(self._text.encode())
                self._text = None
            groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups] if is_fit else []
            rates = {f"lr/{number}" if number else "lr": float(group["lr"]) for number, group in enumerate(groups)}
            add_row(path, {"epoch": trainer.current_epoch, "step": trainer.global_step} | rates | row)

    def _write(self, state: str, trainer: Trainer) -> None:
        """Write summary.json without asking the device, which may be what failed."""
        if trainer.state.fn == "fit":
            self._values |= {"epochs": trainer.current_epoch, "steps": trainer.global_step}
            self._values |= {"monitor": self.run.monitor, "best": self.run.best_score}
        seconds = round(time.monotonic() - self._begun_s, 3)
        self._values |= {"state": state, "updated": now(), "host": platform.node(), "seconds": seconds}
        with write_whole(self.run.folder / "summary.json") as part:
            part.write_text(json.dumps(self._values, indent=1) + "\n", encoding="utf-8")


def add_row(path: Path, row: dict[str, Any]) -> None:
    """Append a row to a CSV file; write the file anew where it lacks a column."""
    with path.open("a+", newline="", encoding="utf-8") as file:
        file.seek(0)
        reader = csv.DictReader(file)
        names = list(dict.fromkeys([*(reader.fieldnames or []), *row]))
        if names == reader.fieldnames:
            csv.DictWriter(file, names).writerow(row)
            return
        rows = [*reader, row]
    with write_whole(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def how_it_ended(exception: BaseException) -> tuple[str, str]:
    """Return whether a run was `stopped` by a signal or `failed`, and by what, in a line."""
    if isinstance(exception, KeyboardInterrupt):
        return "stopped", "SIGINT"
    if isinstance(exception, SystemExit) and isinstance(exception.code, int) and exception.code > 128:
        return "stopped", signal.Signals(exception.code - 128).name
    name = "" if isinstance(exception, UserError) else f"{type(exception).__name__}: "
    return "failed", f"{name}{one_line(exception)[:300]}".removesuffix(": ")


class Bar(TQDMProgressBar):
    """Lightning's bar with the loss, beside what is logged with `prog_bar=True`."""

    _outputs: Any = None

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, *rest: Any) -> None:
        self._outputs = outputs
        super().on_train_batch_end(trainer, module, outputs, *rest)

    def get_metrics(self, trainer: Trainer, module: LightningModule) -> dict[str, Any]:
        metrics: dict[str, Any] = super().get_metrics(trainer, module)
        if self._outputs and "loss" in self._outputs:  # Lightning divides it for accumulated gradients
            metrics["loss"] = f"{float(self._outputs['loss']) * trainer.accumulate_grad_batches:.4f}"
        return metrics


def show(text: str) -> None:
    """Print a line at once, above a bar."""
    Tqdm.write(text)
    sys.stdout.flush()


def in_words(values: dict[str, float]) -> str:
    """Return "val/acc 0.9812  val/loss 0.0639"; of more than 8 metrics not those of single classes, `val/f1/3`."""
    brief = len(values) <= 8
    return "  ".join(f"{name} {value:.4f}" for name, value in values.items() if brief or name.count("/") < 2)


def why_ended(trainer: Trainer, first_step: int | None) -> str:
    """Return why a fit ended without an error; `first_step` counts the steps that were done before it."""
    early = [each.stopping_reason_message for each in trainer.early_stopping_callbacks if trainer.should_stop]
    timers = [each for each in trainer.callbacks if isinstance(each, Timer)]  # type: ignore[attr-defined]
    reasons = {
        f"early stopping in epoch {trainer.current_epoch}: {next(filter(None, early), '')}": any(early),
        "there is no training batch": 0 in (trainer.limit_train_batches, trainer.num_training_batches),
        f"max_steps={trainer.max_steps} reached": 0 <= trainer.max_steps <= trainer.global_step,
        f"max_epochs={trainer.max_epochs} reached": 0 <= (trainer.max_epochs or -1) <= trainer.current_epoch,
        "max_time reached": any((timer.time_remaining() or 1) <= 0 for timer in timers),
        "trainer.should_stop was set by a callback or the module": True,
    }
    why = next(reason for reason, holds in reasons.items() if holds)
    return f"nothing left to do: {why}" if first_step in (None, trainer.global_step) else why


def next_command(run: Run, trainer: Trainer) -> str:
    """Return what to type after a fit: a verb that has data; nothing without one, or without a checkpoint."""
    owners = (trainer.lightning_module, trainer.datamodule)  # type: ignore[attr-defined]
    options = (run.config.get("data") or {}).get("init_args") or {}
    # Only the user knows the value of an option such as `predict_path`.
    asked = " --data.predict_path PATH" * (options.get("predict_path", "") is None)
    for verb, more in (("test", ""), ("predict", asked)):
        has_data = any(is_overridden(f"{verb}_dataloader", owner) for owner in owners)
        if run.best and has_data and verb != trainer.state.fn:
            return f"python -m src {verb} --ckpt_path {pasted(run.best)}{more}"
    return ""
