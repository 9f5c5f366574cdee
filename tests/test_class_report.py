"""The confusion matrix and the report are those of torchmetrics, for any classifier."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from torchmetrics.functional.classification import (
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

from src.callbacks.class_report import Counts, plot_report, report
from src.engine.loggers.pictures import Evaluated, Guesses
from src.module import LitModule
from tests.conftest import SMALL
from tests.pictures import CLASSIFICATION, NUM_ROWS, REGRESSION, Drawn, Own, bars, formulas, pixels, run, write_yaml
from tests.processes import launch, processes

REPORT = "src.callbacks.class_report.ClassReport"


def matrix_of(figure) -> torch.Tensor:
    """The numbers that stand in the cells."""
    axes = figure.axes[0]
    size = len(axes.get_xticks())
    cells = {(int(t.get_position()[1]), int(t.get_position()[0])): int(t.get_text()) for t in axes.texts}
    assert cells == {place: int(value) for place, value in np.ndenumerate(axes.images[0].get_array())}
    return torch.tensor([[cells[row, column] for column in range(size)] for row in range(size)])


def counts_of(matrix: torch.Tensor) -> Counts:
    """As if the samples of a matrix had been seen."""
    counts, (truth, guess) = Counts(), matrix.nonzero().repeat_interleave(matrix[matrix > 0], dim=0).unbind(dim=1)
    counts.add(SimpleNamespace(guesses=lambda: Guesses(truth, guess, truth, truth == truth, len(matrix))))
    return counts


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Drawn:
    return run(write_yaml(tmp_path_factory.mktemp("report") / "x.yaml", CLASSIFICATION, REPORT))


@pytest.fixture
def guess(drawn):
    """What the run's net makes of the test images."""
    with torch.no_grad():
        return LitModule.load_from_checkpoint(drawn.folder / "checkpoints/best.ckpt")(bars()[0]).argmax(dim=1)


def test_the_counts_are_those_of_the_metric(drawn, guess):
    expected = multiclass_confusion_matrix(guess, bars()[1], 3)
    assert torch.equal(matrix_of(drawn.figures["confusion"]), expected)
    assert 0 < expected.diag().sum() < NUM_ROWS  # there are mistakes to be seen
    assert f"{drawn.metric('test/acc'):.2%} of {NUM_ROWS} right" in drawn.figures["confusion"].get_suptitle()


def test_the_report_holds_torchmetrics_values_of_each_class(drawn, guess):
    with (drawn.folder / "report.csv").open() as file:
        *classes, mean = csv.DictReader(file)
    target = bars()[1]
    for name, metric in {
        "precision": multiclass_precision, "recall": multiclass_recall, "f1": multiclass_f1_score
    }.items():  # fmt: skip
        assert [float(row[name]) for row in classes] == pytest.approx(metric(guess, target, 3, average=None), abs=1e-4)
        assert float(mean[name]) == pytest.approx(float(metric(guess, target, 3, average="macro")), abs=1e-4)
    assert [row["class"] for row in classes] == ["low", "middle", "high"]
    assert [int(row["samples"]) for row in classes] == target.bincount().tolist()
    assert [int(row["guesses"]) for row in classes] == guess.bincount(minlength=3).tolist()
    assert float(mean["f1"]) == pytest.approx(drawn.metric("test/f1"), abs=1e-4)


def test_the_classes_have_their_names_on_both_axes_and_a_line_of_the_report(drawn):
    left, right = drawn.axes("confusion")
    assert [t.get_text() for t in left.get_xticklabels()] == ["low", "middle", "high"]
    assert [t.get_text() for t in left.get_yticklabels()] == ["low", "middle", "high"]
    assert (left.get_xlabel(), left.get_ylabel()) == ("Predicted class", "True class")
    assert [t.get_text() for t in right.get_xticklabels()] == ["precision", "recall", "f1"]
    rows = report(counts_of(matrix_of(drawn.figures["confusion"])), ["a", "b", "c"])
    written = [[float(t.get_text()) for t in right.texts[3 * k : 3 * k + 3]] for k in range(3)]
    assert written == [[round(row[n], 3) for n in ("precision", "recall", "f1")] for row in rows[:3]]


def test_a_class_that_was_never_there_nor_guessed_does_not_lower_the_mean():
    matrix = torch.tensor([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    guess, target = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1]), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    assert report(counts_of(matrix), list("abc"))[-1]["f1"] == pytest.approx(
        float(multiclass_f1_score(guess, target, 3, average="macro")), abs=1e-4
    )


def test_of_thousands_of_classes_each_is_in_the_report_and_neighbours_share_a_cell():
    truth = torch.arange(3_001)
    guess = truth.where(truth % 10 > 0, truth + 1).clamp(max=3_000)
    one, other = Counts(), Counts()
    for counts, rows in ((one, slice(0, None, 2)), (other, slice(1, None, 2))):
        num_classes = 900 if counts is other else 3_001  # it has seen the first classes alone
        few = torch.arange(3_001)[rows][: 400 if counts is other else None]
        seen = Guesses(truth[few], guess[few], truth[few], few >= 0, num_classes)
        counts.add(SimpleNamespace(guesses=lambda seen=seen: seen))
    other.merge_state(one)
    assert other.matrix.shape == (751, 751)
    assert int(other.matrix.sum()) == 1_501 + 400
    assert torch.equal(other.matrix.nonzero()[:, 0], other.matrix.nonzero()[:, 1])
    rows = report(other, [str(k) for k in range(3_001)])
    assert len(rows) == 3_002
    assert [rows[k]["recall"] for k in (0, 1, 2, 10, 11)] == [0, 1, 1, 0, 1]
    assert rows[-1]["samples"] == 1_901
    figure = plot_report(other, ["a" * 50_000, *map(str, range(1, 3_001))], "test")
    assert "4 classes a cell" in figure.get_suptitle()
    assert len(figure.axes[0].get_xticklabels()) <= 100
    assert not figure.axes[0].texts
    assert not figure.axes[1].texts
    assert max(figure.get_size_inches()) < 30


def test_a_single_logit_is_two_classes(tmp_path):
    drawn = run(write_yaml(tmp_path / "x.yaml", yaml.safe_load(SMALL.read_text()), REPORT), "--data.passes=250")
    counts = matrix_of(drawn.figures["confusion"])
    assert counts.shape == (2, 2)
    assert counts.sum(dim=1).tolist() == [2, 2]
    assert float(counts.diag().sum()) / 4 == pytest.approx(drawn.metric("test/acc"))


@pytest.mark.parametrize("returns", ["logits", "scores"])
def test_a_module_of_ones_own_returns_a_dict(returns, tmp_path):
    task = {
        "model": {"class_path": "tests.pictures.Own", "init_args": {"returns": returns}},
        "data": CLASSIFICATION["data"],
    }
    drawn = run(write_yaml(tmp_path / "x.yaml", task, REPORT), "--finite.enabled=true")
    module = drawn.trainer.lightning_module
    expected = multiclass_confusion_matrix(module.layers(bars()[0]).argmax(dim=1), bars()[1], 3)
    assert torch.equal(matrix_of(drawn.figures["confusion"]), expected)


def test_names_are_drawn_letter_by_letter_and_no_data_set_takes_the_place_of_another(tmp_path, capfd):
    config = write_yaml(tmp_path / "x.yaml", CLASSIFICATION, REPORT)
    with formulas() as noted:
        drawn = run(config, "--data=tests.pictures.OddData", "--model.metrics=null")
    assert noted == []
    assert len(drawn.figures) == 2
    assert max(pixels(drawn.folder / f"{name}.png").shape for name in drawn.figures)[0] < 1_000
    for name in drawn.figures:
        with (drawn.folder / f"{name.replace('confusion', 'report')}.csv").open(encoding="utf-8") as file:
            assert [row["class"] for row in csv.DictReader(file)][:2] == ["$0-$10", "$x^$"]


def test_of_several_data_sets_each_has_a_picture(tmp_path):
    drawn = run(write_yaml(tmp_path / "x.yaml", CLASSIFICATION, REPORT), "--data.sets=2", "--data.form=dict")
    counts = {name: int(matrix_of(figure).sum()) for name, figure in drawn.figures.items()}
    assert counts == {"confusion_day": NUM_ROWS, "confusion_night_rain": 25}
    assert (drawn.folder / "report_night_rain.csv").exists()


def test_a_fit_without_a_test_draws_its_last_validation(tmp_path):
    drawn = run(write_yaml(tmp_path / "x.yaml", CLASSIFICATION, REPORT), "--test_after_fit=false")
    figure = drawn.figures["confusion"]
    assert figure.get_suptitle().startswith("validation: ")
    assert float(matrix_of(figure).diag().sum()) / NUM_ROWS == pytest.approx(drawn.metric("val/acc"))


def test_a_regression_is_told_in_one_line_and_nothing_is_drawn(tmp_path, capfd):
    drawn = run(write_yaml(tmp_path / "x.yaml", REGRESSION, REPORT))
    assert drawn.figures == {}
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "ClassReport" in line]
    assert line.startswith("note: ClassReport drew nothing: this is no classification with one class for each sample")
    assert not (drawn.folder / "confusion.png").exists()


@pytest.mark.parametrize("ignored", [-100, 255, "the loss"])
def test_pixels_without_a_class_and_an_ignored_class_are_left_out(ignored):
    module, counts = Own(), Counts()
    first = 1
    if ignored == "the loss":
        module.loss, ignored, first = torch.nn.CrossEntropyLoss(ignore_index=0), 0, 0
    target = torch.tensor([[[0, 1], [ignored, 1]]])
    scores = torch.tensor([[0.9, 0.2], [0.3, 0.7]]).expand(1, 1, 2, 2)
    outputs = {"scores": torch.cat([scores, 1 - scores], dim=1), "target": target}
    counts.add(Evaluated(SimpleNamespace(testing=True), module, outputs, None, 0, 0))
    assert counts.matrix.tolist() == [[first, 0], [1, 1]]


@pytest.mark.slow
def test_two_processes_draw_what_one_draws(drawn, tmp_path):
    launch(
        "test",
        "--ckpt_path",
        drawn.folder / "checkpoints/best.ckpt",
        *processes(2),
        "--trainer.default_root_dir=two",
        cwd=tmp_path,
    )
    two = tmp_path / "two/pictures/version_0"
    assert (two / "report.csv").read_text() == (drawn.folder / "report.csv").read_text()
    assert np.array_equal(pixels(two / "confusion.png"), pixels(drawn.folder / "confusion.png"))
