"""Learning curves hold what metrics.csv holds, however a fit ended."""

import signal

import pytest

from src.callbacks.curves import plot_curves
from tests.pictures import figures, formulas, pixels
from tests.stopping import config, fit, resume, rows, run_main

CURVES = {"class_path": "src.callbacks.curves.Curves"}


def assert_equal_to_the_file(figure, folder):
    """Each column of metrics.csv is a curve of its panel, point by point."""
    found = {}
    for axes in figure.axes:
        for line in axes.get_lines():
            stage, *rest = line.get_label().split(" ")
            name = stage if axes.get_title() == "learning rate" else "/".join([stage, axes.get_title(), *rest])
            found[name] = line.get_xydata().tolist()
    x = figure.axes[0].get_xlabel()
    columns = dict.fromkeys(name for row in rows(folder) for name in row if name not in ("epoch", "step"))
    assert found == {n: [[float(row[x]), float(row[n])] for row in rows(folder) if row.get(n)] for n in columns}


def test_a_signal_leaves_the_curves_so_far_and_a_resume_has_those_of_the_whole_run(tmp_path):
    made = config(callbacks=(CURVES,)) | {"test_after_fit": True}
    with figures() as stopped:
        folder = fit(tmp_path, made, ("on_train_batch_end", 30), lambda: signal.raise_signal(signal.SIGTERM))
    assert stopped["curves"].axes[0].get_lines()[0].get_xdata().tolist() == [1, 2]
    with figures() as resumed:
        assert resume(folder) == 0
    figure = resumed["curves"]
    assert_equal_to_the_file(figure, folder)
    panels = {axes.get_title(): [t.get_text() for t in axes.get_legend().get_texts()] for axes in figure.axes}
    assert panels == {"loss": ["train", "val", "test"], "mae": ["val", "test"], "learning rate": ["lr"]}
    image = pixels(folder / "curves.png")
    assert (image[0] == 255).all()
    assert len({tuple(color) for color in image.reshape(-1, 3).tolist()}) > 50
    with figures() as tested:
        assert run_main(["test", "--ckpt_path", str(folder), f"--trainer.default_root_dir={tmp_path}"]) == 0
    assert tested == {}


def test_a_crash_leaves_the_curves_so_far_and_a_validation_within_an_epoch_stands_at_its_step(tmp_path):
    made = config(callbacks=(CURVES,), val_check_interval=5, max_epochs=2)
    with figures() as drawn:
        folder = fit(tmp_path, made, ("on_train_batch_end", 20))
    assert drawn["curves"].axes[0].get_xlabel() == "step"
    assert_equal_to_the_file(drawn["curves"], folder)
    assert (folder / "curves.png").exists()


@pytest.mark.parametrize(
    ("column", "panel", "label"),
    [
        ("train/loss", "loss", "train"),
        ("validation/acc", "acc", "val"),
        ("training_loss", "loss", "train"),
        ("train_loss_epoch", "loss", "train"),
        ("val/acc/night", "acc", "val night"),
        ("lr/1", "learning rate", "lr/1"),
    ],
)
def test_a_column_finds_its_panel(column, panel, label):
    (axes,) = plot_curves([{"epoch": "0", "step": "1", column: "0.5"}]).axes
    assert (axes.get_title(), [line.get_label() for line in axes.get_lines()]) == (panel, [label])


def test_two_columns_of_one_name_are_two_curves():
    (axes,) = plot_curves([{"epoch": "1", "step": "3", "train_loss_step": "1", "train_loss_epoch": "2"}]).axes
    assert sorted(line.get_ydata()[0] for line in axes.get_lines()) == [1, 2]


def test_names_are_drawn_letter_by_letter_and_a_wide_range_has_a_logarithmic_axis():
    row = {"epoch": "1", "step": "3", "train/$x^$": "1", "val/$x^$/$a$": "1", "/$_$": "2", "val/\n/\n": "inf"}
    figure = plot_curves([row, row | {"epoch": "2", "step": "6", "train/$x^$": "nan"}, row | {"train/$x^$": "1e-5"}])
    assert formulas(figure) == []
    panels = {axes.get_title(): axes for axes in figure.axes}
    assert panels["\\$x^\\$"].get_yscale() == "log"


def test_of_thousands_of_metrics_thirty_have_a_panel(capsys):
    many = {f"train/{kind}{k}": "1" for k in range(300) for kind in ("grad_", "val/f1/")}
    assert len(plot_curves([{"epoch": "1", "step": "3"} | many]).axes) == 30
    assert "note: curves.png has 30 of 301 metrics" in capsys.readouterr().err
