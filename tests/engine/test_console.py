"""What a run says: a line at its start, a line an epoch with a bar below it on a terminal, a few lines at its end."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from src.engine.run.console import describe
from tests.conftest import CONFIGS, SMALL, run_process

SHORT = ("--trainer.max_epochs=2", "--data.passes=5")
WITH_A_BAR = ("--trainer.max_epochs=2", "--trainer.enable_progress_bar=true")


def trainer(kind, world_size=1):
    return SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(kind)), world_size=world_size, num_nodes=1)


def test_the_first_line_names_net_parameters_and_device(cli):
    done = cli("fit", "--config", SMALL, "--trainer.max_epochs=1", "--data.passes=1", "--trainer.accelerator=cpu")
    assert done.out.startswith("XorMLP, 17 parameters, on cpu (")
    assert done.out.count("parameters, on") == 1


@pytest.mark.parametrize(
    ("cuda", "mps", "why"),
    [
        (False, False, "no CUDA or MPS device is here"),
        (True, False, "chosen, though cuda is here"),
        (False, True, "chosen, though mps is here"),
    ],
)
def test_a_cpu_says_why_it_is_one(monkeypatch, cuda, mps, why):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.mps, "is_available", lambda: mps, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert describe(trainer("cpu")) == f"cpu (2 threads; {why})"


def test_cuda_is_named_with_its_model_and_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert describe(trainer("cuda", 2)) == "2 x cuda (NVIDIA H200)"
    assert describe(trainer("mps")) == "mps"


@pytest.mark.slow
def test_a_log_file_gets_one_line_an_epoch_and_no_control_characters(tmp_path):
    done = run_process("fit", "--config", SMALL, *WITH_A_BAR, "--data.passes=50", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("epoch")]
    assert [line.split()[1] for line in lines] == ["1/2", "2/2"]
    assert all(re.search(r"train/loss [\d.]+  val/acc [\d.]+  val/loss [\d.]+", line) for line in lines)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", done.stdout + done.stderr)


def on_a_terminal(*args: object, cwd: Path) -> str:
    """What `python -m src ...` sends to a terminal."""
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, 140))
    command = [sys.executable, "-m", "src", *map(str, args)]
    with subprocess.Popen(command, cwd=cwd, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 65_536):
                shown += chunk
        except OSError:
            pass  # the terminal's other end was closed: the process is done
    os.close(ours)
    assert process.returncode == 0, shown.decode()
    return shown.decode()


def left_on(shown: str) -> list[str]:
    """The lines that stay: of each, what was written last over the rest."""
    return [line.rstrip().rsplit("\r", 1)[-1].strip() for line in shown.split("\n")]


@pytest.mark.slow
def test_a_terminal_gets_a_bar_with_loss_accuracy_and_speed_and_keeps_the_lines_of_the_epochs(tmp_path):
    text = on_a_terminal("fit", "--config", SMALL, *WITH_A_BAR, "--data.passes=50", cwd=tmp_path)
    assert re.search(r"Epoch 2/2: 100%.*50/50.*it/s.*loss=0\.\d+.*val/acc=[01]\.\d+", text)
    assert [line.split("  ")[0] for line in left_on(text) if line.startswith("epoch")] == ["epoch 1/2", "epoch 2/2"]
    assert "Epoch 2/2" not in text[text.index("epoch 2/2") :]  # the bar is gone
    assert "Testing" in text
    assert not re.search(r"Testing[^\r\n]*100%[^\r\n]*\r*\n", text)  # and that of the test is overwritten


@pytest.mark.slow
def test_an_epoch_shorter_than_the_refresh_rate_shows_its_loss_and_the_prediction_stands_alone(tmp_path):
    short = ("--data.passes=3", "--trainer.accumulate_grad_batches=3")
    text = on_a_terminal("fit", "--config", SMALL, *WITH_A_BAR, *short, cwd=tmp_path)
    assert "loss=nan" not in text
    # The loss of the four rows with the first weights, not a third of it.
    assert re.search(r"Epoch 1/2: 100%.*loss=0\.8065", text)
    predicted = on_a_terminal("predict", "--ckpt_path", "runs/xor/version_0", cwd=tmp_path)
    assert "input  output  truth" in left_on(predicted)


def test_the_bar_can_be_turned_off_or_replaced(cli):
    assert "epoch 1/2" not in cli("fit", "--config", SMALL, *SHORT, "--trainer.enable_progress_bar=false").out
    other = "--trainer.callbacks=TQDMProgressBar"
    assert cli("fit", "--config", SMALL, *WITH_A_BAR, "--data.passes=50", other).code == 0


def test_fit_ends_with_time_speed_best_test_folder_and_next_command(cli):
    done = cli("fit", "--config", SMALL, *SHORT)
    fit, best, test, run, following = done.out.splitlines()[-5:]
    assert re.fullmatch(r"fit   [\d.]+ s, 2 epochs, 10 steps, [\d,]+ samples/s", fit)
    assert re.fullmatch(r"best  val/loss 0\.\d{4}", best)
    assert re.fullmatch(r"test  test/loss 0\.\d{4}  test/acc [01]\.\d{4}", test)
    assert run == "run   runs/xor/version_0"
    assert following == "next  python -m src predict --ckpt_path runs/xor/version_0/checkpoints/best.ckpt"


def test_the_next_command_is_one_that_runs(cli):
    done = cli("fit", "--config", SMALL, *SHORT, "--test_after_fit=false")
    words = shlex.split(done.out.splitlines()[-1])
    assert words[:4] == ["next", "python", "-m", "src"]
    assert cli(*words[4:]).code == 0


def test_mnist_names_the_option_that_predict_needs(cli, mnist):
    few = ("--trainer.limit_train_batches=1", "--trainer.max_epochs=1")
    done = cli("fit", "--config", CONFIGS / "mnist.yaml", *mnist.options, *few)
    assert done.out.splitlines()[-1].endswith(" --data.predict_path PATH")
