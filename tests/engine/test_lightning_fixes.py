"""The repairs of Lightning, torch and jsonargparse.

A test with `still` in its name shows what they do wrong without us. When one fails, its message names the repair that
can go, and the test goes with it.
"""

import inspect
import itertools
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import EMAWeightAveraging, LambdaCallback
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.utilities import CombinedLoader, signature_utils
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from src.engine.data.adopt import adopt
from src.engine.lightning_fixes import trainer as fixes
from src.engine.lightning_fixes.loops import reset_loop_counters

pytestmark = pytest.mark.filterwarnings("ignore:.*(not have many workers|not resumable|have no `val_dataloader`)")
DATA = DataLoader(TensorDataset(torch.ones(3, 1)))  # an epoch of 3 steps


class Plain(pl.LightningModule):
    """A module as Lightning has it; it notes the batches that it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(1, 1)
        self.seen: list[tuple[int, int]] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.seen.append((self.trainer.current_epoch, batch_idx))
        self.log("batch", float(batch_idx), on_step=False, on_epoch=True)
        return self.net(batch[0]).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("loss", self.net(batch[0]).square().mean())

    test_step = validation_step

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.plateau, "monitor": "batch"}}


def save_at(path: Path, hook: str, number: int) -> pl.Callback:
    calls = itertools.count(1)
    return LambdaCallback(**{hook: lambda trainer, *rest: next(calls) == number and trainer.save_checkpoint(path)})


def plain(*callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "num_sanity_val_steps")
    return pl.Trainer(accelerator="cpu", callbacks=[*callbacks], **dict.fromkeys(off, False) | options)


def whole_and_resumed(path: Path, hook: str, number: int, *loaders: Any, kind=Plain, **options: Any) -> tuple[Any, Any]:
    """The trainers of a run that saved at the n-th call of a hook, and of one that goes on from there."""
    whole, resumed = plain(save_at(path, hook, number), **options), plain(**options)
    whole.fit(kind(), *loaders or (DATA,))
    resumed.fit(kind(), *loaders or (DATA,), ckpt_path=path, weights_only=True)
    return whole, resumed


def loops(trainer: pl.Trainer, path: Path) -> dict[str, Any]:
    trainer.save_checkpoint(path)
    return torch.load(path, weights_only=True)["loops"]["fit_loop"]


@pytest.mark.parametrize("text", ["1", "1.0", "0.5"])
def test_a_limit_counts_batches_or_is_a_part(text):
    parser = ArgumentParser()
    parser.add_class_arguments(pl.Trainer, "trainer")
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
    assert limit == "1.0", "1 batch stays 1: the annotations of Trainer.__init__ can go"
    assert check == "1", "torch asks quickly: spare_the_question_for_a_gpu can go"


def test_the_quick_question_is_for_machines_without_a_gpu(monkeypatch):
    for here, value in ((True, "1"), (False, "0")):
        monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
        monkeypatch.setattr(torch.cuda, "is_available", lambda here=here: here)
        fixes.spare_the_question_for_a_gpu()
        assert os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] == value


@pytest.mark.parametrize("quick", [False, True])
def test_lightning_still_calls_hooks_that_nobody_wrote_at_each_step(quick):
    class Names(PassThroughProfiler):
        called: list[str] = []  # noqa: RUF012

        def profile(self, action_name: str) -> Any:
            self.called.append(action_name.rpartition(".")[2])
            return super().profile(action_name)

    trainer, module = plain(LambdaCallback(on_train_batch_end=print), max_epochs=1, profiler=Names()), Plain()
    if quick:
        fixes.quicken_steps(module, trainer)
    trainer.fit(module, DATA)
    known = {*fixes.STEP_HOOKS, *fixes.BATCH_HOOKS}
    hooks = {name for name in Names.called if name in known and Names.called.count(name) > 2}
    written = {"on_train_batch_start", "on_train_batch_end"}  # the strategy has one of the first
    assert hooks == (written if quick else known), "empty hooks are left out: quicken_steps can go"


def test_lightning_still_reads_the_signature_of_each_step(monkeypatch):
    read, getfullargspec = [], inspect.getfullargspec
    monkeypatch.setattr(inspect, "getfullargspec", lambda hook: read.append(hook.__name__) or getfullargspec(hook))
    plain(max_epochs=9).fit(Plain(), DATA)
    quick = read.count("training_step")  # its `self.log` reads it, too
    monkeypatch.setattr(fixes.loop, "is_param_in_hook_signature", signature_utils.is_param_in_hook_signature)
    plain(max_epochs=9).fit(Plain(), DATA)
    assert read.count("training_step") > 2 * quick + 20, "it is read once: the cache can go"


class Quick(fixes.QuickAttributes, Plain):
    mode = property(lambda self: self.kept, lambda self, value: setattr(self, "kept", value.strip()))


def test_lightning_still_makes_a_context_for_each_hook():
    trainer = plain()
    fixes.quicken_steps(Plain(), trainer)
    assert trainer.profiler.profile("a") is trainer.profiler.profile("b")
    stock = PassThroughProfiler()
    assert stock.profile("a") is not stock.profile("a"), "contexts are shared: NO_PROFILE can go"


def test_lightning_still_sets_attributes_in_each_step(monkeypatch):
    numbers, setattr_ = [], nn.Module.__setattr__
    monkeypatch.setattr(
        nn.Module,
        "__setattr__",
        lambda self, name, value: (numbers.append(name == "_current_fx_name"), setattr_(self, name, value))[-1],
    )
    plain(max_epochs=1).fit(Plain(), DATA)
    assert sum(numbers) > 3 * 20, "few attributes are set in a step: QuickAttributes can go"
    numbers.clear()
    module = Quick()
    module.mode, module.weight = " a ", nn.Parameter(torch.ones(1))
    plain(max_epochs=1).fit(module, DATA)
    assert sum(numbers) == 0
    assert module.mode == "a"
    assert {name for name, _ in module.named_parameters()} == {"weight", "net.weight", "net.bias"}


def test_lightning_still_skips_the_plateau_of_a_resumed_epoch_and_forgets_its_logs(tmp_path):
    whole, resumed = whole_and_resumed(tmp_path / "a.ckpt", "on_train_batch_end", 5, max_epochs=2)
    modules = [trainer.lightning_module for trainer in (whole, resumed)]
    assert modules[0].seen[5:] == modules[1].seen
    assert [module.plateau.last_epoch for module in modules] == [2, 1], "it is seen: step_plateau can go"
    means = [float(trainer.callback_metrics["batch"]) for trainer in (whole, resumed)]
    assert means == [1.0, 2.0], "the mean is that of the whole epoch: what Results saves can go"


def test_lightning_still_takes_the_batches_of_a_finished_epoch_for_those_of_the_next(tmp_path):
    pairs = [
        whole_and_resumed(tmp_path / "a.ckpt", "on_train_epoch_start", 2, *loaders, max_epochs=3)
        for loaders in ((DATA, DATA), (DATA,))
    ]
    right = [whole.lightning_module.seen[3:] == resumed.lightning_module.seen for whole, resumed in pairs]
    assert not all(right), "the next epoch is trained as a whole: reset_loop_counters can go, see the test of max_steps"


def test_lightning_still_counts_one_batch_too_many_with_max_steps(tmp_path):
    first, then, whole = (plain(max_steps=steps) for steps in (3, 6, 6))
    first.fit(Plain(), DATA, DATA)
    first.save_checkpoint(tmp_path / "first.ckpt")
    then.fit(Plain(), DATA, DATA, ckpt_path=tmp_path / "first.ckpt", weights_only=True)
    whole.fit(Plain(), DATA, DATA)
    states = [loops(trainer, tmp_path / "a.ckpt")["epoch_loop.state_dict"] for trainer in (then, whole)]
    batches = [state["_batches_that_stepped"] for state in states]
    assert batches == [7, 6], "a resumed run counts as the whole one: the last lines of reset_loop_counters can go"


class Counts(Plain):
    """Counts its batches in a hook; leaves out the last batch of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("ended", torch.zeros(()))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if batch_idx == 2 else None

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.ended += 1


def test_lightning_still_saves_before_a_modules_hook_and_counts_a_skipped_batch_by_half(tmp_path):
    trainers = whole_and_resumed(tmp_path / "a.ckpt", "on_train_batch_end", 1, kind=Counts, max_epochs=2)
    ended = [int(trainer.lightning_module.ended) for trainer in trainers]
    assert ended == [4, 3], "after_train_batch can be on_train_batch_end"
    totals = loops(trainers[0], tmp_path / "a.ckpt")["epoch_loop.batch_progress"]["total"]
    assert totals["ready"] > totals["started"], "the first lines of reset_loop_counters can go"


def test_lightning_still_rounds_64_true_weights(tmp_path):
    trainer = plain(max_epochs=1, precision="64-true")
    trainer.fit(Plain(), DATA)
    loops(trainer, tmp_path / "a.ckpt")
    module = Plain()
    plain(precision="64-true").validate(module, DATA, tmp_path / "a.ckpt", verbose=False, weights_only=True)
    weights = [each.net.weight for each in (trainer.lightning_module, module)]
    assert weights[0].dtype == weights[1].dtype == torch.float64
    assert not torch.equal(*weights), "they are loaded as they were: module.double() in Resume can go"


class StockAverage(EMAWeightAveraging):
    on_load_checkpoint = fixes.load_average


@pytest.mark.parametrize(("kind", "used"), [(StockAverage, "current_model_state"), (EMAWeightAveraging, "state_dict")])
def test_lightning_still_tests_without_the_average_after_a_fit(kind, used, tmp_path):
    module = Plain()
    trainer = plain(kind(decay=0.5), save_at(tmp_path / "a.ckpt", "on_train_epoch_end", 1), max_epochs=1)
    trainer.fit(module, DATA)
    trainer.test(module, DATA, ckpt_path=tmp_path / "a.ckpt", weights_only=True, verbose=False)
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    parts = ("state_dict", "current_model_state")
    same = [part for part in parts if torch.equal(checkpoint[part]["net.weight"], module.net.weight)]
    assert same == [used], "the average is tested: load_average can go"


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


class Numbered:
    """Hands out so many batches, of unknown number to Lightning; notes Lightning's counts whenever that begins."""

    def __init__(self, length: int, trainer: Any) -> None:
        self.length, self.trainer = length, trainer
        self.first = 0
        self.counts: list[tuple[int, int]] = []
        self.loaded = False

    def __iter__(self) -> Any:
        loop = self.trainer.fit_loop
        self.counts.append((loop.epoch_loop.batch_progress.current.ready, loop._data_fetcher.fetched))
        first, self.first = self.first, 0
        yield from [torch.ones(1, 1)] * (self.length - first)

    def state_dict(self) -> dict[str, Any]:
        return {"place": 3}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.first, self.loaded = 11 % self.length, True


def test_lightning_still_hands_back_no_position_between_two_epochs(tmp_path):
    path = tmp_path / "a.ckpt"
    first, then = plain(save_at(path, "on_train_epoch_start", 2), max_epochs=2), plain(max_epochs=2)
    first.fit(Plain(), Numbered(3, first))
    checkpoint = torch.load(path, weights_only=True)
    reset_loop_counters(checkpoint["loops"]["fit_loop"], then)
    assert checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"] == [{"place": 3}]
    torch.save(checkpoint, path)
    loader = Numbered(3, then)
    then.fit(Plain(), loader, ckpt_path=path, weights_only=True)
    assert not loader.loaded, "it was handed back: hand_back_between_epochs can go"


def test_lightning_still_needs_two_counts_and_forgets_which_loaders_were_exhausted(tmp_path):
    def fit(*callbacks: pl.Callback, **resumed: Any) -> tuple[list[tuple[int, int]], int]:
        trainer, module = plain(*callbacks, max_epochs=1), Plain()
        short = Numbered(5, trainer)
        trainer.fit(module, CombinedLoader([Numbered(12, trainer), short], "max_size_cycle"), **resumed)
        return short.counts, len(module.seen)

    counts, number = fit(save_at(tmp_path / "a.ckpt", "on_train_batch_start", 11))
    resumed_counts, resumed_number = fit(ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert counts == [(0, 0), (4, 5), (9, 10)], "the first count is right: FitProgress needs no fetcher"
    assert resumed_counts[0][0] > 0 == resumed_counts[0][1], "the second is right: FitProgress needs no other"
    assert number == 12
    assert resumed_number > 12 - 11, "an epoch has no more batches: note_exhausted can go"


class Ranks(Plain):
    def test_step(self, batch: Any, batch_idx: int) -> None:
        for name, sync_dist in (("own", False), ("synced", True)):
            self.log(name, float(self.global_rank), batch_size=8 + self.global_rank, sync_dist=sync_dist)


@pytest.mark.slow
def test_lightning_still_logs_the_mean_of_one_process_and_averages_counts_as_whole_numbers():
    trainer = plain(devices=2, strategy="ddp_spawn", limit_test_batches=1)
    trainer.test(Ranks(), DATA, verbose=False)
    own, synced = (float(trainer.callback_metrics[name]) for name in ("own", "synced"))
    assert own == 0.0, "a mean is over all processes: Results.gather may go"
    assert synced == pytest.approx(9 / 16), "9 of 17 samples: with sync_dist Lightning is right by itself"


class One(Plain):
    """Its gradient is 1 whatever the batch, its weight begins at 0 and loses the rate times it in each step."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.log("batch", 1.0)
        return self.net.weight.sum()


@pytest.mark.parametrize(("repaired", "weight"), [(False, -0.15), (True, -0.2)])
def test_lightning_still_divides_the_last_batches_of_an_epoch_by_more_than_they_are(repaired, weight):
    module, trainer = One(), plain(max_epochs=1, accumulate_grad_batches=2)
    nn.init.zeros_(module.net.weight)
    if repaired:
        adopt(trainer, module)
    trainer.fit(module, DATA)
    assert float(module.net.weight.detach()) == pytest.approx(weight), "the same: weight_of_the_rest can go"
