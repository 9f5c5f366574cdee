"""`predict` prints a table and writes predictions.csv; predictions.pt has what is too large or too uneven for it."""

import csv
import math
import os
import re
import signal
import sys

import pytest
import torch
import yaml

from tests.conftest import SMALL
from tests.engine.prediction_tasks import NUM_ROWS, boxes, image
from tests.processes import finish, launch, processes, start
from tests.stopping import differences

SHORT = ("--trainer.max_epochs=1", "--data.passes=5", "--trainer.callbacks=null")
X = torch.arange(float(NUM_ROWS))


def test_xor_prints_input_output_and_truth(cli):
    assert cli("fit", "--config", SMALL).code == 0
    out = cli("predict", "--ckpt_path", "runs/xor/version_0").out
    assert re.search(r"input +output +truth\n0 0 +0\.\d+ +0\n0 1 +0\.99\d* +1\n1 0 +0\.99\d* +1\n1 1 +0\.\d+ +0\n", out)


def test_predictions_of_two_commands_stand_side_by_side(cli, tmp_path):
    assert cli("fit", "--config", SMALL, *SHORT).code == 0
    for _ in range(2):
        assert cli("predict", "--ckpt_path", "runs/xor/version_0").code == 0
    files = sorted(tmp_path.glob("runs/xor/*/predictions.csv"))
    assert [file.parent.name for file in files] == ["version_1", "version_2"]
    assert [row["input"] for row in csv.DictReader(files[0].open())] == ["0 0", "0 1", "1 0", "1 1"]


def test_many_rows_are_cut_on_the_screen_and_whole_in_the_file(cli, tmp_path):
    assert cli("fit", "--config", SMALL, *SHORT).code == 0
    done = cli("predict", "--ckpt_path", "runs/xor/version_0", "--predictions.max_printed=1")
    assert "... and 3 more" in done.out
    assert len((tmp_path / "runs/xor/version_1/predictions.csv").read_text().splitlines()) == 5


def experiment(folder, form, data="Data", size=0, callbacks=(), **options):
    """Write a YAML; returns the command that reads it."""
    tasks = "tests.engine.prediction_tasks"
    made = {
        "model": {"class_path": f"{tasks}.Predicts", "init_args": {"form": form, "size": size}},
        "data": {"class_path": f"{tasks}.{data}", "init_args": options},
        "trainer": {"accelerator": "cpu", "enable_progress_bar": False, "callbacks": list(callbacks)},
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(made))
    return "predict", "--config", "task.yaml"


@pytest.fixture
def predict(cli, tmp_path):
    """Run `predict` on a form; returns what it said, and what lies in the run's folder."""

    def run(form, *args, code=0, **options):
        done = cli(*experiment(tmp_path, form, **options), *args)
        assert done.code == code, done.err
        return done, *found(tmp_path / "runs/task/version_0")

    return run


def found(folder):
    """The rows of predictions.csv and what is in predictions.pt; nothing else may be left."""
    names = {path.name for path in folder.iterdir()} - {
        "config.yaml",
        "record.yaml",
        "changes-0.patch",
        "packages-0.txt",
        "summary.json",
    }
    assert names <= {"predictions.csv", "predictions.pt"}
    table = folder / "predictions.csv"
    rows = list(csv.DictReader(table.read_text().splitlines())) if table.exists() else []
    return rows, torch.load(folder / "predictions.pt", weights_only=True) if "predictions.pt" in names else {}


def sample(part, k):
    """Sample k of tensors of different shapes."""
    shape = [size for size in part["shapes"][k].tolist() if size >= 0]
    return part["values"][part["offsets"][k] : part["offsets"][k + 1]].view(shape)


def column(rows, name):
    return [row[name] for row in rows]


def test_a_plain_tensor_is_the_number_of_the_sample_and_its_scores(predict):
    _, rows, large = predict("scalar")
    assert [list(row) for row in rows] == [["sample", "score"]] * NUM_ROWS
    assert rows[1] == {"sample": "1", "score": "0.333333"}
    assert column(rows, "sample") == [str(k) for k in range(NUM_ROWS)]
    assert large == {}


def test_a_vector_is_a_column_for_each_number(predict):
    done, rows, _ = predict("vector")
    assert rows[2] == {"sample": "2", "score_0": "2.0", "score_1": "0.666667"}
    assert re.search(r"^sample  score_0  score_1\n0       0\.0      0\.0\n", done.out, re.M)


def test_a_tuple_is_numbered(predict):
    _, rows, _ = predict("tuple")
    assert rows[3] == {"sample": "3", "output_0": "1.0", "output_1_0": "3.0", "output_1_1": "-3.0"}


def test_numbers_texts_and_truths_of_a_dict_are_columns_with_its_keys(predict):
    _, rows, _ = predict("dict")
    assert rows[5] == {"sample": "5", "label": "5", "name": "row 5", "sure": "True"}


@pytest.mark.parametrize(("form", "name"), [("dataclass", "boxes"), ("ragged", "score"), ("detections", "boxes")])
def test_tensors_of_different_sizes_go_into_the_other_file_with_their_index(predict, form, name):
    done, rows, large = predict(form)
    assert list(large) == [name]
    for k, expected in enumerate(boxes(X)):
        assert rows[k]["sample"] == str(k)
        assert rows[k][name] == f"{k % 3}x4"
        assert torch.equal(sample(large[name], k), expected)
    assert len(large[name]["offsets"]) == NUM_ROWS + 1
    assert "predictions.pt: " + name in done.out


def test_named_tuples_and_objects_are_their_fields(predict):
    assert predict("named-tuple")[1][4] == {"sample": "4", "low": "3.0", "high": "5.0"}


def test_an_object_is_its_public_attributes(predict):
    assert predict("object")[1][4] == {"sample": "4", "logits_0": "4.0", "logits_1": "-4.0", "loss": "0.0"}


def test_images_go_into_the_other_file_and_never_on_the_screen(predict):
    done, rows, large = predict("image")
    assert torch.equal(large["score"], image(X))
    assert rows[4] == {"sample": "4", "score": "3x32x32"}
    assert max(map(len, done.out.splitlines())) < 200


def test_half_precision_stays_what_it_is(predict):
    _, rows, large = predict("half")
    assert torch.equal(large["image"], image(X).bfloat16())
    assert rows[4]["score"] == "4.0"


def test_a_width_that_differs_from_batch_to_batch_is_uneven(predict):
    _, rows, large = predict("padded")
    assert column(rows, "score") == ["4"] * 4 + ["8"] * 4 + ["11"] * 3
    assert [sample(large["score"], k).tolist() for k in (0, 10)] == [[0] * 4, [10] * 11]


def test_nothing_returned_is_nothing_written(predict):
    done, rows, _ = predict("nothing")
    assert rows == []
    assert "written" not in done.out


def test_an_output_that_fits_no_sample_is_counted_by_itself(predict):
    """As from a loader whose items hold several samples."""
    assert len(predict("wrong")[1]) == 2 * NUM_ROWS


@pytest.mark.parametrize("loader", ["two", "dict"])
def test_several_loaders_get_a_column(predict, loader):
    _, rows, _ = predict("scalar", loader=loader)
    assert column(rows, "loader") == ["0"] * NUM_ROWS + ["1"] * 3
    assert column(rows, "sample") == [str(k) for k in [*range(NUM_ROWS), *range(3)]]
    assert rows[-1]["score"] == "34.0"


def test_a_loader_without_an_order_has_that_of_its_batches(predict):
    _, rows, _ = predict("scalar", loader="stream")
    assert [round(3 * float(value)) for value in column(rows, "score")] == list(range(NUM_ROWS))


def test_batches_that_come_out_of_order_are_put_in_order(predict):
    _, rows, large = predict("ragged", loader="backwards")
    assert column(rows, "sample") == [str(k) for k in range(8)]
    assert [sample(large["score"], k).shape[0] for k in range(8)] == [k % 3 for k in range(8)]


OTHER_ORDERS = {
    **dict.fromkeys(("shuffled", "shuffled-set", "shuffled-tensors", "sorted", "buckets", "lists"), range(NUM_ROWS)),
    "subset": range(1, NUM_ROWS, 2),
    "again": (0, 1, 1, 3, 3, 7),
    "batches": range(12),
    "two-shuffled": (*range(NUM_ROWS), *range(NUM_ROWS)),
}


@pytest.mark.parametrize("loader", OTHER_ORDERS)
def test_rows_are_those_of_the_data_whatever_the_order_of_the_loader(predict, loader):
    _, rows, _ = predict("scalar", loader=loader)
    assert column(rows, "sample") == [str(k) for k in OTHER_ORDERS[loader]]
    first = [100 * int(row.get("loader", 0)) for row in rows]
    assert [round(3 * float(row["score"])) - add for row, add in zip(rows, first, strict=True)] == [
        *OTHER_ORDERS[loader]
    ]


def test_large_outputs_of_a_shuffled_set_lie_in_the_order_of_the_rows(predict):
    _, rows, large = predict("image", loader="shuffled")
    assert torch.equal(large["score"], image(X))
    assert column(rows, "sample") == [str(k) for k in range(NUM_ROWS)]


def test_more_shuffled_batches_than_a_process_may_have_files_open(predict):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, before[1]))
    try:
        _, rows, _ = predict("scalar", loader="shuffled", batch_size=1, num_rows=300)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert column(rows, "sample") == [str(k) for k in range(300)]


def test_rows_of_ones_own_are_in_the_order_of_the_data(predict):
    _, rows, _ = predict("scalar", data="Named", loader="shuffled-tensors")
    assert column(rows, "name") == [f"row {k}" for k in range(NUM_ROWS)]


def test_rows_of_ones_own_see_the_batch(predict):
    _, rows, _ = predict("scalar", data="Named")
    assert rows[7] == {"name": "row 7", "third": "2.333"}


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ("key", "one sample has name, third, another name, third, other."),
        ("later", "one sample has name, third, another name."),
        ("short", "returned 3 rows for a batch of 4"),
        ("dict", "returned dict for a batch of 4"),
    ],
)
def test_rows_that_do_not_fit_together_are_one_clear_error(predict, harm, said):
    done, rows, _ = predict("scalar", data="Named", harm=harm, code=1)
    assert said in done.err
    assert "Traceback" not in done.err
    assert rows == []


def test_a_method_as_it_was_once_is_told_the_new_arguments(predict):
    done, *_ = predict("scalar", data="Old", code=1)
    (line,) = [line for line in done.err.splitlines() if line.startswith("error:")]
    assert "Old.prediction_rows(scores: torch.Tensor)" in line
    assert "must be prediction_rows(outputs, batch)" in line


def test_a_terminal_sees_the_columns_that_fit(predict, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    done, rows, _ = predict("dict")
    assert "sample  label  name    sure\n" in done.out
    monkeypatch.setenv("COLUMNS", "20")
    done, *_ = predict("dict")
    assert re.search(r"^sample  label\n0 +0\n", done.out, re.M)
    assert "... and 2 more columns" in done.out
    assert len(rows[0]) == 4


def test_predictions_are_returned_only_to_who_asks(cli, tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(
        "src.cli.CLI.after_predict", lambda cli: kept.append(cli.trainer.predict_loop.predictions), raising=False
    )
    command = experiment(tmp_path, "scalar")
    assert cli(*command).code == 0
    assert cli(*command, "--return_predictions=true").code == 0
    assert [len(each) for each in kept] == [0, math.ceil(NUM_ROWS / 4)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "loader"),
    [
        ("dataclass", "two"),
        ("image", "tensors"),
        ("detections", "loader"),
        ("image", "shuffled"),
        ("image", "buckets"),
        ("image", "two-shuffled"),
    ],
)
def test_two_processes_write_what_one_does(predict, tmp_path, form, loader):
    _, rows, large = predict(form, loader=loader)
    launch(*experiment(tmp_path, form, loader=loader, batch_size=2), *processes(2), cwd=tmp_path)
    others, other_large = found(tmp_path / "runs/task/version_1")
    assert others == rows
    assert len(rows) == NUM_ROWS + {"two": 3, "two-shuffled": NUM_ROWS}.get(loader, 0)
    assert large
    assert differences(large, other_large) == []


@pytest.mark.slow
def test_rows_of_ones_own_come_once_and_in_order_from_two_processes(predict, tmp_path):
    _, rows, _ = predict("scalar", data="Named")
    launch(*experiment(tmp_path, "scalar", data="Named", batch_size=3), *processes(2), cwd=tmp_path)
    assert found(tmp_path / "runs/task/version_1")[0] == rows


@pytest.mark.slow
def test_two_processes_refuse_what_has_no_order(tmp_path):
    done = finish(start(*experiment(tmp_path, "scalar", loader="stream"), *processes(2), cwd=tmp_path))
    assert done.returncode != 0
    assert done.stderr.count("nobody knows the order of its samples") == 1
    assert found(tmp_path / "runs/task/version_0") == ([], {})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["predictions.pt", "predictions.csv"])
def test_a_kill_leaves_no_half_of_a_file(tmp_path, name):
    command = experiment(tmp_path, "image", callbacks=[{"class_path": "tests.stopping.Stop"}])
    done = finish(start(*command, cwd=tmp_path, STOP=f"SIGKILL:{name}:1"))
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / f"runs/task/version_0/{name}").exists()
    assert not (tmp_path / "runs/task/version_0/predictions.csv").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of the memory from /proc")
def test_memory_does_not_grow_with_the_set(tmp_path):
    """Images of 768 KiB each, 48 and 384 MiB of them."""
    peaks = []
    for number, num_rows in enumerate((64, 512)):
        command = experiment(
            tmp_path,
            "scalar",
            size=256,
            num_rows=num_rows,
            callbacks=[{"class_path": "tests.engine.prediction_tasks.PeakMemory"}],
        )
        out = launch(*command, cwd=tmp_path).stdout
        peaks.append(int(out.split("peak ")[1].split()[0]) / 1024)
        file = tmp_path / f"runs/task/version_{number}/predictions.pt"
        scores = torch.load(file, weights_only=True, mmap=True)["score"]
        assert scores.shape == (num_rows, 3, 256, 256)
        assert scores[-1].eq(num_rows - 1).all()
        os.truncate(file, 0)
    assert peaks[1] - peaks[0] < 30, peaks
