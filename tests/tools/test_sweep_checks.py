"""Parts of a sweep without a fit: what its options may say beside the space, what choices are, what its test gives."""

import contextlib
import re
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from optuna.trial import TrialState, create_trial

from src.tools.sweep import close
from src.tools.sweep.check import printed, settle_space
from src.tools.sweep.folder import Sweep
from src.tools.sweep.space import read_space
from src.tools.sweep.worker import failed_in_a_row
from tests.conftest import SMALL

DATA = "{class_path: tests.xor.XorDataModule, init_args: {batch_size: 8}}"
TWO = {"data.batch_size": [2, 4]}


@pytest.mark.parametrize(
    ("space", "options", "message"),
    [
        (TWO, ["--note=why: a: b", "--data", DATA], "data.batch_size is in the space (2), and set by an option (8)"),
        ({"config": ["a.yaml", "b.yaml"]}, ["--data.batch_size", "8"], "data.batch_size is in the space (4)"),
        ({"data": [{"init_args": {"batch_size": 2}}]}, ["--data.batch_size=8"], "data.batch_size is in the space (2)"),
        (TWO, ["--data", "{class_path: tests.xor.XorDataModule, init_args: {passes: 3}}"], None),
        # Another class than the files name: what these say of the first one goes, the space with it.
        (
            {"model.optimizer.lr": [1, 2]},
            ["--model.optimizer", "torch.optim.Adam"],
            "model.optimizer.lr is in the space",
        ),
        ({"model.optimizer.lr": [1, 2]}, ["--model.optimizer", "torch.optim.SGD"], None),
        ({"model.optimizer": ["torch.optim.SGD", "AdamW"]}, ["--model.optimizer.weight_decay=0.1"], None),
        ({"config": ["many.yaml"]}, ["--trainer.callbacks+=lightning.pytorch.callbacks.DeviceStatsMonitor"], None),
    ],
)
def test_an_option_that_would_beat_the_space_is_refused_and_no_other(space, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text("trainer: {max_epochs: 3}\nconfig: b.yaml\n")
    Path("b.yaml").write_text("data: {batch_size: 4}\n")
    Path("many.yaml").write_text("trainer: {callbacks: [lightning.pytorch.callbacks.Timer]}\n")
    options = ["--config", str(SMALL), *options]
    with pytest.raises(SystemExit, match=re.escape(message)) if message else contextlib.nullcontext():
        settle_space(space, options, printed(options))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("epoch,step,test_mse,val/loss\n1,2,0.5,0.1\n", {"test_mse": 0.5}),
        ("test/acc\n1.0\n", {"test/acc": 1.0}),
        ("", {}),
    ],
)
def test_the_test_of_the_best_has_the_metrics_of_any_module_or_none(text, found, tmp_path, monkeypatch):
    def logs(words, folder):
        if text:
            (folder / "metrics.csv").write_text(text)

    monkeypatch.setattr(close, "main", logs)
    assert close._test(Sweep(tmp_path, None, 1, "sqlite"), SimpleNamespace(number=0)) == found


def test_failures_in_a_row_are_those_of_the_command_in_the_order_of_their_numbers():
    """Each machine of a sweep has a clock of its own, and its own zone."""

    def trial(number, state, crew):
        at = datetime(2026, 1, 1, 12) - timedelta(hours=number)  # later ones by clocks that are ever more behind
        attributes = {"crew": crew}
        return create_trial(state=state, value=1.0 if state.name == "COMPLETE" else None, user_attrs=attributes), at

    def trials(*ended):
        made = [trial(number, state, crew) for number, (state, crew) in enumerate(ended)]
        for each, at in made:
            each.datetime_complete = at
        return [each for each, _ in made]

    good, bad, open_ = TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING
    known = trials((good, "a"), (bad, "a"), (bad, "a"))
    assert failed_in_a_row(known, "a", 2) == known[1:]
    assert failed_in_a_row(known, "a", 3) == []
    assert failed_in_a_row(trials((bad, "a"), (bad, "a"), (good, "a")), "a", 2) == []
    # An earlier command's do not count, nor what is still open.
    assert failed_in_a_row(trials((bad, "a"), (bad, "b"), (open_, "b")), "b", 2) == []


def test_choices_may_be_called_as_a_word_of_a_range():
    (interval,) = read_space({"model.scheduler_interval": {"step": None, "epoch": None}})
    assert list(interval.values) == ["step", "epoch"]
