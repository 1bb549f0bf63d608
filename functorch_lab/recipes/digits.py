# SPDX-License-Identifier: Apache-2.0
"""Train a classifier of handwritten digits with one compiled step.

Read it, copy it, change it. The seed decides all that is drawn, but for the test set.
"""

import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

import functorch_lab as fl
from functorch_lab.recipes import settings
from functorch_lab.recipes.settings import Count, Device, Positive, Share

MODELS = {
    "mlp": fl.nn.sequential(fl.nn.flatten(), fl.nn.mlp(64, [256, 256], 10)),
    "cnn": fl.nn.sequential(  # (1, 8, 8) -> (16, 8, 8) -> (32, 4, 4) -> 512 -> 10
        fl.nn.conv2d(1, 16, 3, padding=1),
        fl.nn.relu,
        fl.nn.conv2d(16, 32, 3, padding=1),
        fl.nn.relu,
        fl.nn.max_pool2d(2),
        fl.nn.flatten(),
        fl.nn.mlp(512, [128], 10),
    ),
}
# Ink, 0 to 16. 0.08 of all samples are a tenth of those that are not the test set.
load = partial(fl.data.digits, images=True, standardize=False, validation=0.08)
SAMPLES = 1294  # in its training part: a batch can't be larger


@dataclass(frozen=True)
class Config:
    """What one can change without changing the file."""

    model: Literal["mlp", "cnn"] = "mlp"  # the network
    epochs: Count = 20  # passes over the training part
    batch_size: Annotated[int, settings.up_to(SAMPLES)] = 128  # samples per step
    lr: Positive = 5e-3  # learning rate at the start; it falls to 0 along a cosine
    early_stopping: Count | None = None  # epochs to wait for a better validation loss
    corrupt_labels: Share = 0.0  # share of the training labels to replace by wrong ones
    seed: int = 0  # decides initial parameters, order of samples and wrong labels
    device: Device = "auto"  # where to train; auto takes the first accelerator there is
    compile: bool = True  # compile the step; without, operations run one by one

    def check(self) -> None:
        """Refuse settings that can't be, before any work."""
        settings.check("recipes.digits", self)


@dataclass(frozen=True, eq=False)
class Result:
    """What came of it; `corrupted`: the columns index, true (label) and planted."""

    accuracy: float
    confusion: Tensor
    corrupted: dict[str, Tensor]
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
    device = settings.find_device("recipes.digits", config.device)
    key = fl.random.key(config.seed, device=device)
    key, init_key, rows_key, labels_key = fl.random.split(key, 4)

    ink = load(device=device)
    x, x_unseen = fl.data.standardize(ink.train[0], ink.validation[0])
    y = ink.train[1]

    order = fl.random.permutation(rows_key, len(y))
    rows = order[: round(config.corrupt_labels * len(y))].sort().values
    # 1 to 9 further on, modulo 10: each of the nine wrong classes is as likely.
    planted = (y[rows] + fl.random.randint(labels_key, rows.shape, 1, 10)) % 10
    corrupted = {"index": rows, "true": y[rows], "planted": planted}
    y = y.index_put((rows,), planted)

    model = MODELS[config.model]
    steps = config.epochs * (len(x) // config.batch_size)
    optimizer = fl.optim.adamw(lr=fl.optim.schedules.cosine(config.lr, steps))

    cross_entropy = partial(fl.losses.cross_entropy, label_smoothing=0.1)

    def loss_fn(params: Any, x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(model.apply(params, x, train=True), y).mean()

    step = fl.train.make_step(loss_fn, optimizer)
    state = fl.train.init(model.init(init_key), optimizer, key=key)
    score = {"val_loss": cross_entropy, "val_accuracy": fl.metrics.accuracy()}
    evaluate = fl.train.make_evaluate(model.apply, score)
    # With None it never stops, but ends with the best epoch's state all the same.
    stopping = fl.train.EarlyStopping("val_loss", config.early_stopping)
    run = settings.open_run("digits", config, run_dir, resume)
    if run is not None and len(rows):
        fl.data.write_csv(run.folder / "corrupted.csv", corrupted)
    with nullcontext() if config.compile else fl.disable_jit():
        state, history = fl.train.fit(
            step,
            state,
            lambda key: fl.data.batches(key, (x, y), config.batch_size),
            epochs=config.epochs,
            evaluate=lambda state: evaluate(state.params, x_unseen, ink.validation[1]),
            early_stopping=stopping,
            run_dir=run,
            progress=progress,
        )

    images, labels = ink.test[0][:, 0], ink.test[1]
    probabilities = predict(state.params, config, images)
    classes = probabilities.argmax(-1)
    accuracy = (classes == labels).double().mean().item()
    confusion = torch.bincount(10 * labels + classes, minlength=100).reshape(10, 10)
    if run is not None:
        losses = fl.losses.nll(probabilities.log(), labels)
        worst = losses.topk(16).indices
        run.write_result(
            {"test_accuracy": accuracy},
            confusion=confusion,
            worst_images=images[worst],
            worst_labels=labels[worst],
            worst_predictions=classes[worst],
            worst_losses=losses[worst],
        )
    seconds = time.perf_counter() - began
    return Result(accuracy, confusion.cpu(), corrupted, seconds, state, history)


def predict(params: Any, config: Config, images: Tensor) -> Tensor:
    """Probabilities (n, 10) for images (n, 8, 8) of ink, 0 to 16."""
    settings.check_shape("recipes.digits.predict: images", images, (8, 8))
    ink = load(device=fl.tree.leaves(params)[0].device).train[0]
    _, x = fl.data.standardize(ink, images[:, None].to(ink))
    return MODELS[config.model].apply(params, x).softmax(-1)
