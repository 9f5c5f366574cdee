"""What torch's own losses take the net's outputs for, what targets they can have, and what their mean is over."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from src.engine.data.batches import advice, count_samples, describe, take_apart
from src.engine.errors import UserError
from src.engine.module.step import StepOutput

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


class NoActivation(UserError):
    """Metrics need scores, and the loss does not say what turns the net's outputs into them."""

    def __init__(self, loss: Any) -> None:
        who = "a net that computes its loss (loss: null)" if isinstance(loss, NetLoss) else type(loss).__name__
        super().__init__(
            f"Metrics need scores, and {who} does not say what turns the outputs into scores. "
            "Set --model.activation sigmoid, softmax, exp, identity or a class of yours."
        )


def class_dim(loss: Any, activation: Any, outputs: Tensor) -> int:
    """Return the dimension of `outputs` that holds the classes.

    It is 1, as torch's losses have it: (B, C), (B, C, T), (B, C, H, W). A net that computes its loss gives tokens as
    (B, T, C), the last one. An `nn.Softmax` as the activation says it itself.
    """
    if isinstance(activation, nn.Softmax) and activation.dim is not None:
        return activation.dim
    return -1 if isinstance(loss, NetLoss) and outputs.dim() == 3 else 1


def take_loss(loss: nn.Module | None, metrics: Mapping[str, Any] | None) -> Any:
    """Return the loss, or one that the net computes.

    Metrics leave out the targets that the loss leaves out (its `ignore_index`; -100 where the net computes it), unless
    they have an `ignore_index` of their own.

    Raises:
        UserError: If the loss is one of torch's and no mean.
    """
    refuse_sum(loss)
    taken = NetLoss() if loss is None else loss
    index = getattr(taken, "ignore_index", None)
    for metric in (metrics or {}).values() if isinstance(index, int) else ():
        inner = getattr(metric, "metric", metric)  # of a wrapper, what it wraps
        if getattr(inner, "ignore_index", index) is None:
            inner.ignore_index = index
    return taken


class NetLoss:
    """Runs a net that computes its loss by itself, as those of Hugging Face do.

    Labels of whole numbers with more than one dimension, (B, T), are those of tokens. The loss then is the mean over
    the labels that are not -100. A causal language model compares the logits of a token with the label of the next one,
    so its first labels do not count. Which of the two it is shows at the first batch: cross-entropy of one or the other
    is nearer to the net's loss. Metrics see logits and labels paired in the same way. A batch in which all labels are
    -100 counts for nothing. A net whose loss is another mean needs a step of its own.
    """

    ignore_index = -100

    def __init__(self) -> None:
        self._ahead: int | None = None  # places between a token and its label; None until a batch shows it

    def __call__(self, net: nn.Module, batch: Any) -> StepOutput:
        """Compute the loss of a batch.

        Args:
            net: Takes the whole batch as keywords, returns an object with `loss` and `logits`.
            batch: A dict.

        Raises:
            UserError: If the batch is no dict, or the net gave no loss.
        """
        if not isinstance(batch, Mapping):
            raise UserError(f"With loss: null the batch has to be a dict of the net's keywords. {advice(batch)}")
        outputs = net(**batch)
        loss, logits = getattr(outputs, "loss", None), getattr(outputs, "logits", None)
        if loss is None:
            raise UserError(
                f"With loss: null {type(net).__name__} has to return an object with loss and logits; it returned "
                f"{describe(outputs)}. Give it labels, or name a loss (--model.loss). {advice(batch)}"
            )
        labels: Any = take_apart(batch, needs_target=False)[1]
        if not isinstance(labels, Tensor) or labels.dim() < 2 or labels.is_floating_point():
            return StepOutput(loss, count_samples(batch), logits, labels)
        if self._ahead is None and isinstance(logits, Tensor) and logits.dim() == 3:
            self._ahead = labels_ahead(loss, logits, labels)
        if self._ahead:
            logits, labels = outputs.logits[:, :-1], labels[:, 1:]
        return StepOutput(loss, (labels != self.ignore_index).sum(), logits, labels)


@torch.no_grad()
def labels_ahead(loss: Tensor, logits: Tensor, labels: Tensor) -> int | None:
    """Return how many places the labels lie ahead of the logits in a cross-entropy that equals the loss.

    Args:
        loss: Of the net.
        logits: (B, T, C).
        labels: (B, T); those that are no class do not count.

    Returns:
        0, 1, or None where both give the same.
    """
    if labels.shape != logits.shape[:2] or not isinstance(loss, Tensor) or loss.numel() != 1:
        return None
    left_out = NetLoss.ignore_index
    labels = labels.long().where((labels >= 0) & (labels < logits.shape[2]), left_out)
    distances = []
    for ahead in (0, 1):
        target = labels[:, ahead:]
        pairs = zip(logits[:, : target.shape[1]], target, strict=True)  # row by row: vocabularies are large
        sums = [cross_entropy(row.float(), each, reduction="sum", ignore_index=left_out) for row, each in pairs]
        distances.append(float((sum(sums) / (target != left_out).sum() - loss).abs()))
    margin = max(1e-5, 8 * torch.finfo(loss.dtype).eps) * (1 + abs(float(loss)))
    return distances.index(min(distances)) if abs(distances[0] - distances[1]) > margin else None


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


def check_target(loss: nn.Module, outputs: Any, target: Any, batch: Any, activation: Any = None) -> None:
    """See that the second part of a batch can be what this loss compares the outputs with.

    torch stretches a target of another shape, and takes any floating-point numbers for probabilities.

    Args:
        loss: Any; of one that is not torch's nothing is known.
        outputs: What the net gave.
        target: What is taken for the target.
        batch: That it came from, for the message.
        activation: `softmax` is over the second dimension.

    Raises:
        UserError: If it cannot.
    """
    shapes = [tuple(each.shape) for each in (outputs, target) if isinstance(each, Tensor)]
    if activation == "softmax" and len(shapes) == 2 and shapes[0][:-1] == shapes[1] != shapes[0][:1] + shapes[0][2:]:
        raise UserError(
            f"activation: softmax is over the second dimension of the outputs {shapes[0]}; for a target of shape "
            f"{shapes[1]} the classes are the last one. Set --model.activation.class_path torch.nn.Softmax and "
            "--model.activation.init_args.dim -1, or let the net put the classes second."
        )
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
