"""FSDP's checkpoints are one ordinary file."""

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from src.engine.checkpoint.callback import RunCheckpoint
from src.engine.errors import UserError
from tests.conftest import CONFIGS, SMALL

XOR = ("--config", SMALL, "--trainer.callbacks=null", "--data.passes=50")
FSDP = ("--config", CONFIGS / "trainer/fsdp.yaml")


def test_sharded_checkpoints_are_refused_before_training():
    trainer = Trainer(accelerator="cpu", logger=False)
    trainer.strategy._state_dict_type = "sharded"  # the strategy itself needs a GPU
    with pytest.raises(UserError, match="state_dict_type: full"):
        RunCheckpoint().setup(trainer, LightningModule(), "fit")


@pytest.mark.slow
def test_on_a_cpu_fsdp_is_refused_in_one_line(cli):
    done = cli("fit", *XOR, *FSDP, "--trainer.accelerator=cpu")
    assert done.code != 0
    assert "requires a GPU" in done.err
    assert "Traceback" not in done.err


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="FSDP needs a CUDA device, there is none")
def test_fsdp_trains_and_its_checkpoint_is_tested_resumed_and_read(cli, tmp_path):
    done = cli("fit", *XOR, *FSDP, "--trainer.accelerator=cuda", "--trainer.devices=1")
    assert done.code == 0, done.err
    last = tmp_path / "runs/xor/version_0/checkpoints/last.ckpt"
    assert last.is_file()
    tested = cli("test", "--ckpt_path", last, "--trainer.accelerator=cpu")
    assert tested.metrics["test/acc"] == done.metrics["test/acc"]
    assert cli("fit", "--ckpt_path", last, "--trainer.max_epochs=9").code == 0
