# SPDX-License-Identifier: Apache-2.0
"""A jitted function for one structure of arguments: traced, compiled, called."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import optree
import torch
from optree import PyTreeSpec
from torch import Tensor

from functorch_lab.transforms import _abstract, _compile
from functorch_lab.transforms._arguments import Parameters, signature
from functorch_lab.transforms._donation import (
    Reuse,
    check_distinct,
    claim,
    plan,
    void_type,
)
from functorch_lab.transforms._flat import flatten, leaves, name_of, unflatten
from functorch_lab.types import NAMESPACE

# Devices whose compiler is young: the first result is compared with eager.
UNPROVEN = {"mps"}


@dataclass(frozen=True)
class Options:
    mode: str | None
    dynamic: bool | None
    fullgraph: bool


class _Refused(Exception):  # noqa: N818 - a signal, caught in this file
    pass


class Traced:
    """Calls for one structure: Dynamo's guards choose the graph, or ask for a trace.

    A trace is allowed only through `_trace`, which makes the abstract run first. Dynamo
    asks for permission by `announce`, executed while it traces; its answer is baked
    into the graph, so each graph knows its own plan, whatever led to the trace.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        spec: PyTreeSpec,
        statics: tuple[tuple[int | str, Any], ...],
        *,
        donated: tuple[list[int], list[str]],
        parameters: Parameters,
        options: Options,
        note: Callable[[dict[str, str]], None],
    ) -> None:
        self.fn, self.spec, self.statics = fn, spec, statics
        self.name = name_of(fn)
        self._parameters = parameters
        self._options = options
        self._note = note
        self._groups = _donated_groups(spec, donated)
        self._donated = [i for _, positions in self._groups for i in positions]
        self._void = {i: void_type(self.name, self.path(i)) for i in self._donated}
        self._plans: list[tuple[Reuse, PyTreeSpec]] = []
        self._permit: tuple[int, int] | None = None
        self._refused = threading.local()
        self._eager = False
        self._compiled: Callable[..., Any] | None = None

    def path(self, index: int) -> str:
        """`params['w']`: the name of a leaf."""
        return self._parameters.path(self.spec.accessors()[index])

    def call(self, found: list[Any], *, eager: bool) -> Any:
        """Runs the function on the leaves of its arguments."""
        originals = found
        if self._donated:
            check_distinct(self.name, found, self._donated, self.path)
            found = list(found)
            for i in self._donated:
                found[i] = claim(found[i])
        if eager or self._eager:
            results, spec = self._run_eagerly(found)
        else:
            number, outputs = self._run(found)
            if number is None:
                results, spec = self._run_eagerly(found)
            else:
                reuse, spec = self._plans[number]
                results = _assembled(reuse, found, outputs)
        if self._donated:
            void = {id(originals[i]) for i in self._donated}
            results = [x.detach() if id(x) in void else x for x in results]
            for i in self._donated:
                originals[i].__class__ = self._void[i]
        return unflatten(spec, results)

    def _run(self, found: list[Any]) -> tuple[int | None, Any]:
        if self._compiled is None:
            return self._trace(found)
        self._refused.now = False
        try:
            return self._compiled(*found)
        except Exception as error:
            limit = isinstance(error, torch._dynamo.exc.FailOnRecompileLimitHit)
            if not (self._refused.now or limit):
                if _compile.is_compiler_error(error):
                    raise _compile.explain(self.name, error) from None
                raise
        return self._trace(found)

    def _trace(self, found: list[Any]) -> tuple[int | None, Any]:
        """The abstract run, then the call that compiles."""
        with _compile.lock:
            number = self._new_plan(found)
            if self._compiled is None:
                self._compiled = self._make()
            self._permit = (threading.get_ident(), number)
            proof = self._proof(found)
            try:
                with _compile.compiling():
                    result = self._compiled(*found)
            except Exception as error:
                if not _compile.is_compiler_error(error):
                    raise
                if _compile.lacks_compiler(error):
                    _compile.warn_no_compiler(self.name, error)
                    self._eager = True
                    return None, None
                raise _compile.explain(self.name, error) from None
            finally:
                self._permit = None
            if proof is not None and not self._proves(proof, found, result):
                self._eager = True
                return None, None
            return result

    def _new_plan(self, found: list[Any]) -> int:
        labels = [self._parameters.path(a) for a in self.spec.accessors()]
        self._note(
            {
                **signature(found, labels),
                **{f"static {k!r}": f"value {v!r}" for k, v in self.statics},
                "the arguments": f"structure {self.spec}",
            }
        )
        inputs, results, spec = _abstract.run("jit", self.fn, self._rebuilt, found)
        reuse, unmatched = plan(self._groups, inputs, results, spec)
        for number in unmatched:
            first = self._groups[number][1][0]
            warnings.warn(
                f"jit: {self.name}: {self.path(first)} is donated, but no part of the "
                "result has the structure, shapes and dtypes of its argument. Return "
                "its new value, or don't donate it.",
                UserWarning,
                stacklevel=7,
            )
        self._plans.append((reuse, spec))
        return len(self._plans) - 1

    def _make(self) -> Callable[..., Any]:
        fn = self.fn
        statics = self.statics
        _jit_template = unflatten(self.spec, range(self.spec.num_leaves))

        @torch.compiler.assume_constant_result
        def announce() -> Any:
            permit = self._permit
            if permit is None or permit[0] != threading.get_ident():
                self._refused.now = True
                raise _Refused
            return permit[1], self._plans[permit[1]][0].written

        def flat(*found: Tensor) -> Any:
            number, written = announce()
            args, kwargs = optree.tree_map(
                lambda i: found[i], _jit_template, namespace=NAMESPACE
            )
            args, kwargs = _with_statics(args, kwargs, statics)
            results = leaves(fn(*args, **kwargs))
            for i, j in written:
                found[i].copy_(results[j])
            moved = {j for _, j in written}
            return number, [x for j, x in enumerate(results) if j not in moved]

        options = self._options
        return _compile.compile_flat(
            flat,
            self.name,
            mode=options.mode,
            dynamic=options.dynamic,
            fullgraph=options.fullgraph,
        )

    def _rebuilt(self, *found: Any) -> Any:
        args, kwargs = unflatten(self.spec, found)
        args, kwargs = _with_statics(args, kwargs, self.statics)
        return self.fn(*args, **kwargs)

    def _run_eagerly(self, found: Sequence[Any]) -> tuple[list[Any], PyTreeSpec]:
        return flatten(self._rebuilt(*found))

    def _proof(self, found: list[Any]) -> list[Any] | None:
        if not any(leaf.device.type in UNPROVEN for leaf in found):
            return None
        return [leaf.clone() for leaf in found]

    def _proves(self, proof: list[Any], found: list[Any], result: Any) -> bool:
        """Compares the first compiled result with eager; restores the inputs if not."""
        number, outputs = result
        reuse, _ = self._plans[number]
        expected, _ = self._run_eagerly([leaf.clone() for leaf in proof])
        got = _assembled(reuse, found, outputs)
        if all(_close(a, b) for a, b in zip(expected, got, strict=True)):
            return True
        for leaf, old in zip(found, proof, strict=True):
            if not leaf.requires_grad:
                leaf.copy_(old)
        warnings.warn(
            f"jit: {self.name}: the compiled result differs from eager on this device: "
            "expected equal results. It runs eagerly from now on.",
            RuntimeWarning,
            stacklevel=6,
        )
        return False


def _with_statics(
    args: Any, kwargs: Any, statics: tuple[tuple[int | str, Any], ...]
) -> tuple[list[Any], dict[str, Any]]:
    full, named = list(args), dict(kwargs)
    for place, value in statics:
        if isinstance(place, int):
            full[place] = value
        else:
            named[place] = value
    return full, named


def _donated_groups(
    spec: PyTreeSpec, donated: tuple[list[int], list[str]]
) -> list[tuple[PyTreeSpec, list[int]]]:
    """Structure and leaf positions of each donated argument."""
    numbers, names = donated
    args, kwargs = spec.children()
    places = [*range(len(args.children())), *kwargs.entries()]
    groups: list[tuple[PyTreeSpec, list[int]]] = []
    start = 0
    for place, child in zip(
        places, [*args.children(), *kwargs.children()], strict=True
    ):
        stop = start + child.num_leaves
        if place in numbers or place in names:
            groups.append((child, list(range(start, stop))))
        start = stop
    return groups


def _assembled(reuse: Reuse, found: Sequence[Any], outputs: Sequence[Any]) -> list[Any]:
    """All results in order; those on donated memory as new tensors."""
    if not reuse.written:
        return list(outputs)
    rest = iter(outputs)
    moved = {j: found[i].detach() for i, j in reuse.written}
    total = len(moved) + len(outputs)
    return [moved[j] if j in moved else next(rest) for j in range(total)]


def _close(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor):
        return a == b
    if not a.is_floating_point():
        return torch.equal(a, b)
    return torch.allclose(a, b, rtol=1e-3, atol=1e-5, equal_nan=True)
