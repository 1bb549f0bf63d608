# SPDX-License-Identifier: Apache-2.0
"""Bridged models of transformers compute what the models compute."""

import collections
import inspect
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import functorch_lab as fl
from bridge_models import filled, weighted
from functorch_lab.transforms import _compile
from huggingface_models import IDS, MASK, MODELS, batch, gpt2, hf, model
from markdown_code import ROOT, blocks, execute, new_session

CLOSE: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}
EXACT: dict[str, Any] = {"rtol": 0, "atol": 0}


@pytest.fixture
def no_inductor(monkeypatch):
    monkeypatch.setattr(_compile, "BACKEND", "eager")


def by_name(tree):
    return {
        path.strip("[]").replace("'", "").replace("][", "."): leaf
        for path, leaf in zip(fl.tree.paths(tree), fl.tree.leaves(tree), strict=True)
    }


def by_backward(module, loss):
    module.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in module.named_parameters()}


def without_labels(inputs):
    return {name: x for name, x in inputs.items() if name != "labels"}


@pytest.mark.usefixtures("no_inductor")
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", MODELS)
def test_outputs_and_gradients_of_a_padded_batch(name, attention):
    layers = 1 if attention == "sdpa" else 2  # compiled, and not
    module = model(name, layers=layers, attn_implementation=attention)
    layer, params, state = fl.nn.from_module(module)
    assert state == ()
    inputs = hf.BatchEncoding(batch(name))

    def loss_fn(params, inputs):
        output = layer.apply(params, **inputs)
        return weighted(output.logits) + output.loss, output.logits

    expected = module(**inputs)
    got = layer.apply(params, **inputs)
    assert type(got) is type(expected)
    assert_close((got.loss, got[1]), (expected.loss, expected[1]), **EXACT)
    wanted = by_backward(module, weighted(expected.logits) + expected.loss)
    run = fl.value_and_grad(loss_fn, has_aux=True)
    jitted = attention == "sdpa" and name == "bert"  # all are per sample
    for function in (run, fl.jit(run)) if jitted else (run,):
        (_, logits), grads = function(params, inputs)
        assert_close(logits, expected.logits.detach(), **CLOSE)
        assert_close(by_name(grads), wanted, **CLOSE)


def test_inputs_by_position_and_outputs_as_tuples():
    module = model("bert")
    layer, params, _ = fl.nn.from_module(module)
    got = layer.apply(params, IDS, MASK, return_dict=False, output_hidden_states=True)
    expected = module(IDS, MASK, return_dict=False, output_hidden_states=True)
    assert isinstance(got, tuple)
    assert_close(got, expected, **EXACT)


@pytest.mark.usefixtures("no_inductor")
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", MODELS)
def test_gradients_per_sample_each_with_its_mask(name, attention):
    module = model(name, layers=1, attn_implementation=attention)
    layer, params, _ = fl.nn.from_module(module)
    inputs = without_labels(batch(name))

    def loss_fn(params, sample):
        sample = {name: x[None] for name, x in sample.items()}
        return weighted(layer.apply(params, **sample).logits)

    per_sample = fl.vmap(fl.grad(loss_fn), (None, 0))
    results = [per_sample(params, inputs)]
    if attention == "sdpa" and name != "gpt2":  # which is on the reference page
        results.append(fl.jit(per_sample)(params, inputs))
    for i in range(3):
        sample = {name: x[i, None] for name, x in inputs.items()}
        wanted = by_backward(module, weighted(module(**sample).logits))
        for grads in results:
            member = fl.tree.map(lambda g, i=i: g[i], grads)
            assert_close(by_name(member), wanted, **CLOSE)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_padding_on_the_left_under_vmap(name):
    module = model(name)
    layer, params, _ = fl.nn.from_module(module)
    ids, mask = IDS.flip(1), MASK.flip(1)
    logits = fl.vmap(
        lambda ids, mask: layer.apply(params, ids[None], attention_mask=mask[None])[0]
    )(ids, mask)[:, 0]
    expected = module(ids, attention_mask=mask).logits
    assert_close(logits[mask == 1], expected[mask == 1].detach(), **CLOSE)


@pytest.mark.usefixtures("no_inductor")
@pytest.mark.parametrize("name", MODELS)
def test_an_ensemble_from_one_module(name):
    module = MODELS[name](layers=1).double().eval()
    layer, _, _ = fl.nn.from_module(module)
    params = fl.vmap(layer.init)(fl.random.split(fl.random.key(3), 2))
    inputs = batch(name)

    def run(params):
        return layer.apply(params, **inputs)

    jitted = [fl.jit(fl.vmap(run))] if name == "gpt2" else []
    for function in (fl.vmap(run), *jitted):
        outputs = function(params)
        for i in range(2):
            fl.nn.load_into(module, fl.tree.map(lambda p, i=i: p[i], params))
            expected = module(**inputs)
            assert type(outputs) is type(expected)
            assert_close(outputs.logits[i], expected.logits.detach(), **CLOSE)


@pytest.mark.usefixtures("no_inductor")
def test_dropout_from_keys():
    dropout: Any = {"resid_pdrop": 0.3, "embd_pdrop": 0.2, "attn_pdrop": 0.4}
    layer, params, _ = fl.nn.from_module(model("gpt2", layers=1, **dropout))

    def run(key):
        return layer.apply(params, IDS, attention_mask=MASK, key=key, train=True)[0]

    keys = fl.random.split(fl.random.key(0), 2)
    first, second = run(keys[0]), run(keys[1])
    assert_close(run(keys[0]), first, **EXACT)
    assert not torch.allclose(first, second)
    assert_close(fl.vmap(run)(keys), torch.stack([first, second]), **CLOSE)
    with pytest.raises(ValueError, match=r"apply: key: expected a key.*F\.dropout"):
        layer.apply(params, IDS, train=True)


@pytest.mark.usefixtures("no_inductor")
def test_outputs_are_trees_of_every_transform():
    module = model("llama", layers=1)
    layer, params, _ = fl.nn.from_module(module)
    inputs = hf.BatchEncoding({"input_ids": IDS, "attention_mask": MASK})
    options = {"output_hidden_states": True, "use_cache": False}
    expected = module(**inputs, **options)

    def run(params, inputs):
        return layer.apply(params, **inputs, **options)

    outputs = [run(params, inputs), fl.jit(run)(params, inputs)]
    _, aux = fl.grad(lambda p: (run(p, inputs)[0].sum(), run(p, inputs)), has_aux=True)(
        params
    )
    stacked = fl.vmap(run, (0, None))(fl.tree.stack([params]), inputs)
    outputs += [aux, fl.tree.map(lambda x: x[0], stacked)]
    for output in outputs:
        assert type(output) is type(expected)
        assert list(output.keys()) == list(expected.keys())
        assert output.loss is None
        assert output.past_key_values is None
        assert isinstance(output.hidden_states, tuple)
        assert_close(output.hidden_states, expected.hidden_states, **CLOSE)
        assert_close(output[0], output["logits"], **EXACT)
    assert fl.tree.paths(outputs[0])[:2] == [".logits", ".hidden_states[0]"]


@pytest.mark.usefixtures("no_inductor")
def test_a_cache_is_read_and_returned_but_not_written_to():
    module = model("gpt2", layers=1)
    layer, params, _ = fl.nn.from_module(module)
    expected = module(IDS).logits[:, 3:].detach()

    def step(params, ids, cache):
        output = layer.apply(params, ids, past_key_values=cache)
        return output.logits, output.past_key_values

    for run in (step, fl.jit(step)):
        _, cache = step(params, IDS[:, :3], hf.DynamicCache())
        begin = fl.tree.copy(cache)
        logits, longer = run(params, IDS[:, 3:], cache)
        assert_close(logits, expected, **CLOSE)
        assert longer.get_seq_length() == 5
        assert cache.get_seq_length() == 3
        assert_close(fl.tree.leaves(cache), fl.tree.leaves(begin), **EXACT)
    static = hf.StaticCache(config=module.config, max_cache_len=7)
    with pytest.raises(TypeError, match=r"a DynamicCache.*got StaticCache, which the"):
        layer.apply(params, IDS, past_key_values=static)


@pytest.mark.parametrize("name", MODELS)
def test_init_draws_what_the_model_draws(name):
    module = MODELS[name](initializer_range=0.3).double()
    layer, params, _ = fl.nn.from_module(module)
    keys = fl.random.split(fl.random.key(7), 3)
    first, second = layer.init(keys[0]), layer.init(keys[1])
    own, other, theirs = by_name(first), by_name(second), by_name(params)
    constant = {n for n, p in theirs.items() if p.numel() > 1 and not p.std()}
    assert constant
    for path, leaf in theirs.items():
        assert own[path].dtype == leaf.dtype
        if path in constant:
            assert_close(own[path], leaf, **EXACT)
        else:
            assert not torch.equal(own[path], other[path]), path
            spread = 5 * leaf.std().item() / (2 * leaf.numel()) ** 0.5
            assert abs(own[path].std() - leaf.std()).item() < 1.5 * spread, path
    several = fl.vmap(layer.init)(keys)
    member = fl.tree.map(lambda p: p[1], several)
    assert_close(member, second, **CLOSE)


def test_truncated_normals_stay_in_range():
    class Truncated(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.empty(5, 700))

        def reset_parameters(self):
            nn.init.trunc_normal_(self.weight, 0.3, 2.0, -0.9, 1.7)

    layer = fl.nn.from_module(Truncated()).layer
    drawn = layer.init(fl.random.key(0))["weight"]
    assert drawn.min() > -0.9
    assert drawn.max() < 1.7
    # The mean, 0.3 + 2 (phi(a) - phi(b)) / (Phi(b) - Phi(a)) for a = -0.6, b = 0.7.
    assert_close(drawn.mean().item(), 0.3867, rtol=0, atol=0.04)
    generator = torch.Generator().manual_seed(2)
    torchs = nn.init.trunc_normal_(torch.empty(3), generator=generator)
    generator.manual_seed(2)
    assert_close(nn.init.trunc_normal_(torch.empty(3), generator=generator), torchs)


def test_a_model_that_leaves_a_parameter_out_has_no_init():
    class Own(hf.PreTrainedModel):
        config_class = hf.GPT2Config

        def __init__(self, config):
            super().__init__(config)
            self.inner = nn.Linear(2, 3)
            self.scale = nn.Parameter(torch.tensor([2.0, 5.0]))

        def forward(self, x):
            return self.inner(x * self.scale)

    layer, _, _ = fl.nn.from_module(Own(hf.GPT2Config(n_layer=1)))
    with pytest.raises(TypeError, match=r"_init_weights draws.*leaves out \['scale'\]"):
        layer.init(fl.random.key(0))


def test_tied_weights_train_as_in_torch():
    ours, theirs = model("gpt2"), model("gpt2")
    inputs = batch("gpt2")
    layer, params, _ = fl.nn.from_module(ours)
    assert "lm_head" not in params
    mine = torch.optim.AdamW(ours.parameters(), lr=0.03)
    other = torch.optim.AdamW(theirs.parameters(), lr=0.03)
    for _ in range(3):
        grads = fl.grad(lambda p: layer.apply(p, **inputs).loss)(params)
        fl.nn.set_grads(ours, grads)
        mine.step()
        params = fl.nn.from_module(ours).params
        other.zero_grad()
        theirs(**inputs).loss.backward()
        other.step()
    assert_close(
        dict(ours.named_parameters()), dict(theirs.named_parameters()), **CLOSE
    )
    assert ours.lm_head.weight is ours.transformer.wte.weight
    fresh = fl.tree.map(lambda p: p + 2, params)
    fl.nn.load_into(theirs, fresh)
    assert_close(theirs.lm_head.weight, fresh["transformer"]["wte"]["weight"] + 0)


def test_names_and_shapes_in_errors():
    layer, params, _ = fl.nn.from_module(model("gpt2"))
    inner = params["transformer"]
    with pytest.raises(
        ValueError, match=r"\['transformer'\]\['wpe'\]\['weight'\]: .*n"
    ):
        layer.apply(
            {"transformer": {n: p for n, p in inner.items() if n != "wpe"}}, IDS
        )
    with pytest.raises(ValueError, match=r"params\['lm_head'\]\['weight'\]: .*no such"):
        layer.apply({**params, "lm_head": inner["wte"]}, IDS)
    wrong = {**inner, "wte": {"weight": torch.ones(2, 3)}}
    with pytest.raises(ValueError, match=r"\['wte'\]\['weight'\]: .*\(13, 12\), got"):
        layer.apply({"transformer": wrong}, IDS)


def test_shortcuts_of_masks_are_those_that_were_read():
    # Each takes the long way where it is told no: looked at in transformers 5.23.
    from transformers import masking_utils, modeling_attn_mask_utils

    asking = set()
    for module in (masking_utils, modeling_attn_mask_utils):
        for name, function in _functions(module):
            if function.__module__ == module.__name__:
                code = function.__code__
                if any(
                    n.startswith("is_tracing")
                    for n in (*code.co_names, *code.co_varnames)
                ):
                    asking.add(name)
    assert asking == {
        "_ignore_causal_mask_sdpa",
        "_can_skip_bidirectional_mask_xpu",
        "_ignore_bidirectional_mask_sdpa",
        "find_packed_sequence_indices",
        "create_recurrent_attention_mask",
        "_prepare_4d_causal_attention_mask_for_sdpa",
        "_prepare_4d_attention_mask_for_sdpa",
    }


def _functions(module):
    yield from inspect.getmembers(module, inspect.isfunction)
    for _, kind in inspect.getmembers(module, inspect.isclass):
        yield from inspect.getmembers(kind, inspect.isfunction)


def operations(graphs, *, free):
    """How often each operation that computes stands in graphs."""
    targets = [
        str(n.target) for g in graphs for n in g.nodes if n.op == "call_function"
    ]
    graphs.clear()
    counts = collections.Counter(t.removeprefix("aten.").split(".")[0] for t in targets)
    return {name: count for name, count in counts.items() if name not in free}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_a_step_has_the_operations_of_the_compiled_module(monkeypatch):
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch._aot_autograd.utils import make_boxed_func

    graphs: list[Any] = []

    def keep(graph, _):
        graphs.append(graph.graph)
        return make_boxed_func(graph.forward)

    backend = aot_autograd(fw_compiler=keep)
    monkeypatch.setattr(_compile, "BACKEND", backend)
    module = filled(gpt2(layers=1)).train()
    layer, params, _ = fl.nn.from_module(module)
    inputs = batch("gpt2")

    @fl.jit
    def step(params, inputs):
        return fl.value_and_grad(lambda p: layer.apply(p, **inputs, train=True).loss)(
            params
        )

    free = ("alias", "detach", "expand", "view", "ones_like", "clone", "t", "getitem")
    loss, grads = step(params, inputs)
    ours = operations(graphs, free=free)
    compiled = torch.compile(lambda: module(**inputs).loss, backend=backend)
    with _compile.compiling():  # no break where it logs
        expected = compiled()
    assert_close(loss, expected.detach())
    expected.backward()
    by_torch = {name: p.grad for name, p in module.named_parameters()}
    assert_close(by_name(grads), by_torch, **CLOSE)
    theirs = operations(graphs, free=free)
    assert ours["_scaled_dot_product_flash_attention_for_cpu"] == 1
    assert {n: c for n, c in ours.items() if c > theirs.get(n, 0)} == {}


@pytest.mark.usefixtures("no_inductor")
def test_the_reference_page_shows_what_happens():
    page = ROOT / "docs" / "reference" / "nn.md"
    found = blocks(page, "python", "text")
    at = [i for i, b in enumerate(found) if "import transformers" in b.text]
    namespace = new_session(page)
    namespace |= {"torch": torch, "fl": fl}
    assert [execute(page, found[i], namespace) for i in at] == [found[at[0] + 1].text]
    per_sample = fl.vmap(fl.grad(namespace["loss_fn"]), (None, 0))
    expected = per_sample(namespace["params"], namespace["batch"])
    assert_close(namespace["grads"], expected)
