# SPDX-License-Identifier: Apache-2.0
"""What does a training step of a whole model cost, in time and in memory?

A GPT (6 layers, 256 wide, 16 sequences of 64 tokens), ResNet-18 with batch norm (32
images of 32x32) and a bridged GPT-2 of Hugging Face, each beside the same model as a
torch.nn.Module under torch.compile with a fused optimizer; and what `checkpoint` saves.
Run: python benchmarks/models.py [gpt] [resnet18] [bridge]
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from interleave import keep_memory, machine, seconds_per_call, write
from torch.profiler import ProfilerActivity, profile
from torch_models import GPT, ResNet18

import functorch_lab as fl

LR = 1e-3
VOCAB, WIDTH, LAYERS, HEADS, TOKENS, SEQUENCES = 256, 256, 6, 8, 64, 16
IMAGES = 32


class Ours:
    """One compiled pure step of a batch loss, its state donated."""

    def __init__(self, loss_fn: Callable[..., Any], params: Any, state: Any, *batch):
        optimizer = fl.optim.adamw(lr=LR)
        self.carried = params, optimizer.init(params), state
        self.batch = batch

        @fl.jit(donate_argnums=0)
        def step(carried, *batch):
            params, opt_state, state = carried
            (loss, state), grads = fl.value_and_grad(loss_fn, has_aux=True)(
                params, state, *batch
            )
            updates, opt_state = optimizer.update(grads, opt_state, params)
            return (fl.optim.apply_updates(params, updates), opt_state, state), loss

        self.step = step

    def __call__(self):
        """One step."""
        self.carried, loss = self.step(self.carried, *self.batch)
        return loss


class Torch:
    """The module's loss compiled, and the fused optimizer."""

    def __init__(self, module: torch.nn.Module, loss_fn: Callable[..., Any], *batch):
        self.optimizer = torch.optim.AdamW(module.parameters(), LR, fused=True)
        self.batch = batch
        self.loss_fn = torch.compile(
            lambda *batch: loss_fn(module, *batch), fullgraph=True
        )

    def __call__(self):
        """One step."""
        self.optimizer.zero_grad()
        loss = self.loss_fn(*self.batch)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def gpt_sides() -> dict[str, Callable[[], Any]]:
    """`nn.transformer`, plain and with `remat`, beside a module of its formulas."""
    module = GPT(VOCAB, WIDTH, LAYERS, HEADS, TOKENS)
    sizes = (VOCAB, WIDTH, LAYERS, HEADS)
    tokens, targets = torch.randint(VOCAB, (2, SEQUENCES, TOKENS)).unbind()

    def ours(remat: bool) -> Ours:
        model = fl.nn.transformer(*sizes, max_length=TOKENS, remat=remat)

        def loss_fn(params, state, tokens, targets):
            logits = model.apply(params, tokens, train=True)
            return fl.losses.cross_entropy(logits, targets).mean(), state

        return Ours(loss_fn, module.tree(), (), tokens, targets)

    def loss_fn(module, tokens, targets):
        return F.cross_entropy(module(tokens).flatten(0, 1), targets.flatten())

    return {
        "functorch_lab": ours(False),
        "functorch_lab, remat": ours(True),
        "torch.nn compiled + fused AdamW": Torch(module, loss_fn, tokens, targets),
    }


def resnet18_sides() -> dict[str, Callable[[], Any]]:
    """`nn.resnet18` beside a module of torchvision's shape."""
    module = ResNet18(num_classes=10)
    model = fl.nn.resnet18(10, small_images=True)
    images, labels = torch.randn(IMAGES, 3, 32, 32), torch.randint(10, (IMAGES,))

    def ours(params, state, images, labels):
        logits, state = model.apply(params, state, images, train=True)
        return fl.losses.cross_entropy(logits, labels).mean(), state

    def loss_fn(module, images, labels):
        return F.cross_entropy(module(images), labels)

    params, state = module.trees()
    return {
        "functorch_lab": Ours(ours, params, state, images, labels),
        "torch.nn compiled + fused AdamW": Torch(module, loss_fn, images, labels),
    }


def bridge_sides() -> dict[str, Callable[[], Any]]:
    """GPT-2 of Hugging Face through `from_module`, beside the module itself."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCAB,
        n_positions=TOKENS,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
    )
    module = GPT2LMHeadModel(config)
    layer, params, state = fl.nn.from_module(module)
    tokens = torch.randint(VOCAB, (SEQUENCES, TOKENS))

    def ours(params, state, tokens):
        logits = layer.apply(params, tokens, train=True).logits
        return fl.losses.cross_entropy(logits[:, :-1], tokens[:, 1:]).mean(), state

    def loss_fn(module, tokens):
        logits = module(tokens).logits
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())

    module.train()
    return {
        "functorch_lab": Ours(ours, params, state, tokens),
        "the module compiled + fused AdamW": Torch(module, loss_fn, tokens),
    }


def peak_bytes(call: Callable[[], Any]) -> int:
    """The most that one call allocates at a time, beside what is there before it.

    Gradients that the call before left and that this one frees count as freed.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        call()
    events = [
        event
        for event in record.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    current = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        current += event.nbytes()
        highest = max(highest, current)
    return highest


MODELS = {"gpt": gpt_sides, "resnet18": resnet18_sides, "bridge": bridge_sides}


def main() -> None:
    """Check that all sides train alike, measure them, write the record."""
    keep_memory()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", choices=[*MODELS, []], default=[*MODELS])
    for name in parser.parse_args().models or MODELS:
        torch.manual_seed(0)
        measure(name, MODELS[name]())


def measure(name: str, sides: dict[str, Callable[[], Any]]) -> None:
    """One model: losses of the first steps, times, memory."""
    losses = {side: [float(call()) for _ in range(4)] for side, call in sides.items()}
    ours = torch.tensor(losses["functorch_lab"])
    for values in losses.values():
        torch.testing.assert_close(torch.tensor(values), ours, rtol=2e-3, atol=1e-4)
    seconds = seconds_per_call(sides, blocks=15, calls=4)
    memory = {side: peak_bytes(call) for side, call in sides.items()}
    print(f"{name}: losses of the first steps {losses['functorch_lab']}")
    for side in sides:
        print(
            f"  {side:36s} {seconds[side] * 1e3:8.1f} ms {memory[side] / 2**20:8.1f} "
            f"MiB   ours / this: {seconds['functorch_lab'] / seconds[side]:.3f}, "
            f"{memory['functorch_lab'] / memory[side]:.3f}"
        )
    write(
        f"models_{name}",
        {
            "question": __doc__.splitlines()[0],
            "machine": machine(),
            "seconds per step": seconds,
            "peak bytes of a step": memory,
            "losses of the first steps": losses,
        },
    )


if __name__ == "__main__":
    main()
