"""`predict` prints and writes a table; what is too large or too uneven for it goes into predictions.pt."""

import csv
import signal
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.callbacks import BasePredictionWriter
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from src.data.loader import TensorLoader
from src.engine.errors import UserError
from src.engine.loggers.predictions import columns_of
from tests.processes import finish, launch, processes, start
from tests.stopping import differences, write

NUM_ROWS = 11  # neither 2 nor a batch of 4 divides it
X = torch.arange(float(NUM_ROWS))  # rows that are their own number
FOUR = torch.arange(4.0)


def boxes(x):
    """Of sample k there are k % 3, each of 4 numbers."""
    return [torch.full((int(k) % 3, 4), float(k)) for k in x]


def image(x):
    """(B,) to (B, 3, 32, 32): a large output."""
    return x.view(-1, 1, 1, 1) + torch.arange(3 * 32 * 32).view(3, 32, 32) / 4096


FORMS = {
    "scalar": lambda x: x / 3,
    "dict": lambda x: {"label": x.long(), "name": [f"row {k:.0f}" for k in x], "pair": torch.stack([x, x / 3], dim=1)},
    "twice": lambda x: {"pair": torch.stack([x, x], dim=1), "pair_0": x},
    "detections": lambda x: [{"boxes": b, "label": int(k)} for k, b in zip(x, boxes(x), strict=True)],
    "image": image,
    # Padded within a batch: the width differs from batch to batch.
    "padded": lambda x: x.view(-1, 1).expand(-1, int(x.max()) + 1),
}


class Predicts(LightningModule):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form

    def predict_step(self, batch, batch_idx, dataloader_idx=0):
        return FORMS[self.form](batch if isinstance(batch, torch.Tensor) else batch[0])


class Stream(IterableDataset):
    def __iter__(self):
        return iter(X)


LOADERS = {
    "loader": lambda size: DataLoader(X, size),
    "two": lambda size: {"a": DataLoader(X, size), "b": DataLoader(100 + X[:3], size)},
    "stream": lambda size: DataLoader(Stream(), size),
    "shuffled-set": lambda size: DataLoader(TensorDataset(X), size, shuffle=True),
    "shuffled-tensors": lambda size: TensorLoader((X, X.long()), size, shuffle=True),
    "again": lambda size: DataLoader(X, size, sampler=[3, 1, 3, 0, 7, 1]),
    "buckets": lambda size: DataLoader(X, batch_sampler=[[9, 6, 3], [10, 8, 2, 7], [0, 1, 5, 4]]),
    "batches": lambda size: DataLoader(torch.arange(12.0).split(4), batch_size=None, sampler=[2, 0, 1]),
    "two-shuffled": lambda size: [DataLoader(k + X, size, shuffle=True) for k in (0, 100)],
}


class Data(LightningDataModule):
    def __init__(self, loader: str = "loader", batch_size: int = 4) -> None:
        super().__init__()
        self.loader, self.batch_size = loader, batch_size

    def predict_dataloader(self):
        return LOADERS[self.loader](self.batch_size)


class Named(Data):
    """Rows that name what lies in the batch; `harm` spoils them."""

    def __init__(self, harm: str = "") -> None:
        super().__init__("shuffled-tensors")
        self.harm = harm

    def prediction_rows(self, outputs, batch):
        pairs = zip(batch[1].tolist(), outputs.tolist(), strict=True)
        rows = [{"name": f"row {k}", "third": round(value, 3)} for k, value in pairs]
        if self.harm == "later" and 0 not in batch[1]:
            rows = [{"name": ""} for _ in rows]
        return rows[:-1] if self.harm == "short" else rows


class Writer(BasePredictionWriter):
    def __init__(self) -> None:
        super().__init__("batch")

    def write_on_batch_end(self, trainer, module, prediction, *rest):
        torch.save(prediction, Path(trainer.default_root_dir, f"{rest[2]}.pt"))


def experiment(folder, form, data="Data", callbacks=(), **options):
    """Write a YAML; returns the command that reads it."""
    made = {
        "model": {"class_path": f"{__name__}.Predicts", "init_args": {"form": form}},
        "data": {"class_path": f"{__name__}.{data}", "init_args": options},
        "trainer": {"accelerator": "cpu", "enable_progress_bar": False, "callbacks": list(callbacks)},
    }
    return "predict", "--config", write(folder, made)


@pytest.fixture
def predict(cli, tmp_path):
    """Run `predict` on a form; returns what it printed, and what lies in the run's folder."""

    def run(form, *args, code=0, **options):
        done = cli(*experiment(tmp_path, form, **options), *args)
        assert done.code == code, done.err
        return done, *found(tmp_path)

    return run


def found(folder, number=0):
    table, large = (folder / f"runs/sums/version_{number}/predictions.{kind}" for kind in ("csv", "pt"))
    rows = list(csv.DictReader(table.read_text().splitlines())) if table.exists() else []
    return rows, torch.load(large, weights_only=True) if large.exists() else {}


def test_a_row_has_a_column_for_each_number(predict, monkeypatch):
    monkeypatch.setenv("COLUMNS", "23")
    monkeypatch.setattr("src.engine.loggers.predictions.MAX_PRINTED", 2)
    done, rows, large = predict("dict")
    assert rows[4] == {"sample": "4", "label": "4", "name": "row 4", "pair_0": "4.0", "pair_1": "1.33333"}
    assert "sample  label  name   p\n0       0      row 0  0\n1       1      row 1  1\n... and 9 more\n" in done.out
    assert large == {}


UNEVEN = {
    "detections": ("boxes", boxes(X), [f"{k % 3}x4" for k in range(NUM_ROWS)]),
    "image": ("score", image(X), ["3x32x32"] * NUM_ROWS),
    "padded": ("score", [torch.full((4 + k // 4 * 4 - k // 8,), float(k)) for k in range(NUM_ROWS)], None),
}


@pytest.mark.parametrize("form", UNEVEN)
def test_large_and_uneven_tensors_go_into_the_other_file_in_the_order_of_the_rows(predict, form):
    name, expected, shapes = UNEVEN[form]
    done, rows, large = predict(form, loader="loader" if form == "padded" else "shuffled-set")
    assert list(large) == [name]
    assert differences(large[name], expected) == []
    assert [row[name] for row in rows] == (shapes or ["4"] * 4 + ["8"] * 4 + ["11"] * 3)
    assert f"predictions.pt: {name}\n" in done.out


def test_more_than_the_memory_names_lightnings_writer_which_replaces_ours(predict, tmp_path):
    done, *_ = predict("image", "--predictions.max_gb=0.0001", code=1)
    assert "--predictions.max_gb 0.0001" in done.err
    assert "BasePredictionWriter" in done.err
    writer = {"class_path": f"{__name__}.Writer"}
    predict("image", "--predictions.max_gb=0.0001", callbacks=[writer])
    assert (tmp_path / "runs/sums/version_1/2.pt").exists()
    assert not list(tmp_path.glob("runs/sums/*/predictions.csv"))


ORDERS = {
    "shuffled-tensors": range(NUM_ROWS),
    "buckets": range(NUM_ROWS),
    "stream": range(NUM_ROWS),
    "again": (0, 1, 1, 3, 3, 7),
    "batches": range(12),
    "two": (*range(NUM_ROWS), *range(3)),
}


@pytest.mark.parametrize("loader", ORDERS)
def test_rows_are_in_the_order_of_the_data_set(predict, loader):
    _, rows, _ = predict("scalar", loader=loader)
    assert [row["sample"] for row in rows] == [str(k) for k in ORDERS[loader]]
    first = [100 * int(row.get("loader", 0)) for row in rows]
    assert [round(3 * float(row["score"])) - add for row, add in zip(rows, first, strict=True)] == [*ORDERS[loader]]
    assert ("loader" in rows[0]) == (loader == "two")


def test_prediction_rows_see_the_batch_and_are_sorted(predict):
    _, rows, _ = predict("scalar", data="Named")
    assert rows == [{"name": f"row {k}", "third": str(round(k / 3, 3))} for k in range(NUM_ROWS)]


@pytest.mark.parametrize(
    ("form", "options", "said"),
    [
        ("scalar", {"data": "Named", "harm": "later"}, "one batch has name"),
        ("scalar", {"data": "Named", "harm": "short"}, "for a batch of 4"),
        ("twice", {}, "two columns have the name pair_0"),
    ],
)
def test_rows_that_do_not_fit_are_one_line(predict, form, options, said):
    done, rows, _ = predict(form, code=1, **options)
    (line,) = done.err.splitlines()
    assert said in line
    assert rows == []


@pytest.mark.slow
def test_two_processes_write_what_one_does_and_reject_a_stream(predict, tmp_path):
    options = {"form": "image", "loader": "two-shuffled"}
    _, rows, large = predict(**options)
    launch(*experiment(tmp_path, **options, batch_size=2), *processes(2), cwd=tmp_path)
    others, other_large = found(tmp_path, 1)
    assert others == rows
    assert len(rows) == 2 * NUM_ROWS
    assert differences(large, other_large) == []
    done = finish(start(*experiment(tmp_path, "scalar", loader="stream"), *processes(2), cwd=tmp_path))
    assert done.returncode != 0
    assert "nobody knows the order of its samples" in done.stderr
    assert found(tmp_path, 2) == ([], {})


@pytest.mark.slow
def test_a_kill_leaves_no_half_of_a_file(tmp_path):
    command = experiment(tmp_path, "image", callbacks=[{"class_path": "tests.stopping.Stop"}])
    done = finish(start(*command, cwd=tmp_path, STOP="SIGKILL:predictions.pt:1"))
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not list(tmp_path.glob("runs/sums/version_0/predictions.*"))


def test_texts_and_numbers_stay_as_they_are_and_tensors_are_copied():
    entries = {"name": tuple("abcd"), "path": [Path("a")] * 4, "value": [1, 2.5, None, True]}
    assert columns_of(entries, 4) == entries | {"name": list("abcd")}
    assert columns_of(list("abcd"), 4) == {"output": list("abcd")}
    assert columns_of([{"a": 1}, {"b": 2}], 2) == {"a": [1, None], "b": [None, 2]}
    buffer = torch.zeros(4)
    kept = columns_of(buffer, 4)["score"]
    buffer += 1
    assert kept.tolist() == [0] * 4


@pytest.mark.parametrize(
    ("outputs", "described"),
    [
        ({"a": FOUR, "b": FOUR[:3]}, r"a \(4,\) float32, b \(3,\) float32"),
        ((FOUR, FOUR), r"\(4,\) float32, \(4,\) float32"),
        ({"a": FOUR, "b": {"c": FOUR}}, r"a \(4,\) float32, b \[c \(4,\) float32\]"),
        ([[1, 2], [3], [4], []], ".*"),
        (FOUR.mean(), r"\(\) float32"),
        ({"a": {1, 2}}, "a set"),
    ],
)
def test_outputs_that_fit_no_sample_are_one_clear_error(outputs, described):
    said = rf"returned {described} for a batch of 4.*or write prediction_rows\(outputs, batch\)"
    with pytest.raises(UserError, match=said):
        columns_of(outputs, 4)
