"""summary.json says what a run is and how far it came, whatever becomes of the run."""

import json
import platform
import signal
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import yaml
from lightning.pytorch import Callback, LightningDataModule

from src.engine.errors import UserError
from src.engine.run.summary import Summary, how_it_ended
from tests.conftest import SMALL
from tests.processes import finish, processes, start
from tests.stopping import config, fit, resume, rows

SHORT = ("--trainer.max_epochs=2", "--data.passes=5")


def summary(run: Path) -> dict:
    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no JSON")

    return json.loads((run / "summary.json").read_text(), parse_constant=refuse)


def test_a_finished_run_says_what_its_other_files_say(cli, tmp_path):
    assert cli("fit", "--config", SMALL, *SHORT, "--note=lr: 0.1, [wide]").code == 0
    run = tmp_path / "runs/xor/version_0"
    said, (entry,) = summary(run), yaml.safe_load((run / "record.yaml").read_text())
    assert (said["verb"], said["state"], said["reason"]) == ("fit", "finished", "max_epochs=2 reached")
    assert (said["epochs"], said["steps"], said["parameters"], said["note"]) == (2, 10, 17, "lr: 0.1, [wide]")
    assert (said["device"], said["processes"]) == (entry["device"]["type"], entry["device"]["processes"])
    assert {"commit": said["commit"], "changes": said["changes"]} == (entry["git"] or {"commit": None, "changes": None})
    *_, trained, tested = rows(run)
    last = {name: float(value) for row in (trained, tested) for name, value in row.items() if "/" in name and value}
    assert said["metrics"] == pytest.approx(last, rel=1e-6)
    assert {"val/loss", "val/acc", "train/loss", "test/loss", "test/acc"} == said["metrics"].keys()
    assert (said["monitor"], said["best"]) == ("val/loss", min(float(row["val/loss"]) for row in rows(run)[:2]))
    assert said["host"] == platform.node()
    for number, (verb, stages) in enumerate([("validate", {"val"}), ("test", {"test"}), ("predict", set())], start=1):
        assert cli(verb, "--ckpt_path", run).code == 0
        said = summary(tmp_path / f"runs/xor/version_{number}")
        assert (said["verb"], said["state"], said["note"]) == (verb, "finished", "lr: 0.1, [wide]")
        assert said["source"].endswith("runs/xor/version_0/checkpoints/last.ckpt")
        assert {name.split("/")[0] for name in said["metrics"]} == stages
        assert "epochs" not in said
    # A test of earlier weights says nothing of the resumed fit.
    assert cli("fit", "--ckpt_path", run, "--trainer.max_epochs=3", "--test_after_fit=false").code == 0
    assert (summary(run)["epochs"], summary(run)["note"]) == (3, "lr: 0.1, [wide]")
    assert {name.split("/")[0] for name in summary(run)["metrics"]} == {"train", "val"}


@pytest.mark.parametrize("option", ["enable_checkpointing=false", "barebones=true", "fast_dev_run=true"])
def test_a_run_with_less_of_lightning_has_one_too(option, cli, tmp_path):
    assert cli("fit", "--config", SMALL, *SHORT, "--test_after_fit=false", f"--trainer.{option}").code == 0
    said = summary(tmp_path / "runs/xor/version_0")
    assert (said["state"], said["steps"]) == ("finished", 1 if "fast" in option else 10)


def send(name: str):
    return lambda: signal.raise_signal(getattr(signal, name))


def test_a_stopped_run_names_the_signal_and_a_resume_continues_the_same_summary(tmp_path):
    run = fit(tmp_path, config(max_epochs=3), ("on_train_batch_end", 17), send("SIGTERM"))
    stopped = summary(run)
    assert (stopped["state"], stopped["reason"]) == ("stopped", "SIGTERM")
    assert (stopped["epochs"], stopped["steps"]) == (1, 17)
    assert resume(run) == 0
    said = summary(run)
    assert (said["state"], said["reason"]) == ("finished", "max_epochs=3 reached")
    assert (said["epochs"], said["steps"]) == (3, 36)
    assert said["started"] == stopped["started"]
    assert said["updated"] > stopped["updated"]
    assert said["seconds"] > stopped["seconds"] > 0


def test_a_validation_within_the_only_epoch_is_written(tmp_path):
    made = config(max_epochs=1, val_check_interval=4)
    said = summary(fit(tmp_path, made, ("on_train_batch_end", 11), send("SIGTERM")))
    assert (said["state"], said["epochs"], said["steps"]) == ("stopped", 0, 11)
    assert said["metrics"]["val/loss"] > 0
    assert said["best"] is not None


def test_a_failed_run_says_its_error_and_the_numbers_of_its_last_epoch(tmp_path):
    def fail() -> None:
        raise RuntimeError("broke\ndown")

    with pytest.raises(RuntimeError):
        fit(tmp_path, config(max_epochs=3), ("on_train_batch_end", 30), fail)
    run = tmp_path / "runs/sums/version_0"
    said = summary(run)
    assert (said["state"], said["reason"]) == ("failed", "RuntimeError: broke down")
    assert (said["epochs"], said["steps"]) == (2, 30)
    assert said["metrics"]["val/loss"] == pytest.approx(float(rows(run)[-1]["val/loss"]))


@pytest.mark.parametrize(
    ("exception", "ended"),
    [
        (KeyboardInterrupt(), ("stopped", "SIGINT")),
        (SystemExit(128 + signal.SIGTERM), ("stopped", "SIGTERM")),
        (SystemExit("no disk"), ("failed", "exit no disk")),
        (UserError("lr=0 is too small. Set it."), ("failed", "lr=0 is too small. Set it.")),
        (MemoryError(), ("failed", "MemoryError")),
    ],
)
def test_who_was_stopped_and_who_failed(exception, ended):
    assert how_it_ended(exception) == ended


class Odd(Callback):
    """Reads the file at the end of each epoch; fails in a test."""

    seen: ClassVar[list[dict]] = []

    def on_train_epoch_end(self, trainer, module):
        self.seen.append(summary(Path(trainer.default_root_dir)))

    def on_test_start(self, trainer, *rest):
        raise RuntimeError(f"in the test of a run {summary(Path(trainer.default_root_dir))['state']}")


def test_a_fit_is_not_done_before_its_test_is_and_short_epochs_are_not_all_written(cli, tmp_path):
    Odd.seen.clear()
    with pytest.raises(RuntimeError):
        cli(
            "fit",
            "--config",
            SMALL,
            "--data.passes=1",
            "--trainer.max_epochs=30",
            f"--trainer.callbacks={__name__}.Odd",
        )
    said = summary(tmp_path / "runs/xor/version_0")
    assert (said["state"], said["epochs"]) == ("failed", 30)
    assert said["reason"] == "RuntimeError: in the test of a run running"
    assert len(Odd.seen) == 30
    assert len({each["updated"] for each in Odd.seen}) <= 2 + said["seconds"]
    assert [name for name in vars(Summary) if "batch" in name] == []


class NoData(LightningDataModule):
    def prepare_data(self) -> None:
        raise OSError("no data here")


def test_a_run_that_failed_before_its_start_says_so(tmp_path):
    with pytest.raises(OSError, match="no data here"):
        fit(tmp_path, config() | {"data": {"class_path": f"{__name__}.NoData"}})
    said = summary(tmp_path / "runs/sums/version_0")
    assert (said["state"], said["reason"], said["metrics"]) == ("failed", "OSError: no data here", {})


def test_what_is_no_number_is_a_text(fit_sums, tmp_path):
    fit_sums("--finite.enabled=false", "--model.optimizer.lr=1e30", "--trainer.max_epochs=2")
    assert summary(tmp_path / "runs/sums/version_0")["metrics"]["val/loss"] == "NaN"


def test_a_file_that_is_broken_or_cannot_be_written_stops_no_run(tmp_path, capfd):
    run = fit(tmp_path, config(max_epochs=2), ("on_train_batch_end", 14), send("SIGTERM"))
    (run / "summary.json").write_text('{"verb": "fi')
    assert resume(run) == 0
    assert summary(run)["state"] == "finished"
    (run / "summary.json").unlink()
    (run / "summary.json").mkdir()
    capfd.readouterr()
    assert resume(run, "--trainer.max_epochs=3") == 0
    assert f"warning: cannot write {run / 'summary.json'}: " in capfd.readouterr().err
    assert len(rows(run)) == 3


@pytest.mark.slow
def test_a_kill_while_it_is_written_leaves_the_file_of_before(tmp_path):
    (tmp_path / "sums.yaml").write_text(yaml.safe_dump(config(max_epochs=3)))
    done = finish(start("fit", "--config", "sums.yaml", cwd=tmp_path, STOP="SIGKILL:summary.json:2"))
    assert done.returncode == -signal.SIGKILL
    run = tmp_path / "runs/sums/version_0"
    assert summary(run)["state"] == "running"
    assert "epochs" not in summary(run)
    assert resume(run) == 0
    assert summary(run)["state"] == "finished"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="gloo")
def test_of_two_processes_one_writes(tmp_path):
    done = finish(start("fit", "--config", SMALL, *SHORT, *processes(2), cwd=tmp_path))
    assert done.returncode == 0, done.stderr
    said = summary(tmp_path / "runs/xor/version_0")
    assert (said["state"], said["processes"], said["epochs"]) == ("finished", 2, 2)
    assert [path.name for path in (tmp_path / "runs/xor").iterdir()] == ["version_0"]
