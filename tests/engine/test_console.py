"""A run prints a line at its start and per epoch, a bar on a terminal, a few lines at its end; warnings once."""

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import Timer

from src import __main__ as program
from src.engine.run import failures
from src.engine.run.report import why_ended
from tests.conftest import PROJECT, SMALL, run_process
from tests.stopping import config, early_stopping, fit, resume

SHORT = ("--trainer.max_epochs=2", "--data.passes=5")
WITH_A_BAR = ("--trainer.max_epochs=2", "--trainer.enable_progress_bar=true")


def test_a_fit_prints_its_epochs_its_result_and_the_next_command(cli):
    named = ("--trainer.accelerator=cpu", "--trainer.callbacks=null", "--experiment=it's two")
    done = cli("fit", "--config", SMALL, *SHORT, *WITH_A_BAR, *named)
    first, *epochs, end, speed, best, test, run, following = done.out.splitlines()
    assert first == "XorMLP, 17 parameters, on cpu"
    line = r"epoch %d/2  step %d  train/loss 0\.\d{4}  val/acc [01]\.\d{4}  val/loss 0\.\d{4}"
    assert re.fullmatch("\n".join([line % (1, 5), line % (2, 10)]), "\n".join(epochs))
    assert end == "end   max_epochs=2 reached"
    assert re.fullmatch(r"fit   [\d.]+ s, 2 epochs, 10 steps, [\d,]+ samples/s", speed)
    assert re.fullmatch(r"best  val/loss 0\.\d{4}", best)
    assert re.fullmatch(r"test  test/loss 0\.\d{4}  test/acc [01]\.\d{4}", test)
    assert run == "run   runs/it's two/version_0"
    words = shlex.split(following)
    assert words[:5] == ["next", "python", "-m", "src", "predict"]
    assert cli(*words[4:]).code == 0


@pytest.mark.slow
def test_a_terminal_gets_a_bar_and_a_file_gets_lines_alone(tmp_path):
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, 140))
    words = ["fit", "--config", str(SMALL), *WITH_A_BAR, "--data.passes=3", "--trainer.accumulate_grad_batches=3"]
    shown = b""
    with subprocess.Popen([sys.executable, "-m", "src", *words], cwd=tmp_path, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        try:
            while chunk := os.read(ours, 65_536):
                shown += chunk
        except OSError:
            pass  # the terminal's other end was closed: the process is done
    os.close(ours)
    text = shown.decode()
    assert process.returncode == 0, text
    # The loss of the four rows with the first weights, not a third of it.
    assert re.search(r"Epoch 0: 100%.*3/3.*it/s.*loss=0\.8065", text)
    assert re.search(r"Epoch 1: 100%.*3/3.*loss=0\.\d+", text)
    left = [line.rstrip().rsplit("\r", 1)[-1].strip() for line in text.split("\n")]
    assert [line.split("  ")[0] for line in left if line.startswith("epoch")] == ["epoch 1/2", "epoch 2/2"]
    done = run_process(*words, cwd=tmp_path)
    assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith("epoch")] == ["1/2", "2/2"]
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", done.stdout)
    assert done.stderr == ""


LESS = {
    "no checkpoints": ["--trainer.enable_progress_bar=false", "--trainer.enable_checkpointing=false"],
    "barebones": ["--trainer.barebones=true", "--trainer.enable_progress_bar=null", "--test_after_fit=false"],
    "another bar": [*WITH_A_BAR, "--trainer.callbacks=TQDMProgressBar"],
    "one batch": ["--trainer.fast_dev_run=true", "--trainer.enable_progress_bar=false"],
}


@pytest.mark.parametrize("less", LESS)
def test_a_fit_with_less_of_lightning_or_another_bar_prints_no_epochs_but_has_its_numbers(cli, less):
    done = cli("fit", "--config", SMALL, *SHORT, *LESS[less])
    assert done.code == 0, done.err
    assert not re.search(r"epoch 1/\d  step", done.out)
    run = Path("runs/xor/version_0")
    said = json.loads((run / "summary.json").read_text())
    assert (said["state"], said["steps"]) == ("finished", 1 if less == "one batch" else 10)
    assert ("test/acc" in said["metrics"]) == (less != "barebones")
    assert (run / "checkpoints").exists() == (less == "another bar")


def test_a_fit_says_why_it_ended(tmp_path, capfd):
    run = fit(tmp_path, config(callbacks=(early_stopping(patience=1, min_delta=100.0),), max_epochs=30))
    assert "\nend   early stopping in epoch 2: Monitored metric val/loss did not " in capfd.readouterr().out
    assert resume(run, "--trainer.max_epochs=2") == 0
    assert "end   nothing left to do: max_epochs=2 reached" in capfd.readouterr().out


def test_each_end_has_its_reason():
    lengths = {"max_steps": -1, "max_epochs": -1, "limit_train_batches": 1.0, "num_training_batches": 7}
    now = {"early_stopping_callbacks": [], "callbacks": [], "should_stop": True, "global_step": 7, "current_epoch": 1}
    reasons = {
        "max_steps=7 reached": {"max_steps": 7},
        "max_time reached": {"callbacks": [Timer(duration={"seconds": -1})]},
        "trainer.should_stop was set by a callback or the module": {},
        "there is no training batch": {"num_training_batches": 0},
    }
    for why, state in reasons.items():
        assert why_ended(SimpleNamespace(**lengths | now | state), first_step=0) == why


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_auto_trains_on_cuda_and_gives_what_a_cpu_gives(cli):
    on_cuda = cli("fit", "--config", SMALL, "--trainer.devices=1")
    assert on_cuda.code == 0, on_cuda.err
    assert f"on {torch.cuda.get_device_name()}" in on_cuda.out
    on_cpu = cli("fit", "--config", SMALL, "--trainer.accelerator=cpu")
    assert on_cuda.metrics["test/acc"] == on_cpu.metrics["test/acc"] == 1.0
    assert on_cuda.metrics["test/loss"] == pytest.approx(on_cpu.metrics["test/loss"], rel=1e-2)


def test_a_warning_is_one_line_and_stands_once(monkeypatch):
    monkeypatch.setattr(failures, "_shown", set())

    def shown(text, file="/home/me/net.py"):
        return failures.in_one_line(text, UserWarning, file, 7)

    assert shown("slow\n  net (Triggered internally at /pytorch/Tensor.cpp:12.)") == "note: slow net (net.py:7)\n"
    notes = [shown(f"batch {number}") for number in (0, 0, 1)]
    assert notes == ["note: batch 0 (net.py:7)\n", "", "note: batch 1 (net.py:7)\n"]
    package = "/usr/lib/site-packages/letters/draw.py"
    assert [shown(f"Glyph {n} is missing", package) for n in (3, 4)] == ["note: letters: Glyph 3 is missing\n", ""]
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert shown("the same on each", package) == ""


@pytest.mark.parametrize("verb", ["fit", "test"])
def test_the_help_begins_with_rules_and_leaves_out_lists_of_classes(cli, verb):
    start, _, options = cli(verb, "--help").out.partition("options:\n")
    assert start.startswith(f"usage: python -m src {verb} [options]\n")
    for rule in ("--config", "null", "callbacks+:", "${trainer.max_epochs}", "local.yaml"):
        assert rule in start
    assert not [word for word in ("weights_only", "hpc", "'registry'", "completion") if word in options]
    of_class = cli(verb, "--model.help", "src.module.LitModule").out
    assert "known subclasses" not in of_class
    assert "--model.net.help" in of_class


def test_main_help_names_verbs_and_tools_without_imports(tmp_path, monkeypatch, capsys):
    for path in (tmp_path / "tools/one.py", tmp_path / "tools/two/__init__.py"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('"""Draw it: `draw --to x.png`"""\nraise SystemExit\ndef main(): ...\n')
    (tmp_path / "tools/shared.py").write_text('"""Share code."""\n')
    assert program.programs(tmp_path / "tools") == {"one": "Draw it", "two": "Draw it"}
    for words in ([], ["--help"]):
        monkeypatch.setattr(sys, "argv", ["src", *words])
        program.start()
        out = capsys.readouterr().out
        src = Path(program.__file__).parent
        known = {**program.programs(src / "tools"), **program.programs(src / "examples")}
        assert all(f"\n    {name} " in out for name in ("fit", "validate", "test", "predict", *known))


def test_the_command_that_an_installation_brings_is_the_command_line():
    (target,) = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["scripts"].values()
    module, _, name = target.partition(":")
    assert getattr(importlib.import_module(module), name) is program.start
