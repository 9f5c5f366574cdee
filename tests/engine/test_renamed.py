"""A checkpoint whose net's class has another name or place since."""

import importlib
import shutil
import sys

import pytest
import yaml

from src.module import LitModule
from tests.conftest import Done
from tests.stopping import config

NETS = "from torch import nn\n\n\nclass {}(nn.Sequential):\n    def __init__(self, width: int = 8):\n"
NETS += "        super().__init__(nn.Linear(4, width), nn.Linear(width, 1))\n"


@pytest.fixture(params=["renamed", "moved"])
def today(request, cli, tmp_path, monkeypatch) -> str:
    """A run was made with a class; what it is called today."""
    monkeypatch.syspath_prepend(tmp_path)
    old = f"old_{tmp_path.name}"
    (tmp_path / f"{old}.py").write_text(NETS.format("OldNet"))
    made = config(max_epochs=1)
    made["model"]["net"] = {"class_path": f"{old}.OldNet", "init_args": {"width": 5}}
    (tmp_path / "made.yaml").write_text(yaml.safe_dump(made))
    assert cli("fit", "--config", "made.yaml").code == 0
    del sys.modules[old]
    (tmp_path / f"{old}.py").unlink()
    shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
    new = old if request.param == "renamed" else f"new_{tmp_path.name}"
    (tmp_path / f"{new}.py").write_text(NETS.format("NewNet"))
    importlib.invalidate_caches()
    return f"{new}.NewNet"


def test_without_its_name_one_line_says_which_is_gone(today, cli):
    done: Done = cli("test", "--ckpt_path", "runs/sums/version_0")
    assert done.code == 1
    assert "model.net is old_" in done.err
    assert "OldNet, which is gone" in done.err
    assert "--model.net NAME" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("how", ["--model.net NAME", "--model.net=NAME", "--model.net.class_path NAME", "--config"])
def test_its_name_of_today_is_enough_and_its_arguments_stay(how, today, cli, tmp_path):
    (tmp_path / "new.yaml").write_text(yaml.safe_dump({"model": {"net": {"class_path": today}}}))
    words = ["--config", "new.yaml"] if how == "--config" else how.replace("NAME", today).split()
    done: Done = cli("test", "--ckpt_path", "runs/sums/version_0", *words)
    assert done.code == 0, done.err
    net = {"class_path": today, "init_args": {"width": 5}}
    assert LitModule.load_from_checkpoint("runs/sums/version_0", net=net).net[0].out_features == 5


def test_lightnings_arguments_work_as_its_manual_shows(cli, tmp_path):
    (tmp_path / "made.yaml").write_text(yaml.safe_dump(config(max_epochs=1)))
    assert cli("fit", "--config", "made.yaml").code == 0
    run = "runs/sums/version_0"
    plain = LitModule.load_from_checkpoint(
        checkpoint_path=run, map_location="cpu", hparams_file=None, weights_only=True
    )
    assert not plain.training
    wider = {"class_path": "tests.stopping.Net", "init_args": {"dropout": 0.5}}
    with pytest.raises(ValueError, match=r"unexpected net\.2\.weight"):
        LitModule.load_from_checkpoint(run, net=wider)
    loose = LitModule.load_from_checkpoint(run, net=wider, strict=False)
    assert loose.net[0].weight.equal(plain.net[0].weight)
