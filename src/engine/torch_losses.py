"""What torch's own losses take the net's outputs for, what targets they can have, and what their mean is over."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from src.engine.errors import UserError
from src.engine.step import advice, count_samples

Activation = Literal["sigmoid", "softmax", "exp", "identity"]
ACTIVATIONS: tuple[tuple[type[nn.Module], Activation], ...] = (
    (nn.BCEWithLogitsLoss, "sigmoid"),
    (nn.MultiLabelSoftMarginLoss, "sigmoid"),
    (nn.CrossEntropyLoss, "softmax"),
    (nn.NLLLoss, "exp"),
    (nn.BCELoss, "identity"),
    (nn.MSELoss, "identity"),
    (nn.L1Loss, "identity"),
    (nn.SmoothL1Loss, "identity"),
    (nn.HuberLoss, "identity"),
)
# Each output has a target of its own.
ELEMENTWISE = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCELoss, nn.BCEWithLogitsLoss)


def activation_of(loss: nn.Module | None) -> Activation | None:
    """What turns the outputs into scores for this loss; None where nobody can know."""
    return next((name for kind, name in ACTIVATIONS if isinstance(loss, kind)), None)


def refuse_sum(loss: nn.Module | None) -> None:
    """A loss has to be a mean.

    Raises:
        UserError: If it is one of torch's that is told otherwise.
    """
    reduction = getattr(loss, "reduction", "mean")
    if type(loss).__module__.startswith("torch.") and reduction in ("sum", "none"):
        raise UserError(
            f"model.loss.reduction={reduction!r}: the size of a step would depend on the batch and on the number of "
            "processes. Leave it at 'mean', or write a loss that returns (sum, weight)."
        )


def mean_over(loss: nn.Module, target: Any) -> int | Tensor:
    """What the mean that a loss of torch's gives is over.

    Args:
        loss: Any; of one that is not torch's a mean over the samples is assumed.
        target: (B, ...).

    Returns:
        A tensor where it is another number in each batch: class weights, or targets that are left out.
    """
    if not isinstance(target, Tensor):
        return count_samples(target)
    if isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss) and not target.is_floating_point():
        kept = target != loss.ignore_index
        return kept.sum() if loss.weight is None else (loss.weight[target.where(kept, 0)] * kept).sum()
    if isinstance(loss, ELEMENTWISE) and target.dim() > 2:
        # Images and sequences may have another size in each batch.
        return torch.full((), target.numel(), device=target.device)
    return len(target)


def check_target(loss: nn.Module, outputs: Any, target: Any, batch: Any) -> None:
    """See that the second part of a batch can be what this loss compares the outputs with.

    torch stretches a target of another shape, and takes any floating-point numbers for probabilities.

    Args:
        loss: Any; of one that is not torch's nothing is known.
        outputs: What the net gave.
        target: What is taken for the target.
        batch: That it came from, for the message.

    Raises:
        UserError: If it cannot.
    """
    known = isinstance(loss, (*ELEMENTWISE, nn.CrossEntropyLoss, nn.NLLLoss))
    if not known or not isinstance(outputs, Tensor):
        return
    wanted = outputs.shape
    if not isinstance(target, Tensor):
        problem = f"is a {type(target).__name__}"
    elif isinstance(loss, ELEMENTWISE) or target.is_floating_point():
        problem = "" if target.shape == wanted else f"has shape {tuple(target.shape)}"
        if not problem and isinstance(loss, nn.CrossEntropyLoss):
            sums = target.sum(dim=1)
            probable = bool((target >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-2)
            problem = "" if probable else "holds no probabilities"
    else:
        wanted = outputs.shape[:1] + outputs.shape[2:]
        problem = "" if target.shape == wanted else f"has shape {tuple(target.shape)}"
        kept = target[target != loss.ignore_index]
        if not problem and outputs.dim() > 1 and len(kept) and (kept.min() < 0 or kept.max() >= outputs.shape[1]):
            raise UserError(
                f"The target of {type(loss).__name__} holds classes from {kept.min()} to {kept.max()}; outputs of "
                f"shape {tuple(outputs.shape)} are for 0 to {outputs.shape[1] - 1}. Let the net give a number for "
                f"each class. {advice(batch)}"
            )
    if problem:
        raise UserError(
            f"The target of {type(loss).__name__} {problem}; for outputs of shape {tuple(outputs.shape)} it has to "
            f"have shape {tuple(wanted)}. {advice(batch)}"
        )
