"""Pictures of a run: drawn once when its work is done, by rank zero, into its folder and each tracker."""

import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule, Trainer

from src.engine.errors import UserError, one_line
from src.engine.evaluated import Evaluated
from src.engine.evaluation import dataset_names, loaders_of
from src.engine.run import RunCallback

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Picture(RunCallback):
    """Draws after a fit, or after the test that follows it, and after a `test` or a `validate`.

    A subclass has `draw` and calls `save`. What fails there never ends a run: a UserError is told in one line, any
    other error with its traceback.
    """

    def draw(self, trainer: Trainer, module: LightningModule) -> None:
        """Draw and save, on rank zero."""
        raise NotImplementedError

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        # Only now does metrics.csv have the last row.
        if self._draws_after(stage) and trainer.is_global_zero:
            self.attempt(lambda: self.draw(trainer, module))

    def _draws_after(self, stage: str | None) -> bool:
        test_follows = stage == "fit" and self.run.config.get("test_after_fit", False)
        return stage != "predict" and not test_follows

    def attempt(self, draw: Callable[[], None]) -> None:
        """Draw; the run goes on whatever happens."""
        try:
            draw()
        except Exception as error:
            tell(type(self).__name__, failure_of(error))

    def save(self, trainer: Trainer, name: str, figure: "Figure") -> None:
        """Write `<name>.png`, whole or not at all, and hand it to the trackers.

        Args:
            trainer: Of the run.
            name: Of the file, and in the trackers.
            figure: Made by `new_figure`.
        """
        path = Path(trainer.default_root_dir, f"{name}.png")
        part = path.with_name(f".{path.name}.part")
        # White, so that it can be read on a dark page, too.
        figure.savefig(part, format="png", facecolor="white")
        part.replace(path)
        if trainer.loggers:
            from src.engine.trackers.media import send_picture

            send_picture(trainer.loggers, name, path, trainer.global_step)


class EvaluationPicture(Picture):
    """Draws what it collected from all batches of the test, or else of the last validation; a picture per data set.

    A subclass has `begin`, which makes something with two methods: `add(batch)` takes a batch of this process in, and
    `merge(other)` what another process has. It should stay small however many samples there are.
    """

    def __init__(self) -> None:
        self._stage = ""
        self._seen: dict[int, Any] = {}  # by the number of the data set
        self._failure: str | None = None

    def begin(self) -> Any:
        """Nothing, to be added to."""
        raise NotImplementedError

    def draw_all(self, trainer: Trainer, module: LightningModule, seen: dict[str, Any]) -> None:
        """Draw what was seen of each data set, by the suffix of its files."""
        for suffix, each in seen.items():
            self.draw_seen(trainer, module, each, suffix)

    def draw_seen(self, trainer: Trainer, module: LightningModule, seen: Any, suffix: str) -> None:
        """Draw and save, on rank zero.

        Args:
            trainer: Of the run.
            module: With the weights that it has now.
            seen: Of one data set, from all processes.
            suffix: For the names of files, where there are several data sets.
        """
        raise NotImplementedError

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._stage, self._seen, self._failure = "val", {}, None

    def on_test_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._stage, self._seen, self._failure = "test", {}, None

    def on_validation_batch_end(self, trainer: Trainer, *seen: Any) -> None:
        # Where a test follows, that one is drawn.
        if not trainer.sanity_checking and self._draws_after(trainer.state.fn):
            self._add(trainer, *seen)

    def on_test_batch_end(self, trainer: Trainer, *seen: Any) -> None:
        self._add(trainer, *seen)

    def _add(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int, number: int = 0
    ) -> None:
        if self._failure is not None:
            return
        try:
            seen = self._seen.setdefault(number, self.begin())
            seen.add(Evaluated(trainer, module, outputs, batch, batch_idx, number))
        except Exception as error:
            self._failure = failure_of(error)

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        if not self._draws_after(stage):
            return
        shares = [(self._seen, self._failure)]
        if trainer.world_size > 1:
            shares *= trainer.world_size
            torch.distributed.all_gather_object(shares, shares[0])
        if trainer.is_global_zero:
            failure = next((failure for _, failure in shares if failure is not None), None)
            if failure is None:
                self.attempt(lambda: self._draw_shares(trainer, module, [seen for seen, _ in shares]))
            else:
                tell(type(self).__name__, failure)

    def _draw_shares(self, trainer: Trainer, module: LightningModule, shares: list[dict[int, Any]]) -> None:
        names = dataset_names(loaders_of(trainer, self._stage)) if self._stage else []
        total: dict[int, Any] = {}
        for number, seen in (pair for share in shares for pair in share.items()):
            if number in total:
                total[number].merge(seen)
            else:
                total[number] = seen
        if not total:
            raise UserError("nothing was validated or tested.")
        suffixes = {k: f"_{names[k]}".replace("/", "_") if names[k] else "" for k in sorted(total)}
        self.draw_all(trainer, module, {suffix: total[k] for k, suffix in suffixes.items()})

    @property
    def of_what(self) -> str:
        """In words, for a title."""
        return "validation" if self._stage == "val" else "test"


def new_figure(width: float, height: float, margins: tuple[float, float, float, float] | None = None) -> "Figure":
    """An empty figure that belongs to no window and to no global state.

    Args:
        width: In inches, of 110 pixels each.
        height: The same.
        margins: Room to the left, below, to the right and above, in inches. By default what the texts need: to measure
            them takes as long as to draw.
    """
    from matplotlib.figure import Figure

    if margins is None:
        return Figure((width, height), dpi=110, layout="constrained")
    figure = Figure((width, height), dpi=110)
    left, bottom, right, top = margins
    figure.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height)
    return figure


def failure_of(error: Exception) -> str:
    """A line of a UserError, the traceback of any other."""
    return one_line(error) if isinstance(error, UserError) else "".join(traceback.format_exception(error)).rstrip()


def tell(name: str, failure: str) -> None:
    """Say why there is no picture."""
    if "\n" in failure:
        print(f"{failure}\nwarning: {name} drew nothing; the run itself is whole", file=sys.stderr)
    else:
        print(f"note: {name} drew nothing: {failure}", file=sys.stderr)
