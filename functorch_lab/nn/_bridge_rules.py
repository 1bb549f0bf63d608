# SPDX-License-Identifier: Apache-2.0
"""The functions of torch that draw, each with a key, and those that cannot have one.

A rule is called as `rule(new_key, func, *args, **kwargs)`, see `_bridge_dropout`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from functorch_lab import random
from functorch_lab.nn import init
from functorch_lab.nn._batched import batch_levels, under_vmap
from functorch_lab.nn._bridge_dropout import DROPOUT_RULES, NewKey


def check_generator(name: str, args: Any, kwargs: Any) -> None:
    """Raises `TypeError` where a draw is given a generator of its own."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.Generator):
            raise TypeError(
                "nn.from_module.apply: module: expected draws from the key, got "
                f"{name} with a generator=. Leave it out."
            )


def _shape(size: Any) -> tuple[int, ...]:
    nested = len(size) == 1 and not isinstance(size[0], int | torch.SymInt)
    return tuple(size[0] if nested else size)


def _factory(draw: Callable[..., Tensor], what: str) -> Callable[..., Tensor]:
    def rule(
        new_key: NewKey,
        func: Any,
        *size: Any,
        dtype: torch.dtype | None = None,
        device: Any = None,
        **options: Any,
    ) -> Tensor:
        shape = _shape(options.get("size", size))
        return draw(new_key(what), shape, dtype).to(device=device)

    return rule


def _factory_like(draw: Callable[..., Tensor], what: str) -> Callable[..., Tensor]:
    def rule(
        new_key: NewKey,
        func: Any,
        input: Tensor,  # noqa: A002
        dtype: torch.dtype | None = None,
        device: Any = None,
        **options: Any,
    ) -> Tensor:
        return draw(new_key(what), tuple(input.shape), dtype or input.dtype).to(
            device=input.device if device is None else device
        )

    return rule


def _randint(
    new_key: NewKey,
    func: Any,
    *args: Any,
    dtype: torch.dtype = torch.int64,
    device: Any = None,
    **options: Any,
) -> Tensor:
    given = list(args)
    size = options["size"] if "size" in options else given.pop()
    high = options["high"] if "high" in options else given.pop()
    low = options.get("low", given[0] if given else 0)
    key = new_key("torch.randint")
    drawn = random.randint(key, tuple(size), low, high)
    return drawn.to(dtype=dtype, device=device)


def _randperm(
    new_key: NewKey,
    func: Any,
    n: int,
    dtype: torch.dtype = torch.int64,
    device: Any = None,
    **options: Any,
) -> Tensor:
    key = new_key("torch.randperm")
    return random.permutation(key, n).to(dtype=dtype, device=device)


def _bernoulli(
    new_key: NewKey,
    func: Any,
    input: Tensor,  # noqa: A002
    p: float | None = None,
    **options: Any,
) -> Tensor:
    key = new_key("torch.bernoulli")
    shape = tuple(input.shape)
    return random.bernoulli(key, input if p is None else p, shape).to(input.dtype)


def _normal(
    new_key: NewKey,
    func: Any,
    mean: Any = 0.0,
    std: Any = 1.0,
    size: Any = None,
    dtype: torch.dtype | None = None,
    device: Any = None,
    **options: Any,
) -> Tensor:
    key = new_key("torch.normal")
    tensors = [each for each in (mean, std) if isinstance(each, Tensor)]
    if tensors:
        size = torch.broadcast_shapes(*(each.shape for each in tensors))
        dtype, device = tensors[0].dtype, tensors[0].device
    return mean + std * random.normal(key, tuple(size), dtype).to(device=device)


def _filled(
    draw: Callable[..., Tensor], names: tuple[str, ...], *defaults: float
) -> Callable[..., Tensor]:
    """Writes a draw into a tensor; `names` are of the distribution's parameters.

    torch.nn.init calls them by other names than the methods do, and passes all by name.
    """

    def rule(new_key: NewKey, func: Any, *args: Any, **options: Any) -> Tensor:
        tensor, *given = args if args else (options["tensor"],)
        for index in range(len(given), len(defaults)):
            named = [options[n] for n in names[index].split("|") if n in options]
            given.append(named[0] if named else defaults[index])
        name = f"Tensor.{func.__name__}"
        return _write(name, tensor, draw(new_key(name), tensor, *given))

    return rule


def _uniform_(key: Tensor, like: Tensor, low: float, high: float) -> Tensor:
    return random.uniform(key, tuple(like.shape), like.dtype, low, high)


def _normal_(key: Tensor, like: Tensor, mean: float, std: float) -> Tensor:
    return mean + std * random.normal(key, tuple(like.shape), like.dtype)


def _exponential_(key: Tensor, like: Tensor, lambd: float) -> Tensor:
    drawn = random.exponential(key, tuple(like.shape), like.dtype)
    return drawn.clamp(min=torch.finfo(like.dtype).tiny) / lambd  # torch's is never 0


def _bernoulli_(key: Tensor, like: Tensor, p: Any) -> Tensor:
    return random.bernoulli(key, p, tuple(like.shape)).to(like.dtype)


def _kaiming_uniform_(
    new_key: NewKey, func: Any, tensor: Tensor, generator: Any = None, **options: Any
) -> Tensor:
    key = new_key("init.kaiming_uniform_")
    draw = init.kaiming_uniform(**options)
    drawn = draw(key, tuple(tensor.shape), tensor.dtype)
    return _write("init.kaiming_uniform_", tensor, drawn)


def _write(name: str, tensor: Tensor, drawn: Tensor) -> Tensor:
    """Writes a draw into a tensor.

    Raises:
        ValueError: all samples share the tensor, and each has a draw of its own.
    """
    compiling = torch.compiler.is_compiling()
    if not compiling and batch_levels(drawn) - batch_levels(tensor):
        raise ValueError(
            "nn.from_module.apply: module: expected draws into tensors of each sample "
            f"under vmap, got {name} on one that all samples share. Make a new tensor "
            "in its place, as torch.randn_like(x) does."
        )
    with torch.no_grad():
        return tensor.copy_(drawn)


@contextlib.contextmanager
def truncated_normal(new_key: NewKey) -> Iterator[None]:
    """Inside, `torch.nn.init.trunc_normal_` draws from a key, in this thread.

    torch's repeats until all numbers are in range, which no transform takes, and it
    calls no mode.
    """
    module: Any = torch.nn.init
    name = "_no_grad_trunc_normal_"
    # What Dynamo traces replaces nothing, in this thread or in others.
    here = int if torch.compiler.is_compiling() else threading.get_ident
    torchs, thread = getattr(module, name, None), here()
    if torchs is None:
        yield
        return

    def ours(
        tensor: Tensor, mean: float, std: float, a: float, b: float, **options: Any
    ) -> Tensor:
        if here() != thread:
            return torchs(tensor, mean, std, a, b, **options)
        if tensor.is_meta:
            return tensor.zero_()
        check_generator("init.trunc_normal_", (), options)
        key = new_key("init.trunc_normal_")
        low, high = (a - mean) / std, (b - mean) / std
        shape = tuple(tensor.shape)
        drawn = random.truncated_normal(key, low, high, shape, tensor.dtype)
        return _write("init.trunc_normal_", tensor, mean + std * drawn)

    setattr(module, name, ours)
    try:
        yield
    finally:
        setattr(module, name, torchs)


def _refused(new_key: NewKey, func: Any, *args: Any, **options: Any) -> Any:
    raise TypeError(
        f"nn.from_module.apply: module: expected draws that a key can make, got "
        f"{func.__name__}. Draw with a function of fl.random and pass the result in."
    )


def _recurrent(new_key: NewKey, func: Any, *args: Any, **options: Any) -> Any:
    """The fused nn.RNN, nn.GRU and nn.LSTM: what they cannot do is refused."""
    # (data, batch_sizes, hx, weights, bias, ...), or (input, hx, weights, bias, ...)
    packed = isinstance(args[3], list | tuple)
    dropout, train = args[6:8] if packed else args[5:7]
    name = "LSTM" if func.__name__ == "lstm" else func.__name__[:3].upper()
    if dropout and train:
        raise ValueError(
            f"nn.from_module.apply: module: expected no dropout inside nn.{name}, got "
            f"{dropout}. Make it of single layers with nn.Dropout between them."
        )
    if not torch.compiler.is_compiling() and under_vmap():
        raise ValueError(
            f"nn.from_module.apply: module: expected no fused nn.{name} under vmap, "
            f"got one. Build that part with fl.nn.{name.lower()}, or loop over "
            f"nn.{name}Cell in the module: both work under vmap."
        )
    return func(*args, **options)


RULES: dict[str, Callable[..., Any]] = {
    **DROPOUT_RULES,
    "rand": _factory(random.uniform, "torch.rand"),
    "randn": _factory(random.normal, "torch.randn"),
    "rand_like": _factory_like(random.uniform, "torch.rand_like"),
    "randn_like": _factory_like(random.normal, "torch.randn_like"),
    "randint": _randint,
    "randperm": _randperm,
    "bernoulli": _bernoulli,
    "normal": _normal,
    "uniform_": _filled(_uniform_, ("a|from", "b|to"), 0.0, 1.0),
    "normal_": _filled(_normal_, ("mean", "std"), 0.0, 1.0),
    "exponential_": _filled(_exponential_, ("lambd",), 1.0),
    "bernoulli_": _filled(_bernoulli_, ("p",), 0.5),
    "kaiming_uniform_": _kaiming_uniform_,
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _recurrent),
    **dict.fromkeys(("randint_like", "multinomial", "poisson", "binomial"), _refused),
    **dict.fromkeys(("cauchy_", "geometric_", "log_normal_", "random_"), _refused),
    **dict.fromkeys(
        (
            "fractional_max_pool2d",
            "fractional_max_pool3d",
            "fractional_max_pool2d_with_indices",
            "fractional_max_pool3d_with_indices",
            "native_dropout",
            "rrelu_with_noise",
        ),
        _refused,
    ),
}
