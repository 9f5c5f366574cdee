"""What a run prints: a line at its start, one per epoch with a bar below it on a terminal, a few lines at its end."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.fabric.accelerators import MPSAccelerator
from lightning.pytorch import Callback, Trainer

from src.engine.run.console import describe
from tests import stopping
from tests.conftest import CONFIGS, SMALL, run_process
from tests.processes import XOR, assert_equal_runs, launch
from tests.stopping import config, fit, resume

SHORT = ("--trainer.max_epochs=2", "--data.passes=5")
WITH_A_BAR = ("--trainer.max_epochs=2", "--trainer.enable_progress_bar=true")


def test_a_fit_prints_net_device_epochs_time_speed_best_test_folder_and_the_next_command(cli):
    done = cli("fit", "--config", SMALL, *SHORT, *WITH_A_BAR, "--trainer.accelerator=cpu", "--trainer.callbacks=null")
    first, *epochs, end, speed, best, test, run, following = done.out.splitlines()
    assert first.startswith("XorMLP, 17 parameters, on cpu (")
    line = r"epoch %d/2  step %d  train/loss 0\.\d{4}  val/acc [01]\.\d{4}  val/loss 0\.\d{4}"
    assert re.fullmatch("\n".join([line % (1, 5), line % (2, 10)]), "\n".join(epochs))
    assert end == "end   max_epochs=2 reached"
    assert re.fullmatch(r"fit   [\d.]+ s, 2 epochs, 10 steps, [\d,]+ samples/s", speed)
    assert re.fullmatch(r"best  val/loss 0\.\d{4}", best)
    assert re.fullmatch(r"test  test/loss 0\.\d{4}  test/acc [01]\.\d{4}", test)
    assert run == "run   runs/xor/version_0"
    assert following == "next  python -m src predict --ckpt_path runs/xor/version_0/checkpoints/best.ckpt"
    off = cli("fit", "--config", SMALL, *SHORT, "--trainer.enable_progress_bar=false")
    assert "epoch 1/2" not in off.out
    assert cli("fit", "--config", SMALL, *WITH_A_BAR, *SHORT, "--trainer.callbacks=TQDMProgressBar").code == 0


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
def test_a_terminal_gets_a_bar_and_keeps_the_lines_of_the_epochs_and_a_file_gets_lines_alone(tmp_path):
    short = ("--data.passes=3", "--trainer.accumulate_grad_batches=3")
    text = on_a_terminal("fit", "--config", SMALL, *WITH_A_BAR, *short, cwd=tmp_path)
    # The loss of the four rows with the first weights, not a third of it.
    assert re.search(r"Epoch 1/2: 100%.*3/3.*it/s.*loss=0\.8065", text)
    assert re.search(r"Epoch 2/2: 100%.*3/3.*loss=0\.\d+.*val/acc=[01]\.\d+", text)
    assert [line.split("  ")[0] for line in left_on(text) if line.startswith("epoch")] == ["epoch 1/2", "epoch 2/2"]
    predicted = on_a_terminal("predict", "--ckpt_path", "runs/xor/version_0", cwd=tmp_path)
    assert "input  output  truth" in left_on(predicted)
    done = run_process("fit", "--config", SMALL, *WITH_A_BAR, *short, cwd=tmp_path)
    assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith("epoch")] == ["1/2", "2/2"]
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", done.stdout + done.stderr)


STOP = {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": {"monitor": "val/loss", "patience": 1}}
STOP["init_args"]["min_delta"] = 100.0


class Enough(Callback):
    def on_train_epoch_end(self, trainer, module):
        trainer.should_stop = True


REASONS = [
    ({"max_epochs": 2}, "max_epochs=2 reached"),
    ({"max_steps": 7, "max_epochs": -1}, "max_steps=7 reached"),
    ({"max_time": "00:00:00:01", "max_epochs": -1}, r"max_time reached after \d+ s"),
    ({"callbacks": ({"class_path": f"{__name__}.Enough"},)}, "trainer.should_stop was set by a callback or the module"),
    ({"callbacks": (STOP,), "max_epochs": 30}, r"early stopping in epoch 2: Monitored metric val/loss did not .*"),
    ({"limit_train_batches": 0}, "nothing to do: there is no training batch"),
]


@pytest.mark.parametrize(("trainer", "why"), REASONS)
def test_a_fit_says_why_it_ended(trainer, why, tmp_path, capfd):
    run = fit(tmp_path, config(**trainer))
    assert re.search(rf"^end   {why}$", capfd.readouterr().out, re.MULTILINE)
    if "max_epochs=2" in why:
        assert resume(run) == 0
        assert "end   nothing left to do: max_epochs=2 reached" in capfd.readouterr().out


@pytest.mark.parametrize("name", ["two words", "it's", "a&b"])
def test_the_next_command_can_be_pasted(name, cli):
    short = ("--trainer.max_epochs=1", "--data.passes=5", "--test_after_fit=false")
    words = shlex.split(cli("fit", "--config", SMALL, *short, f"--experiment={name}").out.splitlines()[-1])
    assert words[:5] == ["next", "python", "-m", "src", "test"]
    assert cli(*words[4:]).code == 0


class NoTest(stopping.Sums):
    """Has validation data only."""

    test_dataloader = stopping.LightningDataModule.test_dataloader


class OnlyPredict(NoTest):
    def __init__(self, predict_csv=None, predict_limit=5):
        super().__init__()

    def predict_dataloader(self):
        return self.val_dataloader()


@pytest.mark.parametrize(
    ("data", "options", "following"),
    [
        ("NoTest", {}, r"validate --ckpt_path \S+"),
        ("OnlyPredict", {}, r"predict --ckpt_path \S+ --data.predict_csv CSV"),
        ("OnlyPredict", {"predict_csv": "a.csv"}, r"predict --ckpt_path \S+"),
    ],
)
def test_next_is_a_verb_that_the_data_module_has_with_the_options_that_it_needs(
    data, options, following, tmp_path, capfd
):
    fit(tmp_path, config(max_epochs=1) | {"data": {"class_path": f"{__name__}.{data}", "init_args": options}})
    assert re.search(rf"\nnext  python -m src {following}\n", capfd.readouterr().out)


@pytest.fixture
def machine(monkeypatch):
    """Make believe that the machine has so many CUDA devices, and MPS."""

    def pretend(cuda=0, mps=False):
        kind = torch.device("cuda" if cuda else "mps") if cuda or mps else None
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: kind is not None)
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: cuda or int(mps))
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: kind)
        monkeypatch.setattr(MPSAccelerator, "is_available", staticmethod(lambda: mps))

    return pretend


def test_auto_takes_the_best_device_there_is_and_all_of_it(machine):
    def chosen(**options):
        return describe(Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, **options))

    machine()
    assert chosen() == "cpu (no GPU is here)"
    machine(cuda=1)
    assert chosen() == "cuda (NVIDIA H200)"
    machine(mps=True)
    assert chosen() == "mps"
    machine(cuda=4)
    assert chosen() == "4 x cuda (NVIDIA H200)"
    assert chosen(accelerator="cpu") == "cpu (a GPU is here, too)"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--trainer.accelerator=gpu", "--trainer.devices=8"), "trainer.accelerator=gpu, trainer.devices=8: "),
        (("--trainer.accelerator=cuda", "--trainer.devices=8"), "your machine only has: [0, 1]"),
        (("--trainer.accelerator=mps",), "MPS"),
    ],
)
def test_an_impossible_request_is_one_line_that_says_what_there_is(cli, machine, options, said):
    machine(cuda=2 * ("accelerator=cuda" in options[0]))
    done = cli("fit", *XOR, *options)
    assert done.code != 0
    (line,) = [line for line in done.err.splitlines() if line.startswith("error:")]
    assert said in line
    assert "Traceback" not in done.err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_auto_trains_on_cuda_and_gives_what_a_cpu_gives(cli):
    on_cuda = cli("fit", *XOR, "--trainer.devices=1")
    assert on_cuda.code == 0, on_cuda.err
    assert "on cuda (" in on_cuda.out
    on_cpu = cli("fit", *XOR, "--trainer.accelerator=cpu")
    assert on_cuda.metrics["test/acc"] == on_cpu.metrics["test/acc"] == 1.0
    assert on_cuda.metrics["test/loss"] == pytest.approx(on_cpu.metrics["test/loss"], rel=1e-2)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are no two CUDA devices")
def test_two_gpus_train_like_one(tmp_path):
    shared = ("fit", *XOR, "--trainer.accelerator=cuda")
    launch(*shared, "--trainer.devices=1", "--trainer.default_root_dir=one", cwd=tmp_path)
    ddp = ("--config", CONFIGS / "trainer/ddp.yaml", "--trainer.devices=2", "--data.batch_size=2")
    launch(*shared, *ddp, "--trainer.default_root_dir=two", cwd=tmp_path)
    assert_equal_runs(tmp_path / "one/xor/version_0", tmp_path / "two/xor/version_0", 1e-3)
