"""Predicted against true values, a panel for each output."""

import numpy as np
import pytest
import torch
import yaml
from torchmetrics.functional import mean_absolute_error, r2_score

from src.callbacks.true_and_predicted import Points, plot_points
from src.module import LitModule
from tests.conftest import SMALL
from tests.pictures import CLASSIFICATION, NUM_ROWS, REGRESSION, Drawn, run, sums, write_yaml

PICTURE = "src.callbacks.true_and_predicted.TrueAndPredicted"


class Batch:
    """A target of D outputs and what was predicted."""

    def __init__(self, target, scores, rows):
        self.target, self.scores, self.rows = target, scores, rows

    def places(self, num_rows):
        return self.rows


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Drawn:
    return run(write_yaml(tmp_path_factory.mktemp("regression") / "x.yaml", REGRESSION, PICTURE))


def test_each_sample_is_a_point_in_the_panel_of_each_output(drawn):
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


def test_of_many_samples_some_are_drawn_the_same_for_any_batches_and_the_figures_are_of_all():
    generator = torch.Generator().manual_seed(0)
    target = 100 + torch.randn(30_000, generator=generator)
    scores = target + 0.5 * torch.randn(30_000, generator=generator)
    rows = torch.arange(30_000)
    whole, one, other = Points(1_000), Points(1_000), Points(1_000)
    whole.add(Batch(target, scores, rows))
    for part, start in ((one, 0), (other, 1)):
        for mine in rows[start::2].split(500):
            part.add(Batch(target[mine], scores[mine].unsqueeze(1), mine))
    one.merge_state(other)
    assert torch.equal(one.keys, whole.keys)
    assert torch.equal(one.values, whole.values)
    assert len(one.values) == 1_000
    found = one.metrics[0].compute()
    assert float(found["R2"]) == pytest.approx(float(r2_score(scores.double(), target.double())))
    assert float(found["MAE"]) == pytest.approx(float(mean_absolute_error(scores, target)), rel=1e-5)
    # They are of the whole range of rows, not of its beginning.
    drawn = torch.isin(target, one.values[:, 0, 0]).nonzero().flatten()
    assert drawn.float().mean() == pytest.approx(15_000, rel=0.05)
    assert plot_points(one, "test").get_suptitle() == "test: 30,000 samples, 1,000 are drawn"


def test_what_is_not_finite_is_no_point():
    points = Points(100)
    points.add(
        Batch(torch.tensor([[1.0, torch.inf], [2.0, torch.inf]]), torch.full((2, 2), torch.nan), torch.arange(2))
    )
    assert len(plot_points(points, "$a$").axes) == 2


def test_more_than_nine_outputs_are_said():
    points = Points(100)
    points.add(Batch(torch.randn(20, 3, 4), torch.randn(20, 3, 4), torch.arange(20)))
    figure = plot_points(points, "test")
    assert len(figure.axes) == 9
    assert figure.get_suptitle() == "test: 20 samples, 9 of 12 outputs"


def test_a_value_that_nobody_measured_has_no_error_and_the_number_of_the_others_is_told():
    target = torch.tensor([[1.0, 4.0], [2.0, torch.nan], [4.0, torch.nan], [5.0, 8.0]])
    scores = torch.tensor([[1.0, 5.0], [3.0, 0.0], [4.0, 9.0], [7.0, 8.0]])
    points = Points(100)
    points.add(Batch(target, scores, torch.arange(4)))
    figure = plot_points(points, "test")
    assert figure.get_suptitle() == "test: 4 samples"
    assert [axes.get_title() for axes in figure.axes] == [
        "output 0: R2 0.5000, MAE 0.75",
        "output 1: R2 0.8750, MAE 0.5 of 2",
    ]


def test_a_classification_is_told_in_one_line(tmp_path, capfd):
    assert not run(write_yaml(tmp_path / "x.yaml", CLASSIFICATION, PICTURE)).figures
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "TrueAndPredicted" in line]
    assert line.startswith("note: TrueAndPredicted drew nothing: this is no regression")


def test_targets_of_0_and_1_alone_are_told(tmp_path, capfd):
    config = write_yaml(tmp_path / "x.yaml", yaml.safe_load(SMALL.read_text()), PICTURE)
    assert not run(config, "--data.passes=1").figures
    assert "all true values are 0 or 1" in capfd.readouterr().err
