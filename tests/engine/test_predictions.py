"""`predict` prints and writes a table; what is too large or too uneven for it goes into predictions.pt."""

import csv
import signal
from collections import UserDict
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml

from src.engine.errors import UserError
from src.engine.loggers.predictions import columns_of
from tests.engine.prediction_tasks import NUM_ROWS, boxes, image
from tests.processes import finish, launch, processes, start
from tests.stopping import differences

X = torch.arange(float(NUM_ROWS))
FOUR = torch.arange(4.0)


def experiment(folder, form, data="Data", callbacks=(), **options):
    """Write a YAML; returns the command that reads it."""
    tasks = "tests.engine.prediction_tasks"
    made = {
        "model": {"class_path": f"{tasks}.Predicts", "init_args": {"form": form}},
        "data": {"class_path": f"{tasks}.{data}", "init_args": options},
        "trainer": {"accelerator": "cpu", "enable_progress_bar": False, "callbacks": list(callbacks)},
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(made))
    return "predict", "--config", "task.yaml"


@pytest.fixture
def predict(cli, tmp_path):
    """Run `predict` on a form; returns what it printed, and what lies in the run's folder."""

    def run(form, *args, code=0, **options):
        done = cli(*experiment(tmp_path, form, **options), *args)
        assert done.code == code, done.err
        return done, *found(tmp_path / "runs/task/version_0")

    return run


def found(folder):
    """The rows of predictions.csv and what is in predictions.pt; no part of them may be left."""
    assert not [path for path in folder.iterdir() if path.name.endswith(".part")]
    table, large = folder / "predictions.csv", folder / "predictions.pt"
    rows = list(csv.DictReader(table.read_text().splitlines())) if table.exists() else []
    return rows, torch.load(large, weights_only=True) if large.exists() else {}


def column(rows, name):
    return [row[name] for row in rows]


def test_a_row_has_a_column_for_each_number(predict, monkeypatch):
    monkeypatch.setenv("COLUMNS", "23")
    done, rows, large = predict("dict", "--predictions.max_printed=2")
    assert rows[4] == {"sample": "4", "label": "4", "name": "row 4", "pair_0": "4.0", "pair_1": "1.33333"}
    assert column(rows, "sample") == [str(k) for k in range(NUM_ROWS)]
    assert "sample  label  name   p\n0       0      row 0  0\n1       1      row 1  1\n... and 9 more\n" in done.out
    assert large == {}


@pytest.mark.parametrize(("form", "name"), [("ragged", "score"), ("detections", "boxes")])
def test_tensors_of_different_sizes_go_into_the_other_file(predict, form, name):
    done, rows, large = predict(form)
    assert list(large) == [name]
    assert column(rows, name) == [f"{k % 3}x4" for k in range(NUM_ROWS)]
    assert differences(large[name], boxes(X)) == []
    assert "predictions.pt: " + name in done.out


def test_images_go_into_the_other_file_in_the_order_of_the_rows(predict):
    _, rows, large = predict("image", loader="shuffled-set")
    assert torch.equal(large["score"], image(X))
    assert rows[4] == {"sample": "4", "score": "3x32x32"}


def test_a_width_that_differs_from_batch_to_batch_is_uneven(predict):
    _, rows, large = predict("padded")
    assert column(rows, "score") == ["4"] * 4 + ["8"] * 4 + ["11"] * 3
    assert [large["score"][k].tolist() for k in (0, 10)] == [[0] * 4, [10] * 11]


def test_more_than_the_memory_names_lightnings_writer_which_replaces_ours(predict, tmp_path):
    done, *_ = predict("image", "--predictions.max_gb=0.0001", code=1)
    assert "--predictions.max_gb 0.0001" in done.err
    assert "BasePredictionWriter" in done.err
    writer = {"class_path": "tests.engine.prediction_tasks.Writer"}
    predict("image", "--predictions.max_gb=0.0001", callbacks=[writer])
    assert (tmp_path / "runs/task/version_1/2.pt").exists()
    assert not list(tmp_path.glob("runs/task/*/predictions.csv"))


ORDERS = {
    "shuffled-set": range(NUM_ROWS),
    "shuffled-tensors": range(NUM_ROWS),
    "buckets": range(NUM_ROWS),
    "stream": range(NUM_ROWS),
    "subset": range(1, NUM_ROWS, 2),
    "again": (0, 1, 1, 3, 3, 7),
    "batches": range(12),
    "two": (*range(NUM_ROWS), *range(3)),
}


@pytest.mark.parametrize("loader", ORDERS)
def test_rows_are_in_the_order_of_the_data_set(predict, loader):
    _, rows, _ = predict("scalar", loader=loader)
    assert column(rows, "sample") == [str(k) for k in ORDERS[loader]]
    first = [100 * int(row.get("loader", 0)) for row in rows]
    assert [round(3 * float(row["score"])) - add for row, add in zip(rows, first, strict=True)] == [*ORDERS[loader]]
    assert ("loader" in rows[0]) == (loader == "two")


def test_prediction_rows_see_the_batch_and_are_sorted(predict):
    _, rows, _ = predict("scalar", data="Named", loader="shuffled-tensors")
    assert column(rows, "name") == [f"row {k}" for k in range(NUM_ROWS)]
    assert rows[7] == {"name": "row 7", "third": "2.333"}


@pytest.mark.parametrize(
    ("harm", "said"), [("later", "one sample has name, third, another name."), ("short", "for a batch of 4")]
)
def test_prediction_rows_that_do_not_fit_are_one_line(predict, harm, said):
    done, rows, _ = predict("scalar", data="Named", harm=harm, code=1)
    assert said in done.err
    assert len(done.err.splitlines()) == 1
    assert rows == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "options"), [("image", {"loader": "two-shuffled"}), ("detections", {"loader": "buckets"})]
)
def test_two_processes_write_what_one_does(predict, tmp_path, form, options):
    _, rows, large = predict(form, **options)
    launch(*experiment(tmp_path, form, **options, batch_size=2), *processes(2), cwd=tmp_path)
    others, other_large = found(tmp_path / "runs/task/version_1")
    assert others == rows
    assert len(rows) >= NUM_ROWS
    assert differences(large, other_large) == []


@pytest.mark.slow
def test_two_processes_reject_a_stream(tmp_path):
    done = finish(start(*experiment(tmp_path, "scalar", loader="stream"), *processes(2), cwd=tmp_path))
    assert done.returncode != 0
    assert "nobody knows the order of its samples" in done.stderr
    assert found(tmp_path / "runs/task/version_0") == ([], {})


@pytest.mark.slow
def test_a_kill_leaves_no_half_of_a_file(tmp_path):
    command = experiment(tmp_path, "image", callbacks=[{"class_path": "tests.stopping.Stop"}])
    done = finish(start(*command, cwd=tmp_path, STOP="SIGKILL:predictions.pt:1"))
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not list(tmp_path.glob("runs/task/version_0/predictions.*"))


@dataclass
class Found:
    score: torch.Tensor
    boxes: list[torch.Tensor]


class Bare:
    """Neither a dict nor a dataclass."""

    def __init__(self, x):
        self.logits, self.loss = torch.stack([x, -x], dim=1), x.mean()
        self.missing, self._private = None, "not to be seen"


def taken(outputs, size=4):
    """As plain values."""
    columns = columns_of(outputs, [size], {})
    return {name: [v.tolist() if isinstance(v, torch.Tensor) else v for v in each] for name, each in columns.items()}


@pytest.mark.parametrize(
    ("outputs", "names"),
    [
        ({"a": FOUR, "b": {"c": FOUR.numpy(), "d": (FOUR, FOUR)}}, ["a", "b_c", "b_d_0", "b_d_1"]),
        ((FOUR, {"a": FOUR}), ["output_0", "output_1_a"]),
        (FOUR.view(4, 1).max(dim=1), ["values", "indices"]),
        (Found(FOUR, boxes(FOUR)), ["score", "boxes"]),
        (UserDict(logits=FOUR, hidden=(FOUR, FOUR)), ["logits", "hidden_0", "hidden_1"]),
        (Bare(FOUR), ["logits", "loss"]),
    ],
)
def test_parts_are_named_by_keys_fields_and_places(outputs, names):
    assert list(taken(outputs)) == names


@pytest.mark.parametrize("kind", [list, tuple])
def test_lists_and_tuples_hold_samples_or_parts(kind):
    assert taken(kind("abcd")) == {"output": ["a", "b", "c", "d"]}
    assert taken({"n": kind([1, 2.5, None, True])}) == {"n": [1, 2.5, None, True]}
    assert taken({"path": kind([Path("a")] * 4)})["path"] == [Path("a")] * 4
    assert taken(kind([[1, 2], [3], [4, 5, 6], []])) == {"score": [[1, 2], [3], [4, 5, 6], []]}
    assert taken(kind([{"boxes": b, "sum": b.sum()} for b in boxes(FOUR)])) == {
        "boxes": [b.tolist() for b in boxes(FOUR)],
        "sum": [b.sum().item() for b in boxes(FOUR)],
    }
    scores, features = torch.rand(2, 3, requires_grad=True), torch.rand(2, 5)
    assert list(taken(kind([scores, features]), 2)) == ["output_0", "output_1"]  # as many parts as samples
    assert list(taken(kind([scores.mean(), features]), 2)) == ["output_0", "output_1"]
    assert list(taken(kind([{"boxes": torch.rand(2, 4)}] * 2), 2)) == ["boxes"]
    assert list(taken(kind([torch.rand(1, 4)]), 1)) == ["score"]
    with pytest.raises(UserError, match=r"2 samples or 2 parts\. Return a dict of parts, or a list with a dict"):
        taken(kind([scores, scores]), 2)
    for before, names in (
        ([torch.rand(3, 3)] * 2, ["output_0", "output_1"]),
        ([scores[:1], scores, scores], ["score"]),
    ):
        known = columns_of(kind(before), [3], {})
        assert list(columns_of(kind([scores, scores]), [2], known)) == names


def test_columns_are_copies():
    buffer = torch.zeros(4, requires_grad=True)
    kept = columns_of(buffer, [4], {})["score"]
    with torch.no_grad():
        buffer += 1
    assert kept.tolist() == [0] * 4
    assert not kept.requires_grad


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ({"a": FOUR, "b": FOUR[:3]}, r"returned a \(4,\) float32, b \(3,\) float32 for a batch of 4"),
        ({"a": ["x", "y", "z"]}, r"returned a \[3 x str\] for a batch of 4.*write prediction_rows\(outputs, batch\)"),
        ({"a": {"b": FOUR}, "a_b": FOUR}, "two columns have the name a_b"),
        ([{"a": 1}, {"a": 1}, {"b": 1}, {"a": 1}], "one sample has a, another b"),
        ({"a": [FOUR[:3], None, FOUR, FOUR]}, "a is a tensor in one sample and a plain value in another"),
        ({"a": {1, 2}}, r"a is set.*write prediction_rows\(outputs, batch\)"),
        (torch.eye(4).to_sparse(), r"is \(4, 4\) float32.*write prediction_rows\(outputs, batch\)"),
    ],
)
def test_outputs_that_fit_no_sample_are_one_clear_error(outputs, said):
    with pytest.raises(UserError, match=said):
        columns_of(outputs, [4], {})
