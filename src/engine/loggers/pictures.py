"""Pictures of a run: drawn once when its work is done, by rank zero, into its folder and each tracker.

A picture keeps a bounded amount of data however many samples, classes and pixels there are (`thumbnail`), and draws the
names of users letter by letter (`as_label`).
"""

import re
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from src.engine.errors import UserError, one_line
from src.engine.loggers.evaluated import Evaluated
from src.engine.loggers.trackers import send_picture
from src.engine.module.metrics import dataset_names, loaders_of
from src.engine.paths import write_whole
from src.engine.run.run import RunCallback

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NO_FILE = re.compile(r'[\x00-\x1f\ud800-\udfff\\/:*?"<>|]')  # what some system refuses in the name of a file


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
        if self._draws_after(stage) and trainer.is_global_zero:
            self.attempt(lambda: self.draw(trainer, module))

    def _draws_after(self, stage: str | None) -> bool:
        test_follows = stage == "fit" and self.run.config.get("test_after_fit", False)
        return stage != "predict" and not test_follows

    def attempt(self, draw: Callable[[], None]) -> None:
        """Draw; the run continues whatever happens."""
        try:
            draw()
        except Exception as error:
            self._report(failure_of(error))

    def _report(self, failure: str) -> None:
        name = type(self).__name__
        if "\n" in failure:
            print(f"{failure}\nwarning: {name} drew nothing; the run itself is whole", file=sys.stderr)
        else:
            print(f"note: {name} drew nothing: {failure}", file=sys.stderr)

    def save(self, trainer: Trainer, name: str, figure: "Figure") -> None:
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
    """Draws what it collected from all batches of the test, or else of the last validation; a picture per data set.

    A subclass has `begin`, which makes an object with two methods: `add(batch)` takes in a batch of this process,
    `merge(other)` what another process collected. It should stay small however many samples there are.
    """

    def __init__(self) -> None:
        self._stage = ""
        self._seen: dict[int, Any] = {}  # by the number of the data set
        self._failure = ""

    def begin(self) -> Any:
        """Return an object to collect in, empty."""
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
        self._stage, self._seen, self._failure = "val", {}, ""

    def on_test_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._stage, self._seen, self._failure = "test", {}, ""

    def on_validation_batch_end(self, trainer: Trainer, *seen: Any) -> None:
        # Where a test follows, that one is drawn.
        if not trainer.sanity_checking and self._draws_after(trainer.state.fn):
            self._add(trainer, *seen)

    def on_test_batch_end(self, trainer: Trainer, *seen: Any) -> None:
        self._add(trainer, *seen)

    def _add(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int, number: int = 0
    ) -> None:
        if not self._failure:
            try:
                seen = self._seen.setdefault(number, self.begin())
                seen.add(Evaluated(trainer, module, outputs, batch, batch_idx, number))
            except Exception as error:
                self._failure = failure_of(error)

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        if not self._draws_after(stage):
            return
        shares = [(self._seen, self._failure)] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(shares, shares[0])
        if failure := next((failure for _, failure in shares if failure), ""):
            self._report(failure)
        elif trainer.is_global_zero:
            self.attempt(lambda: self._draw_shares(trainer, module, [seen for seen, _ in shares]))

    def _draw_shares(self, trainer: Trainer, module: LightningModule, shares: list[dict[int, Any]]) -> None:
        total: dict[int, Any] = {}
        for number, seen in (pair for share in shares for pair in share.items()):
            if number in total:
                total[number].merge(seen)
            else:
                total[number] = seen
        if not total:
            raise UserError("nothing was validated or tested.")
        names, suffixes = dataset_names(loaders_of(trainer, self._stage)), dict[str, Any]()
        for number in sorted(total):
            suffix = f"_{NO_FILE.sub('_', names[number])[:50]}" if names[number] else ""
            is_taken = suffix.casefold() in map(str.casefold, suffixes)
            suffixes[f"{suffix}_{number}" if is_taken else suffix] = total[number]
        self.draw_all(trainer, module, suffixes)

    @property
    def of_what(self) -> str:
        """Return the title in words."""
        return "validation" if self._stage == "val" else "test"


def failure_of(error: Exception) -> str:
    """Return a UserError as a line, any other error with its traceback."""
    return one_line(error) if isinstance(error, UserError) else "".join(traceback.format_exception(error)).rstrip()


def as_label(name: object, most: int = 40) -> str:
    """Return a name as matplotlib draws it letter by letter: a dollar begins no formula.

    Args:
        name: Of a class, a metric, a data set: whatever the user chose.
        most: Letters, before it is cut.
    """
    text = "".join(letter if letter.isprintable() else "?" for letter in " ".join(str(name).split()))
    return (text if len(text) <= most else f"{text[: most - 3]}...").replace("$", r"\$")


def class_names(trainer: Trainer) -> list[str]:
    """Return the data module's `class_names` in their order; none where it has none."""
    names = getattr(getattr(trainer, "datamodule", None), "class_names", None)
    if isinstance(names, Mapping):  # {0: "cat"}, or {"cat": 0} as torchvision has it
        numbered = [(value, key) if isinstance(value, int) else (key, value) for key, value in names.items()]
        names = [name for _, name in sorted(numbered)]
    return [str(name) for name in names] if names is not None else []


def thumbnail(image: Tensor, side: int) -> Tensor:
    """Return an image (C, H, W) float32 on the CPU that is at most `side` pixels long; each pixel is a mean.

    Args:
        image: (C, H, W), anywhere and of any type.
        side: The longest that it may have.
    """
    image = image.detach().float()
    scale = side / max(image.shape[1:])
    if scale < 1:
        height, width = (max(round(length * scale), 1) for length in image.shape[1:])
        image = nn.functional.adaptive_avg_pool2d(image, (height, width))
    return image.cpu()


def new_figure(width: float, height: float, margins: tuple[float, float, float, float] | None = None) -> "Figure":
    """Return an empty figure that belongs to no window and to no global state.

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
