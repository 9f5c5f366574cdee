"""The LightningModule below yours: exact means, several data sets, a resume to the bit, one file that is enough."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from src.engine.checkpoint.build import load_module
from src.engine.data.batches import describe
from src.engine.data.order import is_padding
from src.engine.errors import UserError
from src.engine.lightning_fixes.trainer import QuickAttributes
from src.engine.module.evaluation import Evaluation, dataset_names, loaders_of, named
from src.engine.module.losses import class_dim
from src.engine.module.means import Means
from src.engine.module.step import FORM, StepOutput, check_names


class BaseModule(QuickAttributes):
    """Sums up over samples, epoch and processes; a run resumed amid an epoch reports the mean of the whole epoch.

    A stage in which no batch was counted logs nothing, and no name that a subclass logs by itself.

    Args:
        metrics: Of validation and test, by name.
        compile: Compile `net` with torch.compile.
    """

    net: nn.Module

    def __init__(self, metrics: dict[str, Any] | None = None, compile: bool = False) -> None:
        super().__init__()
        if "loss" in (metrics or {}):
            raise UserError("metrics.loss: val/loss is the loss itself. Give the metric another name.")
        # Metrics that agree on one batch need not agree on the next: each keeps its own counts.
        try:
            self.metrics = MetricCollection(dict(metrics or {}), compute_groups=False)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"model.metrics: {error}. It takes objects of torchmetrics.Metric by name.") from error
        # What is no number: matrices, curves; written into the run's folder.
        self.tables: dict[str, Any] = {}
        self._evaluation = Evaluation(self.metrics)
        self._means = Means()
        self._own_names: set[str] = set()
        self._begun: set[bool] = set()
        self._compile = compile
        self.schedule_length: int | None = None

    def setup(self, stage: str) -> None:
        # What an earlier run of this module left, in a notebook perhaps one that failed within an epoch.
        self.schedule_length = None
        self._means = Means()
        self._evaluation.begin()
        if self._compile:
            # In place: a compiled and a plain net have the same parameter names and exchange checkpoints.
            graphs = self.trainer.strategy.root_device.type == "cuda" and self.trainer.accumulate_grad_batches == 1
            self.net.compile(mode="reduce-overhead" if graphs else None)
            self._compile = False

    @property
    def further_metrics(self) -> dict[int, MetricCollection]:
        """The metrics of all data sets but the first, by their number."""
        return self._evaluation.more

    def add_further_metrics(self, number: int) -> None:
        """Make those of a data set, for a resumed run to fill."""
        self._evaluation.add(number, self.device)

    def is_first_batch(self) -> bool:
        """Whether no batch was seen yet, in training or in evaluation: the time to look closely."""
        first = self.training not in self._begun
        self._begun.add(self.training)
        return first

    def scores(self, outputs: Any) -> Any:
        """What metrics see of the net's outputs."""
        return outputs

    def class_dim(self, outputs: Any) -> int:
        """Return the dimension of the net's outputs that holds the classes; see `torch_losses.class_dim`."""
        loss, activation = getattr(self, "loss", None), getattr(self, "activation", None)
        return class_dim(loss, activation, outputs) if isinstance(outputs, Tensor) else 1

    def count(self, stage: str, output: StepOutput, number: int = 0) -> Tensor:
        """Count a batch and return its loss; nothing waits for the device.

        Args:
            stage: `train`, `val` or `test`.
            output: What the step gave.
            number: Of the data set, of several.
        """
        if not isinstance(output, StepOutput):
            raise UserError(f"count takes a {FORM}; got {describe(output)}.")
        if output.parts:
            check_names(output.parts, [str(name) for name in self.metrics])
        if stage == "train" and self._is_padding():
            output = replace(output, num_samples=output.num_samples * 0)
        self._means.add(f"{stage}/{number}", output)
        if stage != "train" and len(self.metrics):
            if output.outputs is None:
                names = ", ".join(str(name) for name in self.metrics)
                raise UserError(
                    f"The step of {stage} gave no outputs for the metrics {names}. Let it return "
                    f"{FORM}, or leave out the metrics (--model.metrics null)."
                )
            scores = self.scores(output.outputs)
            self._evaluation.update(number, scores, output.target, self.class_dim(output.outputs))
        if isinstance(output.num_samples, Tensor):
            return output.loss.where(output.num_samples > 0, 0)  # the mean over nothing is NaN
        return output.loss

    def _is_padding(self) -> bool:
        """Whether another process has the rows of this batch, which then counts nothing."""
        try:
            trainer = self.trainer
        except RuntimeError:  # of a module without one
            return False
        return is_padding(trainer)

    def evaluate(self, stage: str, output: StepOutput, number: int = 0) -> dict[str, Any]:
        """Count a batch, as `count` does; returns `loss`, `outputs` and `target`, which callbacks may look at."""
        return {"loss": self.count(stage, output, number), "outputs": output.outputs, "target": output.target}

    def batch_weight(self) -> Tensor | None:
        """What the last counted batch of this process counts for in the mean over all, where rows do not tell."""
        num_samples = self._means.last
        if not isinstance(num_samples, Tensor):
            return None
        mine = num_samples.to(self.device, torch.get_default_dtype())
        total: Any = self.trainer.strategy.reduce(mine.clone(), reduce_op="sum")
        weight: Tensor = mine * self.trainer.world_size / total.clamp(min=torch.finfo(mine.dtype).tiny)
        return weight

    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """Lightning's own; notes that a subclass has this name for itself."""
        self._own_names.add(name)
        super().log(name, value, *args, **kwargs)

    def log_mean(self, name: str, value: Tensor) -> None:
        """Log what is the same on all processes already, unless a subclass logs this name by itself."""
        if name not in self._own_names:
            super().log(name, value, sync_dist=True, reduce_fx="max")  # the mean of three equal numbers may be another

    def on_train_epoch_end(self) -> None:
        for name, value in self._means.take("train/0", self).items():
            self.log_mean(f"train/{name}", value)

    def on_validation_epoch_end(self) -> None:
        self._log_evaluation("val")

    def on_test_epoch_end(self) -> None:
        self._log_evaluation("test")

    def _log_evaluation(self, stage: str) -> None:
        class_names = getattr(getattr(self.trainer, "datamodule", None), "class_names", None)
        logged: set[str] = set()
        for number, name in enumerate(dataset_names(loaders_of(self.trainer, stage))):
            values: dict[str, Any] = self._means.take(f"{stage}/{number}", self)
            if not values:
                continue
            for metric, value in self._evaluation.compute(number).items():
                found = dict(named(metric, value, class_names))
                _refuse_same_names(found.keys() & values.keys(), stage)
                values |= found
            for key, value in values.items():
                # Of several data sets the first has the plain name, too.
                keys = [f"{stage}/{key}/{name}"] if name else []
                keys += [f"{stage}/{key}"] if number == 0 else []
                _refuse_same_names(logged.intersection(keys), stage)
                logged.update(keys)
                for each in keys:
                    self._log_or_keep(each, value)

    def _log_or_keep(self, name: str, value: Any) -> None:
        if isinstance(value, Tensor) and value.dim() == 0:
            self.log_mean(name, value.float())
        else:
            self.tables[name] = value

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the running means, and the length of the schedule."""
        checkpoint["schedule_length"] = self.schedule_length
        checkpoint["train_means"] = self._means.state_dict("train/0", self.trainer.world_size)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the running means, and the length of the schedule."""
        if checkpoint["lr_schedulers"]:
            self.schedule_length = checkpoint.get("schedule_length")
        if "train_means" in checkpoint:
            self._means.load_state_dict("train/0", checkpoint["train_means"], self)

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

        It is the module that the config names, a plain LightningModule too.

        Args:
            checkpoint_path: A checkpoint that a run of the command line wrote, or the run's folder.
            map_location: Where the weights go, as for `torch.load`; by default the CPU.
            hparams_file: Lightning's; the checkpoint has its own config.
            strict: Whether each weight must have its place; by default the module's `strict_loading`.
            weights_only: Lightning's; nothing but tensors and plain values is ever read.
            overrides: Arguments of the module that replace the config's: objects, or `class_path` and `init_args`.
        """
        return load_module(cls, checkpoint_path, map_location or "cpu", overrides, strict).eval()


def _refuse_same_names(names: Collection[str], stage: str) -> None:
    if names:
        raise UserError(
            f"Two numbers of {stage} have the name {min(names)}. Give the metric, the part of the loss or the data set "
            "another name."
        )
