"""The most confident mistakes, with truth and guess."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from src.callbacks.mistakes import TopMistakes, plot_mistakes
from src.engine.loggers.evaluated import Guesses
from src.module import LitModule
from tests.pictures import CLASSIFICATION, NUM_ROWS, bars, formulas, run, write_yaml
from tests.stopping import differences

MISTAKES = "src.callbacks.mistakes.Mistakes"


def written(figure) -> list[str]:
    return [text.get_text().replace("\n", ", ") for text in figure.axes[0].texts]


def batch_of(images, confidence, rows):
    """A batch in which all guesses are wrong."""
    zeros = torch.zeros(len(rows), dtype=torch.int64)
    guesses = Guesses(zeros, zeros + 1, confidence, zeros == 0, 2)
    return SimpleNamespace(images=images, guesses=lambda: guesses, places=lambda num_rows: rows)


def test_the_most_confident_mistakes_of_the_net_are_drawn(tmp_path):
    drawn = run(write_yaml(tmp_path / "x.yaml", CLASSIFICATION, MISTAKES, most=3))
    images, target = bars()
    with torch.no_grad():
        probabilities = LitModule.load_from_checkpoint(drawn.folder / "checkpoints/best.ckpt")(images).softmax(dim=1)
    confidence, guess = probabilities.max(dim=1)
    wrong = (guess != target).nonzero().flatten()
    assert 3 < len(wrong) < NUM_ROWS
    first = wrong[confidence[wrong].argsort(descending=True)][:3]
    names = ["low", "middle", "high"]
    assert written(drawn.figures["mistakes"]) == [
        f"true {names[target[k]]}, guess {names[guess[k]]}, {confidence[k]:.1%}" for k in first
    ]
    for shown, image in zip(drawn.axes("mistakes")[0].images, images[first], strict=True):
        assert np.allclose(shown.get_array(), (image[0] - image.min()) / (image.max() - image.min()))
    assert f"{len(wrong)} of {NUM_ROWS} are wrong" in drawn.figures["mistakes"].get_suptitle()


def test_what_is_kept_depends_neither_on_the_batches_nor_on_the_processes():
    def batch(rows):
        return batch_of(rows.float().reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2), (rows * 37 % 101) / 101, rows)

    whole, one, other = TopMistakes(7), TopMistakes(7), TopMistakes(7)
    whole.update(batch(torch.arange(1_000)))
    for start in range(0, 1_000, 20):
        one.update(batch(torch.arange(start, start + 20, 2)))
        other.update(batch(torch.arange(start + 1, start + 20, 2)))
    one.merge_state(other)
    assert differences(one.mistakes, whole.mistakes) == []
    assert len(one.mistakes) == 7
    assert one.num_mistakes == whole.num_mistakes == one.num_samples == 1_000


def test_photos_of_several_sizes_become_small():
    seen = TopMistakes(5)
    for number, size in enumerate([(3, 900, 600), (3, 40, 1_000), (3, 20, 30)]):
        images = torch.randint(0, 256, (4, *size), dtype=torch.uint8)
        seen.update(batch_of(images, torch.tensor([0.5, 0.6, 0.7, 0.8]) + number / 100, torch.arange(4) + 4 * number))
    kept = [image for *_, image in seen.mistakes]
    sizes = [tuple(image.shape) for image in kept]
    assert sizes == [(3, 20, 30), (3, 5, 132), (3, 132, 88), (3, 20, 30), (3, 5, 132)]
    assert all(image.untyped_storage().nbytes() < 200_000 for image in kept)
    for image, size in zip(plot_mistakes(seen, [], "test").axes[0].images, sizes, strict=True):
        left, right, bottom, top = image.get_extent()
        assert float(1.1 * (bottom - top) / (right - left)) == pytest.approx(size[1] / size[2])


def test_a_net_without_mistakes_says_so():
    figure = plot_mistakes(TopMistakes(3), [], "test")
    assert figure.get_suptitle() == "test: 0 of 0 are wrong; the most confident of them"


def test_odd_names_are_drawn_letter_by_letter_and_numbers_are_no_images(tmp_path, capfd):
    with formulas() as noted:
        odd = ("--data=tests.pictures.OddData", "--model.metrics=null")
        assert len(run(write_yaml(tmp_path / "x.yaml", CLASSIFICATION, MISTAKES), *odd).figures) == 2
    assert noted == []
    own = {"model": {"class_path": "tests.pictures.Own", "init_args": {"returns": "scores", "what": "sums"}}}
    own["data"] = {"class_path": "tests.pictures.Data", "init_args": {"what": "sums"}}
    assert not run(write_yaml(tmp_path / "y.yaml", own, MISTAKES)).figures
    assert "note: Mistakes drew nothing: there are no images (B, 1 or 3, H, W)" in capfd.readouterr().err
