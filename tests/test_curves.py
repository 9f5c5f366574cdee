"""Learning curves hold what metrics.csv holds, however a fit ended."""

import os
import re
import signal

import pytest

from src.callbacks.curves import plot_curves
from tests.pictures import CLASSIFICATION, Drawn, figures, formulas, pixels, run, write_yaml
from tests.stopping import config, fit, resume, rows

CURVES = {"class_path": "src.callbacks.curves.Curves"}
NAMES = {"learning rate": "", "train": "train/", "val": "val/", "test": "test/"}


def assert_equal_to_the_file(figure, run):
    """Each column of metrics.csv is a curve of its panel, point by point."""
    found = {}
    for axes in figure.axes:
        for line in axes.get_lines():
            stage, *rest = line.get_label().split(" ")
            name = stage if axes.get_title() == "learning rate" else "/".join([stage, axes.get_title(), *rest])
            found[name] = line.get_xydata().tolist()
            assert axes.get_xlabel() in ("epoch", "step")
    x = figure.axes[0].get_xlabel()
    columns = dict.fromkeys(name for row in rows(run) for name in row if name not in ("epoch", "step"))
    in_file = {n: [[float(row[x]), float(row[n])] for row in rows(run) if row.get(n)] for n in columns}
    assert found == in_file


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Drawn:
    return run(write_yaml(tmp_path_factory.mktemp("curves") / "x.yaml", CLASSIFICATION, CURVES["class_path"]))


def test_the_points_are_those_of_metrics_csv(drawn):
    assert_equal_to_the_file(drawn.figures["curves"], drawn.folder)


def test_there_is_a_panel_for_the_loss_for_each_metric_and_for_the_rate(drawn):
    panels = {axes.get_title(): {t.get_text() for t in axes.get_legend().get_texts()} for axes in drawn.axes("curves")}
    assert list(panels) == ["loss", "acc", "f1", "recall", "learning rate"]
    assert panels["loss"] == {"train", "val", "test"}
    assert panels["acc"] == {"val", "test"}
    assert panels["recall"] == {f"{stage} {name}" for stage in ("val", "test") for name in ("low", "middle", "high")}
    assert panels["learning rate"] == {"lr"}


@pytest.mark.parametrize(
    ("column", "panel", "label"),
    [
        ("train/loss", "loss", "train"),
        ("valid_loss", "loss", "val"),
        ("validation/acc", "acc", "val"),
        ("training_loss", "loss", "train"),
        ("value_loss", "value_loss", "train"),
        ("testimony", "testimony", "train"),
        ("train_loss_epoch", "loss", "train"),
    ],
)
def test_a_name_is_taken_apart_at_its_separator_alone(column, panel, label):
    (axes,) = plot_curves([{"epoch": "0", "step": "1", column: "0.5"}]).axes
    assert (axes.get_title(), [line.get_label() for line in axes.get_lines()]) == (panel, [label])


def test_the_picture_is_white_and_has_color(drawn):
    image = pixels(drawn.folder / "curves.png")
    assert (image[0] == 255).all()
    assert len({tuple(color) for color in image.reshape(-1, 3).tolist()}) > 50


@pytest.mark.slow
def test_a_run_that_was_resumed_has_the_curves_of_one_that_was_not(tmp_path):
    made = config(callbacks=(CURVES,))
    with figures() as whole:
        fit(tmp_path / "whole", made)
    with figures() as stopped:
        folder = fit(tmp_path / "stopped", made, ("on_train_batch_end", 30))
    # The crash left a picture of what there was.
    assert len(stopped["curves"].axes[0].get_lines()[0].get_xdata()) == 2
    with figures() as resumed:
        assert resume(folder) == 0
    assert_equal_to_the_file(resumed["curves"], folder)
    for one, other in zip(whole["curves"].axes, resumed["curves"].axes, strict=True):
        for a, b in zip(one.get_lines(), other.get_lines(), strict=True):
            assert a.get_xydata().tolist() == b.get_xydata().tolist()


def test_a_signal_leaves_the_curves_of_what_was_trained(tmp_path):
    with figures() as drawn:
        run = fit(
            tmp_path,
            config(callbacks=(CURVES,)),
            ("on_train_batch_end", 30),
            lambda: signal.raise_signal(signal.SIGTERM),
        )
    assert drawn["curves"].axes[0].get_lines()[0].get_xdata().tolist() == [1, 2]
    assert (run / "curves.png").exists()


def test_a_validation_amid_an_epoch_puts_the_points_at_their_steps(tmp_path):
    with figures() as drawn:
        folder = fit(tmp_path, config(callbacks=(CURVES,), val_check_interval=5, max_epochs=2))
    assert drawn["curves"].axes[0].get_xlabel() == "step"
    assert_equal_to_the_file(drawn["curves"], folder)


def test_names_of_a_module_of_ones_own_find_their_panel():
    row = {
        "epoch": "1",
        "step": "3",
        "lr": "0.1",
        "lr/1": "0.2",
        "train_loss_epoch": "2",
        "val_loss": "1",
        "grad_norm": "7",
    }
    found = {axes.get_title(): {line.get_label() for line in axes.get_lines()} for axes in plot_curves([row]).axes}
    assert found == {"loss": {"train", "val"}, "grad_norm": {"train"}, "learning rate": {"lr", "lr/1"}}


def test_names_are_drawn_letter_by_letter_and_of_thousands_of_metrics_some_have_a_panel(tmp_path, capsys):
    row = {"epoch": "1", "step": "3", "train/$x^$": "1", "val/$x^$/$a$": "1", "/$_$": "2", "val/\n/\n": "inf"}
    table = [row, row | {"epoch": "2", "step": "6", "train/$x^$": "1e-5"}]
    with formulas() as noted:
        figure = plot_curves(table)
        figure.savefig(tmp_path / "curves.png")
    assert noted == []
    assert "\\$x^\\$" in [axes.get_title() for axes in figure.axes]
    many = {f"train/{kind}{k}": "1" for k in range(3_000) for kind in ("grad_", "val/f1/")}
    assert len(plot_curves([{"epoch": "1", "step": "3"} | many]).axes) == 30
    assert "note: curves.png has 30 of 3001 metrics" in capsys.readouterr().err


def test_two_columns_of_one_name_are_two_curves():
    (axes,) = plot_curves([{"epoch": "1", "step": "3", "train_loss_step": "1", "train_loss_epoch": "2"}]).axes
    assert sorted(line.get_ydata()[0] for line in axes.get_lines()) == [1, 2]


def test_a_long_file_is_thinned_out_says_so_and_keeps_the_test(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("src.callbacks.curves.MAX_VALUES", 20)
    drawn = run(write_yaml(tmp_path / "x.yaml", CLASSIFICATION, CURVES["class_path"]))
    every = int(re.search(r"curves.png has one of (\d+) rows", capfd.readouterr().err)[1])
    assert every > 1
    train, val, test = (len(line.get_xdata()) for line in drawn.axes("curves")[0].get_lines())
    assert train == val == -(-4 // every)
    assert test == 1


def test_a_loss_of_several_orders_has_a_logarithmic_axis_also_with_a_nan_in_it():
    table = [
        {"epoch": str(k), "step": str(k), "lr": "0", "train/loss": loss} for k, loss in enumerate(["1", "nan", "0.001"])
    ]
    assert plot_curves(table).axes[0].get_yscale() == "log"


def test_a_test_of_its_own_has_no_curves(drawn, tmp_path):
    from src.cli import main

    with figures() as found:
        main(["test", "--ckpt_path", str(drawn.folder), f"--trainer.default_root_dir={tmp_path}"])
    assert found == {}
    assert os.listdir(tmp_path / "pictures") == ["version_0"]
