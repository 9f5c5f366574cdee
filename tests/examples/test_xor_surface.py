"""XOR's decision surface: its values are the net's, and its stages are those of the training."""

import signal

import numpy as np
import pytest
import torch

from src.callbacks.xor_surface import HIGH, LOW, SIDE, XorSurface
from src.data.xor import INPUTS, TARGETS, XorDataModule
from src.module import LitModule
from tests.conftest import CONFIGS
from tests.examples.test_xor import lesson
from tests.pictures import evaluate, figures, pixels
from tests.stopping import run_main


def at_the_points(axes) -> list[float]:
    """What a surface shows at XOR's four points."""
    image = axes.images[0]
    assert image.get_extent() == [LOW, HIGH, LOW, HIGH]
    assert image.origin == "lower"
    places = ((INPUTS - LOW) / (HIGH - LOW) * (SIDE - 1)).round().int().tolist()
    return [float(image.get_array()[row, column]) for column, row in places]


def test_the_surface_is_the_nets_and_a_stopped_run_keeps_the_stages_before(tmp_path):
    # The best checkpoint is of an early step: the test loads it, and takes no stage away.
    early = ("--checkpoint.mode=max", "--trainer.max_epochs=3", f"--trainer.default_root_dir={tmp_path}")
    fit = ["fit", "--config", str(CONFIGS / "xor.yaml"), *early, "--trainer.callbacks+=tests.stopping.Stop"]
    assert run_main(fit, ("on_train_batch_end", 120), lambda: signal.raise_signal(signal.SIGTERM)) == 143
    run = tmp_path / "xor/version_0"
    with figures() as kept:
        assert run_main(["fit", "--ckpt_path", str(run)]) == 0
    assert torch.load(run / "checkpoints/best.ckpt", weights_only=True)["global_step"] == 250
    panels = kept["surface_growth"].axes
    stages = [0, 25, 50, 75, 100, 150, 250, 500, 750]
    assert [axes.get_title() for axes in panels] == [f"step {step}" for step in stages]
    for axes, step in zip(panels, stages, strict=True):
        by_hand = lesson(step)[1](INPUTS).sigmoid().flatten().tolist()
        assert at_the_points(axes) == pytest.approx(by_hand, abs=1e-5)

    module = LitModule.load_from_checkpoint(run / "checkpoints/best.ckpt")
    axes = kept["surface"].axes[0]
    assert at_the_points(axes) == pytest.approx(module(INPUTS).sigmoid().flatten().tolist(), abs=1e-5)
    line, points = sorted(axes.collections, key=lambda each: len(each.get_offsets()) == 4)
    assert points.get_offsets().tolist() == INPUTS.tolist()
    assert points.get_array().tolist() == TARGETS[:, 0].tolist()
    assert [text.get_text() for text in axes.texts] == ["0", "1", "1", "0"]
    vertices = torch.tensor(np.concatenate([path.vertices for path in line.get_paths()]), dtype=torch.float32)
    assert float((module(vertices).sigmoid() - 0.5).abs().max()) < 0.1
    assert [*evaluate(XorSurface(), module, XorDataModule(), tmp_path)] == ["surface"]  # nothing was trained
    assert np.array_equal(pixels(tmp_path / "surface.png"), pixels(run / "surface.png"))
