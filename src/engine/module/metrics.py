"""Metrics of a validation or a test: what each takes, and the names of its values and of the data sets."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.text import Perplexity


def suited(metric: Metric, scores: Any, target: Any, class_dim: int = 1) -> tuple[Any, Any]:
    """Return scores and target as a metric wants them, whatever the loss wants.

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
    """Yield a metric's value as numbers with names: `f1`, `f1/cat`; what has more dimensions stays whole.

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


def dataset_names(trainer: Trainer, stage: str) -> list[str]:
    """Return the names of the data sets of an evaluation; a single one has none."""
    loaders: Any = loaders_of(trainer, stage)  # one, a list or a dict
    if not isinstance(loaders, dict | list | tuple) or len(loaders) < 2:
        return [""]
    return list(map(str, loaders if isinstance(loaders, dict) else range(len(loaders))))


def loaders_of(trainer: Trainer, stage: str) -> Any:
    """Return what the hook of this stage gave."""
    return trainer.test_dataloaders if stage == "test" else trainer.val_dataloaders
