# SPDX-License-Identifier: Apache-2.0
"""The models of models.py as modules, with their parameters as trees of our models."""

from collections.abc import Iterable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Pre-norm attention and a map of each position."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """From `(batch, tokens, width)` to the same."""
        query, key, value = (
            each.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for each in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        y = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        y = F.gelu(self.up(self.norm2(x)), approximate="tanh")
        return x + self.down(y)


class GPT(nn.Module):
    """GPT-2's architecture, embedding and head tied."""

    def __init__(self, vocab: int, width: int, layers: int, heads: int, tokens: int):
        super().__init__()
        self.tokens = nn.Embedding(vocab, width)
        self.positions = nn.Embedding(tokens, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """From `(batch, tokens)` to `(batch, tokens, vocab)`."""
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.tokens.weight)

    def tree(self) -> dict[str, Any]:
        """A copy of the parameters as `nn.transformer` has them."""
        blocks = tuple(
            {
                "attention": {
                    "norm": _tensors(block.norm1),
                    "qkv": _tensors(block.qkv),
                    "out": _tensors(block.out),
                },
                "mlp": {
                    "norm": _tensors(block.norm2),
                    "up": _tensors(block.up),
                    "down": _tensors(block.down),
                },
            }
            for block in self.blocks
        )
        parts = ("tokens", "positions", "norm")
        return {"blocks": blocks, **{n: _tensors(getattr(self, n)) for n in parts}}


class Basic(nn.Module):
    """Two convolutions beside a shortcut; He et al. (2015), figure 2."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """From `(batch, inputs, height, width)` to `(batch, outputs, ...)`."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet18(nn.Module):
    """Of torchvision's shape and names, with the first convolution for 32x32."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        inputs = 64
        for i, outputs in enumerate((64, 128, 256, 512)):
            first = Basic(inputs, outputs, 2 if i else 1)
            stage = nn.Sequential(first, Basic(outputs, outputs, 1))
            setattr(self, f"layer{i + 1}", stage)
            inputs = outputs
        self.fc = nn.Linear(inputs, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """From `(batch, 3, height, width)` to `(batch, num_classes)`."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((-2, -1)))

    def trees(self) -> tuple[Any, Any]:
        """Copies of the parameters and of the statistics, as `nn.resnet18` has them."""
        modules = dict(self.named_modules())
        names = [name for name, part in modules.items() if not list(part.children())]
        params = {name: _copies(modules[name].named_parameters()) for name in names}
        state = {name: _copies(modules[name].named_buffers()) for name in names}
        return _nested(params), _nested(state)


def _tensors(part: nn.Module) -> dict[str, Tensor]:
    return _copies(part.named_parameters())


def _copies(named: Iterable[tuple[str, Tensor]]) -> Any:
    return {name: tensor.detach().clone() for name, tensor in named} or ()


def _nested(flat: dict[str, Any]) -> Any:
    """Dicts by the parts of the names, tuples where these are numbers."""
    if "" in flat:
        return flat[""]
    heads = dict.fromkeys(name.partition(".")[0] for name in flat)
    inner = {
        head: _nested(
            {
                name.partition(".")[2]: value
                for name, value in flat.items()
                if name.partition(".")[0] == head
            }
        )
        for head in heads
    }
    return tuple(inner.values()) if "0" in inner else inner
