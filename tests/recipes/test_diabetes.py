# SPDX-License-Identifier: Apache-2.0
"""The recipe on diabetes tells its error beside that of least squares."""

from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.linear_model import LinearRegression

import functorch_lab as fl
from functorch_lab.recipes import diabetes


def run(run_dir: Path | None = None, resume: bool = False, **changes: Any) -> Any:
    config = diabetes.Config(**{"compile": False, **changes})
    return diabetes.train(config, run_dir=run_dir, resume=resume, progress=False)


def test_tells_the_errors_of_network_and_least_squares(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    result = run(folder, epochs=12)
    splits = fl.data.diabetes(validation=0.1, standardize=False)
    x, y = (
        torch.cat(part) for part in zip(splits.train, splits.validation, strict=True)
    )
    test_x, test_y = splits.test
    linear = LinearRegression().fit(x.double(), y.double())
    errors = test_y.double() - torch.from_numpy(linear.predict(test_x.double()))
    want = errors.square().mean().sqrt().item()
    assert result.linear_error == pytest.approx(want, rel=1e-4)
    r2 = linear.score(test_x.double(), test_y.double())
    assert result.linear_r2 == pytest.approx(r2, rel=1e-3)
    # One number says both: errors against the spread of the scores.
    spread = test_y.std(correction=0).item()
    assert 1 - (result.error / spread) ** 2 == pytest.approx(result.r2, abs=1e-4)
    assert result.r2 > 0.3

    rows = result.history.epochs
    losses = [row["val_loss"] for row in rows]
    assert int(result.state.step) == 9 * (1 + losses.index(min(losses)))
    record = fl.train.read_run(folder)
    assert record.finished
    assert record.result["test_error"] == result.error
    assert record.result["test_linear_r2"] == result.linear_r2
    assert fl.tree.equal(record.params("best"), result.state.params)
    again = run(folder, resume=True, epochs=12)
    assert (again.error, again.history.epochs) == (result.error, rows)


def test_knows_how_many_patients_there_are() -> None:
    splits = fl.data.diabetes(validation=0.1)
    assert len(splits.train[0]) == diabetes.SAMPLES


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"width": 0}, "width: expected at least 1, got 0"),
        ({"batch_size": 310}, r"batch_size: expected 1 \.\. 309 .*, got 310"),
        ({"weight_decay": -1.0}, "weight_decay: expected a finite number >= 0, got -1"),
        ({"resume": True}, "resume: expected run_dir with it, got none"),
    ],
)
def test_refuses_settings(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"recipes.diabetes: {text}"):
        run(**change)
