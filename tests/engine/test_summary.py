"""summary.json says what a run is and how far it came, whatever becomes of the run."""

import json
import platform
import signal
import sys
from pathlib import Path

import pytest
import yaml
from lightning.pytorch import Callback, LightningDataModule
from torch.multiprocessing import ProcessRaisedException

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


def test_a_finished_run_tells_what_its_other_files_tell(cli, tmp_path):
    assert cli("fit", "--config", SMALL, *SHORT, "--note=a word").code == 0
    run = tmp_path / "runs/xor/version_0"
    told, (entry,) = summary(run), yaml.safe_load((run / "record.yaml").read_text())
    assert (told["verb"], told["state"], told["reason"]) == ("fit", "finished", "max_epochs=2 reached")
    assert (told["epochs"], told["steps"], told["parameters"], told["note"]) == (2, 10, 17, "a word")
    assert (told["device"], told["processes"]) == (entry["device"]["type"], entry["device"]["processes"])
    assert {"commit": told["commit"], "changes": told["changes"]} == (entry["git"] or {"commit": None, "changes": None})
    *_, trained, tested = rows(run)
    last = {name: float(value) for row in (trained, tested) for name, value in row.items() if "/" in name and value}
    assert told["metrics"] == pytest.approx(last, rel=1e-6)
    assert {"val/loss", "val/acc", "train/loss", "test/loss", "test/acc"} == told["metrics"].keys()
    assert (told["monitor"], told["best"]) == ("val/loss", min(float(row["val/loss"]) for row in rows(run)[:2]))
    assert told["host"] == platform.node()
    assert not list(run.glob("*.part"))


def test_the_other_verbs_are_told_apart(cli, tmp_path):
    assert cli("fit", "--config", SMALL, *SHORT).code == 0
    for number, verb in enumerate(["validate", "test", "predict"], start=1):
        assert cli(verb, "--ckpt_path", "runs/xor/version_0").code == 0
        told = summary(tmp_path / f"runs/xor/version_{number}")
        assert (told["verb"], told["state"]) == (verb, "finished")
        assert told["source"].endswith("runs/xor/version_0/checkpoints/last.ckpt")
        assert {name.split("/")[0] for name in told["metrics"]} == {"validate": {"val"}, "test": {"test"}}.get(
            verb, set()
        )
        assert "epochs" not in told


@pytest.mark.parametrize(
    "option", ["--trainer.enable_checkpointing=false", "--trainer.barebones=true", "--trainer.fast_dev_run=true"]
)
def test_a_run_with_less_of_lightning_has_one_too(option, cli, tmp_path):
    assert cli("fit", "--config", SMALL, *SHORT, "--test_after_fit=false", option).code == 0
    told = summary(tmp_path / "runs/xor/version_0")
    assert told["state"] == "finished"
    assert told["steps"] == (1 if "fast" in option else 10)


def send(name: str):
    return lambda: signal.raise_signal(getattr(signal, name))


def test_a_stopped_run_tells_the_signal_and_a_resume_goes_on_with_the_same_summary(tmp_path):
    run = fit(tmp_path, config(max_epochs=3), ("on_train_batch_end", 17), send("SIGTERM"))
    stopped = summary(run)
    assert (stopped["state"], stopped["reason"]) == ("stopped", "SIGTERM")
    assert (stopped["epochs"], stopped["steps"]) == (1, 17)
    assert resume(run) == 0
    told = summary(run)
    assert (told["state"], told["reason"]) == ("finished", "max_epochs=3 reached")
    assert (told["epochs"], told["steps"]) == (3, 36)
    assert told["started"] == stopped["started"]
    assert told["updated"] > stopped["updated"]
    assert told["seconds"] > stopped["seconds"] > 0


def test_a_validation_amid_the_only_epoch_is_told(tmp_path):
    made = config(max_epochs=1, val_check_interval=4)
    told = summary(fit(tmp_path, made, ("on_train_batch_end", 11), send("SIGTERM")))
    assert (told["state"], told["epochs"], told["steps"]) == ("stopped", 0, 11)
    assert told["monitor"] == "val/loss"
    assert told["metrics"]["val/loss"] > 0
    assert told["best"] is not None


def test_a_test_of_earlier_weights_is_told_no_more_once_the_fit_goes_on(cli, tmp_path):
    assert cli("fit", "--config", SMALL, *SHORT).code == 0
    run = tmp_path / "runs/xor/version_0"
    assert "test/acc" in summary(run)["metrics"]
    assert cli("fit", "--ckpt_path", run, "--trainer.max_epochs=3", "--test_after_fit=false").code == 0
    told = summary(run)
    assert (told["epochs"], {name.split("/")[0] for name in told["metrics"]}) == (3, {"train", "val"})


def test_a_failed_run_tells_its_error_and_the_numbers_of_its_last_epoch(tmp_path):
    def fail() -> None:
        raise RuntimeError("broke\ndown")

    with pytest.raises(RuntimeError):
        fit(tmp_path, config(max_epochs=3), ("on_train_batch_end", 30), fail)
    run = tmp_path / "runs/sums/version_0"
    told = summary(run)
    assert (told["state"], told["reason"]) == ("failed", "RuntimeError: broke down")
    assert (told["epochs"], told["steps"]) == (2, 30)
    assert told["metrics"]["val/loss"] == pytest.approx(float(rows(run)[-1]["val/loss"]))


@pytest.mark.parametrize(
    ("exception", "ended"),
    [
        (KeyboardInterrupt(), ("stopped", "SIGINT")),
        (SystemExit(128 + signal.SIGTERM), ("stopped", "SIGTERM")),
        (SystemExit(1), ("failed", "exit 1")),
        (SystemExit("no disk"), ("failed", "exit no disk")),
        (UserError("lr=0 is too small. Set it."), ("failed", "lr=0 is too small. Set it.")),
        (ValueError("one\n  two"), ("failed", "ValueError: one two")),
        (
            ProcessRaisedException("\n\n-- Process 1\nTraceback:\n  x()\nValueError: one\n", 1, 7),
            ("failed", "ValueError: one"),
        ),
        (MemoryError(), ("failed", "MemoryError")),
    ],
)
def test_who_was_stopped_and_who_failed(exception, ended):
    assert how_it_ended(exception) == ended


class FailsInTest(Callback):
    def on_test_start(self, trainer, *rest):
        raise RuntimeError(f"in the test of a run {summary(Path(trainer.default_root_dir))['state']}")


def test_a_fit_is_not_done_before_its_test_is(cli, tmp_path):
    callback = f"--trainer.callbacks={__name__}.FailsInTest"
    with pytest.raises(RuntimeError):
        cli("fit", "--config", SMALL, *SHORT, callback)
    told = summary(tmp_path / "runs/xor/version_0")
    assert (told["state"], told["reason"], told["epochs"]) == (
        "failed",
        "RuntimeError: in the test of a run running",
        2,
    )


class NoData(LightningDataModule):
    def prepare_data(self) -> None:
        raise OSError("no data here")


def test_a_run_that_failed_before_its_start_tells_so(tmp_path):
    experiment = config() | {"data": {"class_path": f"{__name__}.NoData"}}
    with pytest.raises(OSError, match="no data here"):
        fit(tmp_path, experiment)
    told = summary(tmp_path / "runs/sums/version_0")
    assert (told["state"], told["reason"], told["metrics"]) == ("failed", "OSError: no data here", {})


def test_what_is_no_number_is_a_text(fit_sums, tmp_path):
    fit_sums("--finite.enabled=false", "--model.optimizer.lr=1e30", "--trainer.max_epochs=2")
    told = summary(tmp_path / "runs/sums/version_0")
    assert told["metrics"]["val/loss"] == "NaN"


class Watch(Callback):
    """Reads the file at the end of each epoch."""

    seen: list[tuple[int, dict]]

    def on_train_epoch_end(self, trainer, module):
        path = Path(trainer.default_root_dir, "summary.json")
        self.seen.append((path.stat().st_mtime_ns, json.loads(path.read_text())))


def test_short_epochs_write_it_at_most_once_a_second_and_steps_never(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(Watch, "seen", [], raising=False)
    callback = f"--trainer.callbacks={__name__}.Watch"
    assert cli("fit", "--config", SMALL, "--data.passes=1", "--trainer.max_epochs=30", callback).code == 0
    told = summary(tmp_path / "runs/xor/version_0")
    assert len(Watch.seen) == 30
    assert all(state["state"] == "running" for _, state in Watch.seen)
    assert Watch.seen[-1][1]["epochs"] >= 1
    assert len({mtime for mtime, _ in Watch.seen}) <= 2 + told["seconds"]
    assert [name for name in vars(Summary) if "batch" in name] == []


def test_a_resume_keeps_the_note_and_a_test_has_it(cli, tmp_path):
    assert cli("fit", "--config", SMALL, *SHORT, "--note=lr: 0.1, [wide]").code == 0
    assert cli("fit", "--ckpt_path=runs/xor/version_0", "--trainer.max_epochs=3").code == 0
    assert cli("test", "--ckpt_path=runs/xor/version_0").code == 0
    for number in range(2):
        run = tmp_path / f"runs/xor/version_{number}"
        assert summary(run)["note"] == "lr: 0.1, [wide]"
        assert yaml.safe_load((run / "config.yaml").read_text())["note"] == "lr: 0.1, [wide]"
    changed = yaml.safe_load((tmp_path / "runs/xor/version_0/record.yaml").read_text())[1]["changed"]
    assert changed == {"trainer.max_epochs": 3}


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
def test_a_kill_amid_the_writing_leaves_the_file_of_before(tmp_path):
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
    told = summary(tmp_path / "runs/xor/version_0")
    assert (told["state"], told["processes"], told["epochs"]) == ("finished", 2, 2)
    assert [path.name for path in (tmp_path / "runs/xor").iterdir()] == ["version_0"]
