# SPDX-License-Identifier: Apache-2.0
"""What do per-sample gradient norms cost, in plain batch gradients of the same loss?

An MLP (784-512-512-10, batch 128), a GPT (3.4M parameters, 16 sequences of 64 tokens),
the same with embedding and head tied, and the CNN of Opacus' MNIST example (batch 128).
Every side's norms are compared with one backward pass per sample before it is timed.
Run: python benchmarks/per_sample.py [mlp] [gpt] [gpt-tied] [cnn] [--memory]
"""

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from interleave import keep_memory, machine, seconds_per_call, write
from models import peak_bytes
from torch import Tensor, nn
from torch_models import GPT

import functorch_lab as fl

VOCAB, WIDTH, LAYERS, HEADS, TOKENS, SEQUENCES = 512, 256, 4, 8, 64, 16
BATCHES = (8, 32, 128, 512)
PLAIN = "plain gradient"
FIGURE = Path(__file__).parent.parent / "docs" / "per_sample" / "memory.png"


class Problem(NamedTuple):
    """A model as params and a loss of one sample, and as a module for the peers."""

    params: Any
    loss_fn: Callable[..., Tensor]
    batch: tuple[Tensor, ...]
    module: nn.Module
    losses: Callable[[nn.Module], Tensor]  # of each sample
    blocks: int
    calls: int


class UntiedGPT(GPT):
    """With a head of its own, and positions looked up for each sample, for hooks."""

    def __init__(self, *sizes: int):
        super().__init__(*sizes)
        self.head = nn.Linear(sizes[1], sizes[0], bias=False)
        nn.init.normal_(self.head.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """From `(batch, tokens)` to `(batch, tokens, vocab)`."""
        places = torch.arange(tokens.shape[1]).repeat(tokens.shape[0], 1)
        x = self.tokens(tokens) + self.positions(places)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    def tree(self) -> dict[str, Any]:
        """A copy of the parameters as `nn.transformer` has them."""
        head = {"weight": self.head.weight.detach().clone()}
        return {**super().tree(), "head": head}


def mlp(samples: int = 128) -> Problem:
    """Three linear layers."""
    module = nn.Sequential(
        nn.Linear(784, 512),
        nn.ReLU(),
        nn.Linear(512, 512),
        nn.ReLU(),
        nn.Linear(512, 10),
    )
    layer, params, _ = fl.nn.from_module(module)
    return _classifier(module, layer, params, torch.randn(samples, 784), 5, 40)


def cnn() -> Problem:
    """The network of Opacus' example for MNIST."""
    module = nn.Sequential(
        nn.Conv2d(1, 16, 8, 2, padding=3),
        nn.ReLU(),
        nn.MaxPool2d(2, 1),
        nn.Conv2d(16, 32, 4, 2),
        nn.ReLU(),
        nn.MaxPool2d(2, 1),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )
    layer, params, _ = fl.nn.from_module(module)
    return _classifier(module, layer, params, torch.randn(128, 1, 28, 28), 5, 10)


def _classifier(
    module: nn.Module, layer: Any, params: Any, x: Tensor, blocks: int, calls: int
) -> Problem:
    y = torch.randint(10, (x.shape[0],))

    def loss_fn(params: Any, x: Tensor, y: Tensor) -> Tensor:
        logits = layer.apply(params, x.unsqueeze(0))[0]
        return fl.losses.cross_entropy(logits, y)

    def losses(module: nn.Module) -> Tensor:
        return F.cross_entropy(module(x), y, reduction="none")

    return Problem(params, loss_fn, (x, y), module, losses, blocks, calls)


def gpt(tied: bool = False, sequences: int = SEQUENCES) -> Problem:
    """`nn.transformer` with the parameters of a module."""
    kind = GPT if tied else UntiedGPT
    module = kind(VOCAB, WIDTH, LAYERS, HEADS, TOKENS)
    sizes = (VOCAB, WIDTH, LAYERS, HEADS)
    model = fl.nn.transformer(*sizes, max_length=TOKENS, tie_weights=tied)
    tokens, targets = torch.randint(VOCAB, (2, sequences, TOKENS)).unbind()

    def loss_fn(params: Any, tokens: Tensor, targets: Tensor) -> Tensor:
        return fl.losses.cross_entropy(model.apply(params, tokens), targets).mean()

    def losses(module: nn.Module) -> Tensor:
        logits = module(tokens).flatten(0, 1)
        each = F.cross_entropy(logits, targets.flatten(), reduction="none")
        return each.unflatten(0, targets.shape).mean(1)

    batch = (tokens, targets)
    return Problem(module.tree(), loss_fn, batch, module, losses, 7, 2)


def ours(problem: Problem) -> dict[str, Callable[[], Any]]:
    """The plain gradient and our functions, each one compiled graph."""
    loss_fn, params, batch = problem.loss_fn, problem.params, problem.batch
    functions = {
        PLAIN: fl.grad(fl.mean_over_batch(loss_fn)),
        "norms": fl.per_sample.norms(loss_fn),
        "value_and_grad": fl.per_sample.value_and_grad(loss_fn),
        "clipped_sum": fl.per_sample.clipped_sum(loss_fn, max_norm=1.0),
        "norms by vmap(grad)": fl.per_sample.norms(loss_fn, method="vmap"),
    }
    compiled = {name: fl.jit(function) for name, function in functions.items()}
    return {
        name: lambda function=function: function(params, *batch)
        for name, function in compiled.items()
    }


def norms_of(name: str, result: Any) -> Tensor | None:
    """The norms among what a side returns."""
    if name == PLAIN:
        return None
    if name == "value_and_grad":
        return result[0][1]
    return result.norms if name == "clipped_sum" else result


def opacus_sides(problem: Problem) -> dict[str, Callable[[], Any]]:
    """Norms by hooks, as Opacus offers them; the passes that its users run."""
    import copy

    from opacus.grad_sample import (
        GradSampleModule,
        GradSampleModuleFastGradientClipping,
    )

    ghost = GradSampleModuleFastGradientClipping(
        copy.deepcopy(problem.module).train(), loss_reduction="sum", max_grad_norm=1.0
    )
    hooks = GradSampleModule(
        copy.deepcopy(problem.module).train(), loss_reduction="sum"
    )

    def ghost_norms() -> Tensor:
        ghost.zero_grad()
        problem.losses(ghost).sum().backward()
        return ghost.get_norm_sample().detach()

    def ghost_sum() -> Tensor:
        ghost.zero_grad()
        losses = problem.losses(ghost)
        losses.sum().backward(retain_graph=True)
        norms = ghost.get_norm_sample().detach()
        coefficients = ghost.get_clipping_coef()
        ghost.zero_grad()
        ghost.disable_hooks()
        (coefficients * losses).sum().backward()
        ghost.enable_hooks()
        return norms

    def hook_norms() -> Tensor:
        hooks.zero_grad()
        problem.losses(hooks).sum().backward()
        squares = [p.grad_sample.flatten(1).square().sum(1) for p in hooks.parameters()]
        return torch.stack(squares).sum(0).sqrt().detach()

    return {
        "Opacus ghost, norms": ghost_norms,
        "Opacus ghost, clipped sum": ghost_sum,
        "Opacus hooks, norms": hook_norms,
    }


def backpack_sides(problem: Problem) -> dict[str, Callable[[], Any]]:
    """Norms by BackPACK's BatchL2Grad, where it knows all of the layers."""
    import copy

    from backpack import backpack, extend
    from backpack.extensions import BatchL2Grad

    module = extend(copy.deepcopy(problem.module))
    loss_of = extend(nn.CrossEntropyLoss(reduction="sum"))
    x, y = problem.batch

    def norms() -> Tensor:
        for parameter in module.parameters():
            parameter.grad = None
        with backpack(BatchL2Grad()):
            loss_of(module(x), y).backward()
        return torch.stack([p.batch_l2 for p in module.parameters()]).sum(0).sqrt()

    return {"BackPACK, norms": norms}


def jax_sides(problem: Problem) -> dict[str, Callable[[], Any]]:
    """jax.jit of the norms of vmap(grad), of the MLP, in two layouts of the weights.

    XLA fuses the outer products with their squares in the layout of torch, `(out, in)`,
    and not in that of JAX's layers, `(in, out)`.
    """
    import jax
    import jax.numpy as jnp

    linears = [m for m in problem.module if isinstance(m, nn.Linear)]
    of_torch = [
        (jnp.asarray(m.weight.detach().numpy()), jnp.asarray(m.bias.detach().numpy()))
        for m in linears
    ]
    of_jax = [(jnp.array(weight.T), bias) for weight, bias in of_torch]
    x, y = (jnp.asarray(leaf.numpy()) for leaf in problem.batch)

    def norms_by(apply: Callable[[Any, Any], Any]) -> Callable[..., Any]:
        def loss(params: Any, x: Any, y: Any) -> Any:
            for weight, bias in params[:-1]:
                x = jax.nn.relu(apply(weight, x) + bias)
            weight, bias = params[-1]
            return -jax.nn.log_softmax(apply(weight, x) + bias)[y]

        @jax.jit
        def norms(params: Any, x: Any, y: Any) -> Any:
            grads = jax.vmap(jax.grad(loss), (None, 0, 0))(params, x, y)
            leaves = jax.tree.leaves(grads)
            squares = [(g**2).reshape(g.shape[0], -1).sum(1) for g in leaves]
            return jnp.sqrt(sum(squares))

        return norms

    left, right = norms_by(lambda w, x: w @ x), norms_by(lambda w, x: x @ w)
    return {
        "jax vmap(grad), weights (out, in)": lambda: left(
            of_torch, x, y
        ).block_until_ready(),
        "jax vmap(grad), weights (in, out)": lambda: right(
            of_jax, x, y
        ).block_until_ready(),
    }


def truth(problem: Problem) -> Tensor:
    """Norms by one backward pass for each sample, in float64."""
    found = []
    batch = [
        leaf.double() if leaf.is_floating_point() else leaf for leaf in problem.batch
    ]
    params = fl.tree.cast(problem.params, torch.float64)
    for i in range(batch[0].shape[0]):
        sample = [leaf[i] for leaf in batch]
        grads = fl.grad(problem.loss_fn)(params, *sample)
        found.append(fl.tree.norm(grads))
    return torch.stack(found)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "mlp": mlp,
    "gpt": gpt,
    "gpt-tied": lambda: gpt(tied=True),
    "cnn": cnn,
}
# The asked ratios to the plain gradient: norms, value_and_grad and clipped_sum.
ASKED = {
    "mlp": (0.8, 1.15),
    "gpt": (0.95, 1.25),
    "gpt-tied": (1.1, 1.25),
    "cnn": (1.1, 1.3),
}


def measure(name: str) -> dict[str, Any]:
    """One model: equality of all sides, then times as ratios to the plain gradient."""
    torch.manual_seed(0)
    problem = PROBLEMS[name]()
    expected = truth(problem)
    sides = ours(problem)
    peers: dict[str, Callable[[], Any]] = {}
    makers = [opacus_sides]
    makers += [backpack_sides] if name in ("mlp", "cnn") else []
    makers += [jax_sides] if name == "mlp" else []
    for make in makers:
        peers |= make(problem)
    errors: dict[str, Any] = {}
    for side, call in {**sides, **peers}.items():
        try:
            norms = norms_of(side, call())
        except Exception as error:
            errors[side] = f"refused: {str(error).splitlines()[0]}"
            peers.pop(side)
            continue
        if norms is not None:
            got = torch.as_tensor(norms.tolist(), dtype=torch.float64)
            errors[side] = float(((got - expected) / expected).abs().max())
    seconds = seconds_per_call(
        {**sides, **peers}, blocks=problem.blocks, calls=problem.calls
    )
    memory = {side: peak_bytes(call) for side, call in sides.items()}
    print(f"{name}: {fl.tree.size(problem.params)} parameters")
    for side, error in errors.items():
        if side not in seconds:
            print(f"  {side:34s} {error}")
    for side, value in seconds.items():
        ratio = value / seconds[PLAIN]
        bytes_ = f"{memory[side] / 2**20:9.1f} MiB" if side in memory else " " * 13
        error = f"   error of norms {errors[side]:.1e}" if side in errors else ""
        print(f"  {side:34s} {value * 1e3:9.2f} ms {ratio:6.2f}x {bytes_}{error}")
    return {
        "parameters": fl.tree.size(problem.params),
        "seconds": seconds,
        "ratio to the plain gradient": {
            side: value / seconds[PLAIN] for side, value in seconds.items()
        },
        "peak bytes": memory,
        "greatest relative error of the norms, or refusal": errors,
        "asked ratios of norms; of value_and_grad and clipped_sum": ASKED[name],
    }


def memory_curve(make: Callable[[int], Problem]) -> dict[str, dict[str, int]]:
    """Peak bytes of one compiled call, over the size of the batch."""
    found: dict[str, dict[str, int]] = {}
    for samples in BATCHES:
        torch.manual_seed(0)
        sides = ours(make(samples))
        for side in (PLAIN, "norms", "norms by vmap(grad)"):
            sides[side]()
            found.setdefault(side, {})[str(samples)] = peak_bytes(sides[side])
            mebibytes = found[side][str(samples)] / 2**20
            print(f"  batch {samples:4d} {side:24s} {mebibytes:9.1f} MiB", flush=True)
    return found


def draw(curves: dict[str, dict[str, dict[str, int]]]) -> None:
    """The curves as a figure of the docs."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(
        1, len(curves), figsize=(8.5, 3.4), layout="constrained", squeeze=False
    )
    for axes, (name, curve) in zip(panels[0], curves.items(), strict=True):
        for side, points in curve.items():
            mebibytes = [value / 2**20 for value in points.values()]
            axes.loglog([int(b) for b in points], mebibytes, "o-", label=side, base=2)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
        axes.set_title(name)
        axes.set_xlabel("samples in the batch")
        axes.grid(alpha=0.3)
    panels[0][0].set_ylabel("peak memory of a call (MiB)")
    panels[0][-1].legend(loc="upper left")
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE, dpi=130)


def main() -> None:
    """Measure the models named, or all; write the records."""
    warnings.filterwarnings("ignore")  # of the peers
    keep_memory()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", choices=[*PROBLEMS, []], default=[])
    parser.add_argument("--memory", action="store_true", help="the curve only")
    given = parser.parse_args()
    question = __doc__.splitlines()[0]
    if given.memory:
        curves = {
            "MLP, 670 thousand parameters": memory_curve(mlp),
            "GPT, 3.4 million parameters": memory_curve(lambda n: gpt(sequences=n)),
        }
        draw(curves)
        write("per_sample_memory", {"machine": machine(), "peak bytes": curves})
        return
    for name in given.models or PROBLEMS:
        record = {"question": question, "machine": machine(), **measure(name)}
        write(f"per_sample_{name}", record)


if __name__ == "__main__":
    main()
