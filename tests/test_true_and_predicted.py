"""Predicted against true values, a panel for each output."""

from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from torchmetrics.functional import mean_absolute_error, r2_score

from src.callbacks.true_and_predicted import TrueAndPredicted, plot_points
from src.module import LitModule
from tests.pictures import NUM_ROWS, Data, classifier, evaluate, sums


def test_each_sample_is_a_point_in_the_panel_of_each_output(tmp_path):
    torch.manual_seed(0)
    module, (x, target) = LitModule(nn.Linear(4, 2), nn.MSELoss(), torch.optim.SGD), sums()
    figure = evaluate(TrueAndPredicted(), module, Data((x, target)), tmp_path)["true_and_predicted"]
    predicted, target = module(x).detach().double(), target.double()
    assert len(figure.axes) == 2
    for k, axes in enumerate(figure.axes):
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("true", "predicted")
        points, line = axes.get_lines()
        expected = torch.stack([target[:, k], predicted[:, k]], dim=1).numpy()
        assert np.allclose(sorted(points.get_xydata().tolist()), sorted(expected.tolist()), atol=1e-5)
        assert line.get_slope() == 1
        assert axes.get_title() == (
            f"output {k}: R2 {r2_score(predicted[:, k], target[:, k]):.4f}, MAE "
            f"{mean_absolute_error(predicted[:, k], target[:, k]):.3g}"
        )
    assert figure.get_suptitle() == f"test: {NUM_ROWS} samples"


def test_of_many_samples_the_same_ones_are_drawn_in_any_order_and_metrics_are_of_all():
    target = 1e4 + torch.randn(30_000, generator=torch.Generator().manual_seed(0))
    scores = target + 0.5 * torch.randn(30_000, generator=torch.Generator().manual_seed(1))

    def batch(rows):
        return SimpleNamespace(scores=scores[rows], target=target[rows], places=lambda number: rows)

    batches, figures = [batch(rows) for rows in torch.arange(30_000).split(500)], []
    picture = TrueAndPredicted(1_000)
    picture.save = lambda trainer, name, figure: figures.append(figure)
    for order in (batches, batches[::-1]):
        seen = picture.begin(order[0])
        for batch in order:
            picture.add(seen, batch)
        picture.draw_seen(None, None, seen, "")
    one, two = (figure.axes[0].get_lines()[0].get_xydata() for figure in figures)
    assert np.array_equal(one, two)
    assert len(one) == 1_000
    r2, mae = r2_score(scores.double(), target.double()), mean_absolute_error(scores, target)
    assert figures[1].axes[0].get_title() == f"R2 {r2:.4f}, MAE {mae:.3g}"
    assert figures[1].get_suptitle() == "test: 30,000 samples, 1,000 are drawn"


def test_values_that_are_not_finite_and_a_single_sample_are_drawn():
    target = torch.tensor([[1.0, torch.inf], [2.0, torch.inf]])
    assert len(plot_points(target, torch.full((2, 2), torch.nan), 9, "$a$").axes) == 2
    assert plot_points(torch.ones(1, 1), torch.ones(1, 1), 9, "a").axes[0].get_title() == "R2 nan, MAE 0"


def test_of_many_outputs_nine_are_drawn_and_a_classification_is_one_line(tmp_path, capfd):
    x, _ = sums()
    module = LitModule(nn.Linear(4, 12), nn.MSELoss(), torch.optim.SGD)
    figure = evaluate(TrueAndPredicted(), module, Data((x, torch.randn(NUM_ROWS, 12))), tmp_path)["true_and_predicted"]
    assert len(figure.axes) == 9
    assert figure.get_suptitle() == "test: 50 samples, the first 9 outputs"
    assert not evaluate(TrueAndPredicted(), classifier(), Data(), tmp_path)
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "TrueAndPredicted" in line]
    assert line.startswith("note: TrueAndPredicted drew nothing: this is no regression")
