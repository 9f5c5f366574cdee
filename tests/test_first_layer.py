"""The first layer's weights as images."""

import numpy as np
import pytest
import torch
from torch import nn

from src.callbacks.first_layer import FirstLayer, plot_units, units
from src.engine.errors import UserError
from tests.pictures import Data, bars, classifier, evaluate, sums


def test_each_unit_is_an_image_of_its_weights_the_largest_first(tmp_path):
    module = classifier()
    module.net[1] = nn.Linear(48, 8)
    axes = evaluate(FirstLayer(), module, Data(names=("day", "night")), tmp_path)["first_layer"].axes[0]
    weights = module.net[1].weight.detach()
    array = np.ma.getdata(axes.images[0].get_array())
    for k, unit in enumerate(weights[weights.norm(dim=1).argsort(descending=True)]):
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
    shown = plot_units(images[:9], 16).axes[0].images[0].get_array()
    assert shown.shape == (1 + 3 * 4, 1 + 3 * 6, *([3] if channels == 3 else []))


def test_a_wrong_layer_and_data_without_images_are_named(tmp_path, capfd):
    with pytest.raises(UserError, match=r"takes 48 numbers, the images have \(1, 28, 28\)"):
        units(nn.Linear(48, 8), (1, 28, 28), 16)
    assert not evaluate(FirstLayer(layer="net.0"), classifier(), Data(), tmp_path)
    assert "there is no Linear or Conv2d layer net.0; there are: net.1." in capfd.readouterr().err
    assert not evaluate(FirstLayer(), classifier(nn.Linear(4, 3)), Data((sums()[0], bars()[1])), tmp_path)
    assert "note: FirstLayer drew nothing: there are no images" in capfd.readouterr().err
