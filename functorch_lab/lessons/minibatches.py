# SPDX-License-Identifier: Apache-2.0
# %% [markdown]
# # Minibatches
#
# You train a model on a few samples at a time, in an order that you can repeat to the
# last bit. You draw random numbers from keys, read the same data in five ways, see what
# one broken sample does to a run, and write training as three functions.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch.utils.data import DataLoader, TensorDataset

import functorch_lab as fl

plt.style.use("functorch_lab.lessons.figures")

# %% [markdown]
# ## Random numbers from a key
#
# In lesson 2, random numbers came from torch's global generator. It has a
# hidden state that every draw changes, so a number depends on all the draws before it.
#
# From here on, random numbers come from a *key*: a small tensor that you make from a
# number, the seed, and pass to the function that draws. `fl.random.normal(key, shape)`
# gives normal numbers with mean 0 and standard deviation 1. It is a pure function: the
# same key and shape give the same numbers, whatever was drawn in between.
#
# So there is one thing to watch: two draws from one key are the same draw, and a noise
# drawn so is no noise. A key is for one thing. `fl.random.split(key, n)` makes `n` new
# keys from one, and `fl.random.fold_in(key, number)` makes one new key from a key and a
# number, such as the number of a pass over the data.

# %%
key = fl.random.key(7)
print("one key, twice (a slip):")
print("  feature", fl.random.normal(key, (4,)))
print("  noise  ", fl.random.normal(key, (4,)))
key_feature, key_noise = fl.random.split(key, 2)
print("two keys:")
print("  feature", fl.random.normal(key_feature, (4,)))
print("  noise  ", fl.random.normal(key_noise, (4,)))

# %% [markdown]
# ## Data with a known answer
#
# `fl.data.regression(key, n, weight, bias, noise=...)` draws `n` samples. Each has as
# many features as there are weights, normal numbers, and the target is
# `y = x · weight + bias + noise`. You know what training has to find, so you can
# measure how far off it is.

# %%
keys = fl.random.split(fl.random.key(0), 5)
key_train, key_validation, key_init, key_rows, key_order = keys
true = {"weight": torch.tensor([2.0, -3.4]), "bias": torch.tensor(4.2)}
n, batch_size, lr, epochs = 1000, 32, 0.03, 3


def draw(key):
    return fl.data.regression(key, n, true["weight"], true["bias"], noise=0.01)


x, y = draw(key_train)  # (1000, 2), (1000,)
x_valid, y_valid = draw(key_validation)

fig, axes = plt.subplots(1, 2, figsize=(7, 2.8), sharey=True)
for i, ax in enumerate(axes):
    ax.scatter(x[:, i].tolist(), y.tolist(), s=4, color=f"C{i}")
    ax.set(xlabel=f"feature {i}", title=f"Weight {true['weight'][i]:.1f}")
axes[0].set_ylabel("target y")
fig.savefig("samples.png")

# %% [markdown]
# The spread in each picture comes from the other feature; the noise is too small to be
# seen. The model is the line of lesson 2, with two slopes. The loss is half
# the squared error: its derivative by the prediction is the plain difference
# `prediction - y`, without a factor 2. The initial weights are normal numbers with
# standard deviation 0.01, and the bias starts at 0.


# %%
def loss(params, x, y):
    prediction = x @ params["weight"] + params["bias"]  # (n, 2) @ (2,) is (n,)
    return ((prediction - y) ** 2 / 2).mean()


initial = {"weight": 0.01 * fl.random.normal(key_init, (2,)), "bias": torch.tensor(0.0)}
print(f"loss before training: {loss(initial, x, y):.4f}")

# %% [markdown]
# ## What a few samples know
#
# Lesson 2 used every sample in every step. The gradient of the loss is a mean over
# samples, and a few samples, a *batch*, give an estimate of it. How good is it?
# `fl.data.epoch(key, n, size)` cuts a random order of the sample numbers into rows, one
# per batch. `fl.vmap` computes the gradients of all batches at once, and
# `fl.tree.norm(tree)` is the length of a tree: the root of the sum of all its squares.

# %%
full = fl.grad(loss)(initial, x, y)
fig, ax = plt.subplots(figsize=(7, 3.2))
for i, size in enumerate((8, 32, 128)):
    rows = fl.data.epoch(key_rows, n, size)  # (batches, size), of one order
    each = fl.vmap(fl.grad(loss), in_dims=(None, 0, 0))(initial, x[rows], y[rows])
    apart = fl.tree.map(lambda g, f: g - f, each, full)
    share = fl.vmap(fl.tree.norm)(apart).mean() / fl.tree.norm(full)
    print(f"batch of {size:3}: the gradient is off by {100 * share:4.1f} % on average")
    w0, w1 = each["weight"].T.tolist()
    ax.scatter(w0, w1, s=12, color=f"C{i}", label=f"batch of {size}")
w0, w1 = full["weight"].tolist()
ax.scatter(w0, w1, marker="x", s=60, color="C6", lw=2, label="all samples")
ax.set(xlabel="slope along weight 0", ylabel="slope along weight 1")
ax.set_title("The gradient before training, by batch")
ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
fig.savefig("gradients.png")

# %% [markdown]
# Four times as many samples halve the deviation: it falls with the root of the size. A
# batch of 32 gives roughly the right direction for about a thirtieth of the work. So
# many cheap steps that are a little off get farther than few exact ones.
#
# ## One pass: an epoch
#
# A pass over the data is an *epoch*: a random order of the samples, cut into batches.
# `fl.random.permutation(key, n)` gives the order, the same that `fl.data.epoch` cuts
# with this key. A loader by hand is four lines.


# %%
def by_hand(order):
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        yield x[rows], y[rows]


order = fl.random.permutation(key_rows, n)
sizes = [len(y_batch) for _, y_batch in by_hand(order)]
left_out = fl.data.epoch(key_rows, n, batch_size)  # (batches, batch_size)
filled = fl.data.epoch(key_rows, n, batch_size, drop_last=False)
print(f"samples / batch: {n / batch_size}, the last batch has {sizes[-1]}")
print(f"epochs x samples / batch: {epochs * n / batch_size}")
for name, batches in ("kept", sizes), ("filled", filled), ("left out", left_out):
    print(f"steps, last batch {name + ':':9} {epochs * len(batches)}")

# %% [markdown]
# The number of steps is `epochs x samples / batch`. The batch size does not divide the
# number of samples, so the last batch of an epoch is smaller. You can keep it, fill it
# with samples of the same order, or leave it out. torch keeps it by default; this
# library leaves it out by default, so that all batches have one shape. Each epoch has
# another order, and leaves out other samples.
#
# ## Training as three functions
#
# Courses often put training into a class, the Trainer. What it does fits into three
# functions: `step` takes params and a batch and gives new params, `evaluate` measures
# and changes nothing, and `fit` repeats: all batches of an epoch, then a look at the
# validation samples. A loader is a function from the number of an epoch to batches.
# `fit` takes the loader and the step as arguments, so both can be exchanged.


# %%
def step(params, x, y):
    value, grads = fl.value_and_grad(loss)(params, x, y)
    return fl.tree.map(lambda p, g: p - lr * g, params, grads), value


def evaluate(params, x, y):
    return loss(params, x, y)


def fit(params, epochs, batches_of, step=step):
    training, validation = [], []
    for epoch in range(epochs):
        for x_batch, y_batch in batches_of(epoch):
            params, value = step(params, x_batch, y_batch)
            training.append(float(value))
        validation.append(float(evaluate(params, x_valid, y_valid)))
    return params, training, validation


# %% [markdown]
# `fl.data.batches(key, (x, y), batch_size)` gives the batches of the order that
# `fl.data.epoch` gives. Fold the number of the epoch into the key, and each epoch has
# an order of its own, the same in every run. Three runs follow: three epochs in
# batches, three epochs of one step with all samples, and ten epochs in batches.


# %%
def keyed(epoch):
    key = fl.random.fold_in(key_order, epoch)
    return fl.data.batches(key, (x, y), batch_size)


def show_error(name, params):
    apart = fl.tree.map(lambda p, t: (p - t).abs(), params, true)
    w0, w1 = apart["weight"].tolist()
    print(f"{name:24} {w0:8.4f} {w1:8.4f} {apart['bias']:8.4f}")


params, training, validation = fit(initial, epochs, keyed)
all_at_once, _, few = fit(initial, epochs, lambda epoch: [(x, y)])
longer, long_training, long_validation = fit(initial, 10, keyed)
for epoch in range(epochs):
    print(f"epoch {epoch + 1}: validation loss {validation[epoch]:.5f}", end=", ")
    print(f"all samples at once {few[epoch]:.5f}")
print("\nerror of                 weight 0 weight 1     bias")
show_error(f"batches, {len(training)} steps", params)
show_error(f"all samples, {len(few)} steps", all_at_once)
show_error(f"batches, {len(long_training)} steps", longer)
floor = 0.01**2 / 2
print(f"\nvalidation loss after 10 epochs: {long_validation[-1]:.6f}")
print(f"loss of the noise alone:         {floor:.6f}")

# %% [markdown]
# The first two runs read the data equally often, but all samples at once make only
# three steps, and hardly leave the start. After three epochs in batches the error is
# still far above the noise, because a step takes away about the share `lr` of what is
# missing. After ten epochs only the noise is left: half its variance, 0.01² / 2.

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(7, 3.2), sharey=True)
parts = [step / len(left_out) for step in range(len(training))]  # of an epoch
left.semilogy(parts, training, lw=1, label="training, each batch")
left.semilogy(range(1, 4), validation, "o-", label="validation")
left.semilogy(range(1, 4), few, "s--", label="validation, one step\nwith all samples")
left.set(xlabel="epoch", ylabel="half squared error", title="3 epochs")
left.legend(loc="lower left")
parts = [step / len(left_out) for step in range(len(long_training))]
right.semilogy(parts, long_training, lw=1)
right.semilogy(range(1, 11), long_validation, "o-")
right.axhline(floor, color="C6", ls=":", label="noise alone")
right.set(xlabel="epoch", title="10 epochs")
right.legend()
fig.savefig("curves.png")

# %% [markdown]
# The training loss is that of a batch before its step, and jumps from batch to batch.
# The validation loss is measured on one fixed set after each epoch. Here they agree: a
# model of three numbers can't learn a thousand samples by heart.
#
# ## The same order from three loaders
#
# torch's `DataLoader` takes a data set, which says how many samples there are and gives
# each by its number (`TensorDataset` does so for tensors), and a `sampler`: the order.
# Give three loaders the same order, and they end with the same params, bit for bit.

# %%
whole = n // batch_size * batch_size  # samples in full batches


def hand_loader(epoch):
    order = fl.random.permutation(fl.random.fold_in(key_order, epoch), n)
    return by_hand(order[:whole])


def torch_loader(epoch):
    order = fl.data.epoch(fl.random.fold_in(key_order, epoch), n, batch_size)
    sampler = order.flatten().tolist()
    return DataLoader(TensorDataset(x, y), batch_size, sampler=sampler)


loaders = {"by hand": hand_loader, "by key": keyed, "DataLoader": torch_loader}
for name, loader in loaders.items():
    end, *_ = fit(initial, epochs, loader)
    w0, w1 = end["weight"].tolist()
    print(f"{name:10} {w0:.8f} {w1:.8f} {end['bias']:.8f}", end=" ")
    print("equal:", bool(fl.tree.equal(end, params)))
    assert fl.tree.equal(end, params)

# %% [markdown]
# ## From a file, and from a stream
#
# Data often come as a CSV file: one line per sample, one column per number.
# `fl.data.write_csv` writes one, and `fl.data.read_csv` reads all of it as a dict of
# tensors, with the same bits.
#
# A file that is too large for memory is read as a *stream*: `fl.data.csv_rows` gives
# one sample after the other, and `fl.data.stream` collects them into batches (tuples,
# here of one dict), of which one is in memory at a time. A stream comes in the order of
# the file, so the loader to compare it with has that order: `torch.arange(n)` counts
# from 0 to `n - 1`. The lines of this file were drawn independently, so
# their order is as good as any; the last exercise is about files where it is not.

# %%
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "samples.csv"
    fl.data.write_csv(path, {"x0": x[:, 0], "x1": x[:, 1], "y": y})
    table = fl.data.read_csv(path)
    x_file = torch.stack((table["x0"], table["x1"]), dim=1)

    def file_loader(epoch):
        key = fl.random.fold_in(key_order, epoch)
        return fl.data.batches(key, (x_file, table["y"]), batch_size)

    def stream_loader(epoch):
        rows = fl.data.csv_rows(path)
        for (batch,) in fl.data.stream(rows, batch_size, drop_last=True):
            yield torch.stack((batch["x0"], batch["x1"]), dim=1), batch["y"]

    print(*path.read_text().splitlines()[:2], sep="\n")
    from_file, *_ = fit(initial, epochs, file_loader)
    from_stream, *_ = fit(initial, epochs, stream_loader)

in_order, *_ = fit(initial, epochs, lambda epoch: by_hand(torch.arange(whole)))
print("file and memory, equal:  ", bool(fl.tree.equal(from_file, params)))
print("stream and memory, equal:", bool(fl.tree.equal(from_stream, in_order)))
assert fl.tree.equal(from_file, params)
assert fl.tree.equal(from_stream, in_order)
print("\nerror of                 weight 0 weight 1     bias")
show_error("random order", params)
show_error("order of the file", in_order)

# %% [markdown]
# ## One broken sample
#
# Somewhere in a large file a number is wrong. Let the target of one sample be 9999. Its
# gradient is so long that one step throws the params far away. The usual protection is
# *gradient clipping*: if the length of the gradient is above a limit, scale all of it
# down to that limit. Its direction stays, and a shorter gradient stays as it is.
# `torch.clamp(a, max=1.0)` is `a`, or 1 where `a` is larger, and `torch.where` takes
# its second argument where the first is true, and its third elsewhere.


# %%
def clip(grads, max_norm):
    factor = torch.clamp(max_norm / fl.tree.norm(grads), max=1.0)
    return fl.tree.map(lambda g: factor * g, grads)


def clipped_step(params, x, y):
    value, grads = fl.value_and_grad(loss)(params, x, y)
    grads = clip(grads, max_norm=10.0)
    return fl.tree.map(lambda p, g: p - lr * g, params, grads), value


y_broken = torch.where(torch.arange(n) == 500, 9999.0, y)


def with_broken(epoch):
    key = fl.random.fold_in(key_order, epoch)
    return fl.data.batches(key, (x, y_broken), batch_size)


rows = torch.arange(480, 512)  # a batch that holds this sample
sound = fl.grad(loss)(initial, x[rows], y[rows])
huge = fl.grad(loss)(initial, x[rows], y_broken[rows])
to_go = fl.tree.norm(fl.tree.map(lambda t, p: t - p, true, initial))
print(f"from the initial to the true params: {to_go:5.2f}")
steps = {"sound samples": sound, "a broken one": huge, "clipped": clip(huge, 10.0)}
for name, grads in steps.items():
    print(f"length of a step, {name + ':':18} {lr * fl.tree.norm(grads):5.2f}")

unclipped, wild, _ = fit(initial, epochs, with_broken)
clipped, tamed, _ = fit(initial, epochs, with_broken, clipped_step)
same, *_ = fit(initial, epochs, keyed, clipped_step)
print("\nerror of                 weight 0 weight 1     bias")
show_error("sound samples", params)
show_error("one broken sample", unclipped)
show_error("broken, clipped", clipped)
print("\nclipping changes the sound run:", not fl.tree.equal(same, params))

fig, ax = plt.subplots(figsize=(7, 2.8))
ax.semilogy(wild, label="one broken sample")
ax.semilogy(tamed, label="broken, clipped")
ax.semilogy(training, color="C6", lw=1, label="sound samples")
ax.set(xlabel="step", ylabel="loss of the batch", title="One broken sample in 1000")
ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
fig.savefig("clipping.png")

# %% [markdown]
# The spikes are the batches that hold the broken sample, one in each epoch. Without
# clipping, such a step is longer than the whole way from the start to the answer, and
# undoes what was learnt. Clipping limits the damage and does not repair the data: when
# a loss jumps, look at the samples of its batch.
#
# ## The same in classic PyTorch
#
# | here | in classic PyTorch |
# |---|---|
# | `params`, a dict that you pass | attributes of a `torch.nn.Module` |
# | `fl.value_and_grad(loss)(params, x, y)` | `.backward()`, then each `p.grad` |
# | every call gives new grads: nothing to zero | `optimizer.zero_grad()` |
# | `fl.tree.map(..., params, grads)` gives new params | `optimizer.step()`, in place |
# | `clip(grads, max_norm)` gives new grads | `torch.nn.utils.clip_grad_norm_` |
# | `evaluate(params, x, y)` | `model.eval()` and `torch.no_grad()` |
# | `fl.data.batches(key, ...)` | `DataLoader(..., shuffle=True)`, global generator |
# | `step`, `evaluate`, `fit` | methods of a `Trainer`, which holds the state |


# %%
class Trainer:
    def __init__(self, model, max_norm):
        self.model, self.max_norm = model, max_norm
        self.optimizer = torch.optim.SGD(model.parameters(), lr=lr)

    def step(self, x, y):
        self.model.train()
        self.optimizer.zero_grad()
        prediction = self.model(x).squeeze(-1)  # (n, 1) to (n,)
        (torch.nn.functional.mse_loss(prediction, y) / 2).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.max_norm)
        self.optimizer.step()

    def evaluate(self, x, y):
        self.model.eval()
        with torch.no_grad():
            return torch.nn.functional.mse_loss(self.model(x).squeeze(-1), y) / 2

    def fit(self, epochs, batches_of):
        for epoch in range(epochs):
            for x_batch, y_batch in batches_of(epoch):
                self.step(x_batch, y_batch)
        return self.evaluate(x_valid, y_valid)


for batches_of, ours in (torch_loader, params), (with_broken, clipped):
    model = torch.nn.Linear(2, 1)  # its weight is (1, 2), its bias (1,)
    model.load_state_dict(fl.tree.map(lambda p: p[None], initial))
    value = Trainer(model, max_norm=10.0).fit(epochs, batches_of)
    theirs = fl.tree.map(lambda p: p[0], dict(model.state_dict()))
    print(f"Trainer {value:.5f}", end=", ")
    print(f"three functions {evaluate(ours, x_valid, y_valid):.5f}")
    assert fl.tree.allclose(ours, theirs, rtol=1e-4)

# %% [markdown]
# ## Exercises
#
# **1.** The mean of the batches' losses is not the mean over the samples when the last
# batch is smaller: its samples count too much. Write `average_loss(params, batches)`
# that takes an iterable of `(x, y)` and gives the mean loss over all samples in it.


# %% tags=["solution"]
def average_loss(params, batches):
    total, count = 0.0, 0
    for x_batch, y_batch in batches:
        total += len(y_batch) * loss(params, x_batch, y_batch)
        count += len(y_batch)
    return total / count


# %% tags=["check"]
by_batch = [float(loss(initial, *batch)) for batch in by_hand(order)]
of_batches, of_samples = sum(by_batch) / len(by_batch), loss(initial, x, y)
answer = float(average_loss(initial, by_hand(order)))
assert abs(answer - of_samples) < 1e-4, "exercise 1: count the samples of each batch"
print(f"exercise 1: mean of batches {of_batches:.4f}, of samples {answer:.4f}")

# %% [markdown]
# **2.** A run of three epochs stopped after two, and you have the params. Write
# `resume(params, first, last)` that trains from epoch `first` up to and without epoch
# `last` and returns the params, with the bits of a run that did not stop.


# %% tags=["solution"]
def resume(params, first, last):
    return fit(params, last - first, lambda epoch: keyed(first + epoch))[0]


# %% tags=["check"]
stopped = resume(initial, 0, 2)
assert not fl.tree.equal(stopped, params), "exercise 2: two epochs are not three"
resumed = bool(fl.tree.equal(resume(stopped, 2, 3), params))
assert resumed, "exercise 2: which order has the third epoch?"
print("exercise 2: the resumed run has the same bits:", resumed)

# %% [markdown]
# **3.** A sorted file gives batches that do not stand for the whole. Shuffle the stream
# in a buffer of `size` samples: each sample that comes takes the place of a random one
# in the buffer, which goes out; at the end the rest goes out in random order. Write the
# generator `shuffled(samples, key, size)`. `fl.random.randint(key, shape, low, high)`
# draws whole numbers from `low` up to and without `high`. The order must depend on the
# key alone, and no key is used twice. (`fl.data.stream` does it, given a `buffer_size`
# and a `key`.)


# %% tags=["solution"]
def shuffled(samples, key, size):
    buffer, places = [], []
    for number, sample in enumerate(samples):
        if number < size:
            buffer.append(sample)
            continue
        if number % size == 0:  # one draw gives as many places as the buffer has
            key_places = fl.random.fold_in(key, number)
            places = fl.random.randint(key_places, (size,), 0, size).tolist()
        place = places.pop()
        yield buffer[place]
        buffer[place] = sample
    rest = fl.random.permutation(fl.random.fold_in(key, 0), len(buffer))
    yield from (buffer[place] for place in rest.tolist())


# %% tags=["check"]
key_buffer, key_other = fl.random.split(fl.random.key(1), 2)
taken = []
next(shuffled((taken.append(i) or i for i in range(n)), key_buffer, 50))
assert len(taken) <= 51, "exercise 3: only the buffer may be in memory"
numbers = list(shuffled(range(n), key_buffer, 50))
assert sorted(numbers) == list(range(n)), "exercise 3: every sample once"
assert numbers == list(shuffled(range(n), key_buffer, 50)), (
    "exercise 3: one key, one order"
)
assert numbers != list(shuffled(range(n), key_other, 50)), "exercise 3: use the key"
neighbours = (torch.tensor(numbers).diff() == 1).sum()
assert neighbours < n / 10, "exercise 3: draw a new place for each sample"
for size in (10, 100, n):
    samples = shuffled(y.sort().values, key_buffer, size)  # a sorted file
    means = [float(batch.mean()) for (batch,) in fl.data.stream(samples, batch_size)]
    spread = max(means) - min(means)
    print(f"exercise 3: buffer {size:4}, batch means differ by up to {spread:5.2f}")
assert spread < 6, "exercise 3: a buffer for all samples must shuffle all of them"
