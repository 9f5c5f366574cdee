"""The first layer's weights as images."""

import numpy as np
import pytest
import torch
from torch import nn

from src.callbacks.first_layer import plot_units, units
from tests.pictures import CLASSIFICATION, REGRESSION, Drawn, run, write_yaml

FIRST_LAYER = "src.callbacks.first_layer.FirstLayer"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Drawn:
    return run(write_yaml(tmp_path_factory.mktemp("layer") / "x.yaml", CLASSIFICATION, FIRST_LAYER))


def tiles(figure, num, height, width):
    """The images of a mosaic, in their order."""
    array = np.ma.getdata(figure.axes[0].images[0].get_array())
    columns = int(np.ceil(np.sqrt(num)))
    gap = max(width // 14, 1)
    places = [(k // columns * (height + gap) + gap, k % columns * (width + gap) + gap) for k in range(num)]
    return [array[row : row + height, column : column + width] for row, column in places]


def test_each_unit_is_an_image_of_its_weights_the_largest_first(drawn):
    weights = torch.load(drawn.folder / "checkpoints/best.ckpt", weights_only=True)["state_dict"]["net.1.weight"]
    weights = weights[weights.norm(dim=1).argsort(descending=True)]
    assert weights.shape == (8, 48)
    for tile, unit in zip(tiles(drawn.figures["first_layer"], 8, 6, 8), weights, strict=True):
        assert np.allclose(tile, unit.reshape(6, 8))
    assert drawn.axes("first_layer")[0].get_title() == "first layer: weights of 8 of 8 units, the largest first"
    assert (drawn.folder / "first_layer.png").exists()


@pytest.mark.parametrize(("channels", "expected"), [(1, (16, 1, 3, 5)), (3, (16, 3, 3, 5)), (4, (16, 1, 3, 5))])
def test_a_convolution_has_its_kernels(channels, expected):
    layer = nn.Conv2d(channels, 16, (3, 5))
    images = units(layer, (channels, 28, 28), 100)
    assert images.shape == expected
    if channels < 4:
        assert torch.equal(images, layer.weight[layer.weight.flatten(1).norm(dim=1).argsort(descending=True)])
    figure = plot_units(units(layer, (channels, 28, 28), 9), 16)
    assert "weights of 9 of 16 units" in figure.axes[0].get_title()
    shown = figure.axes[0].images[0].get_array()
    assert shown.shape[:2] == (1 + 3 * 4, 1 + 3 * 6)
    assert shown.ndim == (3 if channels == 3 else 2)


def test_a_layer_of_photos_is_made_small():
    layer = nn.Linear(3 * 600 * 400, 30)
    assert units(layer, (3, 600, 400), 16).shape == (16, 3, 308, 205)
    assert units(layer, (3, 600, 400), 1_000).shape == (30, 3, 205, 137)


def test_another_layer_can_be_named_and_a_wrong_name_lists_them(tmp_path, capfd):
    wrong = run(write_yaml(tmp_path / "x.yaml", CLASSIFICATION, FIRST_LAYER, layer="net.0"))
    assert not wrong.figures
    assert "there is no Linear or Conv2d layer net.0; there are: net.1, net.3" in capfd.readouterr().err
    run(write_yaml(tmp_path / "y.yaml", CLASSIFICATION, FIRST_LAYER, layer="net.3"))
    assert "the layer takes 8 numbers, the images have 1 x 6 x 8" in capfd.readouterr().err


def test_data_without_images_is_told(tmp_path, capfd):
    assert not run(write_yaml(tmp_path / "x.yaml", REGRESSION, FIRST_LAYER)).figures
    assert "note: FirstLayer drew nothing: there are no images" in capfd.readouterr().err


def test_a_step_that_returns_nothing_is_enough(tmp_path):
    own = {"model": {"class_path": "tests.pictures.Own"}, "data": CLASSIFICATION["data"]}
    drawn = run(write_yaml(tmp_path / "x.yaml", own, FIRST_LAYER), "--data.sets=2")
    assert list(drawn.figures) == ["first_layer"]
