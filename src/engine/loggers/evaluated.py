"""A batch as an evaluation saw it: what `validation_step` or `test_step` returned, beside what went in."""

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

# What a step of one's own may call them: raw outputs of the net, or what metrics see.
OUTPUTS, SCORES = ("outputs", "logits"), ("scores", "preds")


@dataclass
class Guesses:
    """The classes of a batch; samples whose target is no class (padding) are left out.

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


class Evaluated:
    """Reads a batch when asked, so that a picture needs only what it looks at.

    Args:
        trainer: Of the run.
        module: That evaluated it.
        outputs: What its step returned; LitModule a dict of `loss`, `outputs`, `target`.
        batch: What went in.
        batch_idx: Its number on this process.
        number: Of the data set.
    """

    def __init__(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int, number: int
    ) -> None:
        self._trainer = trainer
        self._module = module
        self._outputs = outputs
        self._batch = batch
        self._batch_idx = batch_idx
        self._number = number

    @property
    def _step(self) -> str:
        return f"{type(self._module).__name__}.{'test' if self._trainer.testing else 'validation'}_step"

    def _returned(self, names: tuple[str, ...]) -> Any:
        if not isinstance(self._outputs, Mapping):
            returned = "nothing" if self._outputs is None else describe(self._outputs)
            raise UserError(
                f"{self._step} returned {returned}. Let it return a dict: scores (probabilities, or values), or "
                "logits; and target."
            )
        return next((self._outputs[name] for name in names if self._outputs.get(name) is not None), None)

    @property
    def is_raw(self) -> bool:
        """Whether nobody turned the scores into probabilities."""
        return self._returned(SCORES) is None and not isinstance(self._module, BaseModule)

    @property
    def scores(self) -> Tensor:
        """(B, ...) what metrics see, on the CPU.

        Raises:
            UserError: If the step did not return them.
        """
        scores = self._returned(SCORES)
        if scores is None and (outputs := self._returned(OUTPUTS)) is not None:
            scores = self._module.scores(outputs) if isinstance(self._module, BaseModule) else outputs
        if not isinstance(scores, Tensor) or scores.dim() == 0:
            raise UserError(
                f"{self._step} gave no tensor under {' or '.join(SCORES + OUTPUTS)}, but {describe(self._outputs)}."
            )
        return scores.detach().float().cpu() if scores.is_floating_point() else scores.cpu()

    @property
    def target(self) -> Tensor:
        """(B, ...) on the CPU.

        Raises:
            UserError: If neither the step nor the batch has it.
        """
        target = self._returned(TARGETS)
        if target is None:
            target = take_apart(self._batch)[1]
        if not isinstance(target, Tensor):
            raise UserError(f"The target is {describe(target)}, not a tensor.")
        return target.detach().cpu()

    def places(self, num_rows: int) -> Tensor:
        """(B,) int64, where the samples lie in their data, whatever the number of processes.

        Args:
            num_rows: B.
        """
        stage = "test" if self._trainer.testing else "val"
        loader = list(flatten_loaders(loaders_of(self._trainer, stage)))[self._number]
        indices = getattr(loader, "sample_indices", None)
        places: Tensor | None = indices(self._batch_idx) if indices else None
        if places is not None and len(places) == num_rows:
            return places
        # Of a stream nobody knows; no two samples have the same.
        first = self._batch_idx * self._trainer.world_size + self._trainer.global_rank
        return first * 2**20 + torch.arange(num_rows)

    @property
    def images(self) -> Tensor:
        """(B, 1 or 3, H, W), where they lie.

        Raises:
            UserError: If there are none.
        """
        for part in parts(self._batch):
            if isinstance(part, Tensor) and part.dim() == 4 and part.shape[1] in (1, 3):
                return part
        raise UserError(f"there are no images (B, 1 or 3, H, W) in the batch, which was {describe(self._batch)}.")

    def guesses(self) -> Guesses:
        """The true and the likeliest classes.

        Raises:
            UserError: If the task is no classification into one class each.
        """
        scores, target = self.scores, self.target
        if scores.dim() > 2 and isinstance(self._module, BaseModule):
            scores = scores.movedim(self._module.class_dim(scores), 1)
        single = False
        if not scores.is_floating_point():  # classes already
            guess, confidence, num_classes = scores, None, int(max(scores.max(), target.max())) + 1
        elif scores.dim() > 1 and scores.shape[1] > 1:
            if target.shape == scores.shape and target.is_floating_point() and _sums_to_one(target):
                target = target.argmax(dim=1)
            confidence, guess = (scores.softmax(dim=1) if self.is_raw else scores).max(dim=1)
            num_classes = scores.shape[1]
        else:
            one, single = scores.sigmoid() if self.is_raw else scores, True
            guess = (one > 0.5).long()
            confidence, num_classes = one.where(guess == 1, 1 - one), 2
        # Else these are values, not probabilities; or counts, beside a single output.
        fits = confidence is None or bool(((confidence >= 0) & (confidence <= 1 + 1e-3)).all())
        fits &= not single or bool((target <= 1).all())
        fits &= not target.is_floating_point() or bool((target == target.round()).all())
        if target.numel() != guess.numel() or not fits:
            raise UserError(
                f"this is no classification with one class for each sample: scores {describe(scores)}, target "
                f"{describe(target)}. Take the callback out of trainer.callbacks."
            )
        truth = target.long().reshape(guess.shape)
        left_out = getattr(getattr(self._module, "loss", None), "ignore_index", -1)  # as the loss does
        kept = (truth >= 0) & (truth < num_classes) & (truth != left_out)
        sure = None if confidence is None else confidence[kept]
        return Guesses(truth[kept], guess.long()[kept], sure, kept, num_classes)


def _sums_to_one(target: Tensor) -> bool:
    return bool(((target.sum(dim=1) - 1).abs() < 1e-3).all())
