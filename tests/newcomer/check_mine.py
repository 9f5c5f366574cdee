import torch
import pytest
import os
from src.losses import FocalLoss, DiceLoss

@pytest.fixture()
def batch():
    torch.manual_seed(0)
    return torch.randn(8, 3), torch.randint(0, 3, (8,))

def test_focal_is_ce_without_gamma(batch):
    logits, target = batch
    loss = FocalLoss(gamma=0)(logits, target)
    assert torch.allclose(loss, torch.nn.functional.cross_entropy(logits, target)) == True

@pytest.mark.parametrize("shape", ((4, 1, 8, 8), (2, 1, 16, 16)))
def test_dice(shape):
    target = torch.ones(shape)
    loss = DiceLoss()(20 * target, target)
    assert loss < 1e-3 and loss >= 0

def test_error():
    with pytest.raises(Exception):
        FocalLoss()(torch.randn(2, 3), torch.randn(5))

def test_file(tmp_path):
    path = os.path.join(str(tmp_path), "loss.pt")
    torch.save(FocalLoss().state_dict(), path)
    assert os.path.exists(path)
