"""Define what a step returns, which activation and mean belong to torch's losses, and the losses of nets."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from src.engine.data.batches import advice, count_samples, describe, take_apart
from src.engine.errors import UserError

Activation = Literal["sigmoid", "softmax", "exp", "identity"]
# torch stretches their target to the shape of the outputs without an error.
STRETCHING = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss)
ACTIVATIONS: dict[type[nn.Module], Activation] = {
    nn.BCEWithLogitsLoss: "sigmoid",
    nn.MultiLabelSoftMarginLoss: "sigmoid",
    nn.CrossEntropyLoss: "softmax",
    nn.NLLLoss: "exp",
    **dict.fromkeys((*STRETCHING, nn.BCELoss), "identity"),
}
FUNCTIONS: dict[Any, Any] = {"sigmoid": torch.sigmoid, "exp": torch.exp, "identity": nn.Identity()}


@dataclass
class StepOutput:
    """Holds what a step computed on a batch.

    Attributes:
        loss: The mean over the batch, a number to be minimised. A loss may also give (sum, weight), which are then the
            mean and `num_samples`; or a dict of `loss` and its parts, which are then `parts`.
        num_samples: What the mean is over: the number of samples, or a scalar tensor where it differs between batches:
            tokens without padding, the sum of class weights. Means over an epoch and over processes, and gradients of
            several processes, are weighted by it. A batch of 0 counts for nothing.
        outputs: What the net gave; metrics see `scores(outputs)`. May be None where no metrics are configured.
        target: What metrics compare the scores with.
        parts: Further means over the same samples, logged by their names: parts of the loss.

    Raises:
        UserError: If loss or a part is not a tensor of one number, or num_samples is not a count.
    """

    loss: Any
    num_samples: int | Tensor
    outputs: Any = None
    target: Any = None
    parts: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.loss, Mapping) and "loss" in self.loss:
            self.parts = {name: part for name, part in self.loss.items() if name != "loss"} | self.parts
            self.loss = self.loss["loss"]
        if isinstance(self.loss, tuple) and len(self.loss) == 2:
            total, weight = self.loss
            self.num_samples = torch.as_tensor(weight, device=total.device)
            self.loss = total / self.num_samples
        self.loss = _one_number("loss", self.loss)
        self.parts = {name: _one_number(f"parts[{name!r}]", part) for name, part in self.parts.items()}
        if isinstance(self.num_samples, Tensor):
            self.num_samples = _one_number("num_samples", self.num_samples)
        elif not isinstance(self.num_samples, Integral) or self.num_samples < 0:
            raise UserError(f"StepOutput: num_samples is {self.num_samples!r}; it has to be a count, such as len(x).")
        else:
            self.num_samples = int(self.num_samples)  # of NumPy's numbers, too


def _one_number(name: str, value: Any) -> Tensor:
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.reshape(()) if value.dim() else value
    raise UserError(f"StepOutput: {name} is {describe(value)}; it has to be a tensor of one number.")


class NoActivation(UserError):
    """Reports that metrics need scores, and nothing turns the net's outputs into them."""


def activation_of(loss: Any) -> Activation | None:
    """Return what turns the outputs into scores for this loss; None for a loss that is not torch's."""
    return next((name for kind, name in ACTIVATIONS.items() if isinstance(loss, kind)), None)


def class_dim(loss: Any, activation: Any, outputs: Any) -> int:
    """Return the dimension of `outputs` that holds the classes.

    It is 1, as torch's losses have it: (B, C), (B, C, T), (B, C, H, W). A net that computes its loss gives tokens as
    (B, T, C). An `nn.Softmax` as the activation names its own.
    """
    if isinstance(activation, nn.Softmax) and activation.dim is not None:
        return activation.dim
    return -1 if isinstance(loss, NetLoss) and isinstance(outputs, Tensor) and outputs.dim() == 3 else 1


def to_scores(loss: Any, activation: Any, outputs: Any) -> Any:
    """Turn a net's outputs into what metrics see; (B, ...), the same shape back.

    Raises:
        NoActivation: If there is none.
    """
    if activation is None:
        who = "a net that computes its loss (loss: null)" if isinstance(loss, NetLoss) else type(loss).__name__
        raise NoActivation(
            f"Metrics need scores, and {who} does not say what turns the outputs into scores. "
            "Set --model.activation sigmoid, softmax, exp, identity or a class of yours."
        )
    if activation == "softmax":
        return outputs.softmax(dim=class_dim(loss, activation, outputs))
    return FUNCTIONS.get(activation, activation)(outputs)


def take_loss(loss: nn.Module | None, metrics: Mapping[str, Any] | None) -> Any:
    """Return the loss, or with null the one that the net computes.

    Metrics leave out the targets that the loss leaves out (its `ignore_index`), unless they have their own.

    Raises:
        UserError: If the loss is one of torch's and no mean.
    """
    reduction = getattr(loss, "reduction", "mean")
    if type(loss).__module__.startswith("torch.") and reduction in ("sum", "none"):
        raise UserError(
            f"model.loss.reduction={reduction!r}: the size of a step would depend on the batch and on the number of "
            "processes. Leave it at 'mean', or write a loss that returns (sum, weight)."
        )
    taken = NetLoss() if loss is None else loss
    index = getattr(taken, "ignore_index", None)
    for metric in (metrics or {}).values() if isinstance(index, int) else ():
        inner = getattr(metric, "metric", metric)  # of a wrapper, what it wraps
        if getattr(inner, "ignore_index", index) is None:
            inner.ignore_index = index
    return taken


def mean_over(loss: Any, target: Any) -> int | Tensor:
    """Return what the mean of a loss is over; of a loss that is not torch's, the samples.

    Args:
        loss: Any.
        target: (B, ...).

    Returns:
        A tensor where the number differs between batches of one size: class weights, ignored targets, images.
    """
    if not isinstance(target, Tensor):
        return count_samples(target)
    if isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss) and not target.is_floating_point():
        kept = target != loss.ignore_index
        return kept.sum() if loss.weight is None else (loss.weight[target.where(kept, 0)] * kept).sum()
    if target.dim() > 2 and activation_of(loss) in ("sigmoid", "identity"):  # each output has a target of its own
        return torch.full((), target.numel(), device=target.device)
    return len(target)


def check_target(loss: Any, activation: Any, outputs: Any, target: Any) -> None:
    """Refuse a target from which torch would compute wrong numbers without an error.

    Raises:
        UserError: If the target would be stretched, if cross-entropy would take other numbers for probabilities, or if
            softmax would go over tokens in place of classes.
    """
    if not isinstance(outputs, Tensor) or not isinstance(target, Tensor):
        return
    shape, wanted = outputs.shape, target.shape
    if shape != wanted and isinstance(loss, STRETCHING):
        raise UserError(
            f"The target of {type(loss).__name__} has shape {tuple(wanted)}; it must have the shape of the outputs, "
            f"{tuple(shape)}."
        )
    if isinstance(loss, nn.CrossEntropyLoss) and target.is_floating_point() and shape == wanted:
        sums = target.sum(dim=1)
        if not bool((target >= 0).all()) or not torch.allclose(sums, torch.ones_like(sums), atol=1e-2):
            raise UserError(
                f"The target of CrossEntropyLoss, {describe(target)}, holds no probabilities: they sum to 1 over the "
                "classes. Give class numbers as int64, or take BCEWithLogitsLoss for several classes at once."
            )
    if len(shape) > 2 and activation == "softmax" and shape[:-1] == wanted != shape[:1] + shape[2:]:
        raise UserError(
            f"activation: softmax is over the second dimension of the outputs {tuple(shape)}; for a target of shape "
            f"{tuple(wanted)} the classes are the last one. Set --model.activation.class_path torch.nn.Softmax and "
            "--model.activation.init_args.dim -1, or let the net put the classes second."
        )


class NetLoss:
    """Runs a net that computes its loss by itself, as those of Hugging Face do.

    Labels of whole numbers with more than one dimension, (B, T), are those of tokens: the loss is the mean over the
    labels that are not -100. A causal language model compares a token's logits with the next token's label, so its
    first labels do not count. The first batch shows which of the two cross-entropies is nearer to the loss.
    """

    ignore_index = -100

    def __init__(self) -> None:
        self._shift: bool | None = None  # whether labels are those of the next token; None until a batch shows it

    def __call__(self, net: nn.Module, batch: Any) -> StepOutput:
        """Compute the loss of a batch.

        Raises:
            UserError: If the batch is no dict of the net's keywords, or the net returned no `loss`.
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
        if self._shift is None and isinstance(logits, Tensor) and labels.shape == logits.shape[:-1]:
            self._shift = _is_shifted(loss, logits, labels)
        if self._shift:
            logits, labels = outputs.logits[:, :-1], labels[:, 1:]
        return StepOutput(loss, (labels != self.ignore_index).sum(), logits, labels)


@torch.no_grad()
def _is_shifted(loss: Tensor, logits: Tensor, labels: Tensor) -> bool | None:
    """Return whether the loss compares logits (B, T, C) with the next token's labels (B, T); None if both fit alike."""
    target = labels.long().where((labels >= 0) & (labels < logits.shape[2]), NetLoss.ignore_index)
    same = cross_entropy(logits.float().flatten(0, 1), target.flatten())
    ahead = cross_entropy(logits[:, :-1].float().flatten(0, 1), target[:, 1:].flatten())
    gain = (same - loss).abs() - (ahead - loss).abs()
    margin = max(1e-5, 8 * torch.finfo(loss.dtype).eps) * (1 + loss.abs())
    return bool(gain > 0) if gain.abs() > margin else None
