# SPDX-License-Identifier: Apache-2.0
# %% [markdown]
# # A line through points
#
# You fit a straight line to noisy points: by gradient descent, by a formula, and with a
# library that does it in one call. On the way you see what a loss surface is, why its
# shape decides how fast you may go, and how a run that goes wrong says so.

# %%
import math

import matplotlib.pyplot as plt
import torch
from sklearn.linear_model import LinearRegression

import functorch_lab as fl

plt.style.use("functorch_lab.lessons.figures")

# %% [markdown]
# ## Points around a known line
#
# The points are made by hand, so that you know the answer: `y = 3 x + 2`, plus noise.
#
# `torch.manual_seed(seed)` starts torch's generator of random numbers: the same seed
# gives the same numbers. `torch.rand(n)` draws `n` numbers between 0 and 1; they are
# then stretched so that the smallest becomes -2 and the largest 2.
# `torch.normal(means, sigmas)` draws the noise, normally distributed, with one mean and
# one standard deviation for each point; `torch.zeros(n)` and `torch.ones(n)` are `n`
# zeros and `n` ones.

# %%
sigma = 1.3


def points(seed, n):
    torch.manual_seed(seed)
    x = torch.rand(n)
    x = (x - x.min()) / (x.max() - x.min()) * 4 - 2
    noise = torch.normal(torch.zeros(n), sigma * torch.ones(n))
    return x, 3 * x + 2 + noise


x, y = points(seed=0, n=160)
x_valid, y_valid = points(seed=1, n=20)
x_test, y_test = points(seed=2, n=20)
# The same stream goes on: two more numbers, between -1 and 1, are kept for later.
first_w, first_b = torch.rand(()) * 2 - 1, torch.rand(()) * 2 - 1

sets = {"training": (x, y), "validation": (x_valid, y_valid), "test": (x_test, y_test)}
for name, (xs, ys) in sets.items():
    print(f"{name:10} {len(xs):3} points, y from {ys.min():.2f} to {ys.max():.2f}")

# %% [markdown]
# There are three sets because there are three questions. The *training* points
# decide the line. The *validation* points are never used for a step; while you work
# they tell you whether the line also fits points that it has not seen. The *test*
# points are looked at once, at the end.

# %%
fig, axes = plt.subplots(1, 3, figsize=(7, 2.8), sharey=True)
ends = [-2, 2]
for ax, (name, (xs, ys)) in zip(axes, sets.items(), strict=True):
    ax.scatter(xs.tolist(), ys.tolist(), s=12, alpha=0.7)
    ax.plot(ends, [3 * end + 2 for end in ends], color="C1")
    ax.set(title=f"{len(xs)} {name} points", xlabel="x")
axes[0].set_ylabel("y")
axes[0].text(-2, 7.6, "y = 3 x + 2", color="C1", fontsize=9)
fig.savefig("data.png")

# %% [markdown]
# ## The model is a tree and a function
#
# A line has two numbers, the slope `w` and the intercept `b`. They are the *params*,
# here a dict of two tensors: a tree, whose tensors are its *leaves*. A function turns
# params and inputs into predictions.
#
# Nobody knows the right params before training, so they start anywhere: at the two
# random numbers kept from above. What you do to one tensor, `fl.tree.map` does to every
# leaf of a tree. It returns a new tree of the same form and leaves the old one alone.


# %%
def predict(params, x):
    return params["w"] * x + params["b"]


def show(name, params):
    print(f"{name:18} w {params['w']:8.4f}, b {params['b']:8.4f}")


start = {"w": first_w, "b": first_b}
show("params", start)
show("twice the params", fl.tree.map(lambda leaf: 2 * leaf, start))
print(f"prediction at x = 1: {predict(start, torch.tensor(1.0)):.4f}")

# %% [markdown]
# The true line has 5 at `x = 1`, so this prediction is far off.
#
# ## The loss before training
#
# How far off are all predictions? The *mean squared error* (MSE) says it in one
# number: take the differences, square them, average. The *loss* is the error of the
# predictions, as a function of the params, the inputs `x` and the targets `y`.


# %%
def mse(a, b):
    return ((a - b) ** 2).mean()


def loss(params, x, y):
    return mse(predict(params, x), y)


other = fl.tree.map(lambda leaf: leaf + 1, start)
print("                                  at the start   at other params")
print(f"slip: mse(x, y)                   {mse(x, y):12.4f} {mse(x, y):17.4f}")
print(f"loss: mse(predict(params, x), y)  {loss(start, x, y):12.4f}", end="")
print(f" {loss(other, x, y):17.4f}")

# %% [markdown]
# Both lines run, and both numbers look like a loss. A widely used exercise prints the
# first by mistake, with the inputs where the predictions belong. To notice it, try
# other params: a loss that does not move with them has the gradient zero, and can't
# train them.
#
# ## One step
#
# The gradient of the loss has the form of the params: one number for `w`, one for `b`.
# It points where the loss grows fastest, so a step goes the other way; the *learning
# rate*, `lr`, sets how far. `fl.tree.map` also takes several trees of one form, and
# hands their leaves to the function side by side.

# %%
grads = fl.grad(loss)(start, x, y)
stepped = fl.tree.map(lambda p, g: p - 0.5 * g, start, grads)
show("grads", grads)
show("params before", start)
show("params after", stepped)
print(f"loss {loss(start, x, y):.4f} -> {loss(stepped, x, y):.4f}")

# %% [markdown]
# ## Ten steps
#
# Training is this step, repeated, here with all training points at each step (a *full
# batch*). `fl.value_and_grad` returns the loss beside its gradient. The loop has a
# guard, which stops it when the loss is no longer a finite number; a later section
# says why. Nothing is overwritten, so the loop can keep the params of all steps, and
# the validation losses can be computed afterwards.


# %%
def descend(params, x, y, *, lr, steps):
    path, losses = [], []  # entry k belongs to the params after k steps
    for step in range(steps + 1):
        value, grads = fl.value_and_grad(loss)(params, x, y)
        if not math.isfinite(value):
            print(f"stopped: the loss is {value} after step {step} with lr {lr}.")
            print("The losses before it:", ", ".join(f"{v:.1e}" for v in losses[-3:]))
            print("If they grow with every step, take a smaller lr.")
            break
        path.append(params)
        losses.append(value.item())
        params = fl.tree.map(lambda p, g: p - lr * g, params, grads)
    return path, losses


path, losses = descend(start, x, y, lr=0.5, steps=10)
valid_losses = [loss(params, x_valid, y_valid).item() for params in path]
params = path[-1]
print("step        w        b   training   validation")
for step, p in enumerate(path):
    print(f"{step:4} {p['w']:8.4f} {p['b']:8.4f}", end="")
    print(f" {losses[step]:10.4f} {valid_losses[step]:12.4f}")

true_params = {"w": torch.tensor(3.0), "b": torch.tensor(2.0)}
print(f"on average the noise alone has a loss of {sigma**2:.2f}")
for name, xy in sets.items():
    true, fitted = loss(true_params, *xy), loss(params, *xy)
    print(f"{name:10}: true line {true:.4f}, fitted line {fitted:.4f}")

# %% [markdown]
# - `w` jumps over its goal and back, each time by less. The section on the learning
#   rate says why.
# - The loss does not go to zero: a line can't follow the noise. A small set has more
#   or less noise than the average, by chance.
# - On the training points the fitted line is better than the true one. It has to be:
#   it comes from exactly these points. Elsewhere it may be better or worse, and here it
#   is one and the other. What counts is that all its losses are of the size of the
#   noise.

# %%
fig, (left, right) = plt.subplots(1, 2)
left.scatter(x.tolist(), y.tolist(), s=10, alpha=0.4, color="C6")
for step, color in [(0, "C3"), (1, "C4"), (2, "C5"), (10, "C0")]:
    heights = predict(path[step], torch.tensor(ends)).tolist()
    left.plot(ends, heights, color=color, label=f"step {step}")
left.set(xlabel="x", ylabel="y", title="The line after some steps", ylim=(-11.5, 11.5))
left.legend(loc="lower right")
right.plot(losses, marker="o", label="training")
right.plot(valid_losses, marker="s", label="validation")
right.set(xlabel="step", ylabel="loss", title="The loss after each step", ylim=(1, 3.3))
right.legend()
fig.savefig("training.png")

# %% [markdown]
# ## The answer without a step
#
# At the lowest point of the loss its gradient is zero. For a line this gives two linear
# equations with two unknowns, the *normal equations*:
#
# - the derivative by `w`: `mean(x²) w + mean(x) b = mean(x y)`
# - the derivative by `b`: `mean(x) w + b = mean(y)`
#
# `torch.linalg.solve` solves them. `LinearRegression` of scikit-learn does the same
# behind one call. It wants a table of NumPy with a column for each kind of input, here
# one (`.reshape` arranges the same numbers in another shape).


# %%
def best_line(x, y):
    matrix = torch.stack([(x**2).mean(), x.mean(), x.mean(), torch.tensor(1.0)])
    right_side = torch.stack([(x * y).mean(), y.mean()])
    w, b = torch.linalg.solve(matrix.reshape(2, 2), right_side)
    return {"w": w, "b": b}


best = best_line(x, y)
sklearn_line = LinearRegression().fit(x.reshape(160, 1).cpu().numpy(), y.cpu().numpy())
show("ten steps", params)
show("normal equations", best)
show("scikit-learn", {"w": sklearn_line.coef_[0], "b": sklearn_line.intercept_})
print(f"lowest loss: {loss(best, x, y):.4f}")

# %% [markdown]
# The formula needs no learning rate, but it exists only because the loss of a line is
# so simple a function. Networks have no such formula; the steps stay the same.
#
# ## One minimum, two surfaces
#
# Draw the loss over all `(w, b)` and you see a bowl, the *loss surface*. The data
# shape it. To see this, slide every point along the fitted line: `x` grows by 3 and `y`
# by `3 w`. Each point keeps its distance from the line, so the best line and the
# lowest loss stay what they were. But they are now hard to reach.

# %%
x_moved, y_moved = x + 3, y + 3 * best["w"]
moved_best = best_line(x_moved, y_moved)
print(f"x from {x_moved.min():.0f} to {x_moved.max():.0f}")
show("best line", moved_best)
print(f"lowest loss: {loss(moved_best, x_moved, y_moved):.4f}")
slow_path, _ = descend(start, x_moved, y_moved, lr=0.08, steps=1000)
for step in [10, 100, 1000]:
    show(f"lr 0.08, step {step}", slow_path[step])

# %% [markdown]
# `fl.vmap` computes the loss of all points of a grid at once. It maps over one axis, so
# the tables of the grid go in as one row (`.flatten`), and the losses come out as one.

# %%
ws, bs = torch.linspace(-1.5, 7.5, 91), torch.linspace(-2.5, 6.5, 91)
grid_w, grid_b = torch.meshgrid(ws, bs, indexing="xy")  # (91, 91) each


def surface(x, y):
    losses = fl.vmap(lambda w, b: loss({"w": w, "b": b}, x, y))
    return losses(grid_w.flatten(), grid_b.flatten()).reshape(91, 91)


fig, axes = plt.subplots(1, 2, figsize=(7, 3.9), sharey=True)
levels = [1.5, 3, 6, 12, 25, 50, 100, 200]
thin = {"colors": "0.4", "linewidths": 1}
for ax, title, xs, ys, walked in [
    (axes[0], "x from -2 to 2: lr 0.5, 10 steps", x, y, path),
    (axes[1], "x from 1 to 5: lr 0.08, 100 steps", x_moved, y_moved, slow_path[:101]),
]:
    heights = surface(xs, ys).tolist()
    lines = ax.contour(grid_w.tolist(), grid_b.tolist(), heights, levels, **thin)
    ax.clabel(lines, fmt="%g", fontsize=8)
    walked_w = [p["w"].item() for p in walked]
    walked_b = [p["b"].item() for p in walked]
    ax.plot(walked_w, walked_b, "o-", color="C1", markersize=3, linewidth=1)
    ax.plot(best["w"].item(), best["b"].item(), "*", color="C6", markersize=12)
    ax.set(title=title, xlabel="w")
axes[0].set_ylabel("b")
fig.savefig("surfaces.png")

# %% [markdown]
# The curves join params of equal loss; the star is the minimum. On the left the bowl
# is nearly round, and a few steps reach it. On the right it is a ravine: all `x` are
# positive, so that a larger `w` can be made up for by a smaller `b`. Across the ravine
# the slope is steep, so that the learning rate must be small; along it the slope is
# slight, so that small steps take long.
#
# ## How large may the learning rate be?
#
# Look at one direction. At the distance `d` from the minimum the loss of a bowl is
# `c d² / 2` above the lowest. The slope is `c d`, and `c`, the *curvature*, is how
# fast the slope changes. A step turns `d` into `d - lr c d = (1 - lr c) d`. The
# distance shrinks if the factor `1 - lr c` lies between -1 and 1, that is for
# `lr < 2 / c`. A negative factor jumps over the minimum.
#
# A surface over two numbers has a curvature in every direction. `fl.hessian` returns
# all second derivatives, here a table of 2 by 2, the *Hessian*; that of a bowl is the
# same everywhere, so take it at zero. The smallest and largest curvature of all
# directions are its *eigenvalues*, which `torch.linalg.eigvalsh` computes. The largest
# one sets the limit.


# %%
def curvatures(x, y):
    def loss_at(theta):
        return loss({"w": theta[0], "b": theta[1]}, x, y)

    return torch.linalg.eigvalsh(fl.hessian(loss_at)(torch.zeros(2)))


for name, xy in [("first data", (x, y)), ("moved data", (x_moved, y_moved))]:
    small, large = curvatures(*xy)
    print(f"{name}: curvatures {small:.4f} to {large:.4f}, limit {2 / large:.4f}")
limit = 2 / curvatures(x, y)[1]
flat, steep = (1 - 0.5 * curvatures(x, y)).tolist()
print(f"first data, lr 0.5: factors {flat:.4f} and {steep:.4f}")

# %% [markdown]
# The negative factor, of the direction with the largest curvature, is the zigzag of the
# ten steps.
#
# ## A learning rate that diverges
#
# Beyond the limit every step makes the distance larger, and the loss grows until it
# does not fit into a float32, which ends near 3.4e38. It becomes `inf`, soon the params
# are `nan`, "not a number", and no later step repairs them: a loop that does not look
# runs to its end and returns `nan`. The check in `descend` is one `if`.

# %%
print(f"the largest float32: {torch.finfo(torch.float32).max:.1e}")
runs = {}
for rate in [0.1, 0.5, 0.7, 0.73, 1.0]:
    _, runs[rate] = descend(start, x, y, lr=rate, steps=100)
    print(f"lr {rate:4}: last loss {runs[rate][-1]:.3g} at step {len(runs[rate]) - 1}")
print("moved data, with the lr that suits the first data:")
_, moved_losses = descend(start, x_moved, y_moved, lr=0.5, steps=100)

# %%
fig, ax = plt.subplots()
for rate, rate_losses in runs.items():
    ax.semilogy(rate_losses[:41], label=f"lr {rate}")
ax.set(xlabel="step", ylabel="loss (log scale)", ylim=(0.8, 1e5))
ax.set_title(f"Below the limit of {limit:.3f} the loss falls, above it grows")
ax.legend(loc="upper right", ncols=2)
fig.savefig("rates.png")

# %% [markdown]
# 0.7 and 0.73 lie on the two sides of the limit: one comes down slowly, the other goes
# up. When a run stops like this, try a smaller learning rate first; then look at the
# data. Moved back to the centre, the second data are as easy as the first (exercise 2).
#
# ## The same in classic PyTorch
#
# | here | in classic PyTorch |
# |---|---|
# | `params`, a dict of tensors | inside a module: `module.weight`, `module.bias` |
# | `predict(params, x)` | `module(x)` |
# | `x` of shape `(160,)` | `x` of shape `(160, 1)`: a column for each kind of input |
# | `fl.grad(loss)` returns the gradient | `.backward()` adds it to `weight.grad` |
# | there is nothing to zero | `optimizer.zero_grad()` before each `.backward()` |
# | `fl.tree.map(lambda p, g: p - lr * g, params, grads)` | `optimizer.step()` |
# | `path` keeps all params | the module has only the last ones |
#
# `torch.nn.Linear(1, 1)` is a line. It draws its weight and its bias when it is made;
# made right after the test points, it draws the two numbers that `start` has.

# %%
points(seed=2, n=20)
module = torch.nn.Linear(1, 1)
optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
show("classic, start", {"w": module.weight.item(), "b": module.bias.item()})
for _ in range(10):
    optimizer.zero_grad()
    prediction = module(x.reshape(160, 1))  # (160, 1)
    torch.nn.functional.mse_loss(prediction, y.reshape(160, 1)).backward()
    optimizer.step()
show("classic, ten steps", {"w": module.weight.item(), "b": module.bias.item()})
show("here, ten steps", params)
assert torch.allclose(module.weight, params["w"], rtol=1e-4)
assert torch.allclose(module.bias, params["b"], rtol=1e-4)

# %% [markdown]
# ## Exercises
#
# **1.** Some courses take *half* the squared error, because the 2 of the derivative
# cancels. Write `half_loss(params, x, y)`, and find `half_lr`, the learning rate that
# makes the same steps with it as 0.5 does with `loss`.


# %% tags=["solution"]
def half_loss(params, x, y):
    return loss(params, x, y) / 2


half_lr = 1.0

# %% tags=["check"]
ratio = half_loss(other, x, y) / loss(other, x, y)
assert math.isclose(ratio, 0.5, rel_tol=1e-4), "exercise 1: half_loss is not half"
half_grads = fl.grad(half_loss)(start, x, y)
found = fl.tree.map(lambda p, g: p - half_lr * g, start, half_grads)
assert fl.tree.allclose(found, stepped, rtol=1e-4), (
    "exercise 1: half the loss has half the gradient; what must lr be?"
)
show(f"exercise 1: lr {half_lr},", found)

# %% [markdown]
# **2.** Make the ravine round. Write `centred_fit(x, y)`: subtract the mean of `x` from
# `x`, take 20 steps of gradient descent at lr 0.5 from `start`, and return the params
# of the line *for the `x` that was given*: `w` stays, `b` has to be moved back.


# %% tags=["solution"]
def centred_fit(x, y):
    centre = x.mean()
    walked, _ = descend(start, x - centre, y, lr=0.5, steps=20)
    w, b = walked[-1]["w"], walked[-1]["b"]
    return {"w": w, "b": b - w * centre}


# %% tags=["check"]
found = centred_fit(x_moved, y_moved)
assert fl.tree.allclose(found, best, rtol=1e-3), (
    "exercise 2: w (x - centre) + b has to be the same line as w x + (b - w centre)"
)
show("exercise 2: found", found)

# %% [markdown]
# **3.** Use the Hessian for more than a limit. One step of *Newton's method* goes from
# the params `θ` to `θ - H⁻¹ g`, with the gradient `g` and the Hessian `H`. Where the
# loss is a bowl it arrives at once, without a learning rate. Write
# `newton_step(loss, params, x, y)` for params of *any* form. `fl.tree.ravel(params)`
# returns the leaves joined to one vector, and a function that turns such a vector into
# a tree again; `torch.linalg.solve(H, g)` is `H⁻¹ g`.


# %% tags=["solution"]
def newton_step(loss, params, x, y):
    theta, unravel = fl.tree.ravel(params)

    def loss_at(theta):
        return loss(unravel(theta), x, y)

    gradient, hessian = fl.grad(loss_at)(theta), fl.hessian(loss_at)(theta)
    return unravel(theta - torch.linalg.solve(hessian, gradient))


# %% tags=["check"]
def parabola_loss(params, x, y):
    b, c = params["line"]
    return mse(params["bend"] * x**2 + b * x + c, y)


arrived = newton_step(loss, start, x_moved, y_moved)
assert fl.tree.allclose(arrived, best, rtol=1e-3), (
    "exercise 3: one step must reach the lowest point of the ravine"
)
bent = {"bend": torch.tensor(1.0), "line": [torch.tensor(1.0), torch.tensor(1.0)]}
bent = newton_step(parabola_loss, bent, x, x**2 / 4 - 3 * x + 5)
assert parabola_loss(bent, x, x**2 / 4 - 3 * x + 5) < 1e-6, (
    "exercise 3: the step must work for a tree of another form"
)
show("exercise 3: arrived", arrived)
