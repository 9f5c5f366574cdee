"""XOR's decision surface: its values are the net's, and its stages are those of the training."""

import csv
import os
import signal

import numpy as np
import pytest
import torch
import yaml

from src.callbacks.xor_surface import HIGH, LOW, SIDE, plot_growth, surface
from src.cli import main
from src.data.xor import INPUTS, TARGETS
from src.module import LitModule
from tests.conftest import CONFIGS, run_process
from tests.pictures import figures, pixels
from tests.processes import IN_DOUBLE, launch, processes
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

    best = run / "checkpoints/best.ckpt"
    assert run_main(["predict", "--ckpt_path", str(best), f"--trainer.default_root_dir={tmp_path / 'p'}"]) == 0
    with (tmp_path / "p/xor/version_0/predictions.csv").open() as file:
        outputs = [float(row["output"]) for row in csv.DictReader(file)]
    axes = kept["surface"].axes[0]
    assert at_the_points(axes) == pytest.approx(outputs, abs=6e-4)  # of three digits
    (line,), (points,) = (
        [each for each in axes.collections if (len(each.get_offsets()) == 4) == four] for four in (0, 1)
    )
    assert points.get_offsets().tolist() == INPUTS.tolist()
    assert points.get_array().tolist() == TARGETS[:, 0].tolist()
    assert [text.get_text() for text in axes.texts] == ["0", "1", "1", "0"]
    vertices = torch.tensor(np.concatenate([path.vertices for path in line.get_paths()]), dtype=torch.float32)
    with torch.no_grad():
        assert float((LitModule.load_from_checkpoint(best)(vertices).sigmoid() - 0.5).abs().max()) < 0.1

    with figures() as kept:
        main(["test", "--ckpt_path", str(best), f"--trainer.default_root_dir={tmp_path / 't'}"])
    assert list(kept) == ["surface"]  # nothing was trained
    assert np.array_equal(pixels(tmp_path / "t/xor/version_0/surface.png"), pixels(run / "surface.png"))


def test_a_surface_that_never_crosses_a_half_has_no_line():
    module = LitModule(torch.nn.Linear(2, 1), torch.nn.BCEWithLogitsLoss(), torch.optim.SGD)
    module.net.load_state_dict({"weight": torch.zeros(1, 2), "bias": -torch.ones(1)})
    (axes,) = plot_growth({7: surface(module)}).axes
    assert len(axes.collections) == 1
    assert axes.get_title() == "step 7"


@pytest.mark.slow
def test_killed_and_resumed_or_on_two_processes_the_plots_are_the_same(tmp_path):
    made = yaml.safe_load((CONFIGS / "xor.yaml").read_text())
    made["trainer"]["callbacks"].append({"class_path": "tests.stopping.Stop"})
    (tmp_path / "xor.yaml").write_text(yaml.safe_dump(made))
    fit = ("fit", "--config", tmp_path / "xor.yaml", *IN_DOUBLE, "--trainer.accelerator=cpu")
    launch(*fit, "--trainer.default_root_dir=one", cwd=tmp_path)
    launch(*fit, *processes(2), "--data.batch_size=2", "--trainer.default_root_dir=two", cwd=tmp_path)
    environment = os.environ | {"STOP": "SIGKILL:on_train_batch_end:1300"}
    assert run_process(*fit, "--trainer.default_root_dir=killed", cwd=tmp_path, env=environment).returncode == -9
    launch("fit", "--ckpt_path", "killed/xor/version_0", cwd=tmp_path)
    for name in ("surface", "surface_growth", "curves"):
        one, two, killed = (pixels(tmp_path / run / f"xor/version_0/{name}.png") for run in ("one", "two", "killed"))
        assert np.array_equal(one, killed), name
        # Two processes sum up a mean in another order: a point may lie on the next pixel.
        assert (one != two).mean() < (1e-3 if name == "curves" else 1e-6), name
