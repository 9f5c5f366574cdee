import math
from dataclasses import dataclass

import torch
import torch.nn as nn


@dataclass
class UNetConfig:
    channels: tuple = (32, 64, 128)
    groups: int = 8


def conv_block(i, o, groups=8):
    return nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.GroupNorm(groups, o), nn.SiLU(), nn.Conv2d(o, o, 3, padding=1))


class UNet(nn.Module):
    def __init__(self, in_channels: int = 1, out_channels: int = 1, channels: tuple = (32, 64, 128)) -> None:
        super().__init__()
        self.cfg = UNetConfig(channels)
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        prev = in_channels
        for ch in channels:
            self.down.append(conv_block(prev, ch))
            prev = ch
        for ch in reversed(channels[:-1]):
            self.up.append(conv_block(prev + ch, ch))
            prev = ch
        self.out = nn.Conv2d(prev, out_channels, 1)
        self.pool = nn.MaxPool2d(2)
        self.scale = 1 / math.sqrt(channels[0])
        self.register_buffer("freqs", torch.exp(torch.arange(0, 16, 2) * -(math.log(10000.0) / 16)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for i, block in enumerate(self.down):
            x = block(x)
            if i < len(self.down) - 1:
                skips.append(x)
                x = self.pool(x)
        for block, skip in zip(self.up, reversed(skips)):
            x = nn.functional.interpolate(x, scale_factor=2)
            x = block(torch.cat([x, skip], dim=1))
        return self.out(x) * self.scale

    def embed(self, t: torch.Tensor) -> torch.Tensor:
        args = t[:, None] * self.freqs[None]
        return torch.cat([args.sin(), args.cos()], dim=-1)

    def first_channels(self) -> int:
        return self.down[0][0].out_channels
