# SPDX-License-Identifier: Apache-2.0
"""Does the text recipe train as the same model in torch.nn does, and as fast?

The recipe's GPT, windows, schedule, clipping and AdamW, through `train.make_step`,
beside a torch.nn.Module with the same initial parameters under torch.compile: losses of
the first ten steps; losses on held-out text after --steps steps with three seeds, of
parameters and windows; the time of a step.
Run: python benchmarks/text.py [--steps N] [--layers L] ...
"""

import argparse
import math
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from itertools import count, islice
from typing import Any

import torch
import torch.nn.functional as F
from interleave import keep_memory, machine, seconds_per_call, write
from torch import Tensor
from torch_models import GPT

import functorch_lab as fl
from functorch_lab.recipes import text

OURS, FUSED = "functorch_lab", "torch.nn compiled + fused AdamW"
COMPILED = "torch.nn compiled + compiled AdamW"
FIRST, SEEDS = 10, (0, 1, 2)
# Our halves of a layer and their parts, by the names of torch_models.Block.
PARTS = {
    "norm1": ("attention", "norm"),
    "qkv": ("attention", "qkv"),
    "out": ("attention", "out"),
    "norm2": ("mlp", "norm"),
    "up": ("mlp", "up"),
    "down": ("mlp", "down"),
}


class Ours:
    """The recipe's step."""

    def __init__(self, config: text.Config):
        self.optimizer = text.make_optimizer(config)
        loss_fn = partial(text.loss, text.make_model(config))
        self.step = fl.train.make_step(loss_fn, self.optimizer)

    def start(self, params: Any) -> None:
        """Begin at these parameters."""
        self.state = fl.train.init(params, self.optimizer, key=fl.random.key(0))

    def __call__(self, windows: Tensor) -> Tensor:
        """One step."""
        self.state, logs = self.step(self.state, windows)
        return logs["loss"]

    def params(self) -> Any:
        """Where training is."""
        return self.state.params


class Torch:
    """The module's loss compiled; the update fused by torch, or compiled as well."""

    def __init__(self, config: text.Config, compiled_update: bool = False):
        sizes = (256, config.width, config.layers, config.heads, config.context)
        self.config, self.module = config, GPT(*sizes)
        self.compiled_update = compiled_update
        self.loss_fn = torch.compile(self._loss, fullgraph=True)

    def _loss(self, windows: Tensor) -> Tensor:
        logits = self.module(windows[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())

    def start(self, params: Any) -> None:
        """Begin at these parameters."""
        blocks = {
            f"blocks.{i}.{name}": block[half][part]
            for i, block in enumerate(params["blocks"])
            for name, (half, part) in PARTS.items()
        }
        parts = blocks | {n: params[n] for n in ("tokens", "positions", "norm")}
        self.module.load_state_dict(
            {
                f"{name}.{leaf}": tensor
                for name, leaves in parts.items()
                for leaf, tensor in leaves.items()
            }
        )
        lr, compiled = self.config.lr, self.compiled_update
        self.optimizer = torch.optim.AdamW(
            self.module.parameters(),
            torch.tensor(lr) if compiled else lr,
            fused=not compiled,
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, partial(share_of_lr, self.config.steps)
        )
        self.update = torch.compile(self._update) if compiled else self._update

    def _update(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()

    def __call__(self, windows: Tensor) -> Tensor:
        """One step."""
        self.optimizer.zero_grad()
        loss = self.loss_fn(windows)
        loss.backward()
        self.update()
        self.schedule.step()
        return loss.detach()

    def params(self) -> Any:
        """Where training is."""
        return self.module.tree()


def share_of_lr(steps: int, step: int) -> float:
    """The schedule of the recipe, as a user of torch writes it."""
    rise = math.ceil(steps / 20)
    if step < rise:
        return step / rise
    return 0.5 * (1 + math.cos(math.pi * min((step - rise) / (steps - rise), 1)))


def endless(config: text.Config, data: Tensor, seed: int) -> Iterator[Tensor]:
    """The windows of a run, the same in the same order for all sides."""
    for epoch in count():
        key = fl.random.fold_in(fl.random.key(seed), epoch)
        yield from (windows for (windows,) in text.batches(data, config, key))


def trained(side: Any, params: Any, batches: Iterator[Tensor], steps: int) -> Tensor:
    """The losses of a run of a side, from these parameters on."""
    side.start(params)
    return torch.stack([side(windows) for windows in islice(batches, steps)])


def first_steps(sides: dict[str, Any], start: Any, batches: Any) -> dict[str, Any]:
    """Losses that differ by rounding only."""
    windows = list(islice(batches, FIRST))
    losses = {
        name: trained(side, start, iter(windows), FIRST) for name, side in sides.items()
    }
    apart = [(losses[OURS] / each - 1).abs().max().item() for each in losses.values()]
    print(f"losses of the first {FIRST} steps: {losses[OURS].tolist()}")
    print(f"  largest relative difference {max(apart):.1e}")
    assert max(apart) < 1e-5, losses
    return {
        "losses of the first steps": {n: each.tolist() for n, each in losses.items()},
        "largest relative difference": max(apart),
    }


def last_steps(sides: dict[str, Any], config: text.Config, batches: Any, unseen: Any):
    """Losses on held-out text, of which two sides differ less than two seeds."""
    model, found = text.make_model(config), {}
    for name, side in sides.items():
        found[name] = []
        for seed in SEEDS:
            start = model.init(fl.random.key(seed))
            trained(side, start, batches(seed), config.steps)
            params = fl.tree.cast(side.params(), torch.float64)
            losses = text.bits(model.apply(params, unseen[:, :-1]), unseen[:, 1:])
            found[name].append(losses.mean().item())
        print(f"  {name:36s} bits per byte after {config.steps} steps: {found[name]}")
    apart = [max(values) - min(values) for values in zip(*found.values(), strict=True)]
    spread = max(max(values) - min(values) for values in found.values())
    print(f"  sides apart {max(apart):.1e} at most, seeds apart {spread:.1e}")
    assert max(apart) < spread, found
    return {"bits per byte": found, "sides apart": apart, "seeds apart": spread}


def main() -> None:
    """Check that all sides train alike, time them, write the record."""
    keep_memory()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=15, help="of the timing")
    parser.add_argument("--compiled-update", action="store_true", help="a third side")
    parser.add_argument("--steps", type=int, default=300)
    for name in ("layers", "width", "heads", "context", "batch_size"):
        parser.add_argument(f"--{name}", type=int, default=getattr(text.Config, name))
    chosen = vars(parser.parse_args())
    blocks, compiled_update = chosen.pop("blocks"), chosen.pop("compiled_update")
    config = text.Config(**chosen)
    data = fl.data.stdlib_text(config.nbytes)
    data, unseen = data.split([len(data) - 2**16, 2**16])
    unseen = unseen.unfold(0, config.context + 1, config.context)[:256]
    batches = partial(endless, config, data)
    sides: dict[str, Any] = {OURS: Ours(config), FUSED: Torch(config)}
    if compiled_update:
        sides[COMPILED] = Torch(config, compiled_update=True)
    start = text.make_model(config).init(fl.random.key(0))
    record = first_steps(sides, start, batches(0))
    pair = {name: sides[name] for name in (OURS, FUSED)}
    record["held-out text"] = last_steps(pair, config, batches, unseen)
    given = {name: batches(0) for name in sides}
    calls = {n: lambda n=n: sides[n](next(given[n])) for n in sides}
    seconds = seconds_per_call(calls, blocks=blocks, calls=5)
    for name, value in seconds.items():
        ratio = seconds[OURS] / value
        print(f"  {name:36s} {value * 1e3:8.1f} ms   ours / this: {ratio:.3f}")
    question = __doc__.splitlines()[0]
    setup = {"question": question, "machine": machine(), "model": asdict(config)}
    write("text", setup | record | {"seconds per step": seconds})


if __name__ == "__main__":
    main()
