# SPDX-License-Identifier: Apache-2.0
"""Predict how far diabetes goes in a year, and compare with ordinary least squares.

Read it, copy it, change it. With 309 patients to learn from a network gains little or
nothing on a linear model; a recipe that shows only its own error would not say so.
"""

import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

import functorch_lab as fl
from functorch_lab.recipes import settings
from functorch_lab.recipes.settings import Count, Device, NotNegative, Positive

SAMPLES = 309  # in the training part: a batch can't be larger


@dataclass(frozen=True)
class Config:
    """What one can change without changing the file."""

    width: Count = 32  # units of each of the two hidden layers
    epochs: Count = 100  # passes over the training part, at most
    batch_size: Annotated[int, settings.up_to(SAMPLES)] = 32  # samples per step
    lr: Positive = 3e-3  # learning rate at the start; it falls to 0 along a cosine
    weight_decay: NotNegative = 0.1  # pull of the weights to 0, in units of lr
    early_stopping: Count | None = 20  # epochs to wait for a better validation loss
    seed: int = 0  # decides the initial parameters and the order of samples
    device: Device = "auto"  # where to train; auto takes the first accelerator there is
    compile: bool = True  # compile the step; without, operations run one by one

    def check(self) -> None:
        """Refuse settings that can't be, before any work."""
        settings.check("recipes.diabetes", self)


@dataclass(frozen=True, eq=False)
class Result:
    """What came of it, on the test set; `state` is that of the best epoch."""

    error: float  # root of the mean squared error, in the score's units (25 to 346)
    r2: float  # share of the score's variance that is explained
    linear_error: float  # the same two of ordinary least squares
    linear_r2: float
    seconds: float
    state: fl.train.TrainState
    history: fl.train.History


def train(
    config: Config = Config(),
    *,
    run_dir: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Result:
    """Train one model, then test it; with `run_dir`, keep everything in that folder."""
    began = time.perf_counter()
    config.check()
    device = settings.find_device("recipes.diabetes", config.device)
    key = fl.random.key(config.seed, device=device)
    key, init_key = fl.random.split(key, 2)

    # 0.1 of all patients, an eighth of those that are not the test set.
    splits = fl.data.diabetes(validation=0.1, device=device)
    x, y = splits.train
    model = fl.nn.mlp(10, [config.width, config.width], 1)

    def apply(params: Any, x: Tensor) -> Tensor:
        return model.apply(params, x).squeeze(-1)  # (batch, 1) -> (batch,)

    def loss_fn(params: Any, x: Tensor, y: Tensor) -> Tensor:
        return fl.losses.mse(apply(params, x), y)

    steps = config.epochs * (len(x) // config.batch_size)
    schedule = fl.optim.schedules.cosine(config.lr, steps)
    optimizer = fl.optim.adamw(lr=schedule, weight_decay=config.weight_decay)
    step = fl.train.make_step(loss_fn, optimizer)
    state = fl.train.init(model.init(init_key), optimizer, key=key)
    score = {"val_loss": fl.losses.squared_error, "val_r2": fl.metrics.r2()}
    evaluate = fl.train.make_evaluate(apply, score)
    run = settings.open_run("diabetes", config, run_dir, resume)
    with nullcontext() if config.compile else fl.disable_jit():
        state, history = fl.train.fit(
            step,
            state,
            lambda key: fl.data.batches(key, (x, y), config.batch_size),
            epochs=config.epochs,
            evaluate=lambda state: evaluate(state.params, *splits.validation),
            early_stopping=fl.train.EarlyStopping("val_loss", config.early_stopping),
            run_dir=run,
            progress=progress,
        )

    # Least squares has no use for a validation part: it learns from that one too.
    parts = zip(splits.train, splits.validation, strict=True)
    x, y = (torch.cat(part) for part in parts)
    weights = torch.linalg.lstsq(with_ones(x), y[:, None]).solution
    x, y = splits.test
    guesses = {
        "": apply(state.params, x),
        "linear_": (with_ones(x) @ weights)[:, 0],
    }
    scores = fl.data.diabetes(validation=0.1, standardize=False).train[1]
    unit = scores.std(correction=0).item()  # of what the standardized y counts in
    found = {}
    for name, guess in guesses.items():
        squares = fl.losses.mse(guess, y)
        found[f"{name}error"] = unit * squares.sqrt().item()
        found[f"{name}r2"] = 1 - (squares / y.var(correction=0)).item()
    if run is not None:
        named = {f"test_{name}": value for name, value in found.items()}
        run.write_result(named)
    seconds = time.perf_counter() - began
    return Result(**found, seconds=seconds, state=state, history=history)


def with_ones(x: Tensor) -> Tensor:
    """The inputs with a column of ones, whose weight is the intercept."""
    return torch.cat([x, torch.ones_like(x[:, :1])], 1)
