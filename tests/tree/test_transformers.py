# SPDX-License-Identifier: Apache-2.0
"""Outputs and inputs of the library transformers are nodes, once they are met."""

import dataclasses
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch.testing import assert_close

import functorch_lab as fl
from huggingface_models import hf

X = torch.tensor([[2.0, 3.0, 5.0], [7.0, 0.5, 4.0]])
Z = torch.tensor([[6, 8], [9, 10]])


@dataclasses.dataclass
class Own(hf.utils.ModelOutput):
    first: Any = None
    second: Any = None
    third: Any = None


def inputs(kind):
    return kind({"pixel_values": X, "ids": Z})


KINDS = [hf.BatchEncoding, hf.BatchFeature]


def test_an_output_is_the_node_of_its_fields():
    output = Own(first=(X, X + 2), third=Z)
    assert fl.tree.paths(output) == [".first[0]", ".first[1]", ".third"]
    doubled = fl.tree.map(lambda x: 2 * x, output)
    assert type(doubled) is Own
    assert_close(doubled.first, (2 * X, 2 * X + 4))
    assert_close((doubled[1], doubled["third"]), (2 * Z, 2 * Z))
    assert doubled.second is None
    assert "second" not in doubled
    shapes = fl.tree.map(lambda x: x.shape, Own(first=torch.tensor(2.0)))
    assert shapes.first == torch.Size([])
    assert fl.tree.structure(output) != fl.tree.structure(Own(first=(X, X), second=Z))
    with pytest.raises(
        ValueError, match="keys 'first', 'third', got 'first', 'second'"
    ):
        fl.tree.add(output, Own(first=(X, X), second=Z))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_inputs_are_the_node_of_their_entries(kind):
    batch = inputs(kind)
    assert fl.tree.paths(batch) == [".ids", ".pixel_values"]
    half = fl.tree.map(lambda x: x / 2, batch)
    assert type(half) is kind
    assert_close(half["pixel_values"], X / 2)
    assert_close(batch["pixel_values"], X)
    assert_close(half.ids, Z / 2)
    with pytest.raises(ValueError, match="missing 'ids'"):
        fl.tree.add(batch, kind({"pixel_values": X}))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_transforms_take_and_return_them(kind, monkeypatch):
    monkeypatch.setattr("functorch_lab.transforms._compile.BACKEND", "eager")

    def loss(batch):
        output = Own(first=(batch["pixel_values"] ** 2).sum(), third=batch["ids"])
        return output.first, (output, batch)

    run = fl.vmap(fl.grad(loss, has_aux=True))
    for function in (run, fl.jit(run)) if kind is hf.BatchEncoding else (run,):
        grads, (output, same) = function(inputs(kind))
        assert [type(grads), type(output), type(same)] == [kind, Own, kind]
        assert_close(grads["pixel_values"], 2 * X)
        assert grads["ids"] == ()
        assert_close(output.first, (X**2).sum(1))
        assert_close((output[1], same["ids"]), (Z, Z))


def test_a_cache_is_the_node_of_its_layers():
    cache = hf.DynamicCache([(X[None, None], X[None, None] + 2)])
    assert fl.tree.paths(cache) == ["[0][0]", "[0][1]"]
    doubled = fl.tree.map(lambda x: 2 * x, cache)
    assert doubled.get_seq_length() == 2
    longer, _ = doubled.update(X[None, None], X[None, None], 0)
    assert_close(longer, torch.cat([2 * X, X])[None, None])
    assert cache.get_seq_length() == 2
    sliding = hf.DynamicCache(
        config=hf.MistralConfig(num_hidden_layers=1, sliding_window=2)
    )
    with pytest.raises(TypeError, match=r"DynamicLayers, got \['DynamicSliding.*use_c"):
        fl.tree.leaves(sliding)


def test_the_library_is_not_imported():
    code = "import sys, functorch_lab; assert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
