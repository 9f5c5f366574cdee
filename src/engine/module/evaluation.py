"""The metrics of a validation or a test: fed as each one wants it, one set of counts for each data set."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.text import Perplexity

from src.engine.checkpoint.plain import Snapshot


class Evaluation:
    """Keeps metrics of each data set apart.

    Args:
        metrics: Of the first one; of the others copies.
    """

    def __init__(self, metrics: MetricCollection) -> None:
        self._first = metrics
        self._fresh = copy.deepcopy(metrics)
        self._begun = Snapshot(metrics)
        self.more: dict[int, MetricCollection] = {}

    def update(self, number: int, scores: Any, target: Any, class_dim: int = 1) -> None:
        """Count a batch.

        Args:
            number: Of its data set.
            scores: (B, ...), what the metrics see.
            target: (B, ...).
            class_dim: The dimension of the classes in scores of several: 1, or the last one.
        """
        if number and number not in self.more:
            self.add(number, scores.device if isinstance(scores, Tensor) else "cpu")
        metrics = self.more[number] if number else self._first
        for metric in metrics.values():
            metric.update(*suited(metric, scores, target, class_dim))

    def add(self, number: int, device: Any) -> None:
        """Make the metrics of a further data set."""
        self.more[number] = copy.deepcopy(self._fresh).to(device)

    def begin(self) -> None:
        """Forget all, a best value of an earlier run or of a validation before a test, too."""
        self._begun.put_back()
        self.more.clear()

    def compute(self, number: int) -> dict[str, Any]:
        """The values of a data set by the metrics' names; its counts begin anew."""
        metrics = self.more.get(number, self._first)
        values = {name: metric.compute() for name, metric in metrics.items()}
        metrics.reset()
        return values


def suited(metric: Metric, scores: Any, target: Any, class_dim: int = 1) -> tuple[Any, Any]:
    """Scores and target as a metric wants them, whatever the loss wants.

    torchmetrics' classification takes classes in dimension 1, and targets of whole numbers; binary cross-entropy and
    cross-entropy with probabilities take floating-point ones.
    """
    kind = type(getattr(metric, "metric", metric))  # of a wrapper, what it wraps
    if kind is Perplexity and torch.allclose(scores.sum(dim=-1), torch.ones_like(scores[..., 0]), atol=1e-3):
        return scores.log(), target  # it takes logits
    if not isinstance(target, Tensor) or not kind.__module__.startswith("torchmetrics.classification"):
        return scores, target
    many = kind.__name__.startswith("Multiclass") and isinstance(scores, Tensor)
    smooth = many and target.is_floating_point() and target.shape == scores.shape
    if smooth:
        target = target.argmax(dim=class_dim)
    if many and scores.dim() > 2:
        scores = scores.movedim(class_dim, 1)
    return scores, target.round().int() if target.is_floating_point() else target


def named(name: str, value: Any, class_names: list[str] | None) -> Iterator[tuple[str, Any]]:
    """A metric's value as numbers with names: `f1`, `f1/cat`; what has more dimensions stays whole.

    Args:
        name: Of the metric.
        value: A number, one for each class, a dict of such, a matrix or curves.
        class_names: In their order, where somebody knows them.
    """
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from named(f"{name}/{key}", each, class_names)
    elif isinstance(value, Tensor) and value.dim() == 1 and len(value) > 1:
        names = class_names if class_names and len(class_names) == len(value) else range(len(value))
        yield from ((f"{name}/{label}", each) for label, each in zip(names, value, strict=True))
    elif isinstance(value, Tensor) and value.numel() == 1:
        yield name, value.reshape(())
    else:
        yield name, value


def dataset_names(loaders: Any) -> list[str]:
    """What the several data sets of an evaluation are called; of a single one nothing.

    Args:
        loaders: As `val_dataloader` returned them: one, a list or a dict.
    """
    loaders = loaders.iterables if isinstance(loaders, CombinedLoader) else loaders
    if isinstance(loaders, dict):
        return list(map(str, loaders)) if len(loaders) > 1 else [""]
    several = isinstance(loaders, list | tuple) and len(loaders) > 1
    return [str(number) for number in range(len(loaders))] if several else [""]


def loaders_of(trainer: Trainer, stage: str) -> Any:
    """What the hook of this stage returned."""
    return trainer.test_dataloaders if stage == "test" else trainer.val_dataloaders
