"""XOR's decision surface: its values are the net's, and its stages are those of the training."""

import signal

import numpy as np
import pytest
import torch
import yaml

from src.callbacks.xor_surface import HIGH, LOW, SIDE, XorSurface, plot_growth, surface
from src.data.xor import INPUTS, TARGETS, XorDataModule
from src.module import LitModule
from tests.conftest import CONFIGS
from tests.pictures import evaluate, figures, pixels
from tests.stopping import run_main

STAGES = [0, 25, 50, 75, 100, 150, 250, 500, 1000]


def at_the_points(axes) -> list[float]:
    """What a surface shows at XOR's four points."""
    image = axes.images[0]
    assert image.get_extent() == [LOW, HIGH, LOW, HIGH]
    assert image.origin == "lower"
    places = ((INPUTS - LOW) / (HIGH - LOW) * (SIDE - 1)).round().int().tolist()
    return [float(image.get_array()[row, column]) for column, row in places]


def outputs_by_hand(stages: list[int]) -> list[list[float]]:
    """The outputs of the hand-written loop at some steps."""
    torch.manual_seed(42)
    net, found = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1)), []
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    for step in range(max(stages) + 1):
        if step in stages:
            found.append(net(INPUTS).sigmoid().flatten().tolist())
        loss = torch.nn.functional.binary_cross_entropy_with_logits(net(INPUTS), TARGETS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return found


def test_the_surface_is_the_nets_and_a_stopped_run_keeps_the_stages_before(tmp_path):
    made = yaml.safe_load((CONFIGS / "xor.yaml").read_text())
    made["trainer"]["callbacks"].append({"class_path": "tests.stopping.Stop"})
    (tmp_path / "xor.yaml").write_text(yaml.safe_dump(made))
    # The best checkpoint is of an early step: the test loads it, and takes no stage away.
    early = ("--checkpoint.mode=max", "--trainer.max_epochs=3", f"--trainer.default_root_dir={tmp_path}")
    fit = ["fit", "--config", str(tmp_path / "xor.yaml"), *early]
    assert run_main(fit, ("on_train_batch_end", 120), lambda: signal.raise_signal(signal.SIGTERM)) == 143
    run = tmp_path / "xor/version_0"
    with figures() as kept:
        assert run_main(["fit", "--ckpt_path", str(run)]) == 0
    assert torch.load(run / "checkpoints/best.ckpt", weights_only=True)["global_step"] == 250
    panels = kept["surface_growth"].axes
    stages = [*STAGES[:-1], 750]
    assert [axes.get_title() for axes in panels] == [f"step {step}" for step in stages]
    for axes, expected in zip(panels, outputs_by_hand(stages), strict=True):
        assert at_the_points(axes) == pytest.approx(expected, abs=1e-5)

    module = LitModule.load_from_checkpoint(run / "checkpoints/best.ckpt")
    axes = kept["surface"].axes[0]
    assert at_the_points(axes) == pytest.approx(module(INPUTS).sigmoid().flatten().tolist(), abs=1e-5)
    (line,), (points,) = (
        [each for each in axes.collections if (len(each.get_offsets()) == 4) == four] for four in (0, 1)
    )
    assert points.get_offsets().tolist() == INPUTS.tolist()
    assert points.get_array().tolist() == TARGETS[:, 0].tolist()
    assert [text.get_text() for text in axes.texts] == ["0", "1", "1", "0"]
    vertices = torch.tensor(np.concatenate([path.vertices for path in line.get_paths()]), dtype=torch.float32)
    assert float((module(vertices).sigmoid() - 0.5).abs().max()) < 0.1
    assert [*evaluate(XorSurface(), module, XorDataModule(), tmp_path)] == ["surface"]  # nothing was trained
    assert np.array_equal(pixels(tmp_path / "surface.png"), pixels(run / "surface.png"))


def test_a_surface_that_never_crosses_a_half_has_no_line():
    module = LitModule(torch.nn.Linear(2, 1), torch.nn.BCEWithLogitsLoss(), torch.optim.SGD)
    module.net.load_state_dict({"weight": torch.zeros(1, 2), "bias": -torch.ones(1)})
    (axes,) = plot_growth({7: surface(module)}).axes
    assert len(axes.collections) == 1
    assert axes.get_title() == "step 7"
