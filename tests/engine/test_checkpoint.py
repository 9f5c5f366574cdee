"""One file is enough: it carries its config and plain values. One that cannot be used is answered by one line."""

import datetime
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torchmetrics.classification import BinaryAccuracy

from src.engine.checkpoint.build import Transfer
from src.engine.checkpoint.callback import RunCheckpoint
from src.engine.checkpoint.files import pack_checkpoint, read_checkpoint
from src.engine.checkpoint.resume import plain_states, set_plain_states
from src.engine.errors import UserError
from src.module import LitModule
from tests.conftest import CONFIGS, SMALL
from tests.engine.loader_tasks import Several
from tests.engine.test_resume_hooks import Own
from tests.stopping import Net, Sums, config, differences, fit, rows, run_main

SHORT = ("--trainer.max_epochs=1", "--data.passes=10")


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """The folder of a short run with a width of its own, and a scheduler as long as the run."""
    root = tmp_path_factory.mktemp("fitted")
    warm_up = ("--model.scheduler=CosineAnnealingLR", "--model.scheduler.T_max=null")
    options = (*SHORT, *warm_up, "--model.net.hidden=7", "--trainer.gradient_clip_val=.inf")
    assert run_main(["fit", "--config", str(SMALL), *options, f"--trainer.default_root_dir={root}"]) == 0
    return root / "xor/version_0"


def test_every_verb_runs_from_the_file_alone_and_options_win(fitted, cli, tmp_path):
    at_fit = json.loads((fitted / "summary.json").read_text())["metrics"]
    shutil.copy(fitted / "checkpoints/best.ckpt", tmp_path / "mine.ckpt")
    (tmp_path / "more.yaml").write_text("data: {init_args: {passes: 3}}\ntrainer: {default_root_dir: runs}\n")
    for verb in ("validate", "test", "predict", "fit"):
        done = cli(verb, "--ckpt_path=mine.ckpt", "--config=more.yaml", "--data.batch_size=3", "--model.groups=null")
        assert done.code == 0, done.err
        if verb == "test":
            assert done.metrics == pytest.approx({name: at_fit[name] for name in ("test/loss", "test/acc")})
    given = yaml.safe_load((tmp_path / "runs/xor/version_3/config.yaml").read_text())
    assert (given["data"]["init_args"]["batch_size"], given["data"]["init_args"]["passes"]) == (3, 3)
    assert given["model"]["init_args"]["net"]["init_args"]["hidden"] == 7


def test_weights_that_do_not_fit_are_one_line(fitted, cli, tmp_path):
    for how in (("test", "--ckpt_path", fitted), ("fit", "--config", SMALL, "--transfer.weights", fitted)):
        done = cli(*how, "--model.net.hidden=8", "--trainer.default_root_dir=runs")
        assert done.code == 1
        assert re.match(r"error: .*size mismatch for (net\.)?layers\.0\.weight", done.err)
        assert "Traceback" not in done.err


def test_a_notebook_loads_it_in_one_line(fitted):
    weights = torch.load(fitted / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    for cls, path in ((LitModule, fitted / "checkpoints/last.ckpt"), (Several, str(fitted))):  # or a later subclass
        module = cls.load_from_checkpoint(checkpoint_path=path, hparams_file=None, weights_only=True)
        assert type(module) is cls
        assert all(torch.equal(value, weights[name]) for name, value in module.state_dict().items())
        assert not module.training
        assert module(torch.zeros(3, 2)).shape == (3, 1)
    other = {"class_path": "torch.nn.Linear", "init_args": {"in_features": 2, "out_features": 1}}
    with pytest.raises(RuntimeError, match=r"net\.weight"):
        LitModule.load_from_checkpoint(fitted, net=other)
    assert type(LitModule.load_from_checkpoint(fitted, net=other, strict=False).net) is nn.Linear


class Late(Own):
    """Lightning alone; makes its last layer late, and looks into the checkpoint."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.body = nn.Linear(4, width)

    def configure_model(self) -> None:
        self.head = nn.Linear(self.body.out_features, 1)

    def on_save_checkpoint(self, checkpoint):
        checkpoint["words"] = ["a", "b"]

    def on_load_checkpoint(self, checkpoint):
        self.words = checkpoint["words"]


def test_a_notebook_loads_a_run_of_a_plain_module(cli):
    net = ["--model", f"{__name__}.Late", "--model.width=5", "--data=tests.stopping.Sums"]
    assert cli("fit", *net, "--trainer.max_epochs=1", "--trainer.accelerator=cpu").code == 0
    module = LitModule.load_from_checkpoint("runs/run/version_0")
    weights = torch.load("runs/run/version_0/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert type(module) is Late
    assert module.words == ["a", "b"]
    assert module.body.out_features == 5
    assert all(torch.equal(value, weights[name]) for name, value in module.state_dict().items())
    moved = LitModule.load_from_checkpoint("runs/run/version_0", map_location="meta")
    assert moved.head.weight.device.type == "meta"


def test_sharded_checkpoints_of_fsdp_are_refused_before_training():
    trainer = Trainer(accelerator="cpu", logger=False)
    trainer.strategy._state_dict_type = "sharded"  # the strategy itself needs a GPU
    with pytest.raises(UserError, match="state_dict_type: full"):
        RunCheckpoint().setup(trainer, LightningModule(), "fit")


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="FSDP needs a CUDA device, there is none")
def test_fsdp_trains_and_its_checkpoint_is_one_file_that_is_tested_and_resumed(cli):
    fsdp = ("--config", CONFIGS / "trainer/fsdp.yaml", "--trainer.accelerator=cuda", "--trainer.devices=1")
    done = cli("fit", "--config", SMALL, *SHORT, *fsdp, "--test_after_fit=true")
    assert done.code == 0, done.err
    last = Path("runs/xor/version_0/checkpoints/last.ckpt")
    assert last.is_file()
    tested = cli("test", "--ckpt_path", last, "--trainer.accelerator=cpu")
    assert tested.metrics["test/acc"] == done.metrics["test/acc"]
    assert cli("fit", "--ckpt_path", last, "--trainer.max_epochs=2").code == 0


def test_the_best_one_has_the_larger_accuracy(cli):
    assert cli("fit", "--config", SMALL, *SHORT, "--trainer.max_epochs=4", "--checkpoint.monitor=val/acc").code == 0
    values = [float(row["val/acc"]) for row in rows(Path("runs/xor/version_0")) if row["val/acc"]]
    assert min(values) < max(values)
    checkpoint = torch.load("runs/xor/version_0/checkpoints/best.ckpt", weights_only=True)
    assert checkpoint["best_score"] == pytest.approx(max(values))


def test_a_run_named_from_within_its_folder_is_resumed_there(fitted, cli, tmp_path, monkeypatch):
    run = shutil.copytree(fitted, tmp_path / "runs/xor/version_0")
    monkeypatch.chdir(run / "checkpoints")
    assert cli("fit", "--ckpt_path", "last.ckpt", "--trainer.max_epochs=1", "--test_after_fit=false").code == 0
    assert [path.name for path in run.parent.iterdir()] == ["version_0"]
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}


def test_numbers_of_numpy_become_pythons_and_objects_among_hyperparameters_are_left_out():
    state, one = nn.Linear(1, 1).state_dict(), torch.ones(1)
    plain = {"a": [1, 0.5, "b", None, True, (2,), {1}, b"c"], 4: one}
    objects = {"numbers": np.ones(2), "day": datetime.date(2024, 2, 29), "function": len, "nets": [0, {1: nn.ReLU()}]}
    checkpoint = {"state_dict": state, "lr": [np.float64(0.1)], "hyper_parameters": objects | plain}
    pack_checkpoint(checkpoint)
    assert type(checkpoint["lr"][0]) is float
    assert checkpoint["hyper_parameters"] == plain
    assert checkpoint["state_dict"] is state  # no copy, and the versions of its modules


def test_an_option_of_a_metric_is_not_restored():
    module = nn.ModuleDict({"acc": BinaryAccuracy(threshold=0.1)})
    before = plain_states(module)
    module["acc"].update(torch.ones(1), torch.ones(1))
    other = nn.ModuleDict({"acc": BinaryAccuracy(threshold=0.9)})
    set_plain_states(other, plain_states(module, before))
    assert other["acc"].compute() == 1
    assert other["acc"].threshold == 0.9


class Learned(Sums):
    """Learns the words of a file in its setup, unless a checkpoint brings them."""

    words: tuple[str, ...] = ()

    def setup(self, stage):
        if not self.words:
            print("learns a vocabulary")
            self.words = tuple(Path("words.txt").read_text().split())

    predict_dataloader = Sums.val_dataloader

    def state_dict(self):
        return {"words": self.words}

    def load_state_dict(self, state):
        self.words = state["words"]


def test_a_checkpoint_brings_what_was_learned_to_every_verb_but_not_to_a_new_run(fit_sums, cli):
    Path("words.txt").write_text("a fine book")
    new = (f"--data={__name__}.Learned", "--trainer.max_epochs=1")
    assert fit_sums(*new).out.count("learns a vocabulary") == 1
    run = "runs/sums/version_0"
    Path("words.txt").unlink()
    for words in (["test"], ["fit", "--trainer.max_epochs=2"], ["predict"]):
        done = cli(*words, "--ckpt_path", run)
        assert done.code == 0, done.err
    kept = torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True)
    assert (kept["global_step"], kept["Learned"]) == (24, {"words": ("a", "fine", "book")})
    Path("words.txt").write_text("another one")
    assert fit_sums(*new, f"--transfer.weights={run}").out.count("learns a vocabulary") == 1


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


BAD = {
    "truncated": "only a part of one. Beside it: ",
    "text": "is no checkpoint",
    "foreign": "is no checkpoint of this template",
    "malicious": "is refused",
    "old malicious": "is refused",
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_checkpoint_gets_one_clear_error(kind, tmp_path, capfd):
    last, evil = tmp_path / "last.ckpt", tmp_path / "evil"
    held = {"config": Evil(evil)} if "malicious" in kind else {"state_dict": {"weight": torch.zeros(2)}}
    torch.save(held, last, _use_new_zipfile_serialization=kind != "old malicious")
    if kind == "truncated":
        shutil.copy(last, tmp_path / "best.ckpt")
        last.write_bytes(last.read_bytes()[:-20])
    elif kind == "text":
        last.write_text("Dear checkpoint,\n")
    assert run_main(["test", "--ckpt_path", str(tmp_path)]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert BAD[kind] in line
    assert not evil.exists()


class Careless(Callback):
    """Keeps an object where plain values belong, from the third epoch on."""

    kept: object = None

    def on_train_epoch_start(self, trainer, module) -> None:
        self.kept = datetime.date.today() if trainer.current_epoch == 2 else None

    def state_dict(self) -> dict[str, object]:
        return {"kept": self.kept}


def test_a_checkpoint_that_could_not_be_loaded_again_is_not_written(tmp_path, capfd):
    run = fit(tmp_path, config(callbacks=({"class_path": f"{__name__}.Careless"},), every_n_steps=100))
    err = capfd.readouterr().err
    assert "it holds datetime.date" in err
    assert "Traceback" not in err
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 12
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}


@pytest.mark.parametrize(
    ("name", "step"), [("checkpoints/.last.ckpt.part", 5), (".metrics.csv.part", 10), (".summary.json.part", 10)]
)
def test_a_full_disk_is_told_by_what_ran_into_it_and_leaves_what_was_saved(name, step, tmp_path, monkeypatch, capfd):
    part, save = tmp_path / "runs/sums/version_0" / name, Trainer.save_checkpoint

    def fill(trainer, path):  # Lightning's would replace the link
        return path.write_bytes(b"half a ") if path.is_symlink() else save(trainer, path)

    monkeypatch.setattr(Trainer, "save_checkpoint", fill)
    run = fit(tmp_path, config(), ("on_train_batch_end", 7), lambda: part.symlink_to("/dev/full"))
    err = capfd.readouterr().err
    assert ": No space left on device. Make room there, then resume the run." in err
    assert "Traceback" not in err
    assert not list(run.rglob(".*"))
    assert read_checkpoint(run / "checkpoints/last.ckpt")["global_step"] == step


def seeded_net():
    """Weights that no run here starts with."""
    torch.manual_seed(7)
    return Net().state_dict()


def into(net, **options):
    Transfer(**options).into(net)
    return net.state_dict()


def test_a_fit_starts_with_the_weights_and_its_resume_needs_the_source_no_more(fit_sums, cli, tmp_path):
    source = fit(tmp_path / "source", config(max_epochs=1)) / "checkpoints/last.ckpt"
    # A run that learns nothing: what it saves is what it started with.
    still = ("--seed_everything=99", "--model.optimizer.lr=0.0", "--trainer.max_epochs=1")
    done = fit_sums(*still, f"--transfer.weights={source.parents[1]}")
    assert f"weights from {source}: 4 of 4 tensors" in done.out
    last = torch.load("runs/sums/version_0/checkpoints/last.ckpt", weights_only=True)
    assert differences(last["state_dict"], torch.load(source, weights_only=True)["state_dict"]) == []
    assert last["global_step"] == 12
    source.unlink()
    done = cli("fit", "--ckpt_path=runs/sums/version_0", "--trainer.max_epochs=2")
    assert done.code == 0, done.err
    assert "weights from" not in done.out


def prefixed(start):
    return {f"{start}{name}": value for name, value in seeded_net().items()}


FILES = {
    "state_dict": {"state_dict": seeded_net(), "epoch": 3},
    "a run's net": prefixed("net."),
    "a backbone": prefixed("backbone.") | {"head.weight": torch.ones(1)},
}


@pytest.mark.parametrize("form", FILES)
def test_weights_from_elsewhere(tmp_path, form):
    torch.save(FILES[form], tmp_path / "weights.pth")
    assert differences(into(Net(), weights=tmp_path / "weights.pth"), seeded_net()) == []


def test_safetensors(tmp_path):
    package = pytest.importorskip("safetensors.torch", reason="needs the package safetensors")
    package.save_file(seeded_net(), tmp_path / "weights.safetensors")
    assert differences(into(Net(), weights=tmp_path / "weights.safetensors"), seeded_net()) == []


def test_skipped_parameters_keep_their_fresh_values(tmp_path):
    torch.save(seeded_net() | {"2.weight": torch.ones(1000, 8), "2.bias": torch.ones(1000)}, tmp_path / "weights.pt")
    net = Net()
    fresh = net[2].weight.clone()
    mixed = into(net, weights=tmp_path / "weights.pt", skip=["2."])
    assert torch.equal(mixed["0.weight"], seeded_net()["0.weight"])
    assert torch.equal(mixed["2.weight"], fresh)


MISTAKES = {
    "another shape": (seeded_net() | {"0.weight": torch.ones(16, 4)}, {}, RuntimeError, r"0.weight.*\[16, 4\]"),
    "two nets": (prefixed("a.") | prefixed("b."), {}, RuntimeError, "Missing .*0.weight"),
    "no weights": (torch.ones(3), {}, RuntimeError, "Missing .*0.weight"),
    "unknown skip": (seeded_net(), {"skip": ["head"]}, UserError, "no name begins with head; there are 0.weight"),
    "a whole net": (Net(), {}, UserError, "refused: it holds tests.stopping.Net"),
}


@pytest.mark.parametrize(("held", "options", "error", "hint"), MISTAKES.values(), ids=MISTAKES.keys())
def test_weights_that_do_not_fit_are_named(tmp_path, held, options, error, hint):
    torch.save(held, tmp_path / "weights.pt")
    with pytest.raises(error, match=hint):
        into(Net(), weights=tmp_path / "weights.pt", **options)
