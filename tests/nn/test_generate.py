# SPDX-License-Identifier: Apache-2.0
# pyright: reportArgumentType=false, reportCallIssue=false
# pyright: reportAttributeAccessIssue=false
"""Caches and generated texts against the whole model, and against Hugging Face."""

import pytest
import torch

import functorch_lab as fl
from functorch_lab import nn, random, tree
from functorch_lab.nn._transformer_generate import compiled_step
from transformer_models import TOKENS, gpt2, gpt2_tree, llama, llama_tree

MASK = torch.tensor([[0, 0, 1, 1, 1], [1, 0, 1, 1, 0]]).bool()
MODELS = {"gpt2": (gpt2, gpt2_tree), "llama": (llama, llama_tree)}
every_model = pytest.mark.parametrize("name", MODELS)


def prepare(name="gpt2", length=12):
    make, to_tree = MODELS[name]
    model, module = make(length)
    params = to_tree(dict(module.named_parameters()))
    return model, module, tree.map(torch.Tensor.detach, params)


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-13)


def full_logits(model, params, rows):
    """Of the token after each row, every one by itself and without a cache."""
    return torch.stack([model.apply(params, row)[-1] for row in rows])


@every_model
@pytest.mark.parametrize("cuts", [(5,), (2, 3), (1, 1, 1, 1, 1), (3, 1, 1)], ids=str)
def test_extending_a_cache_gives_the_logits_of_the_whole(name, cuts):
    model, _, params = prepare(name)
    cache = model.init_cache(params, (2,))
    found = []
    for part in TOKENS.split(cuts, -1):
        before = tree.copy(cache)
        logits, after = model.extend(params, cache, part)
        close(cache, before)
        found.append(logits)
        cache = after
        assert tree.structure(cache) == tree.structure(before)
        kinds = [(x.shape, x.dtype) for x in tree.leaves(cache)]
        assert kinds == [(x.shape, x.dtype) for x in tree.leaves(before)]
    close(torch.cat(found, -2), model.apply(params, TOKENS))
    assert int(cache.used) == 5
    assert cache.mask.tolist() == [[True] * 5 + [False] * 7] * 2


@every_model
def test_padding_in_a_prompt_is_not_seen_later_on(name):
    model, _, params = prepare(name)
    more = torch.tensor([[4, 9], [7, 3]])
    cache = model.init_cache(params, (2,))
    prompt, cache = model.extend(params, cache, TOKENS, mask=MASK)
    close(prompt[MASK], model.apply(params, TOKENS, mask=MASK)[MASK])
    last, _ = model.extend(
        params, model.init_cache(params, (2,)), TOKENS, mask=MASK, last=True
    )
    close(last, torch.stack([prompt[0, 4], prompt[1, 3]]))
    after, cache = model.extend(params, cache, more)
    for i in range(2):
        row = torch.cat([TOKENS[i][MASK[i]], more[i]])
        close(after[i], model.apply(params, row)[-2:])
    # And padding in the middle of a text, as of a dialogue.
    both = torch.tensor([[True, False], [False, True]])
    cache = model.init_cache(params, (2,))
    _, cache = model.extend(params, cache, TOKENS, mask=MASK)
    after, cache = model.extend(params, cache, more, mask=both, last=True)
    for i in range(2):
        row = torch.cat([TOKENS[i][MASK[i]], more[i][both[i]]])
        close(after[i], model.apply(params, row)[-1])


def test_a_cache_of_another_length_and_one_sequence():
    model, _, params = prepare()
    cache = model.init_cache(params, length=7)
    assert [k.shape for k in cache.keys] == [(3, 7, 2)] * 2
    logits, cache = model.extend(params, cache, TOKENS[0])
    close(logits, model.apply(params, TOKENS[0]))
    assert cache.used.dtype == torch.int64
    float32 = model.init_cache(tree.cast(params, torch.float32))
    assert {k.dtype for k in (*float32.keys, *float32.values)} == {torch.float32}


def test_a_cache_works_under_vmap_with_texts_of_different_lengths():
    model, _, params = prepare()
    caches = []
    for n in (2, 4):
        _, cache = model.extend(params, model.init_cache(params), TOKENS[0, :n])
        caches.append(cache)
    more = torch.tensor([[7, 3], [9, 4]])

    def extended(cache, tokens):
        return model.extend(params, cache, tokens)[0]

    logits = fl.vmap(extended)(tree.stack(caches), more)
    for i, n in enumerate((2, 4)):
        row = torch.cat([TOKENS[0, :n], more[i]])
        close(logits[i], model.apply(params, row)[-2:])


def test_gradients_flow_through_a_cache():
    model, _, params = prepare()

    def whole(params):
        return model.apply(params, TOKENS)[:, 3:].square().sum()

    def in_parts(params):
        cache = model.init_cache(params, (2,))
        _, cache = model.extend(params, cache, TOKENS[:, :3])
        return model.extend(params, cache, TOKENS[:, 3:])[0].square().sum()

    grads, expected = fl.grad(in_parts)(params), fl.grad(whole)(params)
    torch.testing.assert_close(grads, expected, rtol=1e-12, atol=1e-11)


@every_model
def test_greedy_text_equals_that_of_hugging_face(name):
    model, module, params = prepare(name)
    expected = module.generate(
        TOKENS,
        attention_mask=torch.ones_like(TOKENS),
        max_new_tokens=7,
        do_sample=False,
        pad_token_id=0,
    )[:, 5:]
    assert len(expected.unique()) > 3
    text = nn.generate(model, params, TOKENS, 7, temperature=0.0)
    assert text.tolist() == expected.tolist()
    assert text.dtype == torch.int64
    short = nn.generate(model, params, TOKENS[0].int(), 7, temperature=0)
    assert short.tolist() == expected[0].tolist()
    assert short.dtype == torch.int32
    mask = torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 1, 1]])
    expected = module.generate(
        TOKENS,
        attention_mask=mask,
        max_new_tokens=7,
        do_sample=False,
        pad_token_id=0,
    )[:, 5:]
    padded = nn.generate(model, params, TOKENS, 7, temperature=0, mask=mask.bool())
    assert padded.tolist() == expected.tolist()


def test_a_text_ends_at_the_first_eos():
    model, module, params = prepare("llama")
    text = nn.generate(model, params, TOKENS, 7, temperature=0.0)
    assert len(text.unique()) > 3
    for eos in {*text[0].tolist(), TOKENS[1, 0].item()}:  # also one of a prompt
        expected = module.generate(
            TOKENS,
            attention_mask=torch.ones_like(TOKENS),
            max_new_tokens=7,
            do_sample=False,
            eos_token_id=eos,
            pad_token_id=eos,
        )[:, 5:]  # stops where all have ended
        ended = nn.generate(model, params, TOKENS, 7, temperature=0.0, eos=eos)
        n = expected.shape[1]
        assert ended[:, :n].tolist() == expected.tolist()
        assert (ended[:, n:] == eos).all()
    # An eos that does not come changes nothing.
    absent = next(i for i in range(11) if i not in text)
    same = nn.generate(model, params, TOKENS, 7, temperature=0.0, eos=absent)
    assert same.tolist() == text.tolist()


@every_model
@pytest.mark.parametrize("options", [{}, {"top_k": 5}, {"top_p": 0.8}], ids=str)
def test_drawn_text_equals_that_of_full_recomputation(name, options):
    model, _, params = prepare(name)
    keys = random.split(random.key(7), 2)
    text = nn.generate(model, params, TOKENS, 7, key=keys, temperature=1.3, **options)
    rows = TOKENS
    for number in range(7):
        # The model of a prompt alone, each time a longer one, makes the same draw.
        logits = full_logits(model, params, rows) / 1.3
        order = logits.argsort(-1, descending=True)
        best = logits.gather(-1, order)
        if "top_k" in options:
            best[:, 5:] = -torch.inf
        if "top_p" in options:
            total = best.softmax(-1).cumsum(-1)
            best[:, 1:][total[:, :-1] >= 0.8] = -torch.inf
        if not options:
            order, best = torch.arange(11).expand(2, 11), logits
        token = []
        for key, row, tokens in zip(keys, best, order, strict=True):
            kept = row[: options.get("top_k")]
            drawn = random.categorical(random.fold_in(key, number), kept)
            token.append(tokens[drawn])
        rows = torch.cat([rows, torch.stack(token)[:, None]], -1)
    assert text.tolist() == rows[:, 5:].tolist()


@pytest.mark.parametrize(
    ("options", "keep"),
    [
        ({}, 11),
        ({"temperature": 2.0}, 11),
        ({"top_k": 3}, 3),
        ({"top_p": 0.6}, None),
        ({"top_k": 5, "top_p": 0.6, "temperature": 1.5}, None),
        ({"top_p": 1.0}, 11),
        ({"top_p": 1e-9}, 1),
        ({"top_k": 1}, 1),
    ],
    ids=str,
)
def test_tokens_are_drawn_with_their_probabilities(options, keep):
    """Pearson's chi-square against the softmax of what remains."""
    model, _, params = prepare()
    params["norm"] = tree.scale(params["norm"], 0.3)  # no token alone has it all
    tokens = TOKENS[0].expand(3000, 5)
    drawn = nn.generate(model, params, tokens, 1, key=random.key(11), **options)
    counts = torch.bincount(drawn[:, 0], minlength=11).double()
    p = (model.apply(params, TOKENS[0])[-1] / options.get("temperature", 1)).softmax(0)
    order = p.argsort(descending=True).tolist()
    chosen = order[: options.get("top_k", 11)]
    if "top_p" in options:
        total, most = 0.0, []
        within = float(p[chosen].sum())
        for token in chosen:
            if total / within >= options["top_p"]:
                break
            most.append(token)
            total += float(p[token])
        chosen = most
    assert keep is None or len(chosen) == keep
    assert keep is not None or 1 < len(chosen) < options.get("top_k", 11)
    expected = torch.zeros(11, dtype=torch.float64)
    expected[chosen] = p[chosen] / p[chosen].sum() * 3000
    assert counts[expected == 0].sum() == 0
    # Rare ones together, so that each cell holds 5 or more.
    rare = expected < 5
    cells = torch.cat([counts[~rare], counts[rare].sum()[None]])
    means = torch.cat([expected[~rare], expected[rare].sum()[None]])
    cells, means = cells[means > 0], means[means > 0]
    chi_square = ((cells - means) ** 2 / means).sum()
    # Wilson and Hilferty: exceeded with probability 1e-4.
    df = max(len(cells) - 1, 1)
    assert chi_square < df * (1 - 2 / (9 * df) + 3.72 * (2 / (9 * df)) ** 0.5) ** 3


def test_a_text_depends_on_its_own_key_alone():
    model, _, params = prepare()
    keys = random.split(random.key(5), 2)

    def text(tokens, key):
        return nn.generate(model, params, tokens, 6, key=key)

    both = text(TOKENS, keys)
    assert both.tolist() == text(TOKENS, keys).tolist()
    assert both.tolist() == [text(TOKENS[i], keys[i]).tolist() for i in range(2)]
    assert both.tolist() == fl.vmap(text)(TOKENS, keys).tolist()
    assert both.tolist() == text(TOKENS, random.key(5)).tolist()
    assert both.tolist() != text(TOKENS, keys.flip(0)).tolist()
    assert both.tolist() == text(TOKENS[:, None], keys[:, None])[:, 0].tolist()
    same = text(TOKENS[:1].expand(50, 5), random.key(5))
    assert same.unique(dim=0).shape[0] > 40
    # All draws of a text are different ones.
    params = tree.zeros_like(params)
    assert len(text(TOKENS[0], keys[0]).unique()) > 1


def test_an_ensemble_generates_under_vmap_over_params():
    model, _, params = prepare()
    members = [params, tree.scale(params, 0.8)]
    keys = random.split(random.key(5), 2)

    def text(params, key):
        return nn.generate(model, params, TOKENS, 4, key=key, top_p=0.9)

    together = fl.vmap(text)(tree.stack(members), keys)
    alone = [text(p, k) for p, k in zip(members, keys, strict=True)]
    assert together.tolist() == torch.stack(alone).tolist()


def small():
    """A model that is quickly traced."""
    model = nn.transformer(11, 6, 1, 3, max_length=12)
    return model, tree.scale(model.init(random.key(3)), 9.0)


def test_the_compiled_step_serves_all_texts(monkeypatch):
    monkeypatch.setattr("functorch_lab.transforms._compile.BACKEND", "eager")
    model, params = small()
    before = tree.copy(params)
    prompts = [(TOKENS, 7), (TOKENS[:, :2], 10), (TOKENS[:, :3], 5)]
    for i, (tokens, length) in enumerate(prompts):
        options = {"key": random.key(i), "temperature": 0.7 + i, "top_p": 0.9 - i / 9}
        text = nn.generate(model, params, tokens, length, jit=True, **options)
        expected = nn.generate(model, params, tokens, length, **options)
        assert text.tolist() == expected.tolist()
    assert compiled_step(model).traces == 1
    for length in (3, 5):
        text = nn.generate(model, params, TOKENS, length, temperature=0, jit=True)
        expected = nn.generate(model, params, TOKENS, length, temperature=0)
        assert text.tolist() == expected.tolist()
    assert compiled_step(model).traces == 2
    nn.generate(model, params, TOKENS, 3, key=random.key(1), top_k=3, jit=True)
    nn.generate(
        model, params, TOKENS, 3, key=random.key(2), top_k=3, jit=True, mask=MASK
    )
    assert compiled_step(model).traces == 3
    close(params, before)
    needs_grad = tree.map(lambda p: p.clone().requires_grad_(), params)
    text = nn.generate(model, needs_grad, TOKENS, 3, temperature=0, jit=True)
    assert text.tolist() == expected[:, :3].tolist()
    assert compiled_step(model).traces == 3


def test_extend_is_compiled_once_for_a_growing_text(monkeypatch):
    monkeypatch.setattr("functorch_lab.transforms._compile.BACKEND", "eager")
    model, params = small()
    extend = fl.jit(model.extend)
    cache = model.init_cache(params, (2,))
    found = []
    for i in range(5):
        logits, cache = extend(params, cache, TOKENS[:, i : i + 1])
        found.append(logits)
    expected = model.apply(params, TOKENS)
    torch.testing.assert_close(torch.cat(found, -2), expected)
    assert extend.traces == 1
    whole = fl.jit(lambda p, t, k: nn.generate(model, p, t, 2, key=k, top_k=2))
    text = whole(params, TOKENS, random.key(3))
    expected = nn.generate(model, params, TOKENS, 2, key=random.key(3), top_k=2)
    assert text.tolist() == expected.tolist()


def test_what_does_not_fit_in_a_cache_is_left_out():
    model, _, params = prepare(length=5)
    _, cache = model.extend(params, model.init_cache(params, (2,)), TOKENS)
    slots = cache.keys[0].clone()
    more = nn.transformer(11, 6, 2, 3, max_length=5, hidden=7, positions="sinusoidal")
    rest = {k: v for k, v in params.items() if k != "positions"}
    _, cache = more.extend(rest, cache, TOKENS[:, :1])
    close(cache.keys[0], slots)


KEY = random.key(3)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"key": None}, ValueError, "generate: key: expected a key, got None. .*0.0"),
        (
            {"length": 8},
            ValueError,
            "length: expected at most 12 tokens with the prompt's 5, got 8",
        ),
        ({"length": 0}, ValueError, "generate: length: .* got 0"),
        ({"key": 3}, TypeError, "generate: key: expected a key, .* got int"),
        (
            {"key": torch.ones(2, 2)},
            TypeError,
            "key: expected a key, an int32 tensor, got torch.float32",
        ),
        (
            {"eos": 11},
            ValueError,
            "generate: eos: expected a token below vocab_size=11, got 11",
        ),
        ({"eos": -1}, ValueError, "generate: eos: .* got -1"),
        ({"eos": "end"}, TypeError, "generate: eos: expected an integer, got str"),
        ({"params": ()}, ValueError, "transformer: params: expected a dict .* tuple"),
        ({"length": 2.0}, TypeError, "length: expected an integer, got float"),
        ({"tokens": TOKENS[:, :0]}, ValueError, r"tokens: .* T from 1 .* got \(2, 0\)"),
        ({"tokens": TOKENS.double()}, TypeError, "tokens: .* got torch.float64"),
        ({"temperature": -0.5}, ValueError, "temperature: .* got -0.5"),
        ({"temperature": float("nan")}, ValueError, "temperature: .* got nan"),
        ({"temperature": "0"}, TypeError, "temperature: expected a number, got str"),
        ({"top_k": 0}, ValueError, "top_k: .* got 0"),
        ({"top_k": 12}, ValueError, "top_k: expected at most vocab_size=11, got 12"),
        ({"top_p": 0.0}, ValueError, r"top_p: .* \(0, 1\], got 0.0"),
        ({"top_p": 1.5}, ValueError, "top_p: .* got 1.5"),
        ({"top_p": True}, TypeError, "top_p: expected a number, got bool"),
        (
            {"key": random.split(KEY, 3)},
            ValueError,
            r"key: expected one key, .* \(2, 2\), got \(3, 2\)",
        ),
        ({"mask": MASK[0]}, ValueError, r"mask: expected shape \(2, 5\), .* \(5,\)"),
        ({"mask": MASK.long()}, TypeError, "mask: expected a bool tensor"),
        (
            {"model": nn.linear(2, 3)},
            TypeError,
            "model: expected a LanguageModel, got Layer",
        ),
    ],
)
def test_errors_say_what_was_expected_and_got(options, kind, message):
    model, _, params = prepare()
    call = {"model": model, "params": params, "tokens": TOKENS, "length": 3}
    with pytest.raises(kind, match=message):
        nn.generate(**{**call, "key": KEY, **options})


def cache_of(embed_dim):
    model = nn.transformer(11, embed_dim, 2, 3, max_length=12)
    return model.init_cache(model.init(KEY), 2)


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda m, p: m.init_cache(p, (3,)), ValueError, r"shape \(2,\), .* \(3,\)"),
        (lambda m, p: m.init_cache(p, (2,), length=3), ValueError, "cache's 3 slots"),
        (lambda m, p: (), TypeError, "cache: expected a KVCache, got tuple"),
        (
            lambda m, p: m.init_cache(p, 2)._replace(keys=()),
            ValueError,
            "expected one of 2 layers .* got 0 layers",
        ),
        (
            lambda m, p: m.init_cache(tree.cast(p, torch.float32), 2),
            TypeError,
            "cache: expected torch.float64, as the params have, got torch.float32",
        ),
        (
            lambda m, p: cache_of(12),
            ValueError,
            r"\(2, 3, 12, 2\), got \(2, 3, 12, 4\)",
        ),
        (lambda m, p: m.init_cache((), 2), ValueError, "params: .* got tuple"),
        (
            lambda m, p: m.init_cache({**p, "tokens": {}}, 2),
            ValueError,
            r"params\['tokens'\]: expected a dict with \['weight'\], got \[\]",
        ),
        (lambda m, p: m.init_cache(p, -1), ValueError, "batch_shape: .* got -1"),
        (lambda m, p: m.init_cache(p, (2.0,)), TypeError, "batch_shape: .* got float"),
    ],
)
def test_errors_of_a_cache(make, kind, message):
    model, _, params = prepare()
    with pytest.raises(kind, match=message):
        model.extend(params, make(model, params), TOKENS)
    with pytest.raises(ValueError, match=r"init_cache: length: .* got 0"):
        model.init_cache(params, length=0)
