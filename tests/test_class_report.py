"""The confusion matrix and the report hold torchmetrics' values, for any classifier."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import (
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

from src.callbacks.class_report import ClassReport, plot_report, scores_of
from src.engine.errors import UserError
from tests.pictures import NUM_ROWS, Data, OddData, bars, classifier, evaluate, formulas

METRICS = {"precision": multiclass_precision, "recall": multiclass_recall, "f1": multiclass_f1_score}


def matrix_of(figure) -> torch.Tensor:
    """The numbers that stand in the cells."""
    (axes,) = figure.axes
    cells = {(int(t.get_position()[1]), int(t.get_position()[0])): int(t.get_text()) for t in axes.texts}
    shown = axes.images[0].get_array()
    assert cells == {place: int(value) for place, value in np.ndenumerate(shown)}
    return torch.as_tensor(shown.data).long()


def read_report(folder, suffix=""):
    with (folder / f"report{suffix}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_it_draws_and_writes_torchmetrics_values(tmp_path):
    module, (images, target) = classifier(), bars()
    figure = evaluate(ClassReport(), module, Data(), tmp_path)["confusion"]
    guess = module(images).argmax(dim=1)
    expected = multiclass_confusion_matrix(guess, target, 3)
    assert torch.equal(matrix_of(figure), expected)
    accuracy = int(expected.diag().sum()) / NUM_ROWS
    assert 0.5 < accuracy < 1
    assert f"{accuracy:.2%} of {NUM_ROWS} right" in figure.get_suptitle()
    *classes, mean = read_report(tmp_path)
    for name, metric in METRICS.items():
        values = metric(guess, target, 3, average=None).tolist()
        assert [float(row[name]) for row in classes] == pytest.approx(values, abs=1e-4)
        assert float(mean[name]) == pytest.approx(float(metric(guess, target, 3, average="macro")), abs=1e-4)
    names = ["low", "middle", "high"]
    counts = zip(names, target.bincount().tolist(), guess.bincount(minlength=3).tolist(), strict=True)
    assert [(row["class"], int(row["samples"]), int(row["guesses"])) for row in classes] == [*counts]
    (axes,) = figure.axes
    labels = [f"{name}  {f1:.2f}" for name, f1 in zip(names, values, strict=True)]
    assert [t.get_text() for t in axes.get_yticklabels()] == labels
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Predicted class", "True class and F1")


def test_a_class_that_neither_came_nor_was_guessed_leaves_the_mean_alone():
    guess, truth = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1]), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    mean = scores_of(multiclass_confusion_matrix(guess, truth, 3))[2, -1]
    assert mean == pytest.approx(float(multiclass_f1_score(guess, truth, 3, average="macro")))
    with pytest.raises(UserError, match="no target"):
        scores_of(torch.zeros(3, 3, dtype=torch.int64))


def test_many_classes_have_no_numbers_and_thousands_no_matrix():
    matrix = torch.eye(300, dtype=torch.int64)
    figure = plot_report(matrix, ["a" * 50_000, *map(str, range(1, 300))], scores_of(matrix), "test")
    assert len(figure.axes[0].texts) == 0
    assert len(figure.axes[0].get_xticklabels()) <= 100
    assert max(figure.get_size_inches()) < 15
    with pytest.raises(UserError, match="1,001 classes are too many"):
        ClassReport().begin(SimpleNamespace(classes=lambda: (torch.zeros(1, 1_001), None)))


def test_names_are_drawn_letter_by_letter_and_each_data_set_has_a_plot(tmp_path):
    drawn = evaluate(ClassReport(), classifier(), OddData(), tmp_path)
    assert [formulas(figure) for figure in drawn.values()] == [[], []]
    assert sorted(int(matrix_of(figure).sum()) for figure in drawn.values()) == [25, NUM_ROWS]
    for name in drawn:
        rows = read_report(tmp_path, name.removeprefix("confusion"))
        assert [row["class"] for row in rows][:2] == ["$0-$10", "$x^$"]
