# SPDX-License-Identifier: Apache-2.0
"""What does Adam's update alone cost, and where should the optimizer's memory live?

50 leaves of 200 000 numbers; compiled and donated, with one buffer per leaf and with
`optim.fused`, beside torch's fused Adam. Run: python benchmarks/adam_update.py
"""

import torch
from interleave import report, seconds_per_call

import functorch_lab as fl

LEAVES, SIZE, LR = 50, 200_000, 1e-3


class Ours:
    """One compiled update that writes into the old parameters."""

    def __init__(self, params, grads, optimizer, donate=(0, 1)):
        self.params, self.grads = fl.tree.copy(params), grads
        self.state = optimizer.init(params)

        @fl.jit(donate_argnums=donate)
        def update(params, state, grads):
            updates, state = optimizer.update(grads, state, params)
            return fl.optim.apply_updates(params, updates), state

        self.update = update

    def __call__(self):
        """One update."""
        self.params, self.state = self.update(self.params, self.state, self.grads)


class Torch:
    """torch.optim.Adam(fused=True)."""

    def __init__(self, params, grads):
        self.params = {k: torch.nn.Parameter(v.clone()) for k, v in params.items()}
        for name, leaf in self.params.items():
            leaf.grad = grads[name].clone()
        self.optimizer = torch.optim.Adam(self.params.values(), LR, fused=True)

    def __call__(self):
        """One update."""
        self.optimizer.step()


def main() -> None:
    """Check that all sides give the same parameters, time them, write the record."""
    key = fl.random.key(0)
    names = [f"leaf{i}" for i in range(LEAVES)]
    params = {
        name: fl.random.normal(fl.random.fold_in(key, i), (SIZE,))
        for i, name in enumerate(names)
    }
    grads = fl.tree.map(torch.sin, params)
    adam = fl.optim.adam(lr=LR)
    sides = {
        "functorch_lab": Ours(params, grads, adam),
        "functorch_lab, not donated": Ours(params, grads, adam, donate=None),
        "functorch_lab, optim.fused": Ours(params, grads, fl.optim.fused(adam)),
        "torch.optim.Adam(fused=True)": Torch(params, grads),
    }
    for side in sides.values():
        for _ in range(3):
            side()
        for name in names:
            torch.testing.assert_close(
                side.params[name], sides["functorch_lab"].params[name]
            )
    rows = {"50 x 200 000": seconds_per_call(sides, blocks=11, calls=10)}
    report("adam_update", __doc__.splitlines()[0], rows, ours="functorch_lab")


if __name__ == "__main__":
    main()
