"""A batch of an evaluation as a plot reads it: scores, target, images, classes and places in the data."""

from collections.abc import Mapping, Sequence
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
    """Hold the classes of a batch; samples whose target is no class (padding) are left out.

    Attributes:
        truth: (N,) int64; N is the batch size, or the number of all pixels or tokens.
        guess: (N,) int64.
        confidence: (N,) float32, the probability of the guess.
        kept: (B, ...) bool, which targets were classes.
        num_classes: C.
    """

    truth: Tensor
    guess: Tensor
    confidence: Tensor
    kept: Tensor
    num_classes: int


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

    def _returned(self, names: Sequence[str]) -> Any:
        outputs = self.outputs if isinstance(self.outputs, Mapping) else {}
        return next((outputs[name] for name in names if outputs.get(name) is not None), None)

    @property
    def scores(self) -> Tensor:
        """Return (B, ...) what metrics see, on the CPU.

        Raises:
            UserError: If the step did not return them.
        """
        scores, outputs = self._returned(SCORES), self._returned(OUTPUTS)
        if scores is None and outputs is not None:
            scores = self.module.scores(outputs) if isinstance(self.module, BaseModule) else outputs
        if not isinstance(scores, Tensor) or scores.dim() == 0:
            step = f"{type(self.module).__name__}.{'test' if self.trainer.testing else 'validation'}_step"
            returned = "nothing" if self.outputs is None else describe(self.outputs)
            form = "a dict of tensors: scores (probabilities or values) or logits, and target"
            raise UserError(f"{step} returned {returned}. Let it return {form}.")
        return scores.detach().float().cpu() if scores.is_floating_point() else scores.cpu()

    @property
    def target(self) -> Tensor:
        """Return the target, (B, ...) on the CPU.

        Raises:
            UserError: If neither the step nor the batch has it.
        """
        target = self._returned(TARGETS)
        target = take_apart(self.batch)[1] if target is None else target
        if not isinstance(target, Tensor):
            raise UserError(f"The target is {describe(target)}, not a tensor.")
        return target.detach().cpu()

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

    def places(self, num_rows: int) -> Tensor:
        """Return (B,) int64, the indices of the B = `num_rows` samples in their data set, for any number of processes.

        Samples of a stream have none and get numbers of their own.
        """
        loaders = flatten_loaders(loaders_of(self.trainer, "test" if self.trainer.testing else "val"))
        if indices := getattr(loaders[self.number], "sample_indices", None):
            places: Tensor = indices(self.batch_idx)
            if len(places) == num_rows:
                return places
        first = self.batch_idx * self.trainer.world_size + self.trainer.global_rank
        return first * 2**20 + torch.arange(num_rows)

    def guesses(self) -> Guesses:
        """Return the true and the likeliest classes.

        Raises:
            UserError: If the task is no classification into one class each.
        """
        scores, target = self.scores, self.target
        if isinstance(self.module, BaseModule):
            scores = scores.movedim(self.module.class_dim(scores), 1) if scores.dim() > 2 else scores
        elif self._returned(SCORES) is None and scores.is_floating_point():  # logits
            scores = scores.softmax(dim=1) if scores.dim() > 1 and scores.shape[1] > 1 else scores.sigmoid()
        scores = scores.unsqueeze(1) if scores.dim() == 1 else scores
        fits = scores.is_floating_point() and bool(((scores >= 0) & (scores <= 1 + 1e-3)).all())
        if scores.shape[1] == 1:  # one number, for the second of two classes
            scores = torch.cat([1 - scores, scores], dim=1)
            fits &= bool((target <= 1).all())  # else a value or a count
        confidence, guess = scores.max(dim=1)
        if not fits or target.numel() != guess.numel() or bool((target != target.round()).any()):
            raise UserError(
                f"this is no classification with one class for each sample and its probability: scores "
                f"{describe(self.scores)}, target {describe(target)}. Take the callback out of trainer.callbacks."
            )
        truth = target.long().reshape(guess.shape)
        left_out = getattr(getattr(self.module, "loss", None), "ignore_index", -1)  # as the loss does
        kept = (truth >= 0) & (truth < scores.shape[1]) & (truth != left_out)
        return Guesses(truth[kept], guess[kept], confidence[kept], kept, scores.shape[1])
