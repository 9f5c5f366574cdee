"""Each warning stands once, in a line, without the source that it comes from."""

import warnings

import pytest
from lightning.pytorch import Callback

from src.engine.run import quiet
from tests.conftest import SMALL, run_process


@pytest.fixture
def shown(monkeypatch):
    monkeypatch.setattr(quiet, "_shown", set())
    return lambda text, file="net.py": quiet.in_one_line(text, UserWarning, file, 7)


def test_a_warning_is_one_line_and_stands_once(shown):
    slow = shown("slow\n  net (Triggered internally at /pytorch/Tensor.cpp:12.)", "/home/me/net.py")
    assert slow == "note: slow net (net.py:7)\n"
    assert [shown(f"batch {number}") for number in (0, 0, 1)] == [
        "note: batch 0 (net.py:7)\n",
        "",
        "note: batch 1 (net.py:7)\n",
    ]


def test_a_package_warns_once_whatever_the_numbers_and_on_rank_zero_alone(shown, monkeypatch):
    package = "/usr/lib/site-packages/letters/draw.py"
    assert [shown(f"Glyph {n} is missing", package) for n in (3, 4)] == ["note: letters: Glyph 3 is missing\n", ""]
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert shown("the same on each", package) == ""
    assert shown("mine") == "note: mine (net.py:7)\n"


class Warns(Callback):
    """Warns in each step, from a place of its own."""

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        warnings.warn_explicit(f"row {batch_idx} is odd", UserWarning, f"/site-packages/own{batch_idx}.py", batch_idx)
        warnings.warn("mine", stacklevel=1)


@pytest.mark.slow
def test_a_run_shows_them_as_notes_and_with_quiet_turned_off_as_python_does(tmp_path):
    short = ("--trainer.max_epochs=1", "--data.passes=3", f"--trainer.callbacks={__name__}.Warns")
    line = Warns.on_train_batch_end.__code__.co_firstlineno + 2
    done = run_process("fit", "--config", SMALL, *short, cwd=tmp_path)
    notes = [line for line in done.stderr.splitlines() if line.startswith("note: ")]
    assert notes == ["note: own0: row 0 is odd", f"note: mine (test_quiet.py:{line})"]
    done = run_process("fit", "--config", SMALL, *short, "--quiet.enabled=false", cwd=tmp_path)
    assert f"{__file__}:{line}: " in done.stderr
    assert "note: mine" not in done.stderr
