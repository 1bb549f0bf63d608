# SPDX-License-Identifier: Apache-2.0
"""What does the training loop cost beside its compiled steps, and what does a resume?

The same step on the same batches: called in a bare loop that waits for the last loss
only; by `fit` with its checks, history and progress line; and by `fit` with a run's
folder too: log, checkpoints, the last of them included. The sides take turns, and the
ratio is the median over rounds, within which the machine changes least. Then the time
that a resumed run takes before its first step. Run: python benchmarks/fit.py
"""

import contextlib
import io
import itertools
import statistics
import tempfile
import time
from pathlib import Path

from interleave import machine, write

import functorch_lab as fl

BATCH = 128
STEPS = 4400  # in one call
ROUNDS = 7


class Sides:
    """An MLP 64-256-256-10 with AdamW, and an epoch of so many batches."""

    def __init__(self, per_epoch: int, width: int = 256):
        model = fl.nn.sequential(
            fl.nn.linear(64, width),
            fl.nn.relu,
            fl.nn.linear(width, width),
            fl.nn.relu,
            fl.nn.linear(width, 10),
        )

        def loss_fn(params, x, y):
            return fl.losses.cross_entropy(model.apply(params, x), y).mean()

        self.optimizer = fl.optim.adamw(lr=fl.optim.schedules.cosine(1e-3, 10**6))
        self.step = fl.train.make_step(loss_fn, self.optimizer)
        keys = fl.random.split(fl.random.key(0), 3)
        self.params = model.init(keys[0])
        self.key = keys[1]
        x = fl.random.normal(keys[2], (per_epoch * BATCH, 64))
        y = fl.random.randint(keys[2], (per_epoch * BATCH,), 0, 10)
        self.batches = list(fl.data.batches(keys[2], (x, y), BATCH))

    def state(self):
        """The state before the first step."""
        return fl.train.init(self.params, self.optimizer, key=self.key)

    def bare(self):
        """The steps alone."""
        state = self.state()
        for batch in itertools.islice(itertools.cycle(self.batches), STEPS):
            state, logs = self.step(state, *batch)
        return state, logs["loss"].item()

    def fit(self, run_dir=None):
        """The loop, as a user calls it; its progress lines go into a string."""
        with contextlib.redirect_stderr(io.StringIO()):
            state, history = fl.train.fit(
                self.step, self.state(), self.batches, steps=STEPS, run_dir=run_dir
            )
        return state, history.logs["loss"][-1].item()

    def fit_with_run(self):
        """The loop, and everything that it writes."""
        with tempfile.TemporaryDirectory() as folder:
            return self.fit(Path(folder) / "run")


def resume(width: int) -> dict[str, float]:
    """Seconds that `open_run` and `fit` take for a run that has nothing left to do."""
    sides = Sides(2, width)
    state = sides.state()
    size = fl.tree.nbytes(state)
    with tempfile.TemporaryDirectory() as folder:
        options = {"epochs": 1, "progress": False}
        fl.train.fit(sides.step, state, sides.batches, run_dir=folder, **options)
        state = sides.state()
        times = []
        for _ in range(5):
            began = time.perf_counter()
            run = fl.train.open_run(folder, resume=True)
            fl.train.fit(sides.step, state, sides.batches, run_dir=run, **options)
            times.append(time.perf_counter() - began)
    return {"megabytes of state": size / 1e6, "seconds": sorted(times)[2]}


def rounds(sides: Sides) -> dict[str, dict[str, float]]:
    """Median time of a step in microseconds, and median ratio to the bare steps."""
    calls = {"bare": sides.bare, "fit": sides.fit, "fit, run_dir": sides.fit_with_run}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(ROUNDS):
        order = list(calls.items())
        for name, call in order if i % 2 else reversed(order):
            began = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - began) / STEPS)
    bare = times["bare"]
    return {
        name: {
            "us a step": statistics.median(values) * 1e6,
            "ratio": statistics.median(
                value / base for value, base in zip(values, bare, strict=True)
            ),
        }
        for name, values in times.items()
    }


def main() -> None:
    """Check that all sides train alike, time them, write the record."""
    rows = {}
    for per_epoch in (100, 11):
        sides = Sides(per_epoch)
        (first, loss), *others = sides.bare(), sides.fit(), sides.fit_with_run()
        for state, other in others:
            assert fl.tree.equal(first, state)
            assert loss == other
        name = f"{STEPS} steps, {per_epoch} per epoch"
        rows[name] = rounds(sides)
        print(name)
        for side, found in rows[name].items():
            print(f"  {side:14s}{found['us a step']:9.1f} us a step", end="")
            print(f"{found['ratio']:8.3f}")
    resumes = {f"width {width}": resume(width) for width in (256, 2816)}
    for name, found in resumes.items():
        size, seconds = found.values()
        print(f"resume, {name}: {size:.1f} MB of state, {seconds:.3f} s")
    write(
        "fit",
        {
            "question": " ".join((__doc__ or "").split("\n\n")[0].split()),
            "machine": machine(),
            "steps": rows,
            "resume": resumes,
        },
    )


if __name__ == "__main__":
    main()
