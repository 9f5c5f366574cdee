"""What makes the template fast, as behaviour: none of these tests reads a clock."""

import contextlib
import shutil
import subprocess
import sys
from collections import Counter
from typing import ClassVar

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchmetrics import Metric

from src.data.loader import TensorLoader
from src.module import LitModule
from tests.conftest import CONFIGS, PROJECT


class Operations(TorchDispatchMode):
    """Counts the operations that tensors go through, by name."""

    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


class Watched(Metric):
    """Notes at each update whether the module was training, also of its copies."""

    updates: ClassVar[list[bool]] = []

    def update(self, scores, target):
        Watched.updates.append(self.training)

    def compute(self):
        return torch.tensor(0.0)


@pytest.mark.parametrize("loss", [nn.BCEWithLogitsLoss(), nn.CrossEntropyLoss()])
def test_a_bf16_step_waits_for_no_device_touches_no_metric_and_logs_nothing(loss, monkeypatch):
    operations, dtypes, logged, step = Operations(), set(), [], LitModule.training_step

    def watched(module, batch, batch_idx):
        with operations if batch_idx else contextlib.nullcontext():  # the target of the first batch is looked at
            return step(module, batch, batch_idx)

    monkeypatch.setattr(LitModule, "training_step", watched)
    monkeypatch.setattr(LightningModule, "log", lambda module, name, *args, **kwargs: logged.append(name))
    monkeypatch.setattr(Watched, "updates", [])
    loss.register_forward_pre_hook(lambda _, given: dtypes.add(given[0].dtype))
    sgd = torch.optim.SGD
    module = LitModule(nn.Linear(2, 1), loss, lambda parameters: sgd(parameters, lr=0.1), {"m": Watched()})
    target = torch.ones(8, 1) if isinstance(loss, nn.BCEWithLogitsLoss) else torch.zeros(8, dtype=torch.int64)
    loader = TensorLoader((torch.ones(8, 2), target), 2)
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing", "enable_model_summary"), False)
    options = {"max_epochs": 2, "num_sanity_val_steps": 0, "precision": "bf16-mixed"}
    Trainer(accelerator="cpu", devices=1, **quiet, **options).fit(module, loader, loader)
    assert operations.count["addmm"] == 2 * 3  # it was watched
    # `.item()`, `float(...)`, `if tensor`; and the operations whose result's size depends on the values.
    for waits in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2"):
        assert operations.count[waits] == 0, waits
    assert dtypes == {torch.bfloat16}
    assert Watched.updates == [False] * 4 * 2  # one for each validation batch
    assert logged == []


def test_a_batch_costs_one_index_operation_per_tensor():
    x, target = torch.randint(256, (23, 28, 28), dtype=torch.uint8), torch.arange(23)
    batches = iter(TensorLoader((x, target), 4, shuffle=True, seed=0))
    next(batches)  # draws the order, too
    for _ in range(5):
        with Operations() as operations:
            next(batches)
        assert operations.count["index_select"] == 2
        assert operations.count.keys() <= {"index_select", "slice"}


@pytest.mark.slow
def test_help_imports_what_lightnings_command_line_does_and_no_more():
    code = "import sys, lightning.pytorch.cli; before = {*sys.modules}; from src.cli import main\n"
    code += "try: main(['fit', '--help'])\nexcept SystemExit: print('\\nadded', *{*sys.modules} - before)"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    added = {*done.stdout.rpartition("\nadded ")[2].split()}
    packages = {name.partition(".")[0] for name in added} - sys.stdlib_module_names
    # jsonargparse looks at attrs where it is installed.
    assert "src" in packages <= {"src", "dotenv", "omegaconf", "attr", "attrs"}
    assert not added & {"src.data.mnist", "src.data.mnist_images", "src.models.mnist"}


@pytest.mark.slow
@pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++", "cl"))), reason="torch.compile needs a C++ compiler on the CPU"
)
def test_a_plain_run_continues_compiled_and_a_compiled_one_plain(cli, tmp_path):
    path, losses = tmp_path / "runs/xor/version_0/checkpoints/last.ckpt", []
    short = ("--config", CONFIGS / "xor.yaml", "--data.passes=3", "--test_after_fit=false", "--trainer.callbacks=null")
    start, resume = ("fit", *short), ("fit", "--ckpt_path", path)
    validate = ("validate", "--ckpt_path", path)
    steps = ((start, False, 1), (resume, True, 2), (resume, False, 3), (validate, False, 3), (validate, True, 3))
    for command, compiled, epochs in steps:
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        done = cli(*command, f"--model.compile={str(compiled).lower()}", f"--trainer.max_epochs={epochs}")
        assert done.code == 0, done.err
        assert (torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0) == compiled
        saved = torch.load(path, weights_only=True)
        assert saved["global_step"] == 3 * epochs
        assert not [name for name in saved["state_dict"] if "_orig_mod" in name]
        losses.append(done.metrics["val/loss"])
    assert losses[2:] == pytest.approx([losses[2]] * 3, rel=1e-4)
