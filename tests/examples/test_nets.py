import pytest
import torch

from src.models.mnist import MnistMLP
from src.models.xor import XorMLP


@pytest.mark.parametrize(("net", "shape", "num_parameters"), [(XorMLP, (2,), 17), (MnistMLP, (1, 28, 28), 203_530)])
def test_net_returns_logits_and_trains_all_its_parameters(net, shape, num_parameters):
    torch.manual_seed(0)
    built = net()
    logits = built(100 * torch.randn(256, *shape))
    assert logits.min() < -1  # neither ReLU nor sigmoid nor softmax on the way out
    logits.square().sum().backward()
    assert sum(parameter.numel() for parameter in built.parameters()) == num_parameters
    assert all(parameter.grad.abs().sum() > 0 for parameter in built.parameters())
