"""The most confident mistakes, with truth and guess."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from src.callbacks.mistakes import Mistakes, TopMistakes, plot_mistakes
from tests.pictures import Data, OddData, bars, classifier, evaluate, formulas, sums
from tests.stopping import differences


def batch_of(images, confidence, rows):
    """A batch in which all guesses are wrong."""
    scores = torch.stack([1 - confidence, torch.zeros_like(confidence), confidence], dim=1)
    target = torch.ones(len(rows), dtype=torch.int64)  # never the guess
    return SimpleNamespace(batch=images, classes=lambda: (scores, target), places=lambda num_rows: rows)


def test_the_most_confident_mistakes_of_the_net_are_drawn(tmp_path):
    module, (images, target) = classifier(), bars()
    figure = evaluate(Mistakes(most=3), module, Data(), tmp_path)["mistakes"]
    confidence, guess = module(images).softmax(dim=1).max(dim=1)
    wrong = (guess != target).nonzero().flatten()
    assert len(wrong) > 3
    first = wrong[confidence[wrong].argsort(descending=True)][:3]
    names, (axes,) = ["low", "middle", "high"], figure.axes
    assert [text.get_text() for text in axes.texts] == [
        f"true {names[target[k]]}\nguess {names[guess[k]]}, {confidence[k]:.1%}" for k in first
    ]
    for shown, image in zip(axes.images, images[first], strict=True):
        assert np.allclose(shown.get_array(), (image[0] - image.min()) / (image.max() - image.min()))
    assert figure.get_suptitle() == "test: the 3 most confident mistakes"
    assert plot_mistakes(TopMistakes(3), [], "test").get_suptitle() == "test: no mistakes"


def test_what_is_kept_depends_neither_on_the_batches_nor_on_the_processes():
    def batch(rows):
        return batch_of(rows.float().reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2), (rows * 37 % 101) / 101, rows)

    whole, one, other = TopMistakes(7), TopMistakes(7), TopMistakes(7)
    add = Mistakes().add
    add(whole, batch(torch.arange(1_000)))
    for start in range(0, 1_000, 20):
        add(one, batch(torch.arange(start, start + 20, 2)))
        add(other, batch(torch.arange(start + 1, start + 20, 2)))
    one.merge_state(other)
    assert differences([*one], [*whole]) == []
    assert len(one) == 7


def test_photos_of_several_sizes_become_small():
    seen = TopMistakes(5)
    for number, size in enumerate([(3, 900, 600), (3, 40, 1_000), (3, 20, 30)]):
        images = torch.randint(0, 256, (4, *size), dtype=torch.uint8)
        batch = batch_of(images, torch.tensor([0.5, 0.6, 0.7, 0.8]) + number / 100, torch.arange(4) + 4 * number)
        Mistakes().add(seen, batch)
    kept = [image for *_, image in seen]
    sizes = [tuple(image.shape) for image in kept]
    assert sizes == [(3, 20, 30), (3, 5, 132), (3, 132, 88), (3, 20, 30), (3, 5, 132)]
    assert all(image.untyped_storage().nbytes() < 200_000 for image in kept)
    assert float(kept[2].mean()) == pytest.approx(127.5, abs=1)  # each pixel is a mean
    for image, size in zip(plot_mistakes(seen, [], "test").axes[0].images, sizes, strict=True):
        left, right, bottom, top = image.get_extent()
        assert float(1.1 * (bottom - top) / (right - left)) == pytest.approx(size[1] / size[2])


def test_odd_names_are_drawn_letter_by_letter_and_numbers_are_no_images(tmp_path, capfd):
    drawn = evaluate(Mistakes(), classifier(), OddData(), tmp_path)
    assert [formulas(figure) for figure in drawn.values()] == [[], []]
    assert not evaluate(Mistakes(), classifier(nn.Linear(4, 3)), Data((sums()[0], bars()[1])), tmp_path)
    assert "note: Mistakes drew nothing: there are no images (B, 1 or 3, H, W)" in capfd.readouterr().err
