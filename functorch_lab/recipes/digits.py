# SPDX-License-Identifier: Apache-2.0
"""Train a classifier of handwritten digits with one compiled step.

Read it from top to bottom, copy it, change it. The split into training and test set is
fixed; the seed decides the initial parameters and the order of the samples.
"""

import math
import time
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, get_args

import torch
from torch import Tensor

import functorch_lab as fl


def mlp() -> fl.types.Layer:
    """64 pixels -> 256 -> 256 -> 10 logits."""
    return fl.nn.sequential(
        fl.nn.linear(64, 256),
        fl.nn.relu,
        fl.nn.linear(256, 256),
        fl.nn.relu,
        fl.nn.linear(256, 10),
    )


def cnn() -> fl.types.Layer:
    """Images (1, 8, 8) -> (16, 8, 8) -> (32, 4, 4) -> 128 -> 10 logits."""
    return fl.nn.sequential(
        fl.nn.conv2d(1, 16, 3, padding=1),
        fl.nn.relu,
        fl.nn.conv2d(16, 32, 3, padding=1),
        fl.nn.relu,
        fl.nn.max_pool2d(2),
        fl.nn.flatten(),
        fl.nn.linear(32 * 4 * 4, 128),
        fl.nn.relu,
        fl.nn.linear(128, 10),
    )


MODELS = {"mlp": mlp, "cnn": cnn}
Model = Literal["mlp", "cnn"]
Device = Literal["auto", "cpu", "mps", "cuda"]
SAMPLES = 1438  # to train on; known here so that settings are refused before any work


@dataclass(frozen=True)
class Config:
    """What one can change without changing the file."""

    model: Model = "mlp"
    """The network."""
    epochs: int = 20
    """Passes over the training set."""
    batch_size: int = 128
    """Samples per step."""
    lr: float = 5e-3
    """Learning rate at the start; it falls to 0 along a cosine."""
    seed: int = 0
    """Decides the initial parameters and the order of samples."""
    device: Device = "auto"
    """Where to train; auto takes the first accelerator there is."""
    compile: bool = True
    """Compile the step; without, every operation runs by itself."""

    def check(self) -> None:
        """Refuse settings that can't be, before any work.

        Raises:
            ValueError: If a setting is unknown or out of its range.
        """
        one_of("recipes.digits: model", self.model, MODELS)
        find_device(self.device)
        if not 0 < self.lr < math.inf:
            raise ValueError(
                f"recipes.digits: lr: expected a finite number > 0, got {self.lr}. "
                "Give e.g. 0.005."
            )
        if self.batch_size > SAMPLES:
            raise ValueError(
                f"recipes.digits: batch_size: expected 1 .. {SAMPLES} (the number of "
                f"samples), got {self.batch_size}. Choose a batch that the data can "
                "fill."
            )
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"recipes.digits: {name}: expected at least 1, got "
                    f"{getattr(self, name)}. Give a whole number."
                )


@dataclass(frozen=True, eq=False)
class Result:
    """What `train` found.

    Attributes:
        accuracy: Share of the test samples that are classified right.
        confusion: Test samples by true class (row) and predicted class (column).
        seconds: Wall clock, in all.
        state: The final training state.
        history: What `fl.train.fit` recorded.
    """

    accuracy: float
    confusion: Tensor
    seconds: float
    state: fl.train.TrainState
    history: fl.train.History


def train(config: Config = Config(), *, progress: bool = True) -> Result:
    """Train and test one model.

    Args:
        config: The settings.
        progress: Show a progress line on standard error.

    Returns:
        Accuracy and confusion matrix on the test set, and the trained state.

    Raises:
        ValueError: If a setting is out of its range or unknown.
        FloatingPointError: If the loss becomes non-finite.

    Example:
        >>> from functorch_lab.recipes import digits
        >>> config = digits.Config(epochs=3, compile=False)
        >>> result = digits.train(config, progress=False)
        >>> result.accuracy > 0.9, int(result.confusion.sum())
        (True, 359)
    """
    began = time.perf_counter()
    config.check()
    model = MODELS[config.model]()
    device = find_device(config.device)
    splits = fl.data.digits(images=config.model == "cnn", device=device)
    features = tuple(splits.train[0].shape[1:])
    for x, y in (splits.train, splits.test):
        fl.data.check_classification(x, y, num_classes=10, features=features)

    def loss_fn(params: Any, x: Tensor, y: Tensor) -> Tensor:
        logits = model.apply(params, x, train=True)
        # Smoothed targets keep the logits small: half the errors of the CNN.
        return fl.losses.cross_entropy(logits, y, label_smoothing=0.1).mean()

    def batches(key: Tensor) -> fl.data.Batches:
        return fl.data.batches(key, splits.train, config.batch_size)

    key, init_key = fl.random.split(fl.random.key(config.seed, device=device))
    steps = config.epochs * (len(splits.train[0]) // config.batch_size)
    schedule = fl.optim.schedules.cosine(config.lr, max(steps, 1))
    optimizer = fl.optim.adamw(lr=schedule)
    state = fl.train.init(model.init(init_key), optimizer, key=key)
    step = fl.train.make_step(loss_fn, optimizer)
    evaluate = fl.train.make_evaluate(
        model.apply,
        {
            "accuracy": fl.metrics.accuracy(),
            "confusion": fl.metrics.confusion_matrix(10),
        },
        batch_size=len(splits.test[0]),
    )
    with nullcontext() if config.compile else fl.disable_jit():
        state, history = fl.train.fit(
            step, state, batches, epochs=config.epochs, progress=progress
        )
        values = evaluate(state.params, *splits.test)
    return Result(
        accuracy=values["accuracy"].item(),
        confusion=values["confusion"].cpu(),
        seconds=time.perf_counter() - began,
        state=state,
        history=history,
    )


def find_device(name: str) -> torch.device:
    """The device of that name; auto takes cuda, else mps, else cpu.

    Raises:
        ValueError: If there is no such device on this machine.
    """
    present = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    one_of("recipes.digits: device", name, get_args(Device))
    if name == "auto":
        name = next(kind for kind, there in present.items() if there)
    if not present[name]:
        there = ", ".join(kind for kind, found in present.items() if found)
        raise ValueError(
            f"recipes.digits: device: expected one that is present ({there}), got "
            f"{name}. Give auto to take the best one."
        )
    return torch.device(name)


def one_of(what: str, value: str, choices: Iterable[str]) -> None:
    """Check that the value is one of the choices.

    Raises:
        ValueError: If it is not; the nearest choice is named.
    """
    choices = list(choices)
    if value in choices:
        return
    near = get_close_matches(_MEANT.get(value, value), choices, n=1, cutoff=0.5)
    remedy = f"Did you mean {near[0]}?" if near else "Choose one that is listed."
    raise ValueError(
        f"{what}: expected one of {', '.join(choices)}, got {value}. {remedy}"
    )


_MEANT = {"gpu": "cuda", "metal": "mps", "--learning-rate": "--lr"}
