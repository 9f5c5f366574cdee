"""A part of the net that stays as it is for a while."""

import torch
import yaml

from tests import stopping
from tests.conftest import CONFIGS


def load(name="last", number=0):
    return torch.load(f"runs/sums/version_{number}/checkpoints/{name}.ckpt", weights_only=True)


def test_frozen_modules_keep_their_weights_until_their_epoch(fit_sums, tmp_path):
    freeze = yaml.safe_load((CONFIGS / "callbacks/freeze.yaml").read_text())
    freeze["trainer"]["callbacks+"][0]["init_args"]["modules"] = ["net.0"]
    (tmp_path / "freeze.yaml").write_text(yaml.safe_dump(freeze))
    for epochs in (1, 2, 3):
        fit_sums(f"{tmp_path}/freeze.yaml", f"--trainer.max_epochs={epochs}", "--trainer.num_sanity_val_steps=0")
    one, two, three = (load(number=number)["state_dict"] for number in range(3))
    assert torch.equal(one["net.0.weight"], two["net.0.weight"])
    assert not torch.equal(one["net.2.weight"], two["net.2.weight"])
    assert not torch.equal(two["net.0.weight"], three["net.0.weight"])


def test_freezing_what_is_not_there_names_what_is(cli, tmp_path):
    (tmp_path / "sums.yaml").write_text(yaml.safe_dump(stopping.config()))
    done = cli("fit", "--config", "sums.yaml", "--config", CONFIGS / "callbacks/freeze.yaml")
    assert done.code != 0
    assert "no module net.layers.1; there are net, net.0" in done.err
