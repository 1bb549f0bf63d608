# SPDX-License-Identifier: Apache-2.0
"""Every layer and every optimizer, small, as pure functions of random arguments.

Sizes are 2, 3, 5 and 7, and differ within a case, so that no axis passes for another.
No number is 0 or 1: neither zero gradients nor factors of 1 can hide a mistake.
A row is called as what it tests is, with a comma before what is special about it.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from functorch_lab import nn, optim, random, tree
from functorch_lab.types import GradientTransformation, Layer, StatefulLayer


def numbers_like(shapes: Any, seed: int, dtype: torch.dtype, device: Any = None) -> Any:
    """A tree of random numbers like one of tensors; the same ones in every dtype."""
    generator = torch.Generator().manual_seed(seed)

    def draw(leaf: Tensor) -> Tensor:
        values = torch.randn(leaf.shape, generator=generator)
        return values.to(dtype=dtype, device=device)

    return tree.map(draw, shapes)


@dataclass(frozen=True)
class LayerCase:
    """A layer as a function `(params, x, key) -> y` of one sample.

    Attributes:
        layer: what is tested.
        shape: of one sample.
        has_params: whether there is anything to train.
        draws: whether it needs a key in training.
    """

    layer: Layer | StatefulLayer
    shape: tuple[int, ...]
    has_params: bool = True
    draws: bool = False
    shared = (0,)  # arguments that all samples have in common

    def __call__(self, params: Any, x: Tensor, key: Tensor) -> Any:
        key_or_none = key if self.draws else None
        return self.layer.apply(params, x, key=key_or_none, train=True)

    def arguments(
        self, seed: int, dtype: torch.dtype = torch.float64, device: Any = None
    ) -> tuple[Any, ...]:
        key = random.key(seed + 3, device=device)
        # Ones and zeros, as layer_norm begins with, are replaced.
        params = numbers_like(self.layer.init(key), seed + 11, dtype, device)
        x = numbers_like(torch.empty(self.shape), seed + 7, dtype, device)
        return params, x, key


@dataclass(frozen=True)
class StatefulCase(LayerCase):
    """A stateful layer as a function `((params, state), x, key) -> (y, state)`.

    `x` is a batch, and each call is of another model: nothing is shared.
    """

    shared = ()

    def __call__(self, params: Any, x: Tensor, key: Tensor) -> Any:
        params, state = params
        key_or_none = key if self.draws else None
        return self.layer.apply(params, state, x, key=key_or_none, train=True)

    def arguments(
        self, seed: int, dtype: torch.dtype = torch.float64, device: Any = None
    ) -> tuple[Any, ...]:
        both, x, key = super().arguments(seed, dtype, device)

        def of_state(leaf: Tensor, number: Tensor) -> Tensor:
            # A variance is positive, a count an integer.
            return number.abs() + 0.3 if leaf.is_floating_point() else leaf + 2 + seed

        params, numbers = both
        _, state = self.layer.init(key)
        return (params, tree.map(of_state, state, numbers)), x, key


@dataclass(frozen=True)
class OptimizerCase:
    """A transformation as a step `(params, state, grads) -> (params, state)`.

    Attributes:
        optimizer: what is tested.
        changes: other hyperparameters, as `set_hyperparams` takes them.
    """

    optimizer: GradientTransformation
    changes: dict[str, Any] = field(default_factory=dict)
    shared = ()

    def __call__(self, params: Any, state: Any, grads: Any) -> Any:
        updates, state = self.optimizer.update(grads, state, params)
        return optim.apply_updates(params, updates), state

    def arguments(
        self, seed: int, dtype: torch.dtype = torch.float64, device: Any = None
    ) -> tuple[Any, ...]:
        """Step count, hyperparameters and all tensors differ from seed to seed."""
        draws = [numbers_like(PARAMS, 10 * seed + i, dtype, device) for i in range(8)]
        params, grads, *earlier = draws
        state = self.optimizer.init(params)
        for past in earlier[: 2 + seed]:
            _, state = self(params, state, past)
        if seed:
            state = optim.set_hyperparams(state, **self.changes)
        return params, state, grads


PARAMS = {
    "in": {"weight": torch.empty(2, 3)},
    "out": (torch.empty(5), [torch.empty(())]),
}


def _forward(m: Any, x: Tensor) -> Tensor:
    return m.drop(m.twice(torch.tanh(m.twice(x)))) + m.norm(x)


def _stateful_forward(m: Any, x: Tensor) -> Tensor:
    return m.drop(m.norm(torch.tanh(m.norm(x)))) + m.dense(x)


_IMAGE, _VOLUME = (3, 7, 5), (2, 3, 5, 7)
_DENSE = nn.linear(5, 5)
_MODULE = torch.nn.Sequential(
    torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Dropout(0.3), torch.nn.Linear(7, 2)
)
ACTIVATIONS = {
    "elu": nn.elu,
    "gelu": nn.gelu,
    "identity": nn.identity,
    "leaky_relu": nn.leaky_relu,
    "log_softmax": nn.log_softmax,
    "mish": nn.mish,
    "relu": nn.relu,
    "selu": nn.selu,
    "sigmoid": nn.sigmoid,
    "silu": nn.silu,
    "softmax": nn.softmax,
    "softplus": nn.softplus,
    "tanh": nn.tanh,
}
LAYERS = {
    "linear": LayerCase(nn.linear(5, 7), (3, 5)),
    "linear, no bias": LayerCase(nn.linear(5, 7, bias=False), (5,)),
    "conv2d": LayerCase(nn.conv2d(3, 2, (3, 2)), _IMAGE),
    "conv2d, same": LayerCase(
        nn.conv2d(3, 6, 2, padding="same", groups=3, bias=False), _IMAGE
    ),
    "conv2d, circular": LayerCase(
        nn.conv2d(3, 2, 3, stride=2, padding=(2, 1), padding_mode="circular"), _IMAGE
    ),
    "max_pool2d": LayerCase(nn.max_pool2d((3, 2)), _IMAGE, has_params=False),
    "avg_pool2d": LayerCase(
        nn.avg_pool2d(3, stride=2, padding=1), _IMAGE, has_params=False
    ),
    "embedding": LayerCase(
        nn.compose(
            # Integers that depend on x, which has a derivative by the product.
            lambda m, x: m.table(x.argsort()) * x[:, None],
            table=nn.embedding(7, 5, padding_idx=-2),
        ),
        (3,),
    ),
    "maxout": LayerCase(nn.maxout(5, 2, pieces=3), (7, 5)),
    "conv1d": LayerCase(
        nn.conv1d(3, 2, 3, stride=2, padding=2, padding_mode="reflect"), (3, 7)
    ),
    "conv3d": LayerCase(nn.conv3d(2, 6, (2, 1, 3), padding="same", groups=2), _VOLUME),
    "conv_transpose1d": LayerCase(
        nn.conv_transpose1d(3, 2, 2, stride=3, padding=1, output_padding=2), (3, 5)
    ),
    "conv_transpose2d": LayerCase(
        nn.conv_transpose2d(2, 6, (3, 2), groups=2, dilation=2), (2, 3, 5)
    ),
    "conv_transpose3d": LayerCase(
        nn.conv_transpose3d(2, 3, (2, 1, 3), stride=(1, 2, 1), bias=False), _VOLUME
    ),
    "max_pool1d": LayerCase(nn.max_pool1d(3, stride=2), (2, 7), has_params=False),
    "max_pool3d": LayerCase(
        nn.max_pool3d(2, padding=(0, 1, 1)), _VOLUME, has_params=False
    ),
    "avg_pool1d": LayerCase(
        nn.avg_pool1d(3, stride=2, ceil_mode=True), (2, 7), has_params=False
    ),
    "avg_pool3d": LayerCase(
        nn.avg_pool3d((2, 3, 2), padding=1, count_include_pad=False),
        _VOLUME,
        has_params=False,
    ),
    **{
        f"{kind}{rank}d": LayerCase(
            getattr(nn, f"{kind}{rank}d")(2), (3, 7, 3, 5)[: rank + 1], has_params=False
        )
        for kind in ("adaptive_avg_pool", "adaptive_max_pool")
        for rank in (1, 2, 3)
    },
    "upsample": LayerCase(
        nn.upsample(scale_factor=1.7, spatial_dims=1), (2, 5), has_params=False
    ),
    "upsample, bilinear": LayerCase(
        nn.upsample((7, 2), mode="bilinear", align_corners=True, spatial_dims=2),
        (2, 3, 5),
        has_params=False,
    ),
    "dropout2d": LayerCase(nn.dropout2d(0.3), (7, 2, 3), has_params=False, draws=True),
    "flatten": LayerCase(nn.flatten(), (2, *_IMAGE), has_params=False),
    "layer_norm": LayerCase(nn.layer_norm((3, 5)), (2, 3, 5)),
    "layer_norm, plain": LayerCase(
        nn.layer_norm(5, elementwise_affine=False), (3, 5), has_params=False
    ),
    "rms_norm": LayerCase(nn.rms_norm((3, 5), eps=0.02), (2, 3, 5)),
    "group_norm": LayerCase(nn.group_norm(2, 6, spatial_dims=1), (5, 6, 7)),
    "instance_norm": LayerCase(
        nn.instance_norm(3, spatial_dims=2, affine=True), (2, *_IMAGE)
    ),
    "batch_norm": StatefulCase(nn.batch_norm(3, spatial_dims=2), (2, *_IMAGE)),
    "batch_norm, features": StatefulCase(
        nn.batch_norm(5, spatial_dims=0, momentum=None, affine=False), (2, 3, 5)
    ),
    "dropout": LayerCase(nn.dropout(0.3), (5, 7), has_params=False, draws=True),
    "sequential": LayerCase(
        nn.sequential(nn.linear(5, 3), nn.dropout(0.3), nn.tanh, nn.linear(3, 2)),
        (7, 5),
        draws=True,
    ),
    "residual": LayerCase(nn.residual(nn.sequential(nn.layer_norm(5), _DENSE)), (3, 5)),
    "compose": LayerCase(
        nn.compose(_forward, twice=_DENSE, drop=nn.dropout(0.3), norm=nn.layer_norm(5)),
        (3, 5),
        draws=True,
    ),
    "sequential, stateful": StatefulCase(
        nn.sequential(
            nn.conv2d(3, 2, 3, bias=False),
            nn.residual(nn.batch_norm(2, spatial_dims=2)),
            nn.dropout(0.3),
        ),
        (2, *_IMAGE),
        draws=True,
    ),
    "compose, stateful": StatefulCase(
        nn.compose(
            _stateful_forward,
            norm=nn.batch_norm(5, spatial_dims=0),
            dense=_DENSE,
            drop=nn.dropout(0.3),
        ),
        (3, 5),
        draws=True,
    ),
    "rnn_cell": LayerCase(nn.rnn_cell(5, 3, bias=False), (2, 5)),
    "lstm_cell": LayerCase(nn.lstm_cell(5, 3, proj_size=2), (7, 5)),
    "gru_cell": LayerCase(nn.gru_cell(5, 3), (5,)),
    "rnn": LayerCase(nn.rnn(5, 3, 2, dropout=0.3), (2, 5), draws=True),
    "lstm": LayerCase(nn.lstm(5, 7, bidirectional=True, return_state=True), (2, 5)),
    "gru": LayerCase(
        nn.compose(
            # The length of each sequence depends on x, but has no derivative.
            lambda m, x: m.gru(x, None, 2 + (x[:, 0, 0] > 0).long()),
            gru=nn.gru(5, 3),
        ),
        (2, 3, 5),
    ),
    "parallel": LayerCase(
        nn.sequential(
            lambda x: (x, x),
            nn.parallel(_DENSE, nn.dropout(0.3)),
            lambda ys: ys[0] + 3 * ys[1],
        ),
        (3, 5),
        draws=True,
    ),
    "repeat": LayerCase(
        nn.repeat(nn.sequential(_DENSE, nn.dropout(0.3), nn.tanh), 3),
        (2, 5),
        draws=True,
    ),
    "repeat, stateful": StatefulCase(
        nn.repeat(nn.sequential(nn.batch_norm(5, spatial_dims=0), _DENSE), 2), (7, 5)
    ),
    "stateful": StatefulCase(nn.stateful(nn.linear(5, 7)), (3, 5)),
    "lora": LayerCase(
        nn.lora(nn.sequential(nn.linear(5, 7), nn.tanh, nn.linear(7, 3)), 2, alpha=5),
        (2, 5),
    ),
    "lora, stateful": StatefulCase(
        nn.lora(nn.sequential(nn.batch_norm(5, spatial_dims=0), _DENSE), 2), (7, 5)
    ),
    "weight_norm": LayerCase(nn.weight_norm(nn.conv2d(3, 2, 3)), _IMAGE),
    "remat": LayerCase(
        nn.remat(nn.sequential(_DENSE, nn.dropout(0.3))), (2, 5), draws=True
    ),
    "remat, stateful": StatefulCase(
        nn.remat(nn.sequential(nn.batch_norm(5, spatial_dims=0), _DENSE)), (7, 5)
    ),
    "from_module": LayerCase(nn.from_module(_MODULE).layer, (3, 5), draws=True),
    "multi_head_attention": LayerCase(
        nn.multi_head_attention(3, 2, head_dim=1, bias=False), (2, 5, 3)
    ),
    "multi_head_attention, causal": LayerCase(
        nn.multi_head_attention(
            *(3, 6), num_kv_heads=2, head_dim=2, rotary=7.0, is_causal=True, dropout=0.3
        ),
        (5, 3),
        draws=True,
    ),
    "multi_head_attention, crossed": LayerCase(
        nn.compose(
            # The last vectors look at the first ones, and at no negative one.
            lambda m, x: m.attend(x[3:], x[:3], x[:3, 1:], x[None, :3, 0] > 0),
            attend=nn.multi_head_attention(5, 1, vdim=4, bias=False),
        ),
        (7, 5),
    ),
    "learned_positions": LayerCase(nn.learned_positions(7, 2), (3, 5, 2)),
    "sinusoidal_positions": LayerCase(
        nn.sinusoidal_positions(2, base=7.0), (3, 5, 2), has_params=False
    ),
    "transformer": LayerCase(
        nn.compose(
            # Tokens that depend on x, which has a derivative by the product.
            # Small, as rounding grows with the square of the numbers.
            lambda m, x: m.model(x.argsort()) * x[:, None] / 30,
            model=nn.transformer(5, 6, 1, 3, max_length=7, hidden=2, dropout=0.3),
        ),
        (3,),
        draws=True,
    ),
    "transformer, rotary": LayerCase(
        nn.compose(
            # Small, as rounding grows with the square of the numbers.
            lambda m, x: m.model(x.argsort()) * x[:, None] / 30,
            model=nn.transformer(
                *(5, 12, 1, 3),
                max_length=7,
                num_kv_heads=1,
                hidden=2,
                norm="rms_norm",
                positions="rotary",
                gated=True,
                bias=False,
                tie_weights=False,
            ),
        ),
        (3,),
    ),
    "transformer_block": LayerCase(
        nn.compose(
            lambda m, x: m.block(x) / 30,
            block=nn.transformer_block(6, 2, hidden=5, is_causal=True, bias=False),
        ),
        (2, 7, 6),
    ),
    "vit": LayerCase(
        nn.vit((6, 2), (3, 2), 7, 4, 1, 2, in_channels=5, hidden=3), (3, 5, 6, 2)
    ),
    "mlp": LayerCase(nn.mlp(5, [7, 3], 2, dropout=0.3), (5,), draws=True),
    "cnn": LayerCase(
        nn.cnn(3, [2, 5], 7, kernel_size=2, activation=nn.elu, dropout=0.3),
        _IMAGE,
        draws=True,
    ),
    "resnet": StatefulCase(
        nn.resnet((1,), 5, in_channels=2, width=2, small_images=True), (3, 2, 7, 5)
    ),
    **{
        name: LayerCase(nn.sequential(function), (3, 5), has_params=False)
        for name, function in ACTIVATIONS.items()
    },
}

SCHEDULE = optim.schedules.warmup(optim.schedules.cosine(0.3, 7, 0.02), 2, 0.05)
BETAS = (0.8, 0.9)  # far enough from 1 for finite differences
OPTIMIZERS = {
    "sgd": OptimizerCase(optim.sgd(lr=0.3), {"lr": 0.07}),
    "sgd, momentum": OptimizerCase(
        optim.sgd(lr=0.3, momentum=0.8, dampening=0.1, weight_decay=0.2),
        {"lr": 0.07, "momentum": 0.6},
    ),
    "sgd, nesterov": OptimizerCase(
        optim.sgd(lr=SCHEDULE, momentum=0.8, nesterov=True), {"momentum": 0.6}
    ),
    "adam": OptimizerCase(
        optim.adam(lr=0.3, betas=BETAS, weight_decay=0.2),
        {"lr": 0.07, "betas": (0.7, 0.8)},
    ),
    "adamw": OptimizerCase(
        optim.adamw(lr=0.3, betas=BETAS, mask="*.weight"), {"lr": 0.07, "eps": 0.002}
    ),
    "adamw, schedule": OptimizerCase(
        optim.adamw(lr=SCHEDULE, betas=BETAS, weight_decay=0.2), {"weight_decay": 0.3}
    ),
    "rmsprop": OptimizerCase(
        optim.rmsprop(lr=0.3, alpha=0.9), {"lr": 0.07, "alpha": 0.8}
    ),
    "rmsprop, momentum": OptimizerCase(
        optim.rmsprop(
            lr=SCHEDULE, alpha=0.9, weight_decay=0.2, momentum=0.8, centered=True
        ),
        {"momentum": 0.6, "weight_decay": 0.3, "eps": 0.002},
    ),
    "adagrad": OptimizerCase(optim.adagrad(lr=0.3), {"lr": 0.07}),
    "adagrad, decay": OptimizerCase(
        optim.adagrad(
            lr=0.3, lr_decay=0.2, weight_decay=0.2, initial_accumulator_value=0.7
        ),
        {"lr_decay": 0.3, "weight_decay": 0.3, "eps": 0.002},
    ),
    "scale_by_rms": OptimizerCase(optim.scale_by_rms(alpha=0.9), {"alpha": 0.8}),
    "scale_by_rss": OptimizerCase(optim.scale_by_rss(), {"eps": 0.002}),
    "scale_by_adam": OptimizerCase(optim.scale_by_adam(BETAS), {"betas": (0.7, 0.8)}),
    "trace": OptimizerCase(optim.trace(0.8, nesterov=True), {"momentum": 0.6}),
    "scale": OptimizerCase(optim.scale(-0.3), {"step_size": -0.07}),
    "scale_by_schedule": OptimizerCase(optim.scale_by_schedule(SCHEDULE)),
    "add_decayed_weights": OptimizerCase(
        optim.add_decayed_weights(0.2, mask="out.*"), {"weight_decay": 0.3}
    ),
    "clip_by_global_norm": OptimizerCase(
        optim.clip_by_global_norm(0.7), {"max_norm": 0.3}
    ),
    "chain": OptimizerCase(
        optim.chain(optim.clip_by_global_norm(2.3), optim.adamw(SCHEDULE, BETAS)),
        {"max_norm": 1.7, "weight_decay": 0.3},
    ),
    "ema_params": OptimizerCase(
        optim.ema_params(optim.adam(lr=SCHEDULE, betas=BETAS), decay=0.8),
        {"decay": 0.6},
    ),
    "fused": OptimizerCase(
        optim.fused(optim.sgd(lr=0.3, momentum=0.8, weight_decay=0.2)), {"lr": 0.07}
    ),
    "freeze": OptimizerCase(
        optim.freeze(optim.fused(optim.adam(lr=0.3, betas=BETAS)), "out.*"),
        {"lr": 0.07},
    ),
}

# What is public but neither a layer nor an optimizer: the types of states, the parts
# of a training loop, and namespaces with tests of their own. A resnet18 is a resnet too
# large for finite differences.
NOT_LAYERS = {
    *("Bridged", "KVCache", "LanguageModel", "generate", "init", "load_into", "merge"),
    *("resnet18", "rotary", "set_grads"),
}
NOT_OPTIMIZERS = {
    *("AdagradState", "AdamState", "HyperparamsState", "RMSpropState", "SGDState"),
    *("EmaParamsState", "Hyperparameter", "Schedule"),
    *("apply_updates", "get_hyperparams", "set_hyperparams", "schedules"),
    *("elementwise", "get_ema_params", "is_elementwise"),
}
