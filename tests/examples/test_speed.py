"""What makes the template fast, as behaviour: none of these tests reads a clock."""

import contextlib
import csv
import math
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
from torchvision.datasets import MNIST

import src.data.mnist
from src.data.loader import TensorLoader
from src.module import LitModule
from tests.conftest import CONFIGS, PROJECT

FEW_STEPS = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=3", "--trainer.accelerator=cpu")


class Operations(TorchDispatchMode):
    """Counts the operations that tensors go through, by name."""

    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def fit(cli, mnist):
    """Train an example for a few steps, without a test or plots."""

    def run(example, *options):
        data = mnist.options if example == "mnist" else []
        quick = (*FEW_STEPS, "--test_after_fit=false", "--trainer.callbacks=null")
        done = cli("fit", "--config", CONFIGS / f"{example}.yaml", *data, *quick, *options)
        assert done.code == 0, done.err
        return done

    return run


def metrics_of(run):
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


examples = pytest.mark.parametrize("example", ["xor", "mnist"])


@examples
def test_a_bf16_step_does_not_wait_for_the_device(fit, monkeypatch, tmp_path, example):
    operations, dtypes, step = Operations(), set(), LitModule.training_step

    def watched(module, batch, batch_idx):
        with operations if batch_idx else contextlib.nullcontext():  # the target of the first batch is looked at
            return step(module, batch, batch_idx)

    loss = {"xor": nn.BCEWithLogitsLoss, "mnist": nn.CrossEntropyLoss}[example]
    forward = loss.forward

    def watched_loss(self, logits, target):
        dtypes.add(logits.dtype)
        return forward(self, logits, target)

    monkeypatch.setattr(LitModule, "training_step", watched)
    monkeypatch.setattr(loss, "forward", watched_loss)
    fit(example, "--trainer.precision=bf16-mixed")
    assert operations.count["addmm"] == 2 * 2  # two layers, three steps but the first: it was watched
    # `.item()`, `float(...)`, `if tensor`; and the operations whose result's size depends on the values.
    for waits in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2"):
        assert operations.count[waits] == 0, waits
    assert dtypes == {torch.bfloat16}
    (row,) = metrics_of(tmp_path / "runs" / example / "version_0")
    assert math.isfinite(float(row["train/loss"]))


def test_a_batch_costs_one_index_operation_per_tensor():
    x, target = torch.randint(256, (23, 28, 28), dtype=torch.uint8), torch.arange(23)
    batches = iter(TensorLoader((x, target), 4, shuffle=True, seed=0))
    next(batches)  # draws the order, too
    for _ in range(5):
        with Operations() as operations:
            next(batches)
        assert operations.count["index_select"] == 2
        assert operations.count.keys() <= {"index_select", "slice"}


def test_mnist_normalises_each_batch_once_and_never_reads_a_single_image(fit, mnist, monkeypatch):
    sizes, normalize = [], src.data.mnist.normalize

    def watched(images):
        sizes.append(len(images))
        return normalize(images)

    def single_image(*_):
        raise AssertionError("MNIST.__getitem__ was called")

    monkeypatch.setattr(src.data.mnist, "normalize", watched)
    monkeypatch.setattr(MNIST, "__getitem__", single_image)
    fit("mnist", "--data.batch_size=100", "--trainer.num_sanity_val_steps=0")
    assert sizes == [100] * (3 + mnist.val_size // 100)


class Watched(Metric):
    """Notes at each update whether the module was training, also of its copies."""

    updates: ClassVar[list[bool]] = []

    def update(self, scores, target):
        Watched.updates.append(self.training)

    def compute(self):
        return torch.tensor(0.0)


def test_training_steps_touch_no_metric_and_log_nothing(monkeypatch):
    logged = []
    monkeypatch.setattr(LightningModule, "log", lambda module, name, *args, **kwargs: logged.append(name))
    monkeypatch.setattr(Watched, "updates", [])
    module = LitModule(
        nn.Linear(2, 1), nn.MSELoss(), lambda parameters: torch.optim.SGD(parameters, lr=0.1), {"m": Watched()}
    )
    loader = TensorLoader((torch.ones(8, 2), torch.ones(8, 1)), 2)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    options = {"max_epochs": 2, "num_sanity_val_steps": 0, "enable_model_summary": False}
    Trainer(accelerator="cpu", devices=1, **quiet, **options).fit(module, loader, loader)
    assert Watched.updates == [False] * 4 * 2  # one for each validation batch
    assert logged == []


def modules_after(code):
    """What a process has imported when it ends."""
    code = f"try:\n    {code}\nexcept SystemExit:\n    import sys; print('\\nmodules', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("\nmodules ")[2].split())


def packages(modules):
    return {name.partition(".")[0] for name in modules} - sys.stdlib_module_names


@pytest.mark.slow
def test_help_imports_what_lightnings_command_line_does_and_no_more():
    lightnings = modules_after("import lightning.pytorch.cli; raise SystemExit")
    ours = modules_after("from src.cli import main; main(['fit', '--help'])")
    assert "lightning.pytorch.cli" in lightnings & ours
    # jsonargparse looks at attrs where it is installed.
    assert packages(ours) - packages(lightnings) <= {"src", "dotenv", "omegaconf", "attr", "attrs"}
    assert "src.module" in ours
    assert not ours & {"src.data.mnist", "src.data.mnist_images", "src.models.mnist"}


@pytest.mark.slow
@pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++", "cl"))), reason="torch.compile needs a C++ compiler on the CPU"
)
def test_a_plain_run_continues_compiled_and_a_compiled_one_plain(fit, cli, tmp_path):
    def compiles(*command):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        done = cli(*command)
        assert done.code == 0, done.err
        return torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0

    fit("xor")
    path = tmp_path / "runs/xor/version_0/checkpoints/last.ckpt"
    for epochs, compile in ((2, "true"), (3, "false")):
        options = (f"--model.compile={compile}", f"--trainer.max_epochs={epochs}")
        assert compiles("fit", "--ckpt_path", path, *options) == (compile == "true")
        saved = torch.load(path, weights_only=True)
        assert saved["global_step"] == 3 * epochs
        assert not [name for name in saved["state_dict"] if "_orig_mod" in name]
    losses = []
    for compile in ("false", "true"):
        assert compiles("validate", "--ckpt_path", path, f"--model.compile={compile}") == (compile == "true")
        (row,) = metrics_of(max((tmp_path / "runs/xor").iterdir()))
        losses.append(float(row["val/loss"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
