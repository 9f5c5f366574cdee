"""Parts of a sweep without a fit: what its options may say beside the space, what choices are, what its test gives."""

import contextlib
import re
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from jsonargparse import get_loader
from optuna.trial import TrialState, create_trial

from src.tools.sweep import close
from src.tools.sweep.check import printed, settle_space, under_the_space
from src.tools.sweep.folder import Sweep, load
from src.tools.sweep.fragment import as_options
from src.tools.sweep.plan import Plan
from src.tools.sweep.space import probes, read_space
from src.tools.sweep.study import open_storage, open_study
from src.tools.sweep.worker import failed_in_a_row
from tests.conftest import SMALL

DATA = "{class_path: tests.xor.XorDataModule, init_args: {batch_size: 8}}"
TWO = {"data.batch_size": [2, 4]}


@pytest.mark.parametrize(
    ("space", "options", "message"),
    [
        (TWO, ["--note=why: a: b", "--data", DATA], "data.batch_size is in the space, and set by the option --data,"),
        ({"config": ["a.yaml", "b.yaml"]}, ["--data.batch_size", "8"], "data.batch_size is in the space (4)"),
        ({"data": [{"init_args": {"batch_size": 2}}]}, ["--data.batch_size=8"], "data.batch_size is in the space (2)"),
        (TWO, ["--data", "{class_path: tests.xor.XorDataModule, init_args: {passes: 3}}"], None),
        # Another class than the files name: the trials draw its argument.
        ({"model.optimizer.lr": [1, 2]}, ["--model.optimizer", "torch.optim.Adam"], None),
        ({"model.optimizer.init_args.lr": [1, 2]}, ["--model.optimizer.class_path=Adam"], None),
        (
            {"model.optimizer.lr": [1, 2]},
            ["--model.optimizer", "{class_path: Adam, init_args: {lr: 1.0}}"],
            "model.optimizer.lr is in the space, and set by the option --model.optimizer, which would win",
        ),
        (
            {"model.optimizer.momentum": [0.1]},
            ["--model.optimizer", "Adam"],
            "Option 'momentum' is not accepted by Adam",
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
    found = ""
    with pytest.raises(SystemExit, match=re.escape(message)) if message else contextlib.nullcontext():
        options = under_the_space(space, options)
        settle_space(space, options, printed(options))
        found = printed([*options, *as_options(probes(read_space(space))[0])])
    if "model.optimizer.lr" in space and found:
        assert found["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 1


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


@pytest.mark.parametrize("name", ["a?b", "c%20d", "e#f", "g&h=1", "{i}", "[j]", "k:l", "²", 'it\'s "so"', "-m"])
def test_a_study_lies_in_its_own_folder_whatever_that_is_called(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path(name, "sweep_0")
    folder.mkdir(parents=True)
    plan = Plan({"a": [1, 2]}, "val/loss", "minimize", {"class_path": "optuna.samplers.TPESampler"}, None, [])
    for storage in ("sqlite", "journal"):
        sweep = Sweep(folder, plan, 1, storage)
        open_study(sweep, open_storage(sweep))
    assert {path.name for path in folder.iterdir()} >= {"study.db", "study.journal"}
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_choices_that_are_no_texts_stay_what_they_are_in_the_study(tmp_path):
    space = {"a": {4: None, 0.5: {"b": {"low": 1, "high": 2}}, True: None, None: None, "1e3": None}}
    plan = Plan(space, "val/loss", "minimize", {"class_path": "optuna.samplers.TPESampler"}, None, [])
    sweep = Sweep(tmp_path, plan, 1, "sqlite")
    for _ in range(2):  # begun, and gone on with
        open_study(sweep, open_storage(sweep))
    sweep.save()
    assert load(tmp_path).plan == plan
    for value in space["a"]:
        (_, text) = as_options({"a": value})
        assert get_loader("yaml")(text) == {"a": value}
        assert type(get_loader("yaml")(text)["a"]) is type(value)


def test_a_step_that_does_not_divide_its_range_is_told_once(tmp_path, capfd, recwarn):
    step = {"low": 0.0, "high": 0.9, "step": 0.2}
    space = {"model.optimizer.momentum": step, "model.optimizer": {"SGD": {"model.optimizer.weight_decay": step}}}
    options = ["--config", str(SMALL)]
    settle_space(space, options, printed(options))
    told = "step 0.2 does not divide 0.0 to 0.9: the highest value is 0.8."
    assert capfd.readouterr().err.splitlines() == [
        f"note: model.optimizer.{name}: {told}" for name in ("momentum", "weight_decay")
    ]
    read_space(space)
    assert len(recwarn) == 0


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
