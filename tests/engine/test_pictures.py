"""Pictures are drawn once, when the work is done, and none of them ends a run."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torchmetrics.classification import MulticlassConfusionMatrix

from src.cli import main
from src.engine.errors import UserError
from src.engine.loggers.pictures import Evaluated, EvaluationPicture, Picture, as_label, class_names, new_figure
from tests import stopping
from tests.pictures import pixels
from tests.processes import launch, processes


class Dot(Picture):
    def draw(self, trainer, module):
        print("drawn")
        figure = new_figure(2, 1)
        figure.add_subplot().plot([0], [0], ".")
        self.save(trainer, "dot", figure)


class Broken(Picture):
    """Fails as code of one's own does, or with a UserError of some words."""

    def __init__(self, word: str | None = None) -> None:
        self.word = word

    def draw(self, trainer, module):
        if self.word:
            raise UserError(self.word)
        return {}["no such key"]


class Rows:
    num_batches = 0

    def __init__(self) -> None:
        self.rows: list[int] = []

    def merge_state(self, other):
        self.rows += other.rows


class Seen(EvaluationPicture):
    """Tells whether it saw each sample once; `fails` is the rank that fails in a batch."""

    def __init__(self, fails: int | None = None) -> None:
        super().__init__()
        self.fails = fails

    def begin(self, batch):
        return Rows()

    def add(self, seen, batch):
        Rows.num_batches += 1
        seen.rows += batch.places(len(batch.target)).tolist()

    def on_test_batch_end(self, trainer, *seen):
        super().on_test_batch_end(trainer, *(seen if trainer.global_rank != self.fails else (seen[0], None, None, 0)))

    def draw_seen(self, trainer, module, seen, suffix):
        print(f"seen{suffix} {self.title('')} {sorted(seen.rows) == list(range(len(seen.rows)))} {len(seen.rows)}")


class Matrix(EvaluationPicture):
    def begin(self, batch):
        return MulticlassConfusionMatrix(batch.scores.shape[1])

    def draw_seen(self, trainer, module, seen, suffix):
        print(f"{self.title(suffix)} {seen.compute().sum(dim=1).tolist()}")
        figure = new_figure(4, 4)
        seen.plot(ax=figure.add_subplot())
        self.save(trainer, f"matrix{suffix}", figure)


def test_names_are_a_list_and_labels_one_short_line_without_formulas():
    def named(names):
        return class_names(SimpleNamespace(datamodule=SimpleNamespace(class_names=names)))

    assert named(["a", 1, "$"]) == ["a", "1", "$"]
    assert named(None) == class_names(SimpleNamespace(datamodule=None)) == []
    assert named({"dog": 1, "cat": 0}) == []  # in no order of the classes
    assert as_label("$a$\n\tb\x00\udcff") == r"\$a\$ b??"
    assert as_label("$" * 50, most=10) == r"\$" * 7 + "..."


def write(folder, *callbacks, **options):
    """Write an experiment of an epoch with callbacks of this file, each a name and its arguments."""
    made = [{"class_path": f"{__name__}.{name}", "init_args": init_args} for name, init_args in callbacks]
    trainer = {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False, "callbacks": made}
    model = {"net": {"class_path": "tests.pictures.Net"}, "loss": {"class_path": "torch.nn.CrossEntropyLoss"}}
    model["optimizer"] = {"class_path": "torch.optim.Adam"}
    experiment = {"model": model, "data": {"class_path": "tests.pictures.Data"}, "trainer": trainer} | options
    return ["--config", str(stopping.write(folder, experiment)), f"--trainer.default_root_dir={folder}"]


def test_after_the_test_each_picture_is_drawn_once_and_a_failure_ends_no_run(tmp_path, capfd):
    word = "there is\nno color"
    pictures = ("Dot", {}), ("Broken", {}), ("Broken", {"word": word}), ("Seen", {}), ("Matrix", {})
    before = Rows.num_batches
    main(["fit", *write(tmp_path, *pictures, test_after_fit=True), '--data.names=["day", "night/rain"]'])
    out, err = capfd.readouterr()
    folder = tmp_path / "sums/version_0"
    assert [line for line in out.splitlines() if line.startswith(("seen", "drawn", "test day", "test night"))] == [
        *("drawn", "seen_day test True 50", "seen_night_rain test True 25"),
        *("test day [17, 17, 16]", "test night rain [9, 8, 8]"),
    ]
    assert Rows.num_batches == before + 4 + 2  # a test follows: no validation is looked at
    assert pixels(folder / "dot.png").shape == (110, 220, 3)
    assert (folder / "matrix_night_rain.png").is_file()
    assert not list(folder.glob(".*"))
    assert "KeyError: 'no such key'\nwarning: Broken drew nothing; the run itself is whole\n" in err
    assert "note: Broken drew nothing: there is no color\n" in err
    assert err.count('return {}["no such key"]') == err.count("Traceback") == 1


@pytest.mark.parametrize("verb", ["fit", "validate"])
def test_without_a_test_the_validation_is_drawn(verb, tmp_path, capfd):
    main([verb, *write(tmp_path, ("Dot", {}), ("Seen", {}))])
    said = [line for line in capfd.readouterr().out.splitlines() if line.startswith(("seen", "drawn"))]
    assert said == ["drawn", "seen validation True 50"]


class Own(LightningModule):
    """Returns what a test wants."""


def evaluated(outputs, batch=None, module=None):
    return Evaluated(Trainer(logger=False, barebones=True), module or Own(), outputs, batch, 0, 0)


@pytest.mark.parametrize(
    ("name", "values", "target", "guess", "sure"),
    [
        ("scores", [[0.1, 0.9], [0.6, 0.4]], [0, 0], [1, 0], [0.9, 0.6]),
        ("scores", [[0.9], [0.2]], [[1.0], [0.0]], [1, 0], [0.9, 0.8]),
        ("scores", [0.9, 0.2], [1, 0], [1, 0], [0.9, 0.8]),
        ("logits", [[2.0, 0.0]], [0], [0], [0.8808]),
        ("logits", [-1.0], [0], [0], [0.7311]),
    ],
)
def test_classes_are_read_from_probabilities_and_logits(name, values, target, guess, sure):
    seen, _ = evaluated({name: torch.tensor(values)}, (None, torch.tensor(target))).classes()
    assert seen.argmax(dim=1).tolist() == guess
    assert seen.amax(dim=1).tolist() == pytest.approx(sure, abs=1e-4)


@pytest.mark.parametrize(
    ("scores", "target"),
    [
        ([[0.5], [0.5]], [[2.5], [3.5]]),  # values
        ([[0.5], [0.5]], [3, 0]),  # counts
        ([[7.0], [0.5]], [1.0, 0.0]),  # no probabilities
        ([[0.1, 0.9], [0.6, 0.4]], [[1.0, 1.0], [0.0, 1.0]]),  # several labels
        ([2, 1], [2, 2]),  # class numbers
    ],
)
def test_other_tasks_than_classification_are_rejected(scores, target):
    with pytest.raises(UserError, match="this is no classification"):
        evaluated({"scores": torch.tensor(scores), "target": torch.tensor(target)}).classes()


@pytest.mark.parametrize("ignored", [-100, 255, "the loss"])
def test_pixels_without_a_class_and_an_ignored_class_are_left_out(ignored):
    module, first = Own(), 0
    if ignored == "the loss":
        module.loss, ignored, first = torch.nn.CrossEntropyLoss(ignore_index=0), 0, -1
    scores = torch.tensor([[0.9, 0.2], [0.3, 0.7]]).expand(1, 1, 2, 2)
    target = torch.tensor([[[0, 1], [ignored, 1]]])
    outputs = {"scores": torch.cat([scores, 1 - scores], dim=1), "target": target}
    seen, truth = evaluated(outputs, module=module).classes()
    assert (truth.tolist(), seen.argmax(dim=1).tolist()) == ([[[first, 1], [-1, 1]]], [[[0, 1], [1, 0]]])


def test_a_step_without_scores_is_named():
    for outputs, said in (({"hidden": torch.zeros(2, 3)}, r"hidden \(2, 3\) float32"), (None, "NoneType")):
        with pytest.raises(UserError, match=rf"Own\.validation_step returned {said}\. Let it return a dict"):
            evaluated(outputs).classes()


@pytest.mark.slow
@pytest.mark.parametrize(("fails", "said"), [(None, "seen validation True 50"), (0, "note: Seen drew nothing")])
def test_several_processes_draw_once_and_none_waits_for_a_failed_one(fails, said, tmp_path):
    config = write(tmp_path, ("Seen", {"fails": fails}), ("Matrix", {}))
    done = launch("fit", *config, *processes(2), cwd=tmp_path)
    assert (done.stdout + done.stderr).count(said) == 1
    assert done.stdout.count("validation [17, 17, 16]") == 1
