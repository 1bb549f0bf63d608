# SPDX-License-Identifier: Apache-2.0
"""Per-sample gradients or norms of one row by each library, as its docs say."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from backpack import backpack, extend
from backpack.extensions import BatchGrad, BatchL2Grad
from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping
from opacus.validators import ModuleValidator
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrizations import _SpectralNorm

import functorch_lab as fl

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from per_sample_cases import Case, by_path


@dataclass(frozen=True)
class Answer:
    """What a library gave: None for the parameters that it left out.

    `grads` have shape `(batch, *leaf)`, `squared_norms` and `norms` `(batch,)`, the
    last of all parameters together. `warned` names parameters that a warning was about;
    `note` says what else is to be known of a wrong answer.
    """

    grads: Mapping[str, Tensor | None] = field(default_factory=dict)
    squared_norms: Mapping[str, Tensor | None] = field(default_factory=dict)
    norms: Tensor | None = None
    warned: frozenset[str] = frozenset()
    note: str = ""


def ours(case: Case) -> Answer:
    """`fl.per_sample.grads` and `norms`."""
    options = {"keep_batch_axis": case.keep_batch_axis}
    keys = {} if case.keys is None else {"keys": case.keys}
    batch = case.batch
    grads = fl.per_sample.grads(case.loss_fn, **options)(case.params, *batch, **keys)
    lengths = fl.per_sample.norms(case.loss_fn, **options)(case.params, *batch, **keys)
    return Answer(grads=by_path(grads), norms=lengths)


def vmap_of_grad(case: Case) -> Answer:
    """torch.func, of the module by `functional_call` or of the pure function."""
    if case.module is None:
        keys = () if case.keys is None else (case.keys,)

        def loss_fn(params: Any, sample: Any, *key: Any) -> Tensor:
            keywords = {"key": key[0]} if key else {}
            return case.loss_fn(params, *sample, **keywords)

        axes = (None, *[0 for _ in (case.batch, *keys)])
        run = torch.func.vmap(torch.func.grad(loss_fn), axes)
        return Answer(grads=by_path(run(case.params, case.batch, *keys)))
    module = case.module
    params = {name: leaf.detach() for name, leaf in module.named_parameters()}

    def module_loss(params: Any, sample: Any) -> Tensor:
        def call(*inputs: Any, **named: Any) -> Any:
            return functional_call(module, params, inputs, named)

        batch_of_one = fl.tree.map(lambda leaf: leaf[None], sample)
        return _losses(case)(call, *batch_of_one)[0]

    run = torch.func.vmap(torch.func.grad(module_loss), (None, 0))
    return Answer(grads=run(params, case.batch))


def opacus_hooks(case: Case) -> Answer:
    """`GradSampleModule`."""
    module, note = _for_opacus(case)
    wrapped = GradSampleModule(
        module, batch_first=case.batch_first, loss_reduction="sum"
    )
    _losses(case)(wrapped, *case.batch).sum().backward()
    grads = {
        name: getattr(p, "grad_sample", None) for name, p in module.named_parameters()
    }
    if not note:
        return Answer(grads=grads)
    # The replacements have parameters of other shapes: their norm is comparable.
    squares = [g.flatten(1).square().sum(1) for g in grads.values() if g is not None]
    return Answer(norms=torch.stack(squares).sum(0).sqrt(), note=note)


def opacus_ghost(case: Case) -> Answer:
    """`GradSampleModuleFastGradientClipping` with ghost clipping."""
    module, note = _for_opacus(case)
    wrapped = GradSampleModuleFastGradientClipping(
        module, batch_first=case.batch_first, loss_reduction="sum"
    )
    _losses(case)(wrapped, *case.batch).sum().backward()
    return Answer(norms=wrapped.get_norm_sample(), note=note)


def backpack_grads(case: Case) -> Answer:
    """`BatchGrad`."""
    found, warned = _backpack(case, BatchGrad(), "grad_batch")
    return Answer(grads=found, warned=warned)


def backpack_norms(case: Case) -> Answer:
    """`BatchL2Grad`."""
    found, warned = _backpack(case, BatchL2Grad(), "batch_l2")
    return Answer(squared_norms=found, warned=warned)


SIDES: dict[str, Callable[[Case], Answer]] = {
    "functorch_lab": ours,
    "torch vmap(grad)": vmap_of_grad,
    "Opacus hooks": opacus_hooks,
    "Opacus ghost": opacus_ghost,
    "BackPACK BatchGrad": backpack_grads,
    "BackPACK BatchL2Grad": backpack_norms,
}
NEED_A_MODULE = [name for name in SIDES if name.startswith(("Opacus", "BackPACK"))]


def _backpack(
    case: Case, extension: Any, savefield: str
) -> tuple[dict[str, Tensor | None], frozenset[str]]:
    assert case.module is not None
    module = extend(case.module)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        loss = _losses(case)(module, *case.batch).sum()
        with backpack(extension):
            loss.backward()
    messages = [str(each.message) for each in said]
    warned = {
        f"{path}.{name}".lstrip(".")
        for path, part in module.named_modules()
        for name, _ in part.named_parameters(recurse=False)
        if any(f"for Module {type(part)}" in message for message in messages)
    }
    found = {name: getattr(p, savefield, None) for name, p in module.named_parameters()}
    return found, frozenset(warned)


def _losses(case: Case) -> Callable[..., Tensor]:
    assert case.batch_losses is not None
    return case.batch_losses


def _for_opacus(case: Case) -> tuple[nn.Module, str]:
    """The module in training mode, and which layers were replaced.

    Opacus computes nothing in evaluation mode; what would change a buffer stays in it.
    It has layers of its own for attention and LSTMs, and a function that puts them in.
    """
    module, note = case.module, ""
    assert module is not None
    kinds = (nn.MultiheadAttention, nn.LSTM)
    if found := [part for part in module.modules() if isinstance(part, kinds)]:
        own, dtype = module, next(module.parameters()).dtype
        module = ModuleValidator.fix(own).to(dtype)
        note = f"nn.{type(found[0]).__name__} replaced by its own"
        outputs = [_losses(case)(each, *case.batch).detach() for each in (own, module)]
        if not torch.allclose(*outputs):
            note += ", which computes another output"
    module.train()
    for part in module.modules():
        keeps = getattr(part, "running_mean", None) is not None
        if keeps or isinstance(part, _SpectralNorm):
            part.eval()
    return module, note
