# SPDX-License-Identifier: Apache-2.0
"""Metrics against scikit-learn."""

import math
from functools import reduce
from typing import Any, cast

import numpy as np
import pytest
import sklearn.metrics
import torch
from torch._subclasses import FakeTensorMode
from torch.func import vmap

from functorch_lab import metrics

GENERATOR = np.random.default_rng(5)
CLASSES = 5
TARGET = torch.from_numpy(GENERATOR.integers(0, CLASSES, 23))
PREDICTION = torch.from_numpy(GENERATOR.integers(0, CLASSES, 23))
BINARY = torch.tensor([0, 1, 1, 0, 1, 1, 1]), torch.tensor([1, 1, 0, 0, 1, 0, 1])
REAL = torch.from_numpy(GENERATOR.standard_normal((2, 17)) * 0.7 + 1000.0)
SCORES = {
    "precision": (metrics.precision, sklearn.metrics.precision_score),
    "recall": (metrics.recall, sklearn.metrics.recall_score),
    "f1": (metrics.f1, sklearn.metrics.f1_score),
}


def close(actual, expected, dtype=torch.float32):
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=dtype))


def run(metric, *data, **options):
    return metric.compute(metric.update(metric.init(), *data, **options))


def in_parts(metric, *data):
    """Updates with parts of three sizes, one of them empty."""
    state = metric.init()
    for part in (slice(0, 2), slice(2, 2), slice(2, 9), slice(9, None)):
        state = metric.update(state, *(d[part] for d in data))
    return metric.compute(state)


def test_accuracy_matches_sklearn():
    expected = sklearn.metrics.accuracy_score(TARGET, PREDICTION)
    close(run(metrics.accuracy(), PREDICTION, TARGET), expected)
    close(in_parts(metrics.accuracy(), PREDICTION, TARGET), expected)


def test_confusion_matrix_matches_sklearn():
    expected = sklearn.metrics.confusion_matrix(TARGET, PREDICTION)
    metric = metrics.confusion_matrix(CLASSES)
    close(run(metric, PREDICTION, TARGET), expected, torch.int64)
    close(in_parts(metric, PREDICTION, TARGET), expected, torch.int64)


@pytest.mark.parametrize("average", ["macro", "micro", "weighted", None])
@pytest.mark.parametrize("name", SCORES)
def test_scores_match_sklearn(name, average):
    ours, sklearns = SCORES[name]
    metric = ours(CLASSES, average=average)
    expected = sklearns(TARGET, PREDICTION, average=average)
    close(run(metric, PREDICTION, TARGET), expected)
    close(in_parts(metric, PREDICTION, TARGET), expected)


@pytest.mark.parametrize("name", SCORES)
def test_binary_scores_are_those_of_class_one(name):
    ours, sklearns = SCORES[name]
    prediction, target = BINARY
    value = run(ours(2, average="binary"), prediction, target)
    close(value, sklearns(target, prediction))


@pytest.mark.parametrize("zero_division", [0.0, 1.0, math.nan])
@pytest.mark.parametrize("average", ["macro", "micro", "weighted", None])
@pytest.mark.parametrize("name", SCORES)
def test_classes_that_do_not_occur_score_as_in_sklearn(name, average, zero_division):
    ours, sklearns = SCORES[name]
    # Class 4 is never true, class 0 never predicted, class 3 neither.
    target, prediction = torch.tensor([0, 1, 2, 2, 1]), torch.tensor([1, 1, 2, 4, 4])
    value = run(
        ours(CLASSES, average=average, zero_division=zero_division), prediction, target
    )
    expected = sklearns(
        target,
        prediction,
        labels=range(CLASSES),
        average=average,
        zero_division=zero_division,
    )
    torch.testing.assert_close(
        value, torch.as_tensor(expected, dtype=torch.float32), equal_nan=True
    )


@pytest.mark.parametrize("prediction", [REAL[0], torch.full((17,), 999.5).double()])
def test_r2_matches_sklearn(prediction):
    expected = sklearn.metrics.r2_score(REAL[1], prediction)
    metric = metrics.r2(torch.float64)
    torch.testing.assert_close(
        in_parts(metric, prediction, REAL[1]),
        torch.tensor(expected, dtype=torch.float64),
        rtol=1e-10,
        atol=0,
    )
    # In float32 the squares of numbers near 1000 would leave no digits at all.
    torch.testing.assert_close(
        in_parts(metrics.r2(), prediction.float(), REAL[1].float()),
        torch.tensor(expected, dtype=torch.float32),
        rtol=1e-3,
        atol=1e-3,
    )


@pytest.mark.parametrize("prediction", [[2.5, 2.5, 2.5], [2.5, 2.0, 2.5]])
def test_r2_of_a_constant_target_is_that_of_sklearn(prediction):
    target = torch.full((3,), 2.5)
    expected = sklearn.metrics.r2_score(target, prediction)
    close(run(metrics.r2(), torch.tensor(prediction), target), expected)


def test_mean_counts_every_element_once():
    torch.testing.assert_close(
        in_parts(metrics.mean(torch.float64), REAL[0]),
        REAL[0].mean(),
        rtol=1e-14,
        atol=0,
    )
    close(run(metrics.mean(), torch.tensor([[3, 4], [5, 7]])), 4.75)
    close(run(metrics.mean(), torch.tensor([True, False, True, True])), 0.75)


def test_no_data_is_nan():
    for metric in (metrics.accuracy(), metrics.mean(), metrics.r2()):
        value = metric.compute(metric.init())
        torch.testing.assert_close(value, torch.tensor(math.nan), equal_nan=True)


# Each entry: the metric, and data with a leading axis of samples.
LOGITS = torch.from_numpy(GENERATOR.standard_normal((23, CLASSES)))
ALL = {
    "accuracy": (metrics.accuracy(), (LOGITS, TARGET)),
    "confusion_matrix": (metrics.confusion_matrix(CLASSES), (LOGITS, TARGET)),
    "precision": (metrics.precision(CLASSES), (LOGITS, TARGET)),
    "recall": (metrics.recall(CLASSES, average=None), (LOGITS, TARGET)),
    "f1": (metrics.f1(CLASSES, average="weighted"), (LOGITS, TARGET)),
    "mean": (metrics.mean(torch.float64), (REAL[0],)),
    "r2": (metrics.r2(torch.float64), (REAL[0], REAL[1])),
}


@pytest.mark.parametrize("name", sorted(ALL.keys() - {"mean", "r2"}))
def test_scores_count_as_their_argmax(name):
    metric, (logits, target) = ALL[name]
    labels = torch.from_numpy(np.argmax(logits.numpy(), -1))
    torch.testing.assert_close(
        run(metric, logits, target), run(metric, labels, target), rtol=0, atol=0
    )


@pytest.mark.parametrize("name", ALL)
def test_a_mask_leaves_samples_out(name):
    metric, data = ALL[name]
    mask = torch.arange(len(data[0])) % 3 != 1
    padded = [d.clone() for d in data]
    padded[-1][~mask] = -7  # not even a valid label
    torch.testing.assert_close(
        run(metric, *padded, mask=mask), run(metric, *(d[mask] for d in data))
    )
    state = metric.update(metric.init(), *data)
    same = metric.update(state, *padded, mask=torch.zeros_like(mask))
    torch.testing.assert_close(same, state, rtol=0, atol=0)


@pytest.mark.parametrize("name", ALL)
def test_merge_is_associative_and_agrees_with_update(name):
    metric, data = ALL[name]
    parts = [tuple(d[i:j] for d in data) for i, j in [(0, 3), (3, 8), (8, None)]]
    a, b, c = (metric.update(metric.init(), *part) for part in parts)
    whole = metric.update(metric.init(), *data)
    left = metric.merge(metric.merge(a, b), c)
    torch.testing.assert_close(left, whole)
    torch.testing.assert_close(metric.merge(a, metric.merge(b, c)), left)
    torch.testing.assert_close(metric.merge(metric.init(), a), a, rtol=0, atol=0)
    torch.testing.assert_close(metric.merge(a, metric.init()), a, rtol=0, atol=0)


@pytest.mark.parametrize("name", ALL)
def test_update_is_pure_and_keeps_the_structure_of_the_state(name):
    metric, data = ALL[name]
    state = metric.init()
    before = {k: v.clone() for k, v in state.items()}
    new = metric.update(state, *data)
    torch.testing.assert_close(state, before, rtol=0, atol=0)
    assert {k: (v.shape, v.dtype) for k, v in new.items()} == {
        k: (v.shape, v.dtype) for k, v in state.items()
    }


@pytest.mark.parametrize("name", ALL)
def test_vmap_updates_a_population(name):
    metric, data = ALL[name]
    stacked = tuple(torch.stack([d, d.flip(0).roll(3, 0)]) for d in data)
    states = vmap(lambda *d: metric.update(metric.init(), *d))(*stacked)
    states = vmap(metric.update)(states, *stacked)
    values = vmap(metric.compute)(states)
    for i in range(2):
        one = tuple(d[i] for d in stacked)
        state = reduce(lambda s, d: metric.update(s, *d), [one, one], metric.init())
        torch.testing.assert_close(values[i], metric.compute(state))


@pytest.mark.parametrize("name", ALL)
def test_compiles_without_a_break(name):
    metric, data = ALL[name]
    torch.compiler.reset()
    update = torch.compile(metric.update, fullgraph=True, backend="aot_eager")
    mask = torch.arange(len(data[0])) % 3 != 1
    state = update(metric.init(), *data, mask=mask)
    torch.testing.assert_close(state, metric.update(metric.init(), *data, mask=mask))


@pytest.mark.parametrize("bad", [-1, CLASSES])
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("name", ["confusion_matrix", "precision", "recall", "f1"])
def test_a_label_out_of_range_raises(name, which, bad):
    data = [PREDICTION.clone(), TARGET.clone()]
    data[which][3] = bad
    metric = getattr(metrics, name)(CLASSES)
    argument = ("prediction", "target")[which]
    message = (
        rf"^metrics\.{name}: {argument}: expected labels in 0 \.\. 4, got {bad} "
        r"at index \(3,\)\. Check the data with data\.check_classification\.$"
    )
    with pytest.raises(ValueError, match=message):
        run(metric, *data)
    mask = torch.ones(23, dtype=torch.bool)
    with pytest.raises(ValueError, match=message):
        run(metric, *data, mask=mask)
    mask[3] = False
    good = run(metric, PREDICTION, TARGET, mask=mask)
    torch.testing.assert_close(run(metric, *data, mask=mask), good)
    with pytest.raises(RuntimeError, match=rf"index {bad} is out of bounds"):
        vmap(lambda p, t: run(metric, p, t))(*(d[None] for d in data))


@pytest.mark.parametrize("bad", [-1, CLASSES])
def test_accuracy_refuses_a_target_that_is_no_class_of_the_scores(bad):
    target = TARGET.clone()
    target[3] = bad
    message = rf"^metrics\.accuracy: target: .* in 0 \.\. 4, got {bad} at index \(3,\)"
    metric = metrics.accuracy()
    with pytest.raises(ValueError, match=message):
        run(metric, LOGITS, target)
    mask = torch.arange(23) != 3
    good = run(metric, LOGITS, TARGET, mask=mask)
    torch.testing.assert_close(run(metric, LOGITS, target, mask=mask), good)
    mapped = vmap(lambda m: run(metric, LOGITS, target, mask=m))(mask[None])
    torch.testing.assert_close(mapped[0], good)
    with FakeTensorMode() as mode:
        assert run(metric, *map(mode.from_tensor, (LOGITS, target))).shape == ()
    torch.compiler.reset()
    update = torch.compile(metric.update, fullgraph=True, backend="eager")
    got = metric.compute(update(metric.init(), LOGITS, target, mask=mask))
    torch.testing.assert_close(got, good)


def test_accumulating_many_batches_keeps_the_digits():
    metric, state = metrics.mean(), metrics.mean().init()
    values = REAL[0].float().repeat(40).reshape(40, -1)
    for batch in values:
        state = metric.update(state, batch)
    close(metric.compute(state), values.double().mean().item())


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: run(metrics.accuracy(), PREDICTION, TARGET.float()), TypeError,
         "metrics.accuracy: target: expected integer labels, got torch.float32"),
        (lambda: run(metrics.accuracy(), PREDICTION, TARGET.tolist()), TypeError,
         "target: expected integer labels, got list"),
        (lambda: run(metrics.accuracy(), PREDICTION[:, None], TARGET), ValueError,
         r"expected labels of the target's shape, \(23,\), got \(23, 1\)"),
        (lambda: run(metrics.accuracy(), LOGITS[:3], TARGET), ValueError,
         r"expected scores of shape \(23, classes\), got \(3, 5\)"),
        (lambda: run(metrics.f1(3), LOGITS, TARGET), ValueError,
         r"metrics.f1: prediction: expected scores of shape \(23, 3\), got \(23, 5\)"),
        (lambda: run(metrics.accuracy(), LOGITS, TARGET, mask=TARGET), TypeError,
         "mask: expected a boolean tensor, got torch.int64"),
        (lambda: run(metrics.recall(5), LOGITS, TARGET, mask=TARGET[:2] > 0),
         ValueError,
         r"metrics.recall: mask: expected the target's shape, \(23,\), got \(2,\)"),
        (lambda: metrics.confusion_matrix(1), ValueError, "num_classes: .* got 1"),
        (lambda: metrics.f1(3, average="binary"), ValueError, "got .binary."),
        (lambda: metrics.f1(3, average=cast(Any, "mean")), ValueError, "got .mean."),
        (lambda: run(metrics.r2(), REAL[0][:, None], REAL[0]), ValueError,
         r"expected the target's shape, \(17,\), got \(17, 1\)"),
        (lambda: run(metrics.r2(), REAL[0], REAL[0].long()), TypeError,
         "target: expected a floating-point tensor, got torch.int64"),
        (lambda: run(metrics.mean(), 3.0), TypeError, "got float"),
    ],
)  # fmt: skip
def test_errors_say_what_was_expected_and_got(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
