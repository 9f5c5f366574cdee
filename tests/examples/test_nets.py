import pytest
import torch

from src.models.mnist import MnistMLP
from src.models.xor import XorMLP

NETS = [(XorMLP, (2,), (1,), 17), (MnistMLP, (1, 28, 28), (10,), 203_530)]


@pytest.mark.parametrize(("net", "x_shape", "logits_shape", "num_parameters"), NETS)
def test_net_has_the_stated_shapes_and_number_of_parameters(net, x_shape, logits_shape, num_parameters):
    assert net()(torch.rand(3, *x_shape)).shape == (3, *logits_shape)
    assert sum(parameter.numel() for parameter in net().parameters()) == num_parameters


@pytest.mark.parametrize(("net", "x_shape", "logits_shape", "num_parameters"), NETS)
def test_every_parameter_gets_a_gradient(net, x_shape, logits_shape, num_parameters):
    torch.manual_seed(0)
    built = net()
    built(torch.rand(64, *x_shape)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in built.parameters())


@pytest.mark.parametrize(("net", "x_shape"), [(XorMLP, (2,)), (MnistMLP, (1, 28, 28))])
def test_net_returns_logits_and_not_probabilities(net, x_shape):
    torch.manual_seed(0)
    logits = net()(100 * torch.randn(256, *x_shape))
    assert logits.min() < 0  # neither ReLU nor sigmoid nor softmax on the way out
    assert logits.abs().max() > 1
