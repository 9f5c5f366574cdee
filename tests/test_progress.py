"""A bar on a terminal; a plain line an epoch in a log file."""

import os
import pty
import re
import subprocess
import sys
import termios

from tests.conftest import SMALL, run_process

SHORT = ("--trainer.max_epochs=2", "--data.passes=50", "--trainer.callbacks=null", "--trainer.enable_progress_bar=true")


def test_a_log_file_gets_one_line_an_epoch_and_no_control_characters(tmp_path):
    done = run_process("fit", "--config", SMALL, *SHORT, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("epoch")]
    assert [line.split()[1] for line in lines] == ["1/2", "2/2"]
    assert all(re.search(r"train/loss [\d.]+  val/acc [\d.]+  val/loss [\d.]+", line) for line in lines)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", done.stdout + done.stderr)


def test_a_terminal_gets_a_bar_with_loss_accuracy_and_speed(tmp_path):
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, 140))
    command = [sys.executable, "-m", "src", "fit", "--config", str(SMALL), *SHORT]
    with subprocess.Popen(command, cwd=tmp_path, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 65_536):
                shown += chunk
        except OSError:
            pass  # the terminal's other end was closed: the process is done
    os.close(ours)
    text = shown.decode()
    assert process.returncode == 0, text
    assert re.search(r"Epoch 2/2: 100%.*50/50.*it/s.*loss=0\.\d+.*val/acc=[01]\.\d+", text)


def test_the_bar_can_be_turned_off_or_replaced(cli):
    short = SHORT[:-1]
    assert "epoch 1/2" not in cli("fit", "--config", SMALL, *short, "--trainer.enable_progress_bar=false").out
    other = "--trainer.callbacks=TQDMProgressBar"
    assert cli("fit", "--config", SMALL, *SHORT[:2], SHORT[3], other).code == 0
