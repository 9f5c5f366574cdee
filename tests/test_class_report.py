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

from src.callbacks.class_report import ClassReport, plot_report, report
from src.engine.loggers.evaluated import Evaluated
from src.module import LitModule
from tests.pictures import CLASSIFICATION, NUM_ROWS, REGRESSION, Own, bars, formulas, run, write_yaml

REPORT = "src.callbacks.class_report.ClassReport"
METRICS = {"precision": multiclass_precision, "recall": multiclass_recall, "f1": multiclass_f1_score}


def matrix_of(figure) -> torch.Tensor:
    """The numbers that stand in the cells."""
    axes = figure.axes[0]
    cells = {(int(t.get_position()[1]), int(t.get_position()[0])): int(t.get_text()) for t in axes.texts}
    shown = axes.images[0].get_array()
    assert cells == {place: int(value) for place, value in np.ndenumerate(shown)}
    return torch.as_tensor(shown.data).long()


def read_report(folder, suffix=""):
    with (folder / f"report{suffix}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_run_draws_and_writes_torchmetrics_values(tmp_path):
    drawn = run(write_yaml(tmp_path / "x.yaml", CLASSIFICATION, REPORT))
    images, target = bars()
    with torch.no_grad():
        guess = LitModule.load_from_checkpoint(drawn.folder / "checkpoints/best.ckpt")(images).argmax(dim=1)
    figure = drawn.figures["confusion"]
    expected = multiclass_confusion_matrix(guess, target, 3)
    assert torch.equal(matrix_of(figure), expected)
    assert 0 < expected.diag().sum() < NUM_ROWS  # there are mistakes
    assert f"{drawn.metric('test/acc'):.2%} of {NUM_ROWS} right" in figure.get_suptitle()
    *classes, mean = read_report(drawn.folder)
    for (name, metric), dots in zip(METRICS.items(), figure.axes[1].get_lines(), strict=True):
        values = metric(guess, target, 3, average=None)
        assert [float(row[name]) for row in classes] == pytest.approx(values.tolist(), abs=1e-4)
        assert dots.get_xdata() == pytest.approx(values.tolist(), abs=1e-4)
        assert float(mean[name]) == pytest.approx(float(metric(guess, target, 3, average="macro")), abs=1e-4)
    assert [row["class"] for row in classes] == ["low", "middle", "high"]
    assert [int(row["samples"]) for row in classes] == target.bincount().tolist()
    assert [int(row["guesses"]) for row in classes] == guess.bincount(minlength=3).tolist()
    left = figure.axes[0]
    assert [t.get_text() for t in left.get_yticklabels()] == ["low", "middle", "high"]
    assert (left.get_xlabel(), left.get_ylabel()) == ("Predicted class", "True class")


def test_a_class_that_neither_came_nor_was_guessed_leaves_the_mean_alone():
    guess, truth = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1]), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    mean = report(multiclass_confusion_matrix(guess, truth, 3), list("abc"))[-1]
    assert mean["f1"] == pytest.approx(float(multiclass_f1_score(guess, truth, 3, average="macro")), abs=1e-4)


@pytest.mark.parametrize(("number", "texts"), [(25, 625), (300, 0)])
def test_many_classes_have_no_numbers(number, texts):
    matrix = torch.eye(number, dtype=torch.int64)
    figure = plot_report(matrix, report(matrix, ["a" * 50_000, *map(str, range(1, number))]), "test")
    assert len(figure.axes[0].texts) == texts
    assert len(figure.axes[0].get_xticklabels()) <= 100
    assert max(figure.get_size_inches()) < 15


@pytest.mark.parametrize("returns", ["logits", "scores"])
def test_a_module_of_ones_own_returns_a_dict(returns, tmp_path):
    model = {"class_path": "tests.pictures.Own", "init_args": {"returns": returns}}
    drawn = run(write_yaml(tmp_path / "x.yaml", {"model": model, "data": CLASSIFICATION["data"]}, REPORT))
    expected = multiclass_confusion_matrix(drawn.trainer.lightning_module.layers(bars()[0]).argmax(dim=1), bars()[1], 3)
    assert torch.equal(matrix_of(drawn.figures["confusion"]), expected)


def test_names_are_drawn_letter_by_letter_and_each_data_set_has_a_plot(tmp_path):
    config = write_yaml(tmp_path / "x.yaml", CLASSIFICATION, REPORT)
    with formulas() as noted:
        drawn = run(config, "--data=tests.pictures.OddData", "--model.metrics=null")
    assert noted == []
    assert sorted(int(matrix_of(figure).sum()) for figure in drawn.figures.values()) == [25, NUM_ROWS]
    for name in drawn.figures:
        rows = read_report(drawn.folder, name.removeprefix("confusion"))
        assert [row["class"] for row in rows][:2] == ["$0-$10", "$x^$"]


@pytest.mark.parametrize(
    ("task", "options", "said"),
    [
        (REGRESSION, (), "this is no classification with one class for each sample"),
        (CLASSIFICATION, ("--model.net.outputs=1001", "--model.metrics=null"), "1,001 classes are too many"),
    ],
)
def test_another_task_is_one_line_and_no_plot(task, options, said, tmp_path, capfd):
    assert run(write_yaml(tmp_path / "x.yaml", task, REPORT), *options).figures == {}
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "ClassReport" in line]
    assert line.startswith(f"note: ClassReport drew nothing: {said}")


@pytest.mark.parametrize("ignored", [-100, 255, "the loss"])
def test_pixels_without_a_class_and_an_ignored_class_are_left_out(ignored):
    module, picture = Own(), ClassReport()
    first = 1
    if ignored == "the loss":
        module.loss, ignored, first = torch.nn.CrossEntropyLoss(ignore_index=0), 0, 0
    target = torch.tensor([[[0, 1], [ignored, 1]]])
    scores = torch.tensor([[0.9, 0.2], [0.3, 0.7]]).expand(1, 1, 2, 2)
    outputs = {"scores": torch.cat([scores, 1 - scores], dim=1), "target": target}
    batch = Evaluated(SimpleNamespace(testing=True), module, outputs, None, 0, 0)
    picture.add(seen := picture.begin(batch), batch)
    assert seen.compute().tolist() == [[first, 0], [1, 1]]
