"""A bar on a terminal; a plain line an epoch in a log file."""

import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

from tests.conftest import SMALL, run_process

SHORT = ("--trainer.max_epochs=2", "--data.passes=50", "--trainer.callbacks=null", "--trainer.enable_progress_bar=true")


def test_a_log_file_gets_one_line_an_epoch_and_no_control_characters(tmp_path):
    done = run_process("fit", "--config", SMALL, *SHORT, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("epoch")]
    assert [line.split()[1] for line in lines] == ["1/2", "2/2"]
    assert all(re.search(r"train/loss [\d.]+  val/acc [\d.]+  val/loss [\d.]+", line) for line in lines)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", done.stdout + done.stderr)


def on_a_terminal(*args: object, cwd: Path) -> str:
    """What `python -m src ...` sends to a terminal."""
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


def test_a_terminal_gets_a_bar_with_loss_accuracy_and_speed_and_keeps_the_lines_of_the_epochs(tmp_path):
    text = on_a_terminal("fit", "--config", SMALL, *SHORT, cwd=tmp_path)
    assert re.search(r"Epoch 2/2: 100%.*50/50.*it/s.*loss=0\.\d+.*val/acc=[01]\.\d+", text)
    assert [line.split("  ")[0] for line in left_on(text) if line.startswith("epoch")] == ["epoch 1/2", "epoch 2/2"]
    assert "Epoch 2/2" not in text[text.index("epoch 2/2") :]  # the bar is gone
    assert "Testing" in text
    assert not re.search(r"Testing[^\r\n]*100%[^\r\n]*\r*\n", text)  # and that of the test is overwritten


def test_an_epoch_shorter_than_the_refresh_rate_shows_its_loss_and_the_prediction_stands_alone(tmp_path):
    short = ("--data.passes=3", "--trainer.accumulate_grad_batches=3", *SHORT[::2], SHORT[3])
    text = on_a_terminal("fit", "--config", SMALL, *short, cwd=tmp_path)
    assert "loss=nan" not in text
    # The loss of the four rows with the first weights, not a third of it.
    assert re.search(r"Epoch 1/2: 100%.*loss=0\.8065", text)
    predicted = on_a_terminal("predict", "--ckpt_path", "runs/xor/version_0", cwd=tmp_path)
    assert "input  output  truth" in left_on(predicted)


def test_the_bar_can_be_turned_off_or_replaced(cli):
    short = SHORT[:-1]
    assert "epoch 1/2" not in cli("fit", "--config", SMALL, *short, "--trainer.enable_progress_bar=false").out
    other = "--trainer.callbacks=TQDMProgressBar"
    assert cli("fit", "--config", SMALL, *SHORT[:2], SHORT[3], other).code == 0
