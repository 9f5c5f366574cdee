"""A batch as an evaluation saw it: what `validation_step` or `test_step` returned, and what went in."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from src.engine.data.batches import TARGETS, describe, parts, take_apart
from src.engine.data.order import flatten_loaders
from src.engine.errors import UserError
from src.engine.module.base_module import BaseModule
from src.engine.module.metrics import loaders_of

# The names under which a step returns the net's raw outputs, or what metrics see.
OUTPUTS, SCORES = ("outputs", "logits"), ("scores", "preds")


@dataclass
class Guesses:
    """Return the classes of a batch; samples whose target is no class (padding) are left out.

    Attributes:
        truth: (N,) int64; N is the batch size, or the number of all pixels or tokens.
        guess: (N,) int64.
        confidence: (N,) float32, the probability of the guess; None where the step gave classes alone.
        kept: (B, ...) bool, which targets were classes.
        num_classes: C.
    """

    truth: Tensor
    guess: Tensor
    confidence: Tensor | None
    kept: Tensor
    num_classes: int


@dataclass
class Evaluated:
    """Reads a batch when asked, so that a picture needs only what it looks at.

    Args:
        trainer: Of the run.
        module: That evaluated it.
        outputs: What its step returned: a dict with `scores` or `logits`, and `target`. LitModule returns one.
        batch: What went in.
        batch_idx: Its number on this process.
        number: Of the data set.
    """

    trainer: Trainer
    module: LightningModule
    outputs: Any
    batch: Any
    batch_idx: int
    number: int

    def _returned(self, names: tuple[str, ...]) -> Any:
        if isinstance(self.outputs, Mapping):
            return next((self.outputs[name] for name in names if self.outputs.get(name) is not None), None)
        raise self._wrong_outputs()

    def _wrong_outputs(self) -> UserError:
        step = f"{type(self.module).__name__}.{'test' if self.trainer.testing else 'validation'}_step"
        returned = "nothing" if self.outputs is None else describe(self.outputs)
        return UserError(
            f"{step} returned {returned}. Let it return a dict of tensors: scores (probabilities or values) or logits, "
            "and target."
        )

    @property
    def scores(self) -> Tensor:
        """Return (B, ...) what metrics see, on the CPU.

        Raises:
            UserError: If the step did not return them.
        """
        scores = self._returned(SCORES)
        if scores is None and (outputs := self._returned(OUTPUTS)) is not None:
            scores = self.module.scores(outputs) if isinstance(self.module, BaseModule) else outputs
        if not isinstance(scores, Tensor) or scores.dim() == 0:
            raise self._wrong_outputs()
        return scores.detach().float().cpu() if scores.is_floating_point() else scores.cpu()

    @property
    def target(self) -> Tensor:
        """Return the target, (B, ...) on the CPU.

        Raises:
            UserError: If neither the step nor the batch has it.
        """
        target = self._returned(TARGETS)
        if target is None:
            target = take_apart(self.batch)[1]
        if not isinstance(target, Tensor):
            raise UserError(f"The target is {describe(target)}, not a tensor.")
        return target.detach().cpu()

    def places(self, num_rows: int) -> Tensor:
        """Return (B,) int64, where the B = `num_rows` samples lie in their data, whatever the number of processes."""
        loaders = flatten_loaders(loaders_of(self.trainer, "test" if self.trainer.testing else "val"))
        indices = getattr(loaders[self.number], "sample_indices", None)
        places: Tensor | None = indices(self.batch_idx) if indices else None
        if places is not None and len(places) == num_rows:
            return places
        # Of a stream nobody knows; no two samples have the same.
        first = self.batch_idx * self.trainer.world_size + self.trainer.global_rank
        return first * 2**20 + torch.arange(num_rows)

    @property
    def images(self) -> Tensor:
        """Return the images, (B, 1 or 3, H, W), on their device.

        Raises:
            UserError: If there are none.
        """
        for part in parts(self.batch):
            if isinstance(part, Tensor) and part.dim() == 4 and part.shape[1] in (1, 3):
                return part
        raise UserError(f"there are no images (B, 1 or 3, H, W) in the batch, which was {describe(self.batch)}.")

    def guesses(self) -> Guesses:
        """Return the true and the likeliest classes.

        Raises:
            UserError: If the task is no classification into one class each.
        """
        scores, target = self.scores, self.target
        are_raw = self._returned(SCORES) is None and not isinstance(self.module, BaseModule)
        if isinstance(self.module, BaseModule) and scores.dim() > 2:
            scores = scores.movedim(self.module.class_dim(scores), 1)
        if not scores.is_floating_point():  # classes already
            guess, confidence, num_classes = scores, None, int(max(scores.max(), target.max())) + 1
            fits = True
        else:
            if scores.dim() == 1 or scores.shape[1] == 1:  # one number, for the second of two classes
                second = scores.flatten(0, 1) if scores.dim() > 1 else scores
                second = second.sigmoid() if are_raw else second
                probabilities = torch.stack([1 - second, second], dim=1)
                fits = bool((target <= 1).all())  # else a value or a count
            else:
                probabilities, fits = scores.softmax(dim=1) if are_raw else scores, True
            fits &= bool(((probabilities >= 0) & (probabilities <= 1 + 1e-3)).all())
            (confidence, guess), num_classes = probabilities.max(dim=1), probabilities.shape[1]
        if target.numel() != guess.numel() or not fits or bool((target != target.round()).any()):
            raise UserError(
                f"this is no classification with one class for each sample: scores {describe(scores)}, target "
                f"{describe(target)}. Take the callback out of trainer.callbacks."
            )
        truth = target.long().reshape(guess.shape)
        left_out = getattr(getattr(self.module, "loss", None), "ignore_index", -1)  # as the loss does
        kept = (truth >= 0) & (truth < num_classes) & (truth != left_out)
        return Guesses(
            truth[kept], guess.long()[kept], None if confidence is None else confidence[kept], kept, num_classes
        )
