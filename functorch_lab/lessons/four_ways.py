# SPDX-License-Identifier: Apache-2.0
# %% [markdown]
# # Four ways to take a step
#
# You train one line on six points four times, each time with a little less written by
# hand: with NumPy, with `fl.grad`, with an optimizer, and with a data loader and a
# model. All four end at the same params, so that you know what each tool does for you.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, SubsetRandomSampler

import functorch_lab as fl

plt.style.use("functorch_lab.lessons.figures")

# %% [markdown]
# ## Six points
#
# NumPy's numbers are float64, with twice the digits of torch's float32. This lesson
# stays in float64, so that four programs can be compared digit by digit.

# %%
x = np.array([0.11, 0.20, 0.49, 0.65, 0.67, 0.83])
y = np.array([1.24, 1.40, 2.00, 2.27, 2.41, 2.52])


def loss_at(w, b):
    return np.mean((w * x + b - y) ** 2)


first = loss_at(1.0, 1.0)
print("the loss at w = 1, b = 1")
print(f"mean of the squares {first:.4f}, half {first / 2:.4f}, sum {6 * first:.4f}")

# %% [markdown]
# Courses call each of these three "the loss". They have their minimum at the same
# params; their gradients differ by a constant factor, and so do the learning rates that
# suit them. Here the loss is the mean.
#
# ## One order for all
#
# Each step uses a batch of two points, so that an epoch, one pass over the six, has
# three steps, and 4000 epochs have 12000. The points come in a new random order in
# each epoch. Two runs are equal only if they see the same order, so it is drawn once.
#
# `SubsetRandomSampler(indices)` is torch's sampler: each time you loop over it, it
# gives the indices in another random order. It draws from the generator that you give
# it, so a generator with the same seed gives the same orders again.

# %%
epochs, batch_size, lr = 4000, 2, 0.01


def make_sampler():
    generator = torch.Generator(torch.get_default_device()).manual_seed(0)
    return SubsetRandomSampler(range(6), generator=generator)


sampler = make_sampler()
order = np.array([[int(i) for i in sampler] for _ in range(epochs)])
order = order.reshape(epochs, 3, batch_size)  # (epoch, step, sample)
print(f"{order.shape[0] * order.shape[1]} steps of {order.shape[2]} samples")
print("epoch 0:", order[0].tolist())
print("epoch 1:", order[1].tolist())

# %% [markdown]
# ## First way: the gradient by hand
#
# With the residual `r = w x + b - y` of each sample, the loss of a batch is `mean(r²)`.
# The chain rule gives its derivatives: `2 mean(r x)` by `w`, and `2 mean(r)` by `b`.
# The params after each epoch are kept, for the picture at the end.

# %%
w, b = 1.0, 1.0
path = np.full((epochs + 1, 2), 1.0)
for epoch, batches in enumerate(order):
    for batch in batches:
        r = w * x[batch] + b - y[batch]
        grad_w, grad_b = 2 * np.mean(r * x[batch]), 2 * np.mean(r)
        w, b = w - lr * grad_w, b - lr * grad_b
    path[epoch + 1] = w, b
by_hand = path[-1]
print(f"w = {by_hand[0]:.6f}, b = {by_hand[1]:.6f}, loss {loss_at(*by_hand):.6f}")

# %% [markdown]
# The formula is yours to derive and yours to get wrong, anew for each model.
#
# ## Second way: the gradient by `fl.grad`
#
# You write the loss; `fl.grad` finds the derivatives. Indexed with the order of all
# steps, the six points become all batches at once. `x_all.new_tensor(1.0)` makes a
# tensor of the dtype of `x_all`, here float64, and on its device; `new_ones` does too.

# %%
x_all, y_all = torch.from_numpy(x), torch.from_numpy(y)
indices = torch.from_numpy(order).reshape(-1, batch_size)  # (12000, 2)
x_batches, y_batches = x_all[indices], y_all[indices]
start = {"w": x_all.new_tensor(1.0), "b": x_all.new_tensor(1.0)}


def loss(params, x, y):
    return ((params["w"] * x + params["b"] - y) ** 2).mean()


gradient = fl.grad(loss)
params = start
for x_batch, y_batch in zip(x_batches, y_batches, strict=True):
    grads = gradient(params, x_batch, y_batch)
    params = fl.tree.map(lambda p, g: p - lr * g, params, grads)
by_grad = params
print(f"w = {by_grad['w']:.6f}, b = {by_grad['b']:.6f}")

# %% [markdown]
# ## Third way: the step by an optimizer
#
# The step itself, `p - lr * g`, is one rule among many; lesson 8 compares them. A rule
# of this kind is an *optimizer*: a pair of functions.
#
# - `init(params)` returns the optimizer's *state*, a tree of what it has to remember
#   between two steps.
# - `update(grads, state)` returns the *updates*, a tree to be added to the params,
#   and the next state.
#
# Neither changes anything in place. `fl.optim.sgd` is the rule that you know (its
# name is *stochastic gradient descent*), and `fl.optim.apply_updates` adds.

# %%
optimizer = fl.optim.sgd(lr=lr)
state = optimizer.init(start)
grads = {"w": x_all.new_tensor(3.0), "b": x_all.new_tensor(-5.0)}
updates, next_state = optimizer.update(grads, state)
print(f"updates  w {updates['w']:.2f}, b {updates['b']:.2f}")
print(f"step     {state.step} -> {next_state.step}")

# %% [markdown]
# The updates are the gradients times -0.01. The state of this rule is small: it counts
# the steps and holds the learning rate. The old state still says 0.

# %%
params, state = start, optimizer.init(start)
for x_batch, y_batch in zip(x_batches, y_batches, strict=True):
    grads = gradient(params, x_batch, y_batch)
    updates, state = optimizer.update(grads, state)
    params = fl.optim.apply_updates(params, updates)
by_optimizer = params
print(f"w = {by_optimizer['w']:.6f}, b = {by_optimizer['b']:.6f}, step {state.step}")

# %% [markdown]
# Another rule is now one other word: `fl.optim.adam(lr=lr)` instead of
# `fl.optim.sgd(lr=lr)`, and not a line of the loop changes.
#
# ## Fourth way: a data set, a loader and a model
#
# Real data often do not fit into one array. A `Dataset` is anything that knows its
# length and returns one sample for an index; it may read a file only then. A
# `DataLoader` asks a sampler for the order, gets the samples, and stacks them to
# batches.
#
# The line becomes a *model*: a pair of functions too. `init(key)` returns random
# params, `apply(params, x)` returns predictions. `fl.nn.linear(1, 1)` maps one number
# per sample to one number, so a batch of two has the shape (2, 1).


# %%
class Points(Dataset):
    def __init__(self, x, y):
        self.x, self.y = x.reshape(-1, 1), y.reshape(-1, 1)  # (6, 1) each

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.y[index]  # (1,) each


model = fl.nn.linear(1, 1)


def model_loss(params, x, y):
    return ((model.apply(params, x) - y) ** 2).mean()


for name, leaf in model.init(fl.random.key(0)).items():
    print(f"{name:7} of shape {tuple(leaf.shape)}")

start_model = {"weight": x_all.new_ones(1, 1), "bias": x_all.new_ones(1)}
data = Points(x_all, y_all)
loader = DataLoader(data, batch_size=batch_size, sampler=make_sampler())
gradient = fl.grad(model_loss)
params, state = start_model, optimizer.init(start_model)
for _ in range(epochs):
    for x_batch, y_batch in loader:
        grads = gradient(params, x_batch, y_batch)
        updates, state = optimizer.update(grads, state)
        params = fl.optim.apply_updates(params, updates)
by_model = params

# %% [markdown]
# The last two loops have the same three lines: gradient, update, apply. These do not
# ask whether the params are `w` and `b` or the tree of a network.
#
# ## The same params four times

# %%
results = {
    "by hand": by_hand,
    "fl.grad": np.array([by_grad["w"].item(), by_grad["b"].item()]),
    "optimizer": np.array([by_optimizer["w"].item(), by_optimizer["b"].item()]),
    "model": np.array([by_model["weight"].item(), by_model["bias"].item()]),
}
for name, (w, b) in results.items():
    equal = np.allclose((w, b), by_hand, rtol=0, atol=1e-12)
    print(f"{name:9}  w {w:.12f}  b {b:.12f}  equal to 1e-12: {equal}")

# %% [markdown]
# Which one do you take? The shortest that does what you need: the second for a lesson,
# the third for most work, and the loader when the data are files.
#
# ## The answer, and the way to it
#
# A line has a best answer, which `np.linalg.lstsq` computes without a step: it solves
# the normal equations of lesson 2, from a column of `x` and a column of ones.

# %%
table = np.stack([x, np.ones_like(x)], axis=1)  # (6, 2)
best = np.linalg.lstsq(table, y, rcond=None)[0]
print(f"least squares   w {best[0]:.6f}  b {best[1]:.6f}  loss {loss_at(*best):.6f}")
w, b = by_hand
print(f"12000 steps     w {w:.6f}  b {b:.6f}  loss {loss_at(w, b):.6f}")
distances = np.linalg.norm(path - best, axis=1)
for epoch in [0, 100, 1000, 2000, 4000]:
    print(f"epoch {epoch:4}: distance to least squares {distances[epoch]:.4f}")

# %%
ws, bs = np.linspace(0.6, 2.4, 91), np.linspace(0.6, 2.0, 91)
grid = np.array([[loss_at(w, b) for w in ws] for b in bs])
fig, axes = plt.subplots(1, 3, figsize=(7, 3.2), gridspec_kw={"wspace": 0.1})
lines = axes[0].contour(
    ws, bs, grid, [0.01, 0.03, 0.1, 0.3, 1], colors="0.4", linewidths=1
)
axes[0].clabel(lines, fmt="%g", fontsize=8)
axes[0].plot(*path.T, color="C1")
axes[0].plot(*best, "*", color="C6", markersize=10)
axes[0].set(xlabel="w", ylabel="b", title="Loss and path")
axes[1].plot(*path[2000:].T, ".", color="C1", markersize=1)
axes[1].plot(*best, "*", color="C6", markersize=10)
axes[1].set(xlabel="w", ylabel="b", title="The last 2000 epochs")
axes[2].plot(x, y, "o")
ends = np.array([0.0, 0.9])
axes[2].plot(ends, ends + 1, color="C3", label="at the start")
axes[2].plot(ends, w * ends + b, color="C1", label="trained")
axes[2].plot(ends, best[0] * ends + best[1], "--", color="C6", label="least squares")
axes[2].set(xlabel="x", ylabel="y", title="The lines", ylim=(0.9, 3.4))
axes[2].legend(loc="upper left", fontsize=8)
fig.savefig("path.png")

# %% [markdown]
# The surface is a ravine: the path goes straight down to the floor, and then slowly
# along it. The middle picture enlarges the end. The path never rests: at the least
# squares the gradient of all six points is zero, but that of two points is not, and
# each batch pulls towards its own line. It wanders in a small cloud, close to the
# star and not quite around it, since the batches pull one after another and not
# together. A smaller learning rate makes the cloud smaller, and the way to it longer.
#
# ## The same in classic PyTorch
#
# | here | in classic PyTorch |
# |---|---|
# | a pair of functions, `fl.nn.linear(1, 1)` | an object, `torch.nn.Linear(1, 1)` |
# | `params = model.init(key)` | the object draws its params when it is made |
# | `model.apply(params, x)` | `module(x)` |
# | `fl.optim.sgd(lr=lr)`, without params | `torch.optim.SGD(params, lr=lr)` |
# | `state`, in your hands | inside the optimizer |
# | `fl.grad(loss)(params, x, y)` | `optimizer.zero_grad()`, then `loss.backward()` |
# | `optimizer.update`, `fl.optim.apply_updates` | `optimizer.step()` |
# | `Dataset`, sampler, `DataLoader` | the same ones |
#
# The first 100 epochs are enough for the comparison: `path` holds the params after
# every epoch.

# %%
module = torch.nn.Linear(1, 1, dtype=torch.float64, device=x_all.device)
torch.nn.init.ones_(module.weight)
torch.nn.init.ones_(module.bias)
sgd = torch.optim.SGD(module.parameters(), lr=lr)
loader = DataLoader(data, batch_size=batch_size, sampler=make_sampler())
for _ in range(100):
    for x_batch, y_batch in loader:
        sgd.zero_grad()
        torch.nn.functional.mse_loss(module(x_batch), y_batch).backward()
        sgd.step()
classic = np.array([module.weight.item(), module.bias.item()])
print(f"classic, epoch 100  w {classic[0]:.12f}  b {classic[1]:.12f}")
print(f"here, epoch 100     w {path[100, 0]:.12f}  b {path[100, 1]:.12f}")
assert np.allclose(classic, path[100], rtol=0, atol=1e-12)

# %% [markdown]
# ## Exercises
#
# **1.** Take the gradient of another loss by hand, the mean of `|w x + b - y|`. Write
# `absolute_gradient(w, b, x, y)` in NumPy, which returns its derivatives by `w` and by
# `b`. The derivative of the absolute value is `np.sign`.


# %% tags=["solution"]
def absolute_gradient(w, b, x, y):
    sign = np.sign(w * x + b - y)
    return np.mean(sign * x), np.mean(sign)


# %% tags=["check"]
def absolute_loss(params, x, y):
    return (params["w"] * x + params["b"] - y).abs().mean()


for w, b in [(1.0, 1.0), (2.0, 1.0), (1.5, 1.3)]:
    tree = {"w": x_all.new_tensor(w), "b": x_all.new_tensor(b)}
    expected = fl.grad(absolute_loss)(tree, x_all, y_all)
    found = absolute_gradient(w, b, x, y)
    assert np.allclose(found, [expected["w"].item(), expected["b"].item()]), (
        f"exercise 1: at {w}, {b}: each sample counts by the sign of its residual"
    )
print(f"exercise 1: at w = 1.5, b = 1.3: {found[0]:.4f} and {found[1]:.4f}")

# %% [markdown]
# **2.** Make an optimizer. Write `momentum(lr, beta)`, which returns a pair
# `(init, update)`: the state is a *velocity*, a tree like the params, at first all
# zeros. At each step the velocity becomes `beta` times itself plus the gradient, and
# the updates are `-lr` times the new velocity.


# %% tags=["solution"]
def momentum(lr, beta):
    def init(params):
        return fl.tree.map(torch.zeros_like, params)

    def update(grads, velocity):
        velocity = fl.tree.map(lambda v, g: beta * v + g, velocity, grads)
        return fl.tree.map(lambda v: -lr * v, velocity), velocity

    return init, update


# %% tags=["check"]
def after_20_steps(init, update):
    params, state = start, init(start)
    for _ in range(20):
        updates, state = update(fl.grad(loss)(params, x_all, y_all), state)
        params = fl.optim.apply_updates(params, updates)
    return params


found = after_20_steps(*momentum(0.1, 0.9))
library = fl.optim.sgd(lr=0.1, momentum=0.9)
assert fl.tree.allclose(found, after_20_steps(library.init, library.update)), (
    "exercise 2: the params differ from those of fl.optim.sgd(lr=0.1, momentum=0.9)"
)
print(f"exercise 2: after 20 steps w {found['w']:.4f}, b {found['b']:.4f}")

# %% [markdown]
# **3.** With all six points in each step there is no cloud. Write
# `full_batch(lr, steps)` in NumPy, which returns `w` and `b` as an array, from (1, 1).
# Then choose `fast_lr`, with which 500 steps come within a billionth of the least
# squares; lesson 2 says how large it may be.


# %% tags=["solution"]
def full_batch(lr, steps):
    w, b = 1.0, 1.0
    for _ in range(steps):
        r = w * x + b - y
        w, b = w - lr * 2 * np.mean(r * x), b - lr * 2 * np.mean(r)
    return np.array([w, b])


fast_lr = 0.5

# %% tags=["check"]
assert np.allclose(full_batch(0.01, 1), (1.005919, 1.009633)), (
    "exercise 3: one step at lr 0.01 from (1, 1) goes elsewhere"
)
end = np.linalg.norm(full_batch(lr, 12000) - best)
assert np.linalg.norm(full_batch(fast_lr, 500) - best) < 1e-9, (
    "exercise 3: try a larger fast_lr, or a smaller one if it diverges"
)
print(
    f"exercise 3: distance {distances[-1]:.1e} with batches of two, {end:.1e} with all"
)

# %% [markdown]
# **4.** How large is the cloud? Draw 200 orders and run them all at once, with the
# larger lr 0.05, so that 200 epochs are enough to fill it. Write `walk(indices)`: it
# gets the order of one run, whole numbers of shape (steps, 2), starts *at the least
# squares*, takes one step for each row, and returns the last `w` and `b` as one tensor
# of shape (2,). `fl.vmap(walk)` runs it for many orders; the params of all runs take
# each step together.


# %% tags=["solution"]
def walk(indices):
    params = {"w": x_all.new_tensor(best[0]), "b": x_all.new_tensor(best[1])}
    for batch in indices:
        grads = fl.grad(loss)(params, x_all[batch], y_all[batch])
        params = fl.tree.map(lambda p, g: p - 0.05 * g, params, grads)
    return torch.stack([params["w"], params["b"]])


# %% tags=["check"]
keys = fl.random.split(fl.random.key(0, device=x_all.device), 200 * 200)
orders = fl.vmap(lambda key: fl.random.permutation(key, 6))(keys)
ends = fl.vmap(walk)(orders.reshape(200, 600, 2))
assert ends.shape == (200, 2), "exercise 4: walk must return a tensor of shape (2,)"
assert torch.allclose(ends[7], walk(orders.reshape(200, 600, 2)[7])), (
    "exercise 4: one run alone must end where it ends among the others"
)
centre = ends.mean(dim=0)
spread = (ends - centre).square().sum(dim=1).mean().sqrt()
off = (centre - torch.from_numpy(best)).norm()
assert 0.0005 < spread < 0.003, "exercise 4: take one step of lr 0.05 for each row"
assert off < spread, "exercise 4: start at the least squares"
print(f"exercise 4: spread of the ends {spread:.5f}, their centre off by {off:.5f}")
