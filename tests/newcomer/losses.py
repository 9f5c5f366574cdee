import torch
import torch.nn as nn
import torch.nn.functional as F

class FocalLoss(nn.Module):
    def __init__(self, gamma=2.0, weight=None, reduction='mean'):
        super().__init__()
        self.gamma = gamma
        self.weight = weight
        self.reduction = reduction

    def forward(self, logits, target):
        ce = F.cross_entropy(logits, target, weight=self.weight, reduction='none')
        pt = torch.exp(-ce)
        loss = (1 - pt) ** self.gamma * ce
        return loss.mean() if self.reduction == 'mean' else loss.sum()


class DiceLoss(nn.Module):
    # 1 - 2|A∩B| / (|A| + |B|), over a batch – see V-Net
    def __init__(self, eps: float = 1e-6):
        super().__init__()
        self.eps = eps

    def forward(self, logits: torch.Tensor, target: torch.Tensor):
        probs = logits.sigmoid().flatten(1)
        target = target.flatten(1)
        inter = (probs * target).sum(1)
        dice = (2 * inter + self.eps) / (probs.sum(1) + target.sum(1) + self.eps)
        return 1 - dice.mean()


class Combined(nn.Module):
    def __init__(self, losses: list, weights: list):
        super().__init__()
        assert len(losses) == len(weights)
        self.losses = nn.ModuleList(losses)
        self.weights = weights

    def forward(self, logits, target):
        return sum(w * l(logits, target) for w, l in zip(self.weights, self.losses))
