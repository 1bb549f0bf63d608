# SPDX-License-Identifier: Apache-2.0
"""A jitted function for one structure of arguments: traced, compiled, called."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from functorch_lab.transforms import _abstract, _compile, _failure, _operator
from functorch_lab.transforms._arguments import Parameters, signature
from functorch_lab.transforms._donation import (
    Reuse,
    check_distinct,
    not_alone,
    plan,
    void_type,
    write,
)
from functorch_lab.transforms._engine import note_dynamo
from functorch_lab.transforms._flat import (
    Structure,
    flatten,
    leaves,
    name_of,
    unflatten,
)

# Devices whose compiler is young: the first result is compared with eager.
UNPROVEN = {"mps"}


@dataclass(frozen=True)
class Options:
    mode: str | None
    dynamic: bool | None
    fullgraph: bool


class Call(NamedTuple):
    """The arguments of one call: flat, and as `(args, kwargs)`."""

    leaves: list[Any]
    spec: Structure
    tree: tuple[tuple[Any, ...], dict[str, Any]]
    recorded: bool = False  # whether a leaf requires grad


class _Refused(Exception):
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
        spec: Structure,
        statics: tuple[tuple[int | str, Any], ...],
        *,
        donated: tuple[list[int], list[str]],
        keywords: list[str],
        parameters: Parameters,
        options: Options,
        note: Callable[[dict[str, str]], None],
    ) -> None:
        self.fn, self.spec, self.statics = fn, spec, statics
        self.name = name_of(fn)
        self._paths = [parameters.path(path) for path in spec.paths()]
        self._options = options
        self._note = note
        self._groups = _donated_groups(spec, donated, keywords)
        self._donated = [i for _, positions in self._groups for i in positions]
        self._void = [(i, void_type(self.name, self.path(i))) for i in self._donated]
        self._plans: list[tuple[Reuse, Structure]] = []
        self._permit: tuple[int, int] | None = None
        self._refused = threading.local()
        self._eager = False
        self._warned = False
        self._compiled: Callable[..., Any] | None = None

    def path(self, index: int) -> str:
        """`params['w']`: the name of a leaf."""
        return self._paths[index]

    def call(self, call: Call, *, eager: bool) -> Any:
        """Runs the function; afterwards the donated leaves are void."""
        originals = call.leaves
        if self._donated:
            call = self._claimed(call)
        if call.recorded:
            eager = self._under_autograd(call) or eager
            call = call if eager else _detached(call)
        number, outputs = (None, []) if eager else self._run(call)
        if number is None:
            results, spec = flatten(self._applied(*call.tree))
            given = {id(call.leaves[i]) for i in self._donated} - {id(None)}
            results = [x.detach() if id(x) in given else x for x in results]
        else:
            reuse, spec = self._plans[number]
            results = reuse.assembled(call.leaves, outputs)
        for i, void in self._void:
            if originals[i] is not None:
                originals[i].__class__ = void
        return unflatten(spec, results)

    def _under_autograd(self, call: Call) -> bool:
        """Whether torch's own autograd records this call, which jit leaves to it."""
        if not torch.is_grad_enabled():
            return False
        if not self._warned:
            self._warned = True
            index = [x is not None and x.requires_grad for x in call.leaves].index(True)
            _abstract.warn(
                f"jit: {self.name}: {self.path(index)} requires grad: expected tensors "
                "without a graph. It runs eagerly, and autograd records it. Detach the "
                "argument, and take gradients inside with functorch_lab.grad.",
                RuntimeWarning,
            )
        return True

    def _claimed(self, call: Call) -> Call:
        """The call with memory of its own behind each donated leaf."""
        check_distinct(self.name, call.leaves, self._donated, self.path)
        shared = not_alone(call.leaves, self._donated)
        if not shared:
            return call
        leaves = list(call.leaves)
        for i in shared:
            leaves[i] = leaves[i].detach().clone()
        recorded = any(leaf is not None and leaf.requires_grad for leaf in leaves)
        return Call(leaves, call.spec, unflatten(call.spec, leaves), recorded)

    def _run(self, call: Call) -> tuple[int | None, list[Any]]:
        """The number of the plan, and the results that are not written back."""
        if self._eager:
            return None, []
        if self._compiled is None:
            return self._trace(call)
        self._refused.now = False
        try:
            return self._compiled(*call.tree)
        except Exception as error:
            if not (self._refused.now or _failure.is_trace_limit(error)):
                if _failure.is_compiler_error(error):
                    raise _failure.explain(self.name, error) from None
                if explained := _failure.out_of_bounds(self.name, error):
                    raise explained from None
                raise
        return self._trace(call)

    def _trace(self, call: Call) -> tuple[int | None, list[Any]]:
        """The abstract run, then the call that compiles."""
        with _compile.lock:
            if self._compiled is None:
                note_dynamo()
            proof = self._proof(call)
            try:
                result = self._first_result(call)
            except Exception as error:
                if explained := _failure.out_of_bounds(self.name, error):
                    raise explained from None
                if _failure.lacks_compiler(error):
                    _failure.warn_no_compiler(self.name, error)
                    self._eager = True
                    return None, []
                if not _failure.is_compiler_error(error):
                    raise
                raise _failure.explain(self.name, error) from None
            if proof is not None and not self._proves(proof, call, result):
                self._eager = True
                return None, []
            return result

    def _first_result(self, call: Call, *, rolled: bool = True) -> Any:
        """What the compiled function returns after a trace, loops rolled if possible.

        Raises:
            Exception: whatever the abstract run or the compiler raises.
        """
        if self._compiled is None:
            self._compiled = self._make()
        with _operator.rolling(rolled):
            number = self._new_plan(call, note=rolled)
            self._permit = (threading.get_ident(), number)
            try:
                with _compile.compiling():
                    return self._compiled(*call.tree)
            except Exception as error:
                if not _operator.used() or not _failure.is_compiler_error(error):
                    raise
                if _failure.lacks_compiler(error):
                    raise
            finally:
                self._permit = None
        return self._first_result(call, rolled=False)

    def _new_plan(self, call: Call, *, note: bool) -> int:
        def applied(*leaves: Any) -> Any:
            return self._applied(*unflatten(call.spec, leaves))

        inputs, results, spec = _abstract.run("jit", self.fn, applied, call.leaves)
        reuse, unmatched = plan(self._groups, inputs, results, spec)
        self._plans.append((reuse, spec))
        if note:
            self._noted(call, unmatched)
        return len(self._plans) - 1

    def _noted(self, call: Call, unmatched: list[int]) -> None:
        """Counts the trace, and warns of donated arguments without a counterpart."""
        self._note(
            {
                **signature(call.leaves, self._paths),
                **{f"static {k!r}": f"value {v!r}" for k, v in self.statics},
                "the arguments": f"structure {call.spec}",
            }
        )
        for number in unmatched:
            first = self._groups[number][1][0]
            _abstract.warn(
                f"jit: {self.name}: {self.path(first)} is donated, but no part of the "
                "result has the structure, shapes and dtypes of its argument. Return "
                "its new value, or don't donate it.",
                UserWarning,
            )

    def _make(self) -> Callable[..., Any]:
        fn = self.fn
        statics = self.statics

        @torch.compiler.assume_constant_result
        def announce() -> Any:
            permit = self._permit
            if permit is None or permit[0] != threading.get_ident():
                self._refused.now = True
                raise _Refused
            reuse, _ = self._plans[permit[1]]
            return permit[1], reuse.written, reuse.sources

        def flat(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            number, written, sources = announce()
            found = leaves((args, kwargs)) if written else []
            positional, named = _with_statics(args, kwargs, statics)
            results = leaves(fn(*positional, **named))
            for i, j in written:
                write(found[i], results[j])
            return number, [x for j, x in enumerate(results) if sources[j] < 0]

        options = self._options
        return _compile.compile_flat(
            flat,
            self.name,
            mode=options.mode,
            dynamic=options.dynamic,
            fullgraph=options.fullgraph,
        )

    def _applied(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        positional, named = _with_statics(args, kwargs, self.statics)
        return self.fn(*positional, **named)

    def _proof(self, call: Call) -> Call | None:
        """A copy of the call, where its result has to be compared with eager."""
        tensors = [leaf for leaf in call.leaves if isinstance(leaf, Tensor)]
        if not any(leaf.device.type in UNPROVEN for leaf in tensors):
            return None
        leaves = [x.clone() if isinstance(x, Tensor) else x for x in call.leaves]
        return Call(leaves, call.spec, unflatten(call.spec, leaves))

    def _proves(self, proof: Call, call: Call, result: Any) -> bool:
        """Compares the first compiled result with eager; restores the inputs if not."""
        number, outputs = result
        reuse, _ = self._plans[number]
        expected = flatten(self._applied(*proof.tree))[0]
        got = reuse.assembled(call.leaves, outputs)
        if all(_close(a, b) for a, b in zip(expected, got, strict=True)):
            return True
        for i, _ in reuse.written:
            call.leaves[i].copy_(proof.leaves[i])
        _abstract.warn(
            f"jit: {self.name}: the compiled result differs from eager on this device: "
            "expected equal results. It runs eagerly from now on.",
            RuntimeWarning,
        )
        return False


def _detached(call: Call) -> Call:
    leaves = [x.detach() if isinstance(x, Tensor) else x for x in call.leaves]
    return Call(leaves, call.spec, unflatten(call.spec, leaves))


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
    spec: Structure,
    donated: tuple[list[int], list[str]],
    keywords: list[str],
) -> list[tuple[Structure, list[int]]]:
    """Structure and leaf positions of each donated argument."""
    numbers, names = donated
    args, kwargs = spec.children()
    # An empty tuple or dict has no children; keywords come in sorted order.
    places = [*range(len(args.children())), *keywords]
    groups: list[tuple[Structure, list[int]]] = []
    start = 0
    for place, child in zip(
        places, [*args.children(), *kwargs.children()], strict=True
    ):
        stop = start + child.num_leaves
        if place in numbers or place in names:
            groups.append((child, list(range(start, stop))))
        start = stop
    return groups


def _close(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor):
        return a == b
    if not a.is_floating_point():
        return torch.equal(a, b)
    return torch.allclose(a, b, rtol=1e-3, atol=1e-5, equal_nan=True)
