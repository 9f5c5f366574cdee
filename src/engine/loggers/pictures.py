"""Plots of a run: drawn once when its work is done, by rank zero, into its folder and for each tracker.

A plot keeps little data, however many samples, classes and pixels there are.
"""

import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor
from torchmetrics import Metric

from src.engine.data.batches import TARGETS, describe, take_apart
from src.engine.data.order import flatten_loaders
from src.engine.errors import UserError, one_line
from src.engine.loggers.trackers import send_picture
from src.engine.module.base_module import BaseModule, dataset_names, loaders_of, suited
from src.engine.module.base_module import class_names as class_names
from src.engine.paths import write_whole
from src.engine.processes import gather
from src.engine.run.run import RunCallback


@dataclass
class Evaluated:
    """Reads a batch of an evaluation when asked, so that a plot needs only what it looks at.

    Args:
        trainer: Of the run.
        module: That evaluated it.
        outputs: What its step returned: a dict with `scores` or `logits`, and `target`. LitModule returns one.
        batch: What the step got.
        batch_idx: Its number on this process.
        number: Of the data set.
    """

    trainer: Trainer
    module: LightningModule
    outputs: Any
    batch: Any
    batch_idx: int
    number: int

    def _returned(self, *names: str) -> Any:
        outputs = self.outputs if isinstance(self.outputs, Mapping) else {}
        return next((outputs[name] for name in names if outputs.get(name) is not None), None)

    @property
    def scores(self) -> Tensor:
        """Return (B, ...) what metrics see, on the CPU.

        Raises:
            UserError: If the step did not return them.
        """
        scores, outputs = self._returned("scores"), self._returned("outputs", "logits")
        if scores is None and outputs is not None:
            scores = self.module.scores(outputs) if isinstance(self.module, BaseModule) else outputs
        if not isinstance(scores, Tensor) or scores.dim() == 0:
            step = f"{type(self.module).__name__}.{'test' if self.trainer.testing else 'validation'}_step"
            form = "a dict of tensors: scores (probabilities or values) or logits, and target"
            raise UserError(f"{step} returned {describe(self.outputs)}. Let it return {form}.")
        return scores.detach().float().cpu() if scores.is_floating_point() else scores.cpu()

    @property
    def target(self) -> Tensor:
        """Return the target, (B, ...) on the CPU.

        Raises:
            UserError: If neither the step nor the batch has it.
        """
        target = self._returned(*TARGETS)
        target = take_apart(self.batch)[1] if target is None else target
        if not isinstance(target, Tensor):
            raise UserError(f"The target is {describe(target)}, not a tensor.")
        return target.detach().cpu()

    def places(self, num_rows: int) -> Tensor:
        """Return (B,) int64, the indices of the B = `num_rows` samples in their data set, for any number of processes.

        Samples of a stream have none and get numbers of their own.
        """
        loaders = flatten_loaders(loaders_of(self.trainer, "test" if self.trainer.testing else "val"))
        if indices := getattr(loaders[self.number], "sample_indices", None):
            places: Tensor = indices(self.batch_idx)
            if len(places) == num_rows:
                return places
        return (self.batch_idx * self.trainer.world_size + self.trainer.global_rank) * 2**20 + torch.arange(num_rows)

    def classes(self) -> tuple[Tensor, Tensor]:
        """Return the probabilities of the classes, (B, C, ...) float32, and the true ones, (B, ...) int64, on the CPU.

        A target that is no class (padding) is -1.

        Raises:
            UserError: If the task is no classification into one class each.
        """
        scores, target = self.scores, self.target
        if isinstance(self.module, BaseModule):
            scores = scores.movedim(self.module.class_dim(scores), 1) if scores.dim() > 2 else scores
        elif self._returned("scores") is None and scores.is_floating_point():  # logits
            scores = scores.softmax(dim=1) if scores.dim() > 1 and scores.shape[1] > 1 else scores.sigmoid()
        scores = scores.unsqueeze(1) if scores.dim() == 1 else scores
        fits = scores.is_floating_point() and bool(((scores >= 0) & (scores <= 1 + 1e-3)).all())
        if scores.shape[1] == 1:  # one number, for the second of two classes
            scores = torch.cat([1 - scores, scores], dim=1)
            fits &= bool((target <= 1).all())  # else a value or a count
        if not fits or target.numel() != scores[:, 0].numel() or bool((target != target.round()).any()):
            raise UserError(
                f"this is no classification with one class for each sample and its probability: scores "
                f"{describe(self.scores)}, target {describe(target)}. Take the callback out of trainer.callbacks."
            )
        truth = target.long().reshape(scores[:, 0].shape)
        left_out = getattr(getattr(self.module, "loss", None), "ignore_index", -1)  # as the loss does
        return scores, truth.where((truth >= 0) & (truth < scores.shape[1]) & (truth != left_out), -1)


class Picture(RunCallback):
    """Draws after a fit, or after the test that follows it, and after a `test` or a `validate`.

    A subclass has `draw` and calls `save`. A failure there never ends a run: a UserError is printed in one line, any
    other error with its traceback.
    """

    def draw(self, trainer: Trainer, module: LightningModule) -> None:
        """Draw and save, on rank zero."""
        raise NotImplementedError

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        # Only now does metrics.csv have the last row.
        if stage != "predict" and not self.run.test_follows(stage) and trainer.is_global_zero:
            with self.attempt():
                self.draw(trainer, module)

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Print a failure inside; the run continues whatever happens."""
        try:
            yield
        except UserError as error:
            print(f"note: {type(self).__name__} drew nothing: {one_line(error)}", file=sys.stderr)
        except Exception:
            traceback.print_exc()
            print(f"warning: {type(self).__name__} drew nothing; the run itself is whole", file=sys.stderr)

    def save(self, trainer: Trainer, name: str, figure: Figure) -> None:
        """Write `<name>.png`, whole or not at all, and send it to the trackers.

        Args:
            trainer: Of the run.
            name: Of the file, and in the trackers.
            figure: Made by `new_figure`.
        """
        path = Path(trainer.default_root_dir, f"{name}.png")
        with write_whole(path) as part:
            # White, so that it can be read on a dark page, too.
            figure.savefig(part, format="png", facecolor="white")
        if trainer.loggers:
            send_picture(trainer.loggers, name, path, trainer.global_step)


class EvaluationPicture(Picture):
    """Draws what it collected from all batches of the test, or else of the last validation; once per data set.

    A subclass names a torchmetrics metric, which gets the same scores and targets as those of `model.metrics`:

        class Roc(EvaluationPicture):
            def begin(self, batch):
                return MulticlassROC(num_classes=batch.scores.shape[1], thresholds=100)

            def draw_seen(self, trainer, module, seen, suffix):
                figure = new_figure(5, 4)
                seen.plot(ax=figure.add_subplot(title=self.title(suffix)))
                self.save(trainer, f"roc{suffix}", figure)

    It overrides `add` to give the metric something else, for example those of `batch.classes()`. Instead of a
    metric it may collect in any object that has `merge_state(other)`. It should stay small for any number of samples.
    """

    def __init__(self) -> None:
        self._stage = ""  # the one that is drawn, val or test
        self._seen: dict[int, Any] | None = {}  # by the number of the data set; None after a failure

    def begin(self, batch: Evaluated) -> Any:
        """Return an empty metric, or an object with `merge_state`.

        Args:
            batch: The first one of the data set on this process.
        """
        raise NotImplementedError

    def add(self, seen: Any, batch: Evaluated) -> None:
        """Take in a batch of this process, on the CPU."""
        scores, module = batch.scores, batch.module
        class_dim = module.class_dim(scores) if isinstance(module, BaseModule) else 1
        seen.update(*suited(seen, scores, batch.target, class_dim))

    def draw_seen(self, trainer: Trainer, module: LightningModule, seen: Any, suffix: str) -> None:
        """Draw and save, on rank zero.

        Args:
            trainer: Of the run.
            module: With its current weights.
            seen: What all processes collected from one data set.
            suffix: For the names of files, if there are several data sets.
        """
        raise NotImplementedError

    def title(self, suffix: str) -> str:
        """Return the stage and the data set in words."""
        return f"{'validation' if self._stage == 'val' else 'test'}{suffix.replace('_', ' ')}"

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seen = None if self._seen is None else {}

    on_test_start = on_validation_start

    def on_validation_batch_end(self, trainer: Trainer, *evaluated: Any) -> None:
        # If a test follows, that one is drawn.
        if not trainer.sanity_checking and not self.run.test_follows(trainer.state.fn):
            self.on_test_batch_end(trainer, *evaluated)

    def on_test_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int, number: int = 0
    ) -> None:
        seen, self._seen = self._seen, None
        if seen is not None:
            with self.attempt():
                evaluated = Evaluated(trainer, module, outputs, batch, batch_idx, number)
                if number not in seen:
                    seen[number] = self.begin(evaluated)
                self.add(seen[number], evaluated)
                self._seen = seen

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        self._stage = "test" if stage == "test" else "val"
        if stage != "predict" and not self.run.test_follows(stage):
            self._shares = gather(self._seen, trainer.world_size)
            if None not in self._shares:
                super().teardown(trainer, module, stage)

    def draw(self, trainer: Trainer, module: LightningModule) -> None:
        total: dict[int, Any] = {}
        for number, seen in (pair for share in self._shares for pair in share.items()):
            if (first := total.setdefault(number, seen)) is not seen:
                first.merge_state(seen)
        if not total:
            raise UserError("nothing was validated or tested.")
        names, taken = dataset_names(trainer, self._stage), set[str]()
        for number, seen in sorted(total.items()):
            suffix = "_" * bool(names[number]) + re.sub(r"\W", "_", names[number])[:50]
            suffix += f"_{number}" * (suffix.casefold() in taken)
            taken.add(suffix.casefold())
            if isinstance(seen, Metric):
                seen.distributed_available_fn = bool  # rank zero alone computes it: do not wait for the others
            self.draw_seen(trainer, module, seen, suffix)


def as_label(name: object, most: int = 40) -> str:
    """Return a name as matplotlib draws it letter by letter: a dollar begins no formula.

    Args:
        name: Of a class, a metric, a data set: whatever the user chose.
        most: Letters, before it is cut.
    """
    text = "".join(letter if letter.isprintable() else "?" for letter in " ".join(str(name).split()))
    return (text if len(text) <= most else f"{text[: most - 3]}...").replace("$", r"\$")


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure that belongs to no window and to no global state; its layout leaves room for the texts.

    Args:
        width: In inches, of 110 pixels each.
        height: The same.
    """
    return Figure((width, height), dpi=110, layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08, compress=True))
