# SPDX-License-Identifier: Apache-2.0
"""Train a GPT on the source of Python's standard library, byte by byte.

Read it, copy it, change it. Held-out text costs 8 bits per byte for a guess among all
bytes, and 2.4 after the default settings, which take some minutes on two cores. On a
GPU, more of everything: layers=6, width=384, heads=6, context=256, batch_size=64,
steps=5000, nbytes=8_000_000, dtype="bfloat16".
"""

import math
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

EPOCH = 250  # steps, after which the loss on held-out text is measured


@dataclass(frozen=True)
class Config:
    """What one can change without changing the file."""

    layers: settings.Count = 4  # of the transformer
    width: settings.Count = 128  # features of a position
    heads: settings.Count = 4  # of attention; they divide the width
    context: Annotated[int, settings.Rule("at least 8", lambda n: n > 7)] = 128  # bytes
    batch_size: settings.Count = 16  # windows of the text per step
    steps: settings.Count = 1000  # in all
    lr: settings.Positive = 2e-3  # highest; up in a twentieth of the steps, then down
    dtype: Literal["float32", "bfloat16"] = "float32"  # to compute in, not to store
    nbytes: settings.Count = 4_000_000  # of text; the last twentieth is held out
    seed: int = 0  # decides initial parameters, windows, and what is written
    device: settings.Device = "auto"  # auto takes the first accelerator there is
    compile: bool = True  # the step; without, every operation runs by itself

    def check(self) -> None:
        """Refuse settings that can't be, before any work."""
        settings.check("recipes.text", self)
        least = 20 * (self.context + 1)
        if self.nbytes < least:
            raise ValueError(
                f"recipes.text: nbytes: expected at least {least}, 20 windows of "
                f"context + 1, got {self.nbytes}. Give more text or less context."
            )


@dataclass(frozen=True, eq=False)
class Result:
    """What came of it: the loss on held-out text, and texts that the model wrote."""

    bits_per_byte: float
    texts: list[str]
    seconds: float
    state: fl.train.TrainState
    history: fl.train.History


def make_model(config: Config) -> fl.nn.LanguageModel:
    """A small GPT-2, whose tokens are bytes."""
    width, layers, heads = config.width, config.layers, config.heads
    return fl.nn.transformer(256, width, layers, heads, max_length=config.context)


def make_optimizer(config: Config) -> fl.types.GradientTransformation:
    """AdamW; its learning rate rises along a line, then falls along a cosine."""
    rise = -(-config.steps // 20)
    fall = fl.optim.schedules.cosine(config.lr, max(config.steps - rise, 1))
    adamw = fl.optim.adamw(lr=fl.optim.schedules.warmup(fall, rise))
    return fl.optim.chain(fl.optim.clip_by_global_norm(1.0), adamw)


def loss(model: fl.nn.LanguageModel, params: Any, windows: Tensor) -> Tensor:
    """The mean loss, in nats per byte, of windows (batch, context + 1)."""
    logits = model.apply(params, windows[:, :-1], train=True)
    return fl.losses.cross_entropy(logits.float(), windows[:, 1:]).mean()


def bits(logits: Tensor, following: Tensor) -> Tensor:
    """The mean loss of each window, in bits per byte."""
    return fl.losses.cross_entropy(logits, following).mean(-1) / math.log(2)


def batches(text: Tensor, config: Config, key: Tensor) -> list[tuple[Tensor]]:
    """The batches of an epoch: windows that begin anywhere in the text."""
    windows = text.unfold(0, config.context + 1, 1)  # (starts, context + 1), a view
    shape = (EPOCH, config.batch_size)
    return [(windows[row],) for row in fl.random.randint(key, shape, 0, len(windows))]


def write(
    model: fl.nn.LanguageModel, params: Any, prompt: str, key: Tensor
) -> list[str]:
    """Four texts that begin with the prompt, as long as the model sees."""
    prompts = torch.tensor([list(prompt.encode())] * 4, device=key.device).long()
    length = model.max_length - prompts.shape[1]
    # Likely bytes are taken more often: fewer slips. For long texts jit=True pays.
    more = fl.nn.generate(model, params, prompts, length, key=key, temperature=0.8)
    rows = torch.cat([prompts, more], 1).tolist()
    return [bytes(row).decode(errors="replace") for row in rows]


def train(
    config: Config = Config(),
    *,
    run_dir: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Result:
    """Train one model, then have it write; `run_dir` is the folder that keeps all."""
    began = time.perf_counter()
    config.check()
    device = settings.find_device("recipes.text", config.device)
    keys = fl.random.split(fl.random.key(config.seed, device=device), 3)
    text = fl.data.stdlib_text(config.nbytes, device=device)
    text, unseen = text.split([len(text) - len(text) // 20, len(text) // 20])
    unseen = unseen.unfold(0, config.context + 1, config.context)
    model, optimizer = make_model(config), make_optimizer(config)
    dtype = torch.bfloat16 if config.dtype == "bfloat16" else None
    step = fl.train.make_step(partial(loss, model), optimizer, compute_dtype=dtype)
    state = fl.train.init(model.init(keys[1]), optimizer, key=keys[0])
    score = fl.train.make_evaluate(
        model.apply, {"val_bits_per_byte": bits}, batch_size=config.batch_size
    )
    run = settings.open_run("text", config, run_dir, resume)
    with nullcontext() if config.compile else fl.disable_jit():
        state, history = fl.train.fit(
            step,
            state,
            partial(batches, text, config),
            steps=config.steps,
            evaluate=lambda state: score(state.params, unseen[:, :-1], unseen[:, 1:]),
            early_stopping=fl.train.EarlyStopping("val_bits_per_byte"),
            run_dir=run,
            progress=progress,
        )
    texts = write(model, state.params, "def ", keys[2])
    bits_per_byte = min(float(row["val_bits_per_byte"]) for row in history.epochs)
    if run is not None:
        (run.folder / "texts.txt").write_text("\n\n".join(texts), encoding="utf-8")
        run.write_result({"val_bits_per_byte": bits_per_byte})
    return Result(bits_per_byte, texts, time.perf_counter() - began, state, history)
