"""The LightningModule below yours: exact means, several data sets, one checkpoint that is enough."""

import copy
import functools
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.text import Perplexity

from src.engine.checkpoint.files import find_checkpoint, read_checkpoint
from src.engine.config.compose import find_class
from src.engine.config.parser import Parser, instantiate
from src.engine.data.batches import count_samples, describe
from src.engine.errors import UserError
from src.engine.lightning_fixes.logs import add_to_mean, is_logged, repair_logs
from src.engine.lightning_fixes.loops import is_padding
from src.engine.lightning_fixes.trainer import QuickAttributes
from src.engine.module.losses import NoActivation, StepOutput, class_dim

Key = tuple[str, int, str, str]  # of a number: stage, data set, metric (or "part", or nothing) and name of the value
FORM = "StepOutput(loss, num_samples, outputs, target, parts={...})"


class BaseModule(QuickAttributes):
    """Logs the means of loss and parts over samples, epoch and processes, and the metrics of each data set.

    A stage without batches logs nothing. A number that a subclass logs under the same name takes precedence.

    Args:
        metrics: Of validation and test, by name.
        compile: Compile `net` with torch.compile.
    """

    net: nn.Module

    def __init__(self, metrics: dict[str, Any] | None = None, compile: bool = False) -> None:
        super().__init__()
        try:  # metrics that agree on one batch may differ on the next: each keeps its own counts
            made = MetricCollection(dict(metrics or {}), compute_groups=False)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"model.metrics: {error}. It takes objects of torchmetrics.Metric by name.") from error
        self._new_metrics = functools.partial(copy.deepcopy, made)
        self._num_samples: int | Tensor | None = None  # of the last training step, if it counted any
        self._compile = compile
        self._forget()

    def _forget(self) -> None:
        """Forget an earlier run of this module."""
        self.metrics = self._new_metrics()
        self._metrics = {0: self.metrics}  # by the number of the data set
        self.schedule_length: int | None = None
        self._keys: dict[str, Key] = {}  # which number has a name

    def setup(self, stage: str) -> None:
        self._forget()
        repair_logs(self.trainer)
        if self._compile:
            # In place: a compiled and a plain net have the same parameter names and exchange checkpoints.
            graphs = self.trainer.strategy.root_device.type == "cuda" and self.trainer.accumulate_grad_batches == 1
            self.net.compile(mode="reduce-overhead" if graphs else None)
            self._compile = False

    def step(self, batch: Any) -> Any:
        """Compute the loss of a batch, alone or in a StepOutput."""
        raise NotImplementedError

    def scores(self, outputs: Any) -> Any:
        """Return what metrics see of the net's outputs."""
        return outputs

    def known_scores(self, outputs: Any) -> Any:
        """Return the scores, or `{"logits": outputs}` where no activation is known."""
        try:
            return self.scores(outputs)
        except NoActivation:
            return {"logits": outputs} if isinstance(outputs, Tensor) else outputs

    def class_dim(self, outputs: Any) -> int:
        """Return the dimension of the net's outputs that holds the classes; see `losses.class_dim`."""
        return class_dim(getattr(self, "loss", None), getattr(self, "activation", None), outputs)

    def count(self, stage: str, output: Any, batch: Any, number: int = 0) -> StepOutput:
        """Count what a step returned in the means, and in evaluation in the metrics; nothing waits for the device.

        Args:
            stage: `train`, `val` or `test`.
            output: A StepOutput, the loss alone, or a dict of `loss` and its parts.
            batch: What the step was given.
            number: Of the data set, if there are several.
        """
        if isinstance(output, Tensor) or (isinstance(output, Mapping) and "loss" in output):
            output = StepOutput(output, count_samples(batch))  # a mean over the samples of the batch
        if not isinstance(output, StepOutput):
            raise UserError(f"step returned {describe(output)}. Let it return the loss, {{'loss': loss}}, or {FORM}.")
        if stage == "train":
            output.num_samples = output.num_samples * (not is_padding(self.trainer))
            vars(self)["_num_samples"] = output.num_samples  # setattr is slow
        self._log((stage, number, "", "loss"), output.loss, output.num_samples)
        for name, part in output.parts.items():
            self._log((stage, number, "part", name), part, output.num_samples)
        if stage != "train" and len(self.metrics):
            if output.outputs is None:
                raise UserError(
                    f"The step of {stage} gave no outputs for the metrics {', '.join(map(str, self.metrics))}. Let it "
                    f"return {FORM}, or give --model.metrics null."
                )
            scores, dim = self.scores(output.outputs), self.class_dim(output.outputs)
            for metric in self._metrics_of(number).values():
                metric.update(*suited(metric, scores, output.target, dim))
        if isinstance(output.num_samples, Tensor) or not output.num_samples:  # the mean over nothing is NaN
            output.loss = output.loss.where(torch.as_tensor(output.num_samples, device=output.loss.device) > 0, 0)
        return output

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return vars(self.count("val", self.step(batch), batch, dataloader_idx))  # callbacks read outputs and target

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return vars(self.count("test", self.step(batch), batch, dataloader_idx))

    def batch_weight(self) -> Tensor | None:
        """Return this rank's weight in the mean over all ranks; None to weight by rows."""
        if self._num_samples is None:
            return None
        dtype = torch.promote_types(self.dtype, torch.get_default_dtype())  # type: ignore[arg-type]
        mine = torch.as_tensor(self._num_samples, device=self.device, dtype=dtype)
        total: Tensor = self.trainer.strategy.reduce(mine.clone(), reduce_op="sum")
        return mine * self.trainer.world_size / total.clamp(min=torch.finfo(mine.dtype).tiny)

    def _metrics_of(self, number: int) -> MetricCollection:
        """Return the metrics of a data set."""
        if number not in self._metrics:
            self._metrics[number] = self._new_metrics().to(self.device)
        return self._metrics[number]

    def on_validation_epoch_end(self) -> None:
        stage = "test" if self.trainer.testing else "val"
        for number in range(len(dataset_names(self.trainer, stage))):
            if not is_logged(self.trainer, self._names((stage, number, "", "loss"))[0]):
                continue  # no batch was counted: a subclass has its own step
            metrics = self._metrics_of(number)
            for metric, computed in metrics.items():
                for name, value in named(metric, computed.compute(), class_names(self.trainer)):
                    if not isinstance(value, Tensor) or value.dim():
                        raise UserError(
                            f"model.metrics.{metric} computed {describe(value, is_pair=False)}. It has to be a number, "
                            "or one for each class. A callback draws matrices and curves: see EvaluationPicture."
                        )
                    self._log((stage, number, metric, name), value, 1)
            metrics.reset()

    on_test_epoch_end = on_validation_epoch_end

    def _log(self, key: Key, value: Tensor, weight: int | Tensor) -> None:
        """Count a number in a mean."""
        for name in self._names(key):
            add_to_mean(self.trainer, name, value, weight)

    def _names(self, key: Key) -> list[str]:
        """Return the names under which a number is logged: of several data sets the first has the plain name, too.

        Raises:
            UserError: If one of the names is that of another number.
        """
        stage, number, _, value = key
        label = "" if stage == "train" else dataset_names(self.trainer, stage)[number]
        names = [f"{stage}/{value}/{label}"] if label else []
        names += [f"{stage}/{value}"] if number == 0 else []
        for name in names:
            if self._keys.setdefault(name, key) != key:
                raise UserError(
                    f"Two numbers of {stage} have the name {name}. Give the metric, the part of the loss or the "
                    "data set another name."
                )
        return names

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["schedule_length"] = self.schedule_length

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the length of the schedule: computing it again would set up the data too early."""
        self.schedule_length = checkpoint.get("schedule_length")

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        map_location: Any = None,
        hparams_file: str | Path | None = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **overrides: Any,
    ) -> Any:
        """Build the module from the config inside a checkpoint, load its weights, and set it to evaluate.

        Args:
            checkpoint_path: A checkpoint that a run of the command line wrote, or the run's folder.
            map_location: Where the weights go, as for `torch.load`; by default the CPU.
            hparams_file: Without effect: the checkpoint has its own config.
            strict: Whether the names of all weights must match; by default the module's `strict_loading`.
            weights_only: Without effect: nothing but tensors and plain values is ever read.
            overrides: Arguments of the module that replace the config's: objects, or `class_path` and `init_args`.

        Returns:
            The module that the config names, a plain LightningModule too.
        """
        checkpoint = read_checkpoint(find_checkpoint(checkpoint_path), map_location or "cpu")
        config = dict(checkpoint["config"]["model"])
        config["init_args"] = config.get("init_args", {}) | overrides
        if inspect.isclass(named := find_class(config["class_path"])) and issubclass(cls, named):
            config["class_path"] = f"{cls.__module__}.{cls.__qualname__}"
        parser = Parser()
        parser.add_subclass_arguments(LightningModule, "model", fail_untyped=False)
        module = instantiate(parser, parser.parse(lambda: parser.parse_object({"model": config}))).model
        vars(module)["run_seed"] = checkpoint["config"]["seed_everything"]  # `adopt` gives it to the data
        module.configure_model()
        module.on_load_checkpoint(checkpoint)
        weights = checkpoint["state_dict"]
        module.to(next((value.device for value in weights.values()), None))
        module.load_state_dict(weights, strict=module.strict_loading if strict is None else strict)
        return module.eval()


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
    if many and target.is_floating_point() and target.shape == scores.shape:
        target = target.argmax(dim=class_dim)
    if many and scores.dim() > 2:
        scores = scores.movedim(class_dim, 1)
    return scores, target.round().int() if target.is_floating_point() else target


def class_names(trainer: Trainer) -> list[str]:
    """Return the data module's `class_names`, a list in the order of the classes; none where it has none."""
    names = getattr(getattr(trainer, "datamodule", None), "class_names", None)
    return [] if names is None or isinstance(names, Mapping) else list(map(str, names))


def named(name: str, value: Any, class_names: list[str]) -> Iterator[tuple[str, Any]]:
    """Yield a metric's value as numbers with names: `f1`, `f1/cat`; what has more dimensions stays whole.

    Args:
        name: Of the metric.
        value: A number, one for each class, a dict of such, a matrix or curves.
        class_names: In their order; none where nobody knows them.
    """
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from named(f"{name}/{key}", each, class_names)
    elif isinstance(value, Tensor) and value.dim() == 1 and len(value) > 1:
        names = class_names if len(class_names) == len(value) else range(len(value))
        yield from ((f"{name}/{label}", each) for label, each in zip(names, value, strict=True))
    else:
        yield name, value.reshape(()) if isinstance(value, Tensor) and value.numel() == 1 else value


def dataset_names(trainer: Trainer, stage: str) -> list[str]:
    """Return the names of the data sets of an evaluation; a single one has none."""
    loaders: Any = loaders_of(trainer, stage)  # one, a list or a dict
    if not isinstance(loaders, dict | list | tuple) or len(loaders) < 2:
        return [""]
    return list(map(str, loaders if isinstance(loaders, dict) else range(len(loaders))))


def loaders_of(trainer: Trainer, stage: str) -> Any:
    """Return what the hook of this stage gave."""
    return trainer.test_dataloaders if stage == "test" else trainer.val_dataloaders
