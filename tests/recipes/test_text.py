# SPDX-License-Identifier: Apache-2.0
"""The text recipe: what it trains on, that it trains as torch does, what it leaves."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import functorch_lab as fl
from functorch_lab.recipes import text

SMALL: dict[str, Any] = {
    "layers": 1,
    "width": 10,
    "heads": 2,
    "context": 14,
    "batch_size": 3,
    "steps": 7,
    "nbytes": 3000,
    "compile": False,
}


def run(folder: Path | None = None, **changes: Any) -> text.Result:
    config = text.Config(**(SMALL | changes))
    return text.train(config, run_dir=folder, progress=False)


def held_out(params: Any, config: text.Config) -> torch.Tensor:
    """Bits per byte on the last twentieth, window by window."""
    unseen = fl.data.stdlib_text(config.nbytes)[-(config.nbytes // 20) :]
    model, losses = text.make_model(config), []
    for start in range(0, len(unseen) - config.context, config.context):
        x = unseen[start : start + config.context]
        y = unseen[start + 1 : start + config.context + 1]
        losses.append(F.cross_entropy(model.apply(params, x), y) / math.log(2))
    return torch.stack(losses).mean()


def test_learns_which_bytes_follow() -> None:
    result = run(steps=120, width=24, batch_size=8, lr=1e-2, nbytes=20_000)
    # Each byte by its own share of this text has 4.8 bits.
    assert result.bits_per_byte < 4.4
    assert result.history.epochs[-1]["loss"] < 4.4  # nats, from log(256) = 5.5


def test_loss_on_held_out_text_is_of_the_last_twentieth() -> None:
    result = run()
    expected = held_out(result.state.params, text.Config(**SMALL))
    torch.testing.assert_close(torch.tensor(result.bits_per_byte), expected)


def test_trains_as_torch_does() -> None:
    config = text.Config(**(SMALL | {"steps": 40, "lr": 0.02}))
    model, data = text.make_model(config), fl.data.stdlib_text(config.nbytes)
    batches = text.batches(data, config, fl.random.key(3))[:12]
    params = model.init(fl.random.key(5))

    optimizer = text.make_optimizer(config)
    step = fl.train.make_step(lambda p, w: text.loss(model, p, w), optimizer)
    state = fl.train.init(params, optimizer, key=fl.random.key(0))
    losses = []
    with fl.disable_jit():
        for batch in batches:
            state, logs = step(state, *batch)
            losses.append(logs["loss"])

    params = fl.tree.map(lambda p: p.clone().requires_grad_(), params)
    adamw = torch.optim.AdamW(fl.tree.leaves(params), config.lr)
    expected = []
    for number, (windows,) in enumerate(batches):
        rise = number / 2  # 2 is a twentieth of the steps
        fall = 0.5 * (1 + math.cos(math.pi * (number - 2) / 38))
        adamw.param_groups[0]["lr"] = config.lr * (rise if number < 2 else fall)
        adamw.zero_grad()
        logits = model.apply(params, windows[:, :-1])
        value = F.cross_entropy(logits.transpose(1, 2), windows[:, 1:])
        value.backward()
        torch.nn.utils.clip_grad_norm_(fl.tree.leaves(params), 1.0)
        adamw.step()
        expected.append(value.detach())
    torch.testing.assert_close(
        torch.stack(losses), torch.stack(expected), rtol=2e-6, atol=0.0
    )


def test_windows_begin_anywhere_and_are_the_text_in_its_order() -> None:
    data = torch.arange(100, 100 + 40)
    config = text.Config(**SMALL)
    batches = text.batches(data, config, fl.random.key(3))
    assert len(batches) == text.EPOCH
    windows = torch.cat([windows for (windows,) in batches])
    first = windows[:, :1]
    assert batches[0][0].shape == (3, 15)
    assert torch.equal(windows, first + torch.arange(15))
    assert first.unique().tolist() == list(range(100, 100 + 40 - 14))


def test_the_seed_decides_everything() -> None:
    first, again, other = (run(steps=2, seed=seed) for seed in (3, 3, 5))
    assert fl.tree.equal(first.state, again.state)
    assert first.texts == again.texts
    assert first.history.logs["loss"][1] != other.history.logs["loss"][1]
    assert first.texts != other.texts


def test_texts_begin_with_the_prompt_and_fill_the_context() -> None:
    model = fl.nn.transformer(256, 6, 1, 2, max_length=11)
    params = model.init(fl.random.key(3))
    # All bytes but "a" become improbable: what follows the prompt is known.
    params["tokens"]["weight"][ord("a")] = 5 * torch.ones(6)
    params["norm"] = {"weight": torch.zeros(6), "bias": 5 * torch.ones(6)}
    assert text.write(model, params, "x = ", fl.random.key(5)) == ["x = aaaaaaa"] * 4
    with pytest.raises(ValueError, match=r"expected shape .* with T from 1 .*\(4, 0\)"):
        text.write(model, params, "", fl.random.key(5))


def test_bfloat16_is_computed_in_and_not_stored() -> None:
    half, full = run(dtype="bfloat16"), run()
    dtypes = {leaf.dtype for leaf in fl.tree.leaves(half.state.params)}
    assert dtypes == {torch.float32}
    losses, expected = half.history.logs["loss"], full.history.logs["loss"]
    assert not torch.equal(losses, expected)
    torch.testing.assert_close(losses, expected, rtol=0.01, atol=0.0)


def test_the_folder_keeps_the_result_and_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    result = run(folder)
    written = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert written == {"val_bits_per_byte": result.bits_per_byte}
    texts = (folder / "texts.txt").read_text(encoding="utf-8")
    assert texts == "\n\n".join(result.texts)
    config = text.Config(**SMALL)
    again = text.train(config, run_dir=folder, resume=True, progress=False)
    assert fl.tree.equal(again.state, result.state)
    assert again.bits_per_byte == result.bits_per_byte


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"context": 7}, "context: expected at least 8, got 7"),
        ({"dtype": "float16"}, "dtype: expected one of float32, bfloat16, got float16"),
        ({"nbytes": 299}, "nbytes: expected at least 300, .*, got 299. Give more text"),
        ({"device": "gpu"}, "got gpu. Did you mean cuda"),
    ],
)
def test_refuses_settings(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"recipes.text: .*{message}"):
        run(tmp_path / "run", **change)
    assert not (tmp_path / "run").exists()


def test_refuses_heads_that_do_not_divide_the_width(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"num_heads: expected .*divi"):
        run(tmp_path / "run", heads=3)
    assert not (tmp_path / "run").exists()
