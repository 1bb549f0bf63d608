# SPDX-License-Identifier: Apache-2.0
"""Modules as people write them, for the tests of the bridge."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    """A residual block; He et al., Deep Residual Learning (2015), figure 2."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                nn.BatchNorm2d(outputs),
            )

    def forward(self, x):
        skip = x if self.downsample is None else self.downsample(x)
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += skip
        return self.relu(y)


class ResNet(nn.Module):
    """Of torchvision's shape and names, small."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 5, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(5)
        self.layer1 = nn.Sequential(Block(5, 5, 1), Block(5, 5, 1))
        self.layer2 = nn.Sequential(Block(5, 7, 2))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(7, 2)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer2(self.layer1(x))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class Language(nn.Module):
    """Tied embedding and head, position ids and a causal mask as buffers."""

    ids: torch.Tensor
    mask: torch.Tensor

    def __init__(self, dropout=0.0):
        super().__init__()
        self.encoder = nn.Embedding(11, 6)
        self.position = nn.Embedding(7, 6)
        self.block = nn.TransformerEncoderLayer(6, 2, 10, dropout, batch_first=True)
        self.decoder = nn.Linear(6, 11, bias=False)
        self.decoder.weight = self.encoder.weight
        self.register_buffer("ids", torch.arange(7))
        mask = torch.full((7, 7), -torch.inf).triu(1)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, tokens, *, padding=None):
        n = tokens.shape[-1]
        x = self.encoder(tokens) + self.position(self.ids[:n])
        y = self.block(x, self.mask[:n, :n], padding)
        return {"logits": self.decoder(y), "hidden": (y, [x])}


def filled(module: Any, seed: int = 3) -> Any:
    """The module with numbers other than 0 and 1 in all parameters, in float64."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            values = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.5 * values)
    return module


def numbers(*shape, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def weighted(output):
    """A curved scalar to which every element contributes in its own way."""
    weights = torch.linspace(0.3, 1.7, output.numel(), dtype=output.dtype)
    return (weights.reshape(output.shape) * output.square()).sum()
