# SPDX-License-Identifier: Apache-2.0
"""What does one training step cost, compiled, beside torch.nn and jax?

An MLP 64-256-256-10, cross entropy on batches of 128, Adam, parameters and optimizer
state donated. Run: python benchmarks/train_step.py
"""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from interleave import report, seconds_per_call

import functorch_lab as fl

SIZES = (64, 256, 256, 10)
BATCH = 128
LR = 1e-3


def arrays() -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Weights and biases in turn, inputs, labels."""
    rng = np.random.default_rng(0)
    params = []
    for fan_in, fan_out in pairwise(SIZES):
        bound = fan_in**-0.5
        params.append(rng.uniform(-bound, bound, (fan_out, fan_in)).astype("float32"))
        params.append(rng.uniform(-bound, bound, fan_out).astype("float32"))
    x = rng.normal(size=(BATCH, SIZES[0])).astype("float32")
    return params, x, rng.integers(0, SIZES[-1], BATCH)


class Ours:
    """One compiled pure step, by the public interface."""

    def __init__(self, params, x, y, wrap=lambda optimizer: optimizer):
        model = fl.nn.sequential(
            fl.nn.linear(64, 256),
            fl.nn.relu,
            fl.nn.linear(256, 256),
            fl.nn.relu,
            fl.nn.linear(256, 10),
        )
        leaves = [torch.from_numpy(leaf.copy()) for leaf in params]
        pairs = [
            {"weight": w, "bias": b}
            for w, b in zip(leaves[::2], leaves[1::2], strict=True)
        ]
        self.params = (pairs[0], (), pairs[1], (), pairs[2])
        optimizer = wrap(fl.optim.adam(lr=LR))
        self.state = optimizer.init(self.params)
        self.x, self.y = torch.from_numpy(x), torch.from_numpy(y)

        def loss_fn(params, x, y):
            return fl.losses.cross_entropy(model.apply(params, x), y).mean()

        @fl.jit(donate_argnums=(0, 1))
        def step(params, state, x, y):
            loss, grads = fl.value_and_grad(loss_fn)(params, x, y)
            updates, state = optimizer.update(grads, state, params)
            return fl.optim.apply_updates(params, updates), state, loss

        self.step = step

    def __call__(self):
        """One step."""
        self.params, self.state, loss = self.step(
            self.params, self.state, self.x, self.y
        )
        return loss


class Torch:
    """torch.nn with the fused optimizer; eager, or with all but the update compiled."""

    def __init__(self, params, x, y, compiled=False):
        self.model = torch.nn.Sequential(
            torch.nn.Linear(64, 256),
            torch.nn.ReLU(),
            torch.nn.Linear(256, 256),
            torch.nn.ReLU(),
            torch.nn.Linear(256, 10),
        )
        with torch.no_grad():
            for leaf, value in zip(self.model.parameters(), params, strict=True):
                leaf.copy_(torch.from_numpy(value))
        self.optimizer = torch.optim.Adam(self.model.parameters(), LR, fused=True)
        self.x, self.y = torch.from_numpy(x), torch.from_numpy(y)

        def loss_fn(x, y):
            return torch.nn.functional.cross_entropy(self.model(x), y)

        self.loss_fn = torch.compile(loss_fn, fullgraph=True) if compiled else loss_fn

    def __call__(self):
        """One step."""
        self.optimizer.zero_grad()
        loss = self.loss_fn(self.x, self.y)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


class Jax:
    """jax.jit and optax, parameters and state donated."""

    def __init__(self, params, x, y):
        self.params = [jnp.asarray(leaf) for leaf in params]
        optimizer = optax.adam(LR)
        self.state = optimizer.init(self.params)
        self.x, self.y = jnp.asarray(x), jnp.asarray(y)

        def loss_fn(params, x, y):
            for i in range(0, len(params), 2):
                x = x @ params[i].T + params[i + 1]
                x = jax.nn.relu(x) if i < len(params) - 2 else x
            return optax.softmax_cross_entropy_with_integer_labels(x, y).mean()

        def step(params, state, x, y):
            loss, grads = jax.value_and_grad(loss_fn)(params, x, y)
            updates, state = optimizer.update(grads, state, params)
            return optax.apply_updates(params, updates), state, loss

        self.step = jax.jit(step, donate_argnums=(0, 1))

    def __call__(self):
        """One step."""
        self.params, self.state, loss = self.step(
            self.params, self.state, self.x, self.y
        )
        return loss.block_until_ready()


def main() -> None:
    """Check that all sides train alike, time them, write the record."""
    data = arrays()
    sides = {
        "functorch_lab": Ours(*data),
        "functorch_lab, optim.fused": Ours(*data, wrap=fl.optim.fused),
        "torch.nn + fused Adam, eager": Torch(*data),
        "torch.nn compiled + fused Adam": Torch(*data, compiled=True),
        "jax.jit + optax, donated": Jax(*data),
    }
    losses = {name: [float(side()) for _ in range(5)] for name, side in sides.items()}
    for name, values in losses.items():
        np.testing.assert_allclose(
            values, losses["functorch_lab"], rtol=1e-4, err_msg=name
        )
    rows = {"step": seconds_per_call(sides, blocks=9, calls=40)}
    report("train_step", __doc__.splitlines()[0], rows, ours="functorch_lab")


if __name__ == "__main__":
    main()
