"""Pictures are drawn once, when the work is done, and none of them ends a run."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from torchmetrics.classification import MulticlassConfusionMatrix

from src.engine.errors import UserError
from src.engine.loggers.evaluated import Evaluated
from src.engine.loggers.pictures import EvaluationPicture, Picture, as_label, class_names, new_figure, thumbnail
from tests.pictures import CLASSIFICATION, Own, pixels, run, write_yaml
from tests.processes import launch, processes


class Dot(Picture):
    """Draws how many test steps it knows of."""

    drawn = 0

    def draw(self, trainer, module):
        Dot.drawn += 1
        figure = new_figure(2, 1)
        figure.add_subplot().plot([0], [0], ".")
        self.save(trainer, "dot", figure)


class Broken(Picture):
    """Fails as code of one's own does, or as it is told to.

    Args:
        word: Of a UserError.
    """

    def __init__(self, word: str | None = None) -> None:
        self.word = word

    def draw(self, trainer, module):
        if self.word:
            raise UserError(self.word)
        return {}["no such key"]


class Rows:
    """The places of the samples that were seen."""

    num_batches = 0

    def __init__(self) -> None:
        self.rows: list[int] = []

    def merge_state(self, other):
        self.rows += other.rows


class Seen(EvaluationPicture):
    """Writes a pixel for each sample.

    Args:
        fails: The rank that fails in its second batch.
    """

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
    """Names a metric of torchmetrics."""

    def begin(self, batch):
        return MulticlassConfusionMatrix(batch.scores.shape[1])

    def draw_seen(self, trainer, module, seen, suffix):
        print(f"{self.title(suffix)} {seen.compute().sum(dim=1).tolist()}")
        figure = new_figure(4, 4)
        seen.plot(ax=figure.add_subplot())
        self.save(trainer, f"matrix{suffix}", figure)


def test_class_names_are_a_list():
    def named(names):
        return class_names(SimpleNamespace(datamodule=SimpleNamespace(class_names=names)))

    assert named(["a", 1, "$"]) == ["a", "1", "$"]
    assert named(None) == class_names(SimpleNamespace(datamodule=None)) == []
    with pytest.raises(UserError, match="Give a list"):
        named({"dog": 1, "cat": 0})


def test_a_label_is_one_line_without_formulas_and_not_longer_than_it_may_be():
    assert as_label("$a$\n\tb\x00\udcff") == r"\$a\$ b??"
    assert as_label("$" * 50, most=10) == r"\$" * 7 + "..."
    assert as_label(7) == "7"


@pytest.mark.parametrize("shape", [(3, 1_200, 600), (1, 20, 30)])
def test_a_thumbnail_keeps_proportions_and_means(shape):
    image = torch.randint(0, 255, shape, dtype=torch.uint8)
    small = thumbnail(image, 100)
    assert small.dtype == torch.float32
    assert max(small.shape) == min(max(shape), 100)
    assert float(small.mean()) == pytest.approx(float(image.float().mean()), rel=1e-3)
    if max(shape) <= 100:
        assert torch.equal(small, image.float())


HERE = "tests.engine.test_pictures"


@pytest.fixture
def draw(tmp_path):
    """Run the classification with a callback of this file."""
    numbers = iter(range(9))

    def go(callback, *options, verb="fit", **init_args):
        config = write_yaml(tmp_path / f"{next(numbers)}.yaml", CLASSIFICATION, f"{HERE}.{callback}", **init_args)
        return run(config, *options, verb=verb)

    return go


@pytest.mark.parametrize(("verb", "options"), [("fit", []), ("fit", ["--test_after_fit=false"]), ("validate", [])])
def test_a_picture_is_drawn_once(verb, options, draw):
    before = Dot.drawn
    drawn = draw("Dot", *options, verb=verb)
    assert Dot.drawn == before + 1
    assert pixels(drawn.folder / "dot.png").shape == (110, 220, 3)
    assert not list(drawn.folder.glob(".*"))


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (None, "KeyError: 'no such key'\nwarning: Broken drew nothing; the run itself is whole\n"),
        ("there is\nno color", "note: Broken drew nothing: there is no color\n"),
    ],
)
def test_a_picture_that_fails_ends_no_run(word, said, draw, capfd):
    drawn = draw("Broken", word=word)
    assert "test/acc" in drawn.trainer.callback_metrics
    assert (drawn.folder / "checkpoints/last.ckpt").exists()
    err = capfd.readouterr().err
    assert said in err
    assert ('return {}["no such key"]' in err) == (word is None)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--test_after_fit=false"], ["seen validation True 50"]),
        (["--data.sets=2", "--data.form=dict"], ["seen_day test True 50", "seen_night_rain test True 25"]),
    ],
)
def test_each_sample_of_each_data_set_is_seen_once(options, said, draw, capfd):
    before = Rows.num_batches
    draw("Seen", *options)
    assert [line for line in capfd.readouterr().out.splitlines() if line.startswith("seen")] == said
    if "--data.sets=2" in options:
        assert Rows.num_batches == before + 4 + 2  # a test follows: no validation is looked at


def test_a_plot_may_name_a_metric(draw, capfd):
    folder = draw("Matrix", "--data.sets=2").folder
    assert "test day [17, 17, 16]\ntest night rain [9, 8, 8]\n" in capfd.readouterr().out
    assert (folder / "matrix_night_rain.png").is_file()


def evaluated(module, outputs, batch=None):
    trainer = Trainer(logger=False, barebones=True)
    return Evaluated(trainer, module, outputs, batch, 0, 0)


@pytest.mark.parametrize(
    ("scores", "target", "guess", "sure"),
    [
        ([[0.1, 0.9], [0.6, 0.4]], [0, 0], [1, 0], [0.9, 0.6]),
        ([[0.9], [0.2]], [[1.0], [0.0]], [1, 0], [0.9, 0.8]),
        ([0.9, 0.2], [1, 0], [1, 0], [0.9, 0.8]),
    ],
    ids=["classes", "one column", "one number"],
)
def test_classes_are_read_from_probabilities(scores, target, guess, sure):
    seen = evaluated(Own(), {"scores": torch.tensor(scores), "target": torch.tensor(target)}).guesses()
    assert seen.guess.flatten().tolist() == guess
    assert seen.confidence.flatten().tolist() == pytest.approx(sure)


@pytest.mark.parametrize(
    ("scores", "target"),
    [
        ([[0.5], [0.5]], [[2.5], [3.5]]),
        ([[0.5], [0.5]], [3, 0]),
        ([[7.0], [0.5]], [1.0, 0.0]),
        ([[0.1, 0.9], [0.6, 0.4]], [[1.0, 1.0], [0.0, 1.0]]),
        ([2, 1], [2, 2]),
    ],
    ids=["values", "counts", "no probabilities", "several labels", "class numbers"],
)
def test_other_tasks_than_classification_are_rejected(scores, target):
    outputs = {"scores": torch.tensor(scores), "target": torch.tensor(target)}
    with pytest.raises(UserError, match="this is no classification"):
        evaluated(Own(), outputs).guesses()


def test_logits_become_probabilities():
    logits = torch.tensor([[2.0, 0.0]])
    seen = evaluated(Own(), {"logits": logits}, (None, torch.tensor([0]))).guesses()
    assert float(seen.confidence) == pytest.approx(float(logits.softmax(dim=1)[0, 0]))
    one = evaluated(Own(), {"logits": torch.tensor([-1.0])}, (None, torch.tensor([0]))).guesses()
    assert float(one.confidence) == pytest.approx(1 - float(torch.tensor(-1.0).sigmoid()))


def test_a_step_without_scores_is_named():
    for outputs, said in (({"hidden": torch.zeros(2, 3)}, r"hidden \(2, 3\) float32"), (None, "nothing")):
        with pytest.raises(UserError, match=rf"Own\.validation_step returned {said}\. Let it return a dict"):
            evaluated(Own(), outputs).guesses()


@pytest.mark.slow
def test_several_processes_draw_once_and_none_waits_for_a_failed_one(tmp_path):
    for number, (plot, init_args, said) in enumerate(
        [
            ("Seen", {}, "seen test True 50"),
            ("Seen", {"fails": 1}, "note: Seen drew nothing"),
            ("Matrix", {}, "test [17, 17, 16]"),
        ]
    ):
        config = write_yaml(tmp_path / f"{number}.yaml", CLASSIFICATION, f"{HERE}.{plot}", **init_args)
        done = launch("fit", "--config", config, *processes(2), "--data.batch_size=8", cwd=tmp_path)
        assert (done.stdout + done.stderr).count(said) == 1
