"""The first layer's weights as images."""

import numpy as np
import pytest
import torch
from torch import nn

from src.callbacks.first_layer import plot_units, units
from src.engine.errors import UserError
from tests.pictures import CLASSIFICATION, REGRESSION, run, write_yaml

FIRST_LAYER = "src.callbacks.first_layer.FirstLayer"


def test_each_unit_is_an_image_of_its_weights_the_largest_first(tmp_path):
    drawn = run(write_yaml(tmp_path / "x.yaml", CLASSIFICATION, FIRST_LAYER))
    weights = torch.load(drawn.folder / "checkpoints/best.ckpt", weights_only=True)["state_dict"]["net.1.weight"]
    weights = weights[weights.norm(dim=1).argsort(descending=True)]
    axes = drawn.axes("first_layer")[0]
    array = np.ma.getdata(axes.images[0].get_array())
    for k, unit in enumerate(weights):
        row, column = 1 + k // 3 * 7, 1 + k % 3 * 9  # in a grid of 3 columns
        assert np.allclose(array[row : row + 6, column : column + 8], unit.reshape(6, 8))
    assert axes.get_title() == "first layer: weights of 8 of 8 units, the largest first"


@pytest.mark.parametrize(("channels", "expected"), [(1, (16, 1, 3, 5)), (3, (16, 3, 3, 5)), (4, (16, 1, 3, 5))])
def test_a_convolution_has_its_kernels(channels, expected):
    layer = nn.Conv2d(channels, 16, (3, 5))
    images = units(layer, (channels, 28, 28), 100)
    assert images.shape == expected
    if channels < 4:
        assert torch.equal(images, layer.weight[layer.weight.flatten(1).norm(dim=1).argsort(descending=True)])
    figure = plot_units(images[:9], 16)
    assert "weights of 9 of 16 units" in figure.axes[0].get_title()
    shown = figure.axes[0].images[0].get_array()
    assert shown.shape[:2] == (1 + 3 * 4, 1 + 3 * 6)
    assert shown.ndim == (3 if channels == 3 else 2)


def test_weights_of_photos_become_thumbnails_and_other_shapes_are_named():
    layer = nn.Linear(3 * 600 * 400, 30)
    assert units(layer, (3, 600, 400), 16).shape == (16, 3, 300, 200)
    with pytest.raises(UserError, match=r"takes 720000 numbers, the images have \(1, 6, 8\)"):
        units(layer, (1, 6, 8), 16)


def test_a_wrong_name_lists_the_layers_and_data_without_images_says_so(tmp_path, capfd):
    assert not run(write_yaml(tmp_path / "x.yaml", CLASSIFICATION, FIRST_LAYER, layer="net.0")).figures
    assert "there is no Linear or Conv2d layer net.0; there are: net.1, net.3" in capfd.readouterr().err
    assert not run(write_yaml(tmp_path / "y.yaml", REGRESSION, FIRST_LAYER)).figures
    assert "note: FirstLayer drew nothing: there are no images" in capfd.readouterr().err


def test_a_step_that_returns_nothing_is_enough(tmp_path):
    own = {"model": {"class_path": "tests.pictures.Own"}, "data": CLASSIFICATION["data"]}
    drawn = run(write_yaml(tmp_path / "x.yaml", own, FIRST_LAYER), "--data.sets=2")
    assert list(drawn.figures) == ["first_layer"]
