"""Predicted against true values, a panel for each output."""

import numpy as np
import pytest
import torch
import yaml
from torchmetrics.functional import mean_absolute_error, r2_score

from src.callbacks.true_and_predicted import Points, plot_points
from src.module import LitModule
from tests.conftest import SMALL
from tests.pictures import CLASSIFICATION, NUM_ROWS, REGRESSION, run, sums, write_yaml

PLOT = "src.callbacks.true_and_predicted.TrueAndPredicted"


def points_of(target, predicted, most=100):
    points = Points(most, target[0].numel())
    points.update(predicted, target, torch.arange(len(target)))
    return points


def test_each_sample_is_a_point_in_the_panel_of_each_output(tmp_path):
    drawn = run(write_yaml(tmp_path / "x.yaml", REGRESSION, PLOT))
    x, target = sums()
    with torch.no_grad():
        predicted = LitModule.load_from_checkpoint(drawn.folder / "checkpoints/best.ckpt")(x)
    panels = drawn.axes("true_and_predicted")
    assert len(panels) == 2
    for k, axes in enumerate(panels):
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("true", "predicted")
        points, line = axes.get_lines()
        expected = torch.stack([target[:, k], predicted[:, k]], dim=1).numpy()
        assert np.allclose(sorted(points.get_xydata().tolist()), sorted(expected.tolist()), atol=1e-5)
        assert line.get_slope() == 1
        assert axes.get_title() == (
            f"output {k}: R2 {r2_score(predicted[:, k], target[:, k]):.4f}, MAE "
            f"{mean_absolute_error(predicted[:, k], target[:, k]):.3g}"
        )
    assert drawn.figures["true_and_predicted"].get_suptitle() == f"test: {NUM_ROWS} samples"


def test_of_many_samples_the_same_ones_are_drawn_for_any_batches_and_metrics_are_of_all():
    generator = torch.Generator().manual_seed(0)
    target = 1e4 + torch.randn(30_000, generator=generator)
    predicted = target + 0.5 * torch.randn(30_000, generator=generator)
    whole, one, other = points_of(target, predicted, 1_000), Points(1_000, 1), Points(1_000, 1)
    for part, start in ((one, 0), (other, 1)):
        for rows in torch.arange(30_000)[start::2].split(500):
            part.update(predicted[rows].unsqueeze(1), target[rows], rows)
    one.merge_state(other)
    assert torch.equal(one.keys, whole.keys)
    assert torch.equal(one.values, whole.values)
    r2, mae = (float(metric.compute()) for metric in one.metrics)
    assert r2 == pytest.approx(float(r2_score(predicted.double(), target.double())))
    assert mae == pytest.approx(float(mean_absolute_error(predicted, target)), rel=1e-4)
    # They come from the whole range of rows, not from its beginning.
    drawn = torch.isin(target, one.values[:, 0, 0]).nonzero().flatten()
    assert drawn.float().mean() == pytest.approx(15_000, rel=0.05)
    assert plot_points(one, "test").get_suptitle() == "test: 30,000 samples, 1,000 are drawn"


def test_values_that_are_not_finite_and_a_single_sample_are_drawn():
    target = torch.tensor([[1.0, torch.inf], [2.0, torch.inf]])
    assert len(plot_points(points_of(target, torch.full((2, 2), torch.nan)), "$a$").axes) == 2
    assert plot_points(points_of(torch.ones(1), torch.ones(1)), "a").axes[0].get_title() == "R2 nan, MAE nan"


def test_more_than_nine_outputs_are_counted():
    figure = plot_points(points_of(torch.randn(20, 3, 4), torch.randn(20, 3, 4)), "test")
    assert len(figure.axes) == 9
    assert figure.get_suptitle() == "test: 20 samples, 9 of 12 outputs"


def test_a_classification_is_one_line(tmp_path, capfd):
    assert not run(write_yaml(tmp_path / "x.yaml", CLASSIFICATION, PLOT)).figures
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "TrueAndPredicted" in line]
    assert line.startswith("note: TrueAndPredicted drew nothing: this is no regression")
    config = write_yaml(tmp_path / "y.yaml", yaml.safe_load(SMALL.read_text()), PLOT)
    assert not run(config, "--data.passes=1").figures
    assert "all targets are 0 or 1" in capfd.readouterr().err
