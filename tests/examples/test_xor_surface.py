"""XOR's decision surface: its values are the net's, and its stages are those of the training."""

import csv
import os
import signal

import numpy as np
import pytest
import torch
import yaml

from src.callbacks.xor_surface import HIGH, LOW, SIDE, XorSurface, plot_growth, surface, weights_of
from src.cli import main
from src.data.xor import INPUTS, TARGETS
from src.engine.errors import UserError
from src.module import LitModule
from tests.conftest import CONFIGS, run_process
from tests.pictures import figures, pixels
from tests.processes import IN_DOUBLE, launch, processes
from tests.stopping import run_main

STAGES = [0, 25, 50, 75, 100, 150, 250, 500, 1000, 2000]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A run as `make train` does it: its folder, and its figures by name."""
    place = tmp_path_factory.mktemp("surface")
    with figures() as kept:
        main(["fit", "--config", str(CONFIGS / "xor.yaml"), f"--trainer.default_root_dir={place}"])
    return place / "xor/version_0", kept


def at_the_points(axes) -> list[float]:
    """What a surface shows at XOR's four points."""
    image = axes.images[0]
    assert image.get_extent() == [LOW, HIGH, LOW, HIGH]
    assert image.origin == "lower"
    array = image.get_array()
    places = ((INPUTS - LOW) / (HIGH - LOW) * (SIDE - 1)).round().int().tolist()
    return [float(array[row, column]) for column, row in places]


def test_more_stages_than_fit_side_by_side_are_one_line():
    with pytest.raises(UserError, match="stages has 1000 steps; at most 20"):
        XorSurface(tuple(range(1_000)))


def test_the_surface_at_the_four_points_is_what_predict_says(drawn, tmp_path):
    folder, kept = drawn
    assert run_main(["predict", "--ckpt_path", str(folder), f"--trainer.default_root_dir={tmp_path}"]) == 0
    with (tmp_path / "xor/version_0/predictions.csv").open() as file:
        outputs = [float(row["output"]) for row in csv.DictReader(file)]
    assert at_the_points(kept["surface"].axes[0]) == pytest.approx(outputs, abs=6e-4)  # of three digits


def test_it_shows_the_four_points_with_their_truth_and_what_the_axes_are(drawn):
    axes = drawn[1]["surface"].axes[0]
    (points,) = [each for each in axes.collections if len(each.get_offsets()) == 4]
    assert points.get_offsets().tolist() == INPUTS.tolist()
    assert points.get_array().tolist() == TARGETS[:, 0].tolist()
    assert [text.get_text() for text in axes.texts] == ["0", "1", "1", "0"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("first input", "second input")


def test_where_the_surface_is_undecided_is_a_line_between_the_points(drawn):
    axes = drawn[1]["surface"].axes[0]
    (line,) = [each for each in axes.collections if len(each.get_offsets()) != 4]
    vertices = np.concatenate([path.vertices for path in line.get_paths()])
    module = LitModule.load_from_checkpoint(drawn[0])
    with torch.no_grad():
        values = module.scores(module(torch.tensor(vertices, dtype=torch.float32)))
    assert float((values - 0.5).abs().max()) < 0.1


def test_the_strip_shows_each_stage_as_the_net_was_then(drawn):
    panels = drawn[1]["surface_growth"].axes
    assert [axes.get_title() for axes in panels] == [f"step {step:,}" for step in STAGES]
    torch.manual_seed(42)
    net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    expected = {}
    for step in range(2_001):
        if step in STAGES:
            expected[step] = net(INPUTS).sigmoid().flatten().tolist()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(net(INPUTS), TARGETS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for axes, step in zip(panels, STAGES, strict=True):
        assert at_the_points(axes) == pytest.approx(expected[step], abs=1e-5)


def test_a_run_that_was_stopped_shows_the_stages_before_it_too(drawn, tmp_path):
    made = yaml.safe_load((CONFIGS / "xor.yaml").read_text())
    made["trainer"]["callbacks"].append({"class_path": "tests.stopping.Stop"})
    made["trainer"]["max_epochs"] = 1
    (tmp_path / "xor.yaml").write_text(yaml.safe_dump(made))
    fit = ["fit", "--config", str(tmp_path / "xor.yaml"), f"--trainer.default_root_dir={tmp_path}"]
    assert run_main(fit, ("on_train_batch_end", 120), lambda: signal.raise_signal(signal.SIGTERM)) == 143
    with figures() as kept:
        assert run_main(["fit", "--ckpt_path", str(tmp_path / "xor/version_0")]) == 0
    stages = kept["surface_growth"].axes
    assert [axes.get_title() for axes in stages] == [f"step {step}" for step in STAGES if step <= 250]
    for one, other in zip(drawn[1]["surface_growth"].axes, stages, strict=False):
        assert np.array_equal(one.images[0].get_array(), other.images[0].get_array())


def test_a_best_checkpoint_of_an_early_step_takes_no_stage_away(tmp_path):
    early = ("--checkpoint.mode=max", "--trainer.max_epochs=3", f"--trainer.default_root_dir={tmp_path}")
    with figures() as kept:
        main(["fit", "--config", str(CONFIGS / "xor.yaml"), *early])
    best = torch.load(tmp_path / "xor/version_0/checkpoints/best.ckpt", weights_only=True)
    assert best["global_step"] == 250
    assert [axes.get_title() for axes in kept["surface_growth"].axes][-2:] == ["step 500", "step 750"]


def test_a_test_of_its_own_draws_the_surface_of_the_checkpoint_and_no_strip(drawn, tmp_path):
    with figures() as kept:
        assert run_main(["test", "--ckpt_path", str(drawn[0]), f"--trainer.default_root_dir={tmp_path}"]) == 0
    assert list(kept) == ["surface"]
    assert np.array_equal(pixels(tmp_path / "xor/version_0/surface.png"), pixels(drawn[0] / "surface.png"))


def test_weights_that_never_cross_a_half_have_no_line():
    module = LitModule(torch.nn.Linear(2, 1), torch.nn.BCEWithLogitsLoss(), torch.optim.SGD)
    weights = {name: torch.zeros_like(value) - 1 for name, value in weights_of(module).items()}
    (axes,) = plot_growth({7: surface(module, weights | {"net.weight": torch.zeros(1, 2)})}).axes
    assert len(axes.collections) == 1
    assert axes.get_title() == "step 7"


@pytest.mark.slow
def test_killed_and_resumed_or_on_two_processes_the_pictures_are_the_same(tmp_path):
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
