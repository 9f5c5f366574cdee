import pytest
import torch

from src.models.mnist import MnistMLP
from src.models.xor import XorMLP


@pytest.mark.parametrize(
    ("net", "x_shape", "logits_shape", "num_parameters"),
    [(XorMLP, (2,), (1,), 17), (MnistMLP, (1, 28, 28), (10,), 203_530)],
)
def test_net_returns_logits_and_trains_all_its_parameters(net, x_shape, logits_shape, num_parameters):
    torch.manual_seed(0)
    built = net()
    logits = built(100 * torch.randn(256, *x_shape))
    assert logits.shape == (256, *logits_shape)
    assert logits.min() < 0  # neither ReLU nor sigmoid nor softmax on the way out
    assert logits.abs().max() > 1
    logits.square().sum().backward()
    assert sum(parameter.numel() for parameter in built.parameters()) == num_parameters
    assert all(parameter.grad.abs().sum() > 0 for parameter in built.parameters())
