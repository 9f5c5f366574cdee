"""The repairs of Lightning, torch and jsonargparse.

A test with `still` in its name shows what they do wrong without us. When one fails, its message names the repair that
can go, and the test goes with it.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.profilers import PassThroughProfiler, SimpleProfiler
from lightning.pytorch.utilities import CombinedLoader
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from src.engine.data.adopt import adopt
from src.engine.lightning_fixes.loops import reset_loop_counters
from src.engine.lightning_fixes.trainer import (
    STEP_HOOKS,
    EmaAlsoInTheTest,
    NoProfiler,
    QuickAttributes,
    Trainer,
    quicken_steps,
    spare_the_question_for_a_gpu,
)
from tests.conftest import CONFIGS, run_process

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:.*{text}")
    for text in ("does not have many workers", "not resumable", "have no `val_dataloader`")
]
DATA = DataLoader(TensorDataset(torch.ones(3, 1)))  # an epoch of 3 steps


class Plain(pl.LightningModule):
    """A module as Lightning has it; it notes the batches that it is trained on."""

    def __init__(self, plateau: bool = False) -> None:
        super().__init__()
        self.net = nn.Linear(1, 1)
        self.plateau: Any = plateau
        self.seen: list[tuple[int, int]] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.seen.append((self.trainer.current_epoch, batch_idx))
        return self.net(batch[0]).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("loss", self.net(batch[0]).square().mean())

    test_step = validation_step

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        if not self.plateau:
            return optimizer
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.plateau, "monitor": "loss"}}


class Save(pl.Callback):
    """Saves at the n-th call of a hook."""

    def __init__(self, path: Path, hook: str, number: int) -> None:
        self.path, self.left = path, number
        setattr(self, hook, self._called)

    def _called(self, trainer: pl.Trainer, *rest: Any) -> None:
        self.left -= 1
        if self.left == 0:
            trainer.save_checkpoint(self.path)


def plain(*callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    """A trainer as Lightning has it, without what writes or prints."""
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "num_sanity_val_steps")
    return pl.Trainer(accelerator="cpu", callbacks=[*callbacks], **dict.fromkeys(off, False) | options)


def saved(trainer: pl.Trainer, path: Path) -> dict[str, Any]:
    trainer.save_checkpoint(path)
    return torch.load(path, weights_only=True)


# --- Trainer: 1 batch is not all of them


@pytest.mark.parametrize("text", ["1", "1.0", "0.5"])
def test_a_limit_counts_batches_or_is_a_part(text):
    parser = ArgumentParser()
    parser.add_class_arguments(Trainer, "trainer")
    assert repr(parser.parse_args([f"--trainer.limit_train_batches={text}"]).trainer.limit_train_batches) == text


STOCK = """
import importlib
import os
from typing import Literal, Optional, Union
from jsonargparse import ArgumentParser
from lightning.pytorch.trainer import trainer
for number in range(200):
    Optional[Literal[number]]  # Python remembers the last 128
Optional[Union[float, int]]  # as a library may write it that is imported shortly before
Trainer = importlib.reload(trainer).Trainer
parser = ArgumentParser()
parser.add_class_arguments(Trainer, "trainer")
print(parser.parse_args(["--trainer.limit_train_batches=1"]).trainer.limit_train_batches)
print(os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"])
"""


@pytest.mark.slow
def test_stock_lightning_still_turns_1_into_1_0_and_asks_for_a_gpu_slowly():
    done = subprocess.run([sys.executable, "-c", STOCK], capture_output=True, text=True, check=True)
    limit, check = done.stdout.split()
    assert limit == "1.0", "1 batch stays 1: Batches and the limits of Trainer.__init__ can go"
    assert check == "1", "torch asks quickly: spare_the_question_for_a_gpu can go"


# --- NoProfiler, QuickAttributes: what a step costs


def test_a_trainer_without_a_profiler_makes_no_contexts():
    quiet = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    profiler = Trainer(**quiet).profiler
    assert isinstance(profiler, NoProfiler)
    assert profiler.profile("a") is profiler.profile("b")
    assert isinstance(Trainer(**quiet, profiler="simple").profiler, SimpleProfiler)


def test_lightning_still_makes_a_context_for_each_hook():
    profiler = PassThroughProfiler()
    assert profiler.profile("a") is not profiler.profile("a"), "contexts are shared: NoProfiler can go"


def names_of_hooks(module: pl.LightningModule, quick: bool) -> list[str]:
    """Return what Lightning calls in a step, of the callbacks and of the module."""
    called = []

    class Names(PassThroughProfiler):
        def profile(self, action_name: str) -> Any:
            called.append(action_name)
            return super().profile(action_name)

    trainer = plain(pl.callbacks.LambdaCallback(on_train_batch_end=lambda *rest: None), max_epochs=1, profiler=Names())
    if quick:
        quicken_steps(module, trainer.callbacks)
    trainer.fit(module, DATA)
    return [name for name in called if name.rpartition(".")[2] in STEP_HOOKS and not name.startswith("[Strategy]")]


def test_lightning_still_calls_hooks_that_nobody_wrote_at_each_step():
    names = names_of_hooks(Skips(), quick=False)
    assert len(names) > 3 * len(STEP_HOOKS), "empty hooks are left out: quicken_steps can go"
    assert {name.rpartition(".")[2] for name in names_of_hooks(Skips(), quick=True)} == {
        "on_train_batch_start",
        "on_train_batch_end",
    }


def attributes_set_in_a_step(module: pl.LightningModule, monkeypatch: pytest.MonkeyPatch) -> float:
    """How often nn.Module looks into what is set in a module."""
    calls, setattr_ = [0], nn.Module.__setattr__

    def count(self: nn.Module, name: str, value: Any) -> None:
        calls[-1] += self is module
        setattr_(self, name, value)

    monkeypatch.setattr(nn.Module, "__setattr__", count)
    for steps in (1, 1, 3):  # the first fit sets more than later ones
        calls.append(0)
        plain(max_epochs=1, limit_train_batches=steps).fit(module, DATA)
    return (calls[3] - calls[2]) / 2


class Quick(QuickAttributes, Plain):
    """Sets attributes quickly."""


def test_lightning_still_sets_attributes_in_each_step(monkeypatch):
    number = attributes_set_in_a_step(Plain(), monkeypatch)
    assert number > 20, f"only {number} attributes are set in a step: QuickAttributes can go"
    assert attributes_set_in_a_step(Quick(), monkeypatch) == 0


def test_quick_attributes_keep_parameters_modules_and_properties():
    class Stripped(QuickAttributes):
        mode = property(lambda self: self.kept, lambda self, value: setattr(self, "kept", value.strip()))

    module = Stripped()
    module.mode, module.weight, module.net = " a ", nn.Parameter(torch.ones(1)), nn.Linear(1, 1)
    assert module.mode == "a"
    assert {name for name, _ in module.named_parameters()} == {"weight", "net.weight", "net.bias"}


# --- step_plateau, reset_loop_counters: a run that goes on


def whole_and_resumed(
    path: Path, hook: str, number: int, *, plateau: bool = False, validate: bool = True, **options: Any
) -> tuple[Plain, Plain]:
    """A run that saved at the n-th call of a hook, and one that goes on from there."""
    loaders = (DATA, DATA) if validate else (DATA,)
    whole, resumed = Plain(plateau), Plain(plateau)
    plain(Save(path, hook, number), **options).fit(whole, *loaders)
    plain(**options).fit(resumed, *loaders, ckpt_path=path, weights_only=True)
    return whole, resumed


def test_lightning_still_skips_the_plateau_of_a_resumed_epoch(tmp_path):
    whole, resumed = whole_and_resumed(tmp_path / "a.ckpt", "on_train_batch_end", 4, plateau=True, max_epochs=3)
    assert whole.seen[4:] == resumed.seen
    assert (whole.plateau.last_epoch, resumed.plateau.last_epoch) == (3, 2), "it is seen: step_plateau can go"


def test_lightning_still_takes_the_batches_of_a_finished_epoch_for_those_of_the_next(tmp_path):
    right = []
    for validate in (True, False):
        path = tmp_path / f"{validate}.ckpt"
        whole, resumed = whole_and_resumed(path, "on_train_epoch_start", 2, validate=validate, max_epochs=3)
        right.append(whole.seen[3:] == resumed.seen)
    assert not all(right), "the next epoch is trained as a whole: reset_loop_counters can go, see the test of max_steps"


def test_lightning_still_counts_one_batch_too_many_with_max_steps(tmp_path):
    first, then, whole = (plain(max_steps=steps) for steps in (3, 6, 6))
    first.fit(Plain(), DATA, DATA)
    first.save_checkpoint(tmp_path / "first.ckpt")
    then.fit(Plain(), DATA, DATA, ckpt_path=tmp_path / "first.ckpt", weights_only=True)
    whole.fit(Plain(), DATA, DATA)
    states = [saved(trainer, tmp_path / "a.ckpt")["loops"]["fit_loop"] for trainer in (then, whole)]
    batches = [state["epoch_loop.state_dict"]["_batches_that_stepped"] for state in states]
    assert batches == [7, 6], "a resumed run counts as the whole one: the last lines of reset_loop_counters can go"


class Own(Plain):
    """Logs and counts in hooks of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("ended", torch.zeros(()))

    def on_train_epoch_start(self) -> None:
        self.log("begun", 1.0)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.ended += 1


def test_lightning_still_leaves_hooks_out_of_a_resume_within_an_epoch(tmp_path):
    path, modules = tmp_path / "a.ckpt", [Own(), Own()]
    trainers = [plain(Save(path, "on_train_batch_end", 4), max_epochs=2), plain(max_epochs=2)]
    for module, trainer, source in zip(modules, trainers, (None, path), strict=True):
        trainer.fit(module, DATA, ckpt_path=source, weights_only=True)
    whole, resumed = modules
    assert (int(whole.ended), int(resumed.ended)) == (6, 5), "after_train_batch can be on_train_batch_end"
    assert "begun" not in trainers[1].callback_metrics, "Results need not restore what a start logged"


class Skips(Plain):
    """Leaves out the last batch of each epoch."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if batch_idx == 2 else None


def test_lightning_still_counts_a_skipped_batch_by_half(tmp_path):
    trainer = plain(max_epochs=2)
    trainer.fit(Skips(), DATA)
    totals = saved(trainer, tmp_path / "a.ckpt")["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]
    assert totals["ready"] > totals["started"], "the first lines of reset_loop_counters can go"


# --- EmaAlsoInTheTest, and a module that Resume makes double: the weights that are loaded


def double_weights(module: Plain, path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights of a double run, as they were saved and as they are in a module that loaded them."""
    trainer = plain(max_epochs=1, precision="64-true")
    trainer.fit(Plain(), DATA)
    weights = saved(trainer, path)["state_dict"]["net.weight"]
    plain(precision="64-true").validate(module, DATA, ckpt_path=path, weights_only=True, verbose=False)
    assert weights.dtype == module.net.weight.dtype == torch.float64
    return weights, module.net.weight


class Double(Plain):
    def setup(self, stage: str) -> None:
        self.double()


def test_lightning_still_rounds_64_true_weights(tmp_path):
    before, after = double_weights(Plain(), tmp_path / "a.ckpt")
    assert not torch.equal(after, before), "they are loaded as they were: module.double() in Resume can go"
    before, after = double_weights(Double(), tmp_path / "b.ckpt")
    assert torch.equal(after, before)


def weights_in_the_test(average: EMAWeightAveraging, path: Path) -> str:
    """Return which of a checkpoint's weights the module has in the test that follows the fit."""
    module, trainer = Plain(), plain(average, Save(path, "on_train_epoch_end", 1), max_epochs=1)
    trainer.fit(module, DATA)
    trainer.test(module, DATA, ckpt_path=path, weights_only=True, verbose=False)
    checkpoint = torch.load(path, weights_only=True)
    parts = ("state_dict", "current_model_state")
    (found,) = (part for part in parts if torch.equal(checkpoint[part]["net.weight"], module.net.weight))
    return found


def test_lightning_still_tests_without_the_average_after_a_fit(tmp_path):
    used = weights_in_the_test(EMAWeightAveraging(decay=0.5), tmp_path / "a.ckpt")
    assert used == "current_model_state", "the average is tested: EmaAlsoInTheTest can go"
    assert weights_in_the_test(EmaAlsoInTheTest(decay=0.5), tmp_path / "b.ckpt") == "state_dict"


# --- spare_the_question_for_a_gpu


@pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="this torch is built without CUDA and never asks")
def test_adam_still_asks_for_a_gpu_at_each_step(monkeypatch):
    asked, weight = [], nn.Parameter(torch.ones(1))
    optimizer = torch.optim.Adam([weight])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(asked.append(1)))
    for _ in range(3):
        weight.sum().backward()
        optimizer.step()
    assert len(asked) >= 3, "Adam asks no more: spare_the_question_for_a_gpu can go"


def test_the_quick_question_is_for_machines_without_a_gpu(monkeypatch):
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    for here, value in ((True, "1"), (False, "0")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda here=here: here)
        spare_the_question_for_a_gpu()
        assert os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] == value


# --- Quiet


@pytest.mark.slow
def test_a_fit_says_nothing_on_standard_error(tmp_path, mnist):
    few = ("--trainer.limit_train_batches=3", "--trainer.max_epochs=1")
    done = run_process("fit", "--config", CONFIGS / "mnist.yaml", *mnist.options, *few, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_lightning_still_counts_the_epochs_of_a_reload_from_the_resume(tmp_path):
    options = {"reload_dataloaders_every_n_epochs": 3, "limit_val_batches": 0}
    first, second = plain(max_epochs=4, **options), plain(max_epochs=8, **options)
    first.fit(Plain(), DATA)
    first.save_checkpoint(tmp_path / "four.ckpt")
    module, epochs = Plain(), []
    module.train_dataloader = lambda: epochs.append(second.current_epoch) or DATA
    second.fit(module, ckpt_path=tmp_path / "four.ckpt")
    assert epochs == [4, 7], "a resumed run reloads at 6, as one never stopped does: align_reloads may go"


def test_lightning_still_ends_workers_by_the_name_of_a_loaders_own_iterator():
    holds = SimpleNamespace(_iterator=SimpleNamespace(_shutdown_workers=lambda: None))
    combined = CombinedLoader([holds])
    combined.reset()
    assert holds._iterator is None, "Lightning ends workers in another way: EndsWorkers may go, or has to follow"


# --- Results, hand_back_between_epochs


class Logs(Plain):
    """Logs the mean of what it was given, over an epoch."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.log("batch", torch.tensor(float(batch_idx)), on_step=False, on_epoch=True)
        return super().training_step(batch, batch_idx)


def test_lightning_still_forgets_what_was_logged_before_a_resume(tmp_path):
    path, trainers = tmp_path / "a.ckpt", [plain(Save(tmp_path / "a.ckpt", "on_train_batch_end", 2)), plain()]
    for trainer in trainers:
        trainer.fit_loop.max_epochs = 1
        trainer.fit(Logs(), DATA, ckpt_path=path if trainer is trainers[1] else None, weights_only=True)
    whole, resumed = (float(trainer.callback_metrics["batch"]) for trainer in trainers)
    assert (whole, resumed) == (1.0, 2.0), "the mean is that of the whole epoch: what Results saves can go"


class Keeps:
    """Batches that know their place."""

    def __init__(self) -> None:
        self.loaded: list[Any] = []

    def __iter__(self) -> Any:
        return iter([(torch.ones(1, 1),)] * 3)

    def __len__(self) -> int:
        return 3

    def state_dict(self) -> dict[str, Any]:
        return {"place": 3}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loaded.append(state)


def test_lightning_still_hands_back_no_position_between_two_epochs(tmp_path):
    path, keeps = tmp_path / "a.ckpt", Keeps()
    plain(Save(path, "on_train_epoch_start", 2), max_epochs=2).fit(Plain(), keeps)
    checkpoint = torch.load(path, weights_only=True)
    loops = checkpoint["loops"]["fit_loop"]
    reset_loop_counters(loops, plain(max_epochs=2))
    assert loops["state_dict"]["combined_loader"] == [{"place": 3}]
    torch.save(checkpoint, path)
    plain(max_epochs=2).fit(Plain(), keeps, ckpt_path=path, weights_only=True)
    assert keeps.loaded == [], "it was handed back: hand_back_between_epochs can go"


TWO = """
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

class Module(LightningModule):
    def test_step(self, batch, batch_idx):
        number = torch.tensor(float(self.global_rank))
        self.log("own", number, batch_size=8 + self.global_rank)
        self.log("synced", number, batch_size=8 + self.global_rank, sync_dist=True)

if __name__ == "__main__":
    trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_progress_bar=False)
    trainer.test(Module(), DataLoader(TensorDataset(torch.ones(2, 1))), verbose=False)
    if trainer.is_global_zero:
        print("found", *(float(trainer.callback_metrics[name]) for name in ("own", "synced")))
"""


@pytest.mark.slow
def test_lightning_still_logs_the_mean_of_one_process_and_averages_counts_as_whole_numbers(tmp_path):
    (tmp_path / "two.py").write_text(TWO)
    done = subprocess.run([sys.executable, "two.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    own, synced = map(float, re.findall(r"found (\S+) (\S+)", done.stdout)[0])
    assert own == 0.0, "a mean is over all processes: Results.gather may go"
    assert synced == pytest.approx(9 / 16), "9 of 17 samples: with sync_dist Lightning is right by itself"


# --- FitProgress: how many batches come before the one that is fetched


class Numbered:
    """Hands out so many batches, of unknown number to Lightning; notes its counts whenever that begins."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.first = 0
        self.counts: list[tuple[int, int]] = []

    def __iter__(self) -> Any:
        loop: Any = self.trainer.fit_loop
        self.counts.append((loop.epoch_loop.batch_progress.current.ready, loop._data_fetcher.fetched))
        first, self.first = self.first, 0
        yield from [torch.ones(1, 1)] * (self.length - first)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.first = 11 % self.length


def with_a_short_loader(*callbacks: pl.Callback, **options: Any) -> tuple[Numbered, Plain]:
    """Train for an epoch of 12 batches; the second loader has 5."""
    module, short, long = Plain(), Numbered(5), Numbered(12)
    short.trainer = long.trainer = trainer = plain(*callbacks, max_epochs=1)
    trainer.fit(module, CombinedLoader([long, short], "max_size_cycle"), **options)
    return short, module


def test_lightning_still_needs_two_counts_and_forgets_which_loaders_were_exhausted(tmp_path):
    short, whole = with_a_short_loader(Save(tmp_path / "a.ckpt", "on_train_batch_start", 11))
    assert short.counts == [(0, 0), (4, 5), (9, 10)], "the first count is right: FitProgress needs no fetcher"
    short, resumed = with_a_short_loader(ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert short.counts[0][0] > 0 == short.counts[0][1], "the second count is right: FitProgress needs no other"
    assert len(whole.seen) == 12
    assert len(resumed.seen) > 12 - 11, "an epoch has no more batches: note_exhausted can go"


# --- weight_of_the_rest


class One(Plain):
    """Its gradient is 1 whatever the batch, its weight begins at 0 and loses the rate times it in each step."""

    def __init__(self) -> None:
        super().__init__()
        nn.init.zeros_(self.net.weight)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.net.weight.sum()


def test_lightning_still_divides_the_last_batches_of_an_epoch_by_more_than_they_are():
    module = One()
    plain(max_epochs=1, accumulate_grad_batches=2).fit(module, DATA)
    assert float(module.net.weight.detach()) == pytest.approx(-0.15), "two steps of 0.1: weight_of_the_rest can go"
    module, trainer = One(), plain(max_epochs=1, accumulate_grad_batches=2)
    adopt(trainer, module)
    trainer.fit(module, DATA)
    assert float(module.net.weight.detach()) == pytest.approx(-0.2)


# --- call_own_train


class FreezesItself(Plain):
    """Keeps its net in evaluation."""

    def train(self, mode: bool = True) -> "FreezesItself":
        super().train(mode)
        self.net.eval()
        return self


def test_lightning_still_calls_no_train_method_when_a_fit_starts():
    module = FreezesItself()
    plain(max_epochs=1).fit(module, DATA)
    assert module.net.training, "train() is called: call_own_train can go"
    trainer = plain(max_epochs=1)
    adopt(trainer, module)
    trainer.fit(module, DATA)
    assert not module.net.training
