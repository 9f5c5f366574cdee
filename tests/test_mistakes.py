"""The most confident mistakes are those of the data, in their order, with truth and guess."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from src.callbacks.mistakes import TopMistakes, plot_mistakes, viewable
from src.engine.loggers.pictures import Guesses
from src.module import LitModule
from tests.pictures import CLASSIFICATION, NUM_ROWS, Drawn, bars, formulas, run, write_yaml

MISTAKES = "src.callbacks.mistakes.Mistakes"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Drawn:
    return run(write_yaml(tmp_path_factory.mktemp("mistakes") / "x.yaml", CLASSIFICATION, MISTAKES, most=3))


def written(figure) -> list[str]:
    return [text.get_text().replace("\n", ", ") for text in figure.axes[0].texts]


def test_truth_guess_and_sureness_are_those_of_the_net_the_surest_first(drawn):
    images, target = bars()
    with torch.no_grad():
        probabilities = LitModule.load_from_checkpoint(drawn.folder / "checkpoints/best.ckpt")(images).softmax(dim=1)
    sure, guess = probabilities.max(dim=1)
    wrong = (guess != target).nonzero().flatten()
    assert 3 < len(wrong) < NUM_ROWS
    first = wrong[sure[wrong].argsort(descending=True)][:3]
    names = ["low", "middle", "high"]
    assert written(drawn.figures["mistakes"]) == [
        f"true {names[target[k]]}, guess {names[guess[k]]}, {sure[k]:.1%}" for k in first
    ]
    shown = [image.get_array() for image in drawn.axes("mistakes")[0].images]
    for image, expected in zip(shown, viewable(images[first]), strict=True):
        assert np.allclose(image, expected[0])
    assert f"{len(wrong)} of {NUM_ROWS} are wrong" in drawn.figures["mistakes"].get_suptitle()


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (torch.tensor([0.2, 0.8]), [0.2, 0.8]),
        (torch.tensor([0.0, 255.0]), [0.0, 1.0]),
        (torch.tensor([-0.42, 2.8]), [0.0, 1.0]),
        (torch.tensor([7.5, 7.5]), [0.0, 0.0]),
    ],
    ids=["in [0, 1]", "bytes", "normalised", "of one color"],
)
def test_an_image_of_any_scale_can_be_looked_at(images, expected):
    two = images.expand(2, 3, 4, 2)
    assert viewable(two)[1][2, 3].tolist() == pytest.approx(expected)


def batch_of(images, sure, rows):
    """A batch in which all guesses are wrong."""
    zeros = torch.zeros(len(rows), dtype=torch.int64)
    guesses = Guesses(zeros, zeros + 1, sure, zeros == 0, 2)
    return SimpleNamespace(images=images, guesses=lambda: guesses, places=lambda num_rows: rows)


def test_what_is_kept_does_not_grow_with_the_data_nor_depend_on_the_batches():
    def batch(rows):
        return batch_of(rows.float().reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2), (rows * 37 % 101) / 101, rows)

    whole, one, other = TopMistakes(7), TopMistakes(7), TopMistakes(7)
    whole.add(batch(torch.arange(1_000)))
    for start in range(0, 1_000, 20):
        one.add(batch(torch.arange(start, start + 20, 2)))
        other.add(batch(torch.arange(start + 1, start + 20, 2)))
    one.merge_state(other)
    assert len(one.mistakes) == 7
    for mine, expected in zip(one.mistakes, whole.mistakes, strict=True):
        assert torch.equal(mine.image, expected.image)
        assert replace(mine, image=None) == replace(expected, image=None)
    assert one.num_mistakes == whole.num_mistakes == 1_000


def test_a_net_without_mistakes_says_so():
    figure = plot_mistakes(TopMistakes(3), [], "test")
    assert figure.get_suptitle() == "test: 0 of 0 are wrong; the most confident of them"


def test_names_are_drawn_letter_by_letter(tmp_path):
    with formulas() as noted:
        drawn = run(
            write_yaml(tmp_path / "x.yaml", CLASSIFICATION, MISTAKES),
            "--data=tests.pictures.OddData",
            "--model.metrics=null",
        )
    assert noted == []
    assert len(drawn.figures) == 2


def test_photos_become_small_and_may_have_several_sizes():
    seen = TopMistakes(5)
    for number, (high, size) in enumerate([(255, (3, 900, 600)), (9, (3, 40, 1_000)), (255, (3, 20, 30))]):
        images = torch.randint(0, high + 1, (4, *size), dtype=torch.uint8)
        sure = torch.tensor([0.5, 0.6, 0.7, 0.8]) + number / 100
        seen.add(batch_of(images, sure, torch.arange(4) + 4 * number))
    assert [tuple(mistake.image.shape) for mistake in seen.mistakes] == [
        *((3, 20, 30), (3, 5, 132), (3, 132, 88)),
        *((3, 20, 30), (3, 5, 132)),
    ]
    shown = plot_mistakes(seen, [], "test").axes[0].images
    extents = [
        [round(float(x1 - x0), 2), round(float(y0 - y1), 2)] for x0, x1, y0, y1 in (i.get_extent() for i in shown)
    ]
    assert extents[:3] == [[1.2, 0.8], [1.2, 0.05], [0.8, 1.2]]
    # All are bytes: a dark one stays dark.
    assert shown[1].get_array().max() <= 9 / 255 + 1e-6


def test_images_in_a_dict_are_found_and_numbers_are_told(tmp_path, capfd):
    assert run(write_yaml(tmp_path / "x.yaml", CLASSIFICATION, MISTAKES), "--data.form=dict").figures
    own = {"model": {"class_path": "tests.pictures.Own", "init_args": {"returns": "scores", "what": "sums"}}}
    own["data"] = {"class_path": "tests.pictures.Data", "init_args": {"what": "sums"}}
    assert not run(write_yaml(tmp_path / "y.yaml", own, MISTAKES)).figures
    assert "note: Mistakes drew nothing: there are no images (B, 1 or 3, H, W)" in capfd.readouterr().err
