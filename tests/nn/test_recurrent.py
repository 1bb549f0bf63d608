# SPDX-License-Identifier: Apache-2.0
# pyright: reportArgumentType=false, reportCallIssue=false
"""Recurrent layers against torch.nn.RNN, LSTM and GRU, in float64."""

import pytest
import torch
from torch import nn as torch_nn
from torch.func import grad, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import functorch_lab as fl
from functorch_lab import nn, random, tree
from parity import close, loss_of, same_distribution

KINDS = {"rnn": torch_nn.RNN, "lstm": torch_nn.LSTM, "gru": torch_nn.GRU}
OPTIONS = {
    "": {},
    ", no bias": {"bias": False},
    ", deep": {"num_layers": 3},
    ", both ways": {"bidirectional": True},
    ", deep, both ways": {"num_layers": 2, "bidirectional": True},
}
CASES = {
    **{k + name: (k, options) for k in KINDS for name, options in OPTIONS.items()},
    "rnn, relu": ("rnn", {"nonlinearity": "relu", "num_layers": 2}),
    "lstm, projected": ("lstm", {"proj_size": 2}),
    "lstm, all": (
        "lstm",
        {"proj_size": 2, "num_layers": 2, "bidirectional": True, "bias": False},
    ),
}
every_case = pytest.mark.parametrize("name", CASES)
LENGTHS = torch.tensor([3, 7, 1, 5])


def numbers(*shape, seed=7):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def nested(flat):
    """`params[layer][direction][name]` from torch's `name_l0_reverse`."""
    found = {}
    for name, value in flat.items():
        field, _, place = name.rpartition("_l")
        number, _, reverse = place.partition("_")
        layer = found.setdefault(int(number), {})
        layer.setdefault(reverse or "forward", {})[field] = value
    return tuple(found[number] for number in sorted(found))


def both(name, batch=(4,)):
    """Our layer, torch's module, the params of both, an input and an initial state."""
    kind, options = CASES[name]
    module = KINDS[kind](3, 5, batch_first=True, **options).double()
    flat = {
        k: numbers(*p.shape, seed=i) / 2
        for i, (k, p) in enumerate(module.named_parameters())
    }
    module.load_state_dict(flat)
    rows = options.get("num_layers", 1) * (1 + options.get("bidirectional", False))
    h = numbers(rows, *batch, options.get("proj_size", 5), seed=50)
    c = numbers(rows, *batch, 5, seed=51)
    layer = getattr(nn, kind)(3, 5, return_state=True, **options)
    initial = (h, c) if kind == "lstm" else h
    return layer, module, nested(flat), numbers(*batch, 7, 3), initial


def total(result):
    """A scalar to which every output and every state contribute in another way."""
    return sum(loss_of(leaf**2) * (i + 1) for i, leaf in enumerate(tree.leaves(result)))


def of_module(module, x, initial, lengths=None):
    """The result of torch's module, and its gradients as `grad` arranges them."""
    tensors, structure = tree.flatten((x, initial))
    tensors = [tensor.clone().requires_grad_() for tensor in tensors]
    x, initial = tree.unflatten(structure, tensors)
    if lengths is None:
        result = module(x, initial)
    else:
        packed = pack_padded_sequence(x, lengths, True, enforce_sorted=False)
        y, state = module(packed, initial)
        y, _ = pad_packed_sequence(y, True, total_length=x.shape[1])
        result = y, state
    leaves = dict(module.named_parameters())
    grads = torch.autograd.grad(total(result), [*leaves.values(), *tensors])
    params = nested(dict(zip(leaves, grads, strict=False)))
    detached = tree.map(torch.Tensor.detach, result)
    return detached, (params, *tree.unflatten(structure, list(grads[len(leaves) :])))


@every_case
def test_outputs_states_and_gradients_match_torch(name):
    layer, module, params, x, initial = both(name)
    before = tree.copy((params, x, initial))
    expected, gradients = of_module(module, x, initial)
    close(layer.apply(params, x, initial), expected)
    actual = grad(lambda *args: total(layer.apply(*args)), (0, 1, 2))
    close(actual(params, x, initial), gradients)
    torch.testing.assert_close((params, x, initial), before, rtol=0, atol=0)


@every_case
def test_padded_sequences_match_packed_ones(name):
    layer, module, params, x, initial = both(name)
    expected, gradients = of_module(module, x, initial, LENGTHS)
    padding = torch.arange(7) >= LENGTHS[:, None]
    x[padding] = torch.nan
    for dtype in (torch.int64, torch.int32):
        close(layer.apply(params, x, initial, LENGTHS.to(dtype)), expected)

    def loss(params, x, initial):
        return total(layer.apply(params, x, initial, LENGTHS))

    close(grad(loss, (0, 1, 2))(params, x, initial), gradients)


@every_case
def test_vmap_of_grad_matches_a_loop_over_samples(name):
    layer, module, params, x, initial = both(name)

    def sample_loss(params, x, initial):
        return total(layer.apply(params, x, initial))

    sample_grad = vmap(grad(sample_loss, (0, 1, 2)), (None, 0, 1))
    rows = [
        of_module(module, x[i], tree.map(lambda s, i=i: s[:, i], initial))[1]
        for i in range(4)
    ]
    close(sample_grad(params, x, initial), tree.stack(rows))


@pytest.mark.parametrize("name", ["lstm, all", "gru, deep, both ways"])
def test_vmap_of_grad_takes_a_length_for_each_sample(name):
    layer, module, params, x, _ = both(name)

    def sample_loss(params, x, length):
        return total(layer.apply(params, x, None, length)[1])

    actual = vmap(grad(sample_loss), (None, 0, 0))(params, x, LENGTHS)
    rows = []
    for row, length in zip(x, LENGTHS, strict=True):
        loss = total(module(row[:length])[1])
        leaves = dict(module.named_parameters())
        grads = torch.autograd.grad(loss, leaves.values(), materialize_grads=True)
        rows.append(nested(dict(zip(leaves, grads, strict=True))))
    close(actual, tree.stack(rows))


@every_case
def test_any_leading_axes_and_zeros_as_initial_state(name):
    layer, module, params, x, _ = both(name, batch=(2, 4))
    rows = [module(row) for row in x]
    outputs, states = zip(*rows, strict=True)
    expected = torch.stack(outputs), tree.map(lambda *s: torch.stack(s, 1), *states)
    close(layer.apply(params, x), tree.map(torch.Tensor.detach, expected))
    one = tree.map(torch.Tensor.detach, module(x[1, 2]))
    close(layer.apply(params, x[1, 2]), one)
    close(layer.apply(params, x[1, 2], None, torch.tensor(7)), one)
    y, state = layer.apply(params, x[:, :0], None, torch.zeros(2, 0, dtype=torch.int64))
    assert y.shape == (2, 0, *expected[0].shape[2:])
    assert {leaf.shape[1:3] for leaf in tree.leaves(state)} == {(2, 0)}


@every_case
def test_a_population_of_params(name):
    layer, _, params, x, initial = both(name)
    population = [params, tree.scale(params, 0.5)]
    actual = vmap(layer.apply, (0, None, None))(tree.stack(population), x, initial)
    rows = [layer.apply(each, x, initial) for each in population]
    close(actual, tree.stack(rows))


SHORT = torch.tensor([3, 2, 1, 3])


@pytest.mark.parametrize("name", ["rnn, both ways", "lstm, all", "gru"])
@pytest.mark.parametrize("lengths", [None, SHORT], ids=["whole", "padded"])
def test_second_derivatives_and_forward_mode(name, lengths):
    layer, _, params, x, initial = both(name)
    leaves, structure = tree.flatten((params, x[:, :3], initial))

    def function(*leaves):
        args = tree.unflatten(structure, list(leaves))
        return tuple(tree.leaves(layer.apply(*args, lengths)))

    leaves = [leaf.requires_grad_() for leaf in leaves]
    assert torch.autograd.gradcheck(
        function, leaves, check_forward_ad=True, fast_mode=True
    )
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize("name", ["lstm, projected", "gru, both ways"])
def test_compiled_equals_eager(name, monkeypatch):
    monkeypatch.setattr("functorch_lab.transforms._compile.BACKEND", "eager")
    layer, _, params, x, initial = both(name)
    args = params, x[:, :2], initial, SHORT

    def function(*args):
        loss = fl.grad(lambda p, *rest: total(layer.apply(p, *rest)))
        return layer.apply(*args), fl.vmap(loss, (None, 0, 1, 0))(*args)

    close(fl.jit(function)(*args), function(*args))


def test_without_state_it_is_a_part_of_sequential_and_in_compose_it_keeps_it():
    layer, module, params, x, initial = both("gru")
    close(nn.gru(3, 5).apply(params, x, initial), module(x, initial)[0].detach())
    model = nn.sequential(nn.gru(3, 5), nn.linear(5, 2))
    assert model.apply(model.init(random.key(0)), x.float()).shape == (4, 7, 2)
    model = nn.compose(lambda m, x, lengths: m.rnn(x, None, lengths)[1], rnn=layer)
    packed = pack_padded_sequence(x, LENGTHS, True, enforce_sorted=False)
    close(model.apply({"rnn": params}, x, LENGTHS), module(packed)[1].detach())


def test_a_length_above_the_steps_is_all_of_them_and_zero_is_none():
    layer, _, params, x, initial = both("lstm, both ways", batch=(2,))
    y, state = layer.apply(params, x, initial, torch.tensor([0, 100]))
    whole, final = layer.apply(params, x, initial)
    close(y, torch.stack([torch.zeros(7, 10).double(), whole[1]]))
    expected = tree.map(lambda a, b: torch.stack([a[:, 0], b[:, 1]], 1), initial, final)
    close(state, expected)


def test_the_state_follows_autocast():
    layer = nn.lstm(3, 5, bidirectional=True, proj_size=2, return_state=True)
    params, x = layer.init(random.key(0)), torch.ones(2, 7, 3)
    expected = layer.apply(params, x)[1]
    with torch.autocast("cpu", torch.bfloat16):
        initial = tree.zeros_like(expected)
        for start in (None, initial):
            state = layer.apply(params, x, start)[1]
            assert {leaf.dtype for leaf in state} == {torch.bfloat16}
            state = tree.map(torch.Tensor.float, state)
            torch.testing.assert_close(state, expected, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_init_is_that_of_torch(kind, device):
    params = getattr(nn, kind)(70, 50, 2, bidirectional=True).init(
        random.key(3, device=device)
    )
    torch.manual_seed(0)
    expected = nested(dict(KINDS[kind](70, 50, 2, bidirectional=True).state_dict()))
    assert tree.structure(params) == tree.structure(expected)
    pairs = zip(tree.leaves(params), tree.leaves(expected), strict=True)
    for ours, torchs in pairs:
        assert (ours.shape, ours.dtype) == (torchs.shape, torch.float32)
        assert ours.device.type == device.type
        same_distribution(ours.cpu(), torchs, 0.01 if ours.ndim == 2 else 0.1)
    # No two cells or tensors begin alike.
    assert len({leaf.flatten()[0].item() for leaf in tree.leaves(params)}) == 16


RELU = {"nonlinearity": "relu", "bias": False, "dropout": 0.4}
#: Passes on what is positive.
PASS = {"forward": {"weight_ih": torch.eye(5), "weight_hh": torch.zeros(5, 5)}}
KEY = random.key(2)


@pytest.mark.parametrize("num_layers", [2, 3])
def test_dropout_is_between_layers_and_anew_in_each_step(num_layers):
    layer = nn.rnn(5, 5, num_layers, **RELU)
    params, x = (PASS,) * num_layers, torch.rand(30, 70, 5) + 0.5
    y = layer.apply(params, x, key=KEY, train=True)
    factor = 0.6 ** (num_layers - 1)  # of the masks, each by itself
    ratio = (y / x).unique().round(decimals=4).unique()
    torch.testing.assert_close(
        ratio, torch.tensor([0.0, 1 / factor]), rtol=1e-4, atol=0
    )
    kept = (y > 0).float()
    assert abs(kept.mean().item() - factor) < 0.02
    # Of independent masks, this is the variance of a mean over steps.
    expected = factor * (1 - factor) / 70
    assert 0.7 < kept.mean(1).var().item() / expected < 1.4
    torch.testing.assert_close(layer.apply(params, x, key=KEY), x)
    again = layer.apply(params, x, key=random.key(3), train=True)
    assert not torch.equal(again > 0, y > 0)


CELLS = {
    "rnn_cell": (torch_nn.RNNCell, {}),
    "rnn_cell, relu": (torch_nn.RNNCell, {"nonlinearity": "relu"}),
    "rnn_cell, no bias": (torch_nn.RNNCell, {"bias": False}),
    "lstm_cell": (torch_nn.LSTMCell, {}),
    "lstm_cell, no bias": (torch_nn.LSTMCell, {"bias": False}),
    "gru_cell": (torch_nn.GRUCell, {}),
    "gru_cell, no bias": (torch_nn.GRUCell, {"bias": False}),
}


@pytest.mark.parametrize("name", CELLS)
def test_cells_match_torch(name):
    kind, options = CELLS[name]
    module = kind(3, 5, **options).double()
    cell = getattr(nn, name.partition(",")[0])(3, 5, **options)
    params = {k: numbers(*p.shape) / 2 for k, p in module.named_parameters()}
    module.load_state_dict(params)
    pair = kind is torch_nn.LSTMCell
    for axes in [(), (2,), (7, 2)]:
        x, h, c = numbers(*axes, 3), numbers(*axes, 5), numbers(*axes, 5, seed=8)
        state = (h, c) if pair else h
        flat = tree.map(lambda s: s.reshape(-1, s.shape[-1]), (x, state))
        for given, of_module_ in ((state, flat[1]), (None, None)):
            result = tree.map(torch.Tensor.detach, module(flat[0], of_module_))
            expected = tree.map(lambda s, axes=axes: s.reshape(*axes, 5), result)
            close(cell.apply(params, x, given), expected)
    leaves = dict(module.named_parameters())
    grads = torch.autograd.grad(total(module(*flat)), leaves.values())
    actual = grad(lambda p: total(cell.apply(p, *flat)))(params)
    close(actual, dict(zip(leaves, grads, strict=True)))
    drawn = cell.init(random.key(0))
    assert {k: p.shape for k, p in drawn.items()} == {
        k: p.shape for k, p in params.items()
    }
    assert 0.3 < max(p.abs().max() for p in drawn.values()) <= 5**-0.5


@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_takes_the_steps_of_the_layer(kind):
    options = {"proj_size": 2} if kind == "lstm" else {}
    cell = getattr(nn, kind + "_cell")(3, 5, **options)
    _, module, params, x, _ = both("lstm, projected" if options else kind)
    state, outputs = None, []
    for now in x.unbind(1):
        state = cell.apply(params[0]["forward"], now, state)
        outputs.append(tree.leaves(state)[0])
    expected, final = module(x)
    close(torch.stack(outputs, 1), expected.detach())
    close(state, tree.map(lambda s: s.detach()[0], final))


X = torch.ones(2, 7, 3)
RNN, LSTM, DEEP = nn.rnn(3, 5), nn.lstm(3, 5), nn.gru(3, 5, 2, bidirectional=True)
PARAMS = {each: each.init(random.key(0)) for each in (RNN, LSTM, DEEP)}
CELL = nn.gru_cell(3, 5)
OF_CELL = CELL.init(random.key(0))
H, INTEGERS = torch.ones(1, 2, 5), torch.tensor([3, 7])
NOISY = nn.gru(3, 5, 2, dropout=0.3)


def run(layer, x, *rest):
    return lambda: layer.apply(PARAMS[layer], x, *rest)


@pytest.mark.parametrize("layer", [nn.rnn(3, 5), nn.lstm(3, 5)], ids=["rnn", "lstm"])
def test_a_step_reads_the_sequence_by_its_product_alone(layer):
    # A slice that other operations read makes a kernel of its own for each step.
    params = layer.init(KEY)
    graph = make_fx(lambda x: layer.apply(params, x))(torch.ones(2, 7, 3)).graph
    (unbind,) = graph.find_nodes(op="call_function", target=torch.ops.aten.unbind.int)
    rows = [view for row in unbind.users for view in row.users]
    users = [user for row in rows for user in row.users]
    assert [user.target for user in users] == [torch.ops.aten.addmm.default] * 7
    # And the input is multiplied once for all of them.
    products = torch.ops.aten.bmm.default, torch.ops.aten.mm.default
    assert not any(node.target in products for node in graph.nodes)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: nn.rnn(0, 5), ValueError, "nn.rnn: input_size: .* got 0"),
        (lambda: nn.lstm(3, 5.0), TypeError, "nn.lstm: hidden_size: .* got float"),
        (lambda: nn.gru(3, 5, 0), ValueError, "nn.gru: num_layers: .* got 0"),
        (lambda: nn.gru(3, 5, True), TypeError, "num_layers: .* got bool"),
        (lambda: nn.gru_cell(3, 0), ValueError, "nn.gru_cell: hidden_size: .* got 0"),
        (lambda: nn.rnn(3, 5, nonlinearity="gelu"), ValueError,
         "nn.rnn: nonlinearity: expected 'tanh' or 'relu', got 'gelu'"),
        (lambda: nn.rnn_cell(3, 5, nonlinearity=nn.relu), ValueError, "got <function"),
        (lambda: nn.lstm(3, 5, proj_size=5), ValueError,
         "nn.lstm: proj_size: expected below hidden_size=5, got 5"),
        (lambda: nn.lstm_cell(3, 5, proj_size=-1), ValueError, "at least 0, got -1"),
        (lambda: nn.rnn(3, 5, 2, dropout=1.5), ValueError, "dropout: .* got 1.5"),
        (lambda: nn.rnn(3, 5, dropout=0.3), ValueError,
         "dropout: expected 0 with num_layers=1, .* got 0.3"),
        (lambda: NOISY.apply(NOISY.init(KEY), X, train=True), ValueError,
         "nn.gru: key: expected a key with train=True and dropout=0.3, got None"),
        (run(RNN, X[..., :2]), ValueError,
         r"nn.rnn: x: expected shape \(..., T, 3\), got \(2, 7, 2\)"),
        (run(RNN, X[0, 0]), ValueError, r"\(..., T, 3\), got \(3,\)"),
        (run(RNN, X[:, :0]), ValueError, r"at least 1 time step, got shape \(2, 0, 3"),
        (run(RNN, X.long()), TypeError, "x: expected a floating-point .* torch.int64"),
        (run(RNN, X.double()), TypeError, r"x: expected .*32, .* torch.float64"),
        (run(RNN, X.tolist()), TypeError, "x: .* got list"),
        (run(RNN, X, H[0]), ValueError,
         r"nn.rnn: initial: expected shape \(1, 2, 5\), got \(2, 5\)"),
        (run(DEEP, X, H), ValueError, r"expected shape \(4, 2, 5\), got \(1, 2, 5\)"),
        (run(RNN, X, (H, H)), TypeError, "initial: expected a tensor, got tuple"),
        (run(RNN, X, H.double()), TypeError,
         "initial: expected torch.float32 on cpu, as x is, got torch.float64"),
        (run(LSTM, X, H), TypeError,
         r"nn.lstm: initial: expected a pair \(h, c\), got Tensor"),
        (run(LSTM, X, (H,)), TypeError, "got tuple of 1"),
        (run(LSTM, X, (H, H[..., :3])), ValueError,
         r"initial\[1\]: expected shape \(1, 2, 5\), got \(1, 2, 3\)"),
        (run(RNN, X, None, [3, 7]), TypeError, "nn.rnn: lengths: .* got list"),
        (run(RNN, X, None, X[0, 0]), TypeError, "integers, got torch.float32"),
        (run(RNN, X, None, INTEGERS > 0), TypeError, "got torch.bool"),
        (run(RNN, X, None, INTEGERS[:1]), ValueError,
         r"lengths: expected shape \(2,\), the leading axes of x, got \(1,\)"),
        (run(RNN, X, None, INTEGERS.to("meta")), TypeError, "cpu, as x has, got meta"),
        (lambda: RNN.apply(OF_CELL, X), ValueError,
         "nn.rnn: params: expected a tuple of 1, one for each layer, got dict"),
        (lambda: DEEP.apply(PARAMS[RNN], X), ValueError, "tuple of 2, .* tuple of 1"),
        (lambda: RNN.apply((OF_CELL,), X), ValueError,
         r"params\[0\]: expected a dict with \['forward'\], got \['bias_hh'"),
        (lambda: RNN.apply(PARAMS[LSTM], X), ValueError,
         r"nn.rnn at \[0\]\['forward'\]: params\['weight_ih'\]: expected a tensor of "
         r"shape \(5, 3\), got \(20, 3\)"),
        (lambda: CELL.apply(OF_CELL, X[..., :2]), ValueError,
         r"nn.gru_cell: x: expected shape \(..., 3\), got \(2, 7, 2\)"),
        (lambda: CELL.apply(OF_CELL, X[0], H[0]), ValueError,
         r"nn.gru_cell: state: expected shape \(7, 5\), got \(2, 5\)"),
        (lambda: CELL.apply(PARAMS[RNN], X), ValueError, "nn.gru_cell: params: "),
    ],
)  # fmt: skip
def test_errors_say_what_was_expected_and_got(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
