# SPDX-License-Identifier: Apache-2.0
"""What the recipe on handwritten digits promises is what one run reaches."""

import math
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch

import functorch_lab as fl
from functorch_lab.recipes import digits


def run(run_dir: Path | None = None, resume: bool = False, **changes: Any) -> Any:
    config = digits.Config(**{"compile": False, **changes})
    return digits.train(config, run_dir=run_dir, resume=resume, progress=False)


def test_mlp_compiled_reaches_its_accuracy() -> None:
    result = run(compile=True)
    assert result.accuracy >= 0.97
    assert result.confusion.shape == (10, 10)
    assert int(result.confusion.sum()) == 359
    assert result.accuracy == pytest.approx(int(result.confusion.trace()) / 359)
    rows = result.history.epochs
    assert len(rows) == digits.Config().epochs
    assert rows[-1]["loss"] < 0.6 * rows[0]["loss"]
    assert rows[-1]["val_accuracy"] > 0.95
    # 0.5 is the least that smoothed targets allow: 0.91 and nine times 0.01.
    assert 0.5 < rows[-1]["val_loss"] < 0.7


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_learns_without_a_compiler(model: str) -> None:
    result = run(model=model, epochs=3)
    assert result.accuracy > 0.85
    assert result.history.epochs[-1]["step"] == 30


def test_the_seed_decides_everything_but_the_parts() -> None:
    first, again, other = (
        run(epochs=1, seed=s, corrupt_labels=0.02) for s in (3, 3, 5)
    )
    assert fl.tree.equal(first.state, again.state)
    assert fl.tree.equal(first.corrupted, again.corrupted)
    assert not fl.tree.equal(first.state.params, other.state.params)
    assert not torch.equal(first.corrupted["index"], other.corrupted["index"])
    assert torch.equal(first.confusion.sum(1), other.confusion.sum(1))


def test_the_parts_are_those_that_the_settings_tell_of() -> None:
    splits = digits.load()
    sizes = [len(part[0]) for part in (splits.train, splits.validation, splits.test)]
    assert sizes == [digits.SAMPLES, 144, 359]
    assert digits.MODELS.keys() == {"mlp", "cnn"}
    assert "mlp, cnn" in str(get_type_hints(digits.Config)["model"]).replace("'", "")


def test_plants_wrong_labels_and_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    batches = fl.data.batches

    def spy(key: Any, arrays: Any, size: int) -> Any:
        seen.append(arrays[1])
        return batches(key, arrays, size)

    monkeypatch.setattr(fl.data, "batches", spy)
    found = run(epochs=1, corrupt_labels=0.3).corrupted
    true = digits.load().train[1]
    different = [i for i in range(1294) if seen[0][i] != true[i]]
    assert len(different) == 388  # 0.3 * 1294 = 388.2
    assert different == found["index"].tolist()
    assert [true[i] for i in different] == found["true"].tolist()
    assert [seen[0][i] for i in different] == found["planted"].tolist()
    # Each of the nine ways of being wrong: 388 / 9 = 43 times, give or take 6.
    ways = [(p - t) % 10 for t, p in zip(found["true"], found["planted"], strict=True)]
    counts = torch.bincount(torch.stack(ways), minlength=10)
    assert counts[0] == 0
    assert counts[1:].min() > 20
    assert counts[1:].max() < 68


def test_stops_early_and_goes_back_to_the_best() -> None:
    result = run(early_stopping=2, lr=0.02)
    losses = [row["val_loss"] for row in result.history.epochs]
    best = losses.index(min(losses))
    assert len(losses) == best + 3 < 20
    assert int(result.state.step) == 10 * (best + 1)


def test_a_run_is_kept_and_goes_on_to_the_same_end(tmp_path: Path) -> None:
    folder, settings = tmp_path / "run", {"epochs": 2, "corrupt_labels": 0.004}
    result = run(folder, **settings)
    record = fl.train.read_run(folder)
    assert record.finished
    assert record.config["recipe"] == "digits"
    assert digits.Config(**{k: v for k, v in record.config.items() if k != "recipe"})
    assert record.result["test_accuracy"] == result.accuracy
    assert fl.tree.equal(record.params("last"), result.state.params)
    rows = zip(*map(torch.Tensor.tolist, result.corrupted.values()), strict=True)
    lines = ["index,true,planted", *(",".join(map(str, row)) for row in rows)]
    assert (folder / "corrupted.csv").read_text().splitlines() == lines
    assert len(lines) == 6  # 0.004 * 1294 = 5.2

    found = record.tensors
    ink, labels = (t[:] for t in digits.load().test)
    probabilities = digits.predict(result.state.params, digits.Config(), ink[:, 0])
    losses = -probabilities[range(359), labels].log()
    torch.testing.assert_close(found["worst_losses"][0], losses.max())
    worst = int(losses.argmax())
    assert torch.equal(found["worst_images"][0], ink[worst, 0])
    assert found["worst_labels"][0] == labels[worst]
    assert found["worst_predictions"][0] == probabilities[worst].argmax()
    assert found["worst_images"].shape == (16, 8, 8)
    assert torch.equal(found["confusion"], result.confusion)

    before = (folder / "result.json").read_text()
    again = run(folder, resume=True, **settings)
    assert fl.tree.equal(again.state, result.state)
    assert fl.tree.equal(again.corrupted, result.corrupted)
    assert again.history.epochs == result.history.epochs
    assert again.accuracy == result.accuracy
    assert (folder / "result.json").read_text() == before


def test_predicts_from_ink_with_the_scaling_of_training() -> None:
    config = digits.Config(epochs=2, compile=False)
    result = digits.train(config, progress=False)
    ink, labels = digits.load().test
    found = digits.predict(result.state.params, config, ink[:, 0])
    assert found.shape == (359, 10)
    torch.testing.assert_close(found.sum(1), torch.ones(359))
    right = (found.argmax(1) == labels).double().mean().item()
    assert right == result.accuracy > 0.8
    # An image alone is scaled as it is among others.
    alone = digits.predict(result.state.params, config, ink[7:8, 0])
    torch.testing.assert_close(alone[0], found[7])
    with pytest.raises(
        ValueError, match=r"images: expected shape \(n, 8, 8\), got \(5"
    ):
        digits.predict(result.state.params, config, torch.ones(5, 8, 7))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"model": "ccn"},
            "model: expected one of mlp, cnn, got ccn. Did you mean cnn",
        ),
        ({"device": "gpu"}, "device: .* got gpu. Did you mean cuda"),
        ({"lr": math.nan}, "lr: expected a finite number > 0, got nan. Give e.g. 0.00"),
        ({"lr": -0.1}, "lr: expected a finite number > 0, got -0.1"),
        ({"epochs": 0}, "epochs: expected at least 1, got 0. Give e.g. 20."),
        ({"batch_size": 0}, "batch_size: expected 1 .. 1294 .*, got 0"),
        ({"batch_size": 1295}, r"batch_size: expected 1 .. 1294 .*, got 1295"),
        ({"early_stopping": 0}, "early_stopping: expected at least 1, got 0"),
        ({"corrupt_labels": 1.5}, r"corrupt_labels: expected a share in \[0, 1\]"),
        ({"resume": True}, "resume: expected run_dir with it, got none. Give the fo"),
    ],
)
def test_refuses_settings(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"recipes.digits: {text}"):
        run(**change)


def test_stops_when_the_loss_is_not_finite() -> None:
    with pytest.raises(FloatingPointError, match=r"at step .*Lower lr"):
        run(lr=1e38, epochs=3)
