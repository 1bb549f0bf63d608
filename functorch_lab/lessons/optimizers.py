# SPDX-License-Identifier: Apache-2.0
# %% [markdown]
# # Optimizers
#
# You see how six optimizers walk down four surfaces, write three of them in a few lines
# each, and know what a learning rate that is too small or too large looks like. At the
# end you compile a step, and measure what that gives.

# %%
import functools
import math
import time

import matplotlib.pyplot as plt
import torch

import functorch_lab as fl

plt.style.use("functorch_lab.lessons.figures")

# %% [markdown]
# ## Four surfaces
#
# The loss of a network has thousands of parameters and can't be drawn. A loss of two
# parameters can: it is a landscape, and training is a walk downhill. Here `point` holds
# both parameters, a tensor of shape (2,). The four landscapes each have one difficulty:
#
# - the *bowl* has none;
# - the *ravine* is 25 times as curved across as along;
# - the *double well* has two minima, of which the left one is the deeper;
# - *Rosenbrock's* valley is narrow and bent, and its floor almost level.


# %%
def bowl(point):
    return (point**2).sum() / 2


def ravine(point):
    return (point[0] ** 2 + 25 * point[1] ** 2) / 2


def double_well(point):
    return (point[0] ** 2 - 1) ** 2 + 0.3 * point[0] + point[1] ** 2


def rosenbrock(point):
    return (1 - point[0]) ** 2 + 100 * (point[1] - point[0] ** 2) ** 2


levels = {
    bowl: [0.1, 0.4, 0.9, 1.6, 2.5],
    ravine: [0.5, 2, 6, 14, 30],
    double_well: [-0.2, 0, 0.2, 0.4, 0.8, 1.5, 3, 6],
    rosenbrock: [10, 60, 200, 500, 1500],
}
lowest = {bowl: (0, 0), ravine: (0, 0), double_well: (-1.04, 0), rosenbrock: (1, 1)}


# %% [markdown]
# A contour is a line of equal loss. To draw them you need the loss at many points:
# `fl.vmap` turns each function of one point into a function of a table of points.


# %%
def draw_contours(ax, surface):
    axis = torch.linspace(-2, 2, 61)
    x, y = torch.meshgrid(axis, axis, indexing="xy")  # each (61, 61)
    points = torch.stack([x, y], dim=-1).reshape(-1, 2)  # one row for each point
    height = fl.vmap(surface)(points).reshape(x.shape)
    ax.set(xlim=(-2, 2), ylim=(-2, 2), aspect="equal")
    ax.set(xticks=[-2, 0, 2], yticks=[-2, 0, 2])
    ax.grid(False)
    grid = [part.cpu() for part in (x, y, height)]
    ax.plot(*lowest[surface], "k*", markersize=9, zorder=5)
    return ax.contour(
        *grid, levels[surface], colors="0.5", linestyles="-", linewidths=0.8
    )


fig, axes = plt.subplots(2, 2, figsize=(7, 6.8))
for ax, surface in zip(axes.flat, levels, strict=True):
    lines = draw_contours(ax, surface)
    ax.clabel(lines, fontsize=8, colors="black")
    ax.set_title(surface.__name__.replace("_", " ").capitalize())
fig.supxlabel("first parameter", fontsize=10)
fig.supylabel("second parameter", fontsize=10)
fig.savefig("surfaces.png")

# %% [markdown]
# ## One run, and its learning rate
#
# A run starts at a point, asks for the gradient, asks the optimizer for the update, and
# adds it. `noise` has one row for each step, and is added to the gradient. It is zero
# for now; you need it further down. The result is the path, all points in a table.


# %%
def descend(surface, optimizer, start, noise):
    point, state = start, optimizer.init(start)
    path = [point]
    for disturbance in noise:
        grads = fl.grad(surface)(point) + disturbance
        updates, state = optimizer.update(grads, state, point)
        point = fl.optim.apply_updates(point, updates)
        path.append(point)
    return torch.stack(path)  # (steps + 1, 2)


steps = 100
exact = torch.zeros(steps, 2)
start = torch.tensor([-1.8, 0.7])
fig, axes = plt.subplots(1, 3, figsize=(7, 2.9), sharey=True)
for ax, lr in zip(axes, [0.004, 0.07, 0.082], strict=True):
    path = descend(ravine, fl.optim.sgd(lr=lr), start, exact)
    draw_contours(ax, ravine)
    ax.plot(*path.cpu().T, ".-", color="C1", linewidth=1)
    ax.set(title=f"Learning rate {lr}", xlabel="first parameter")
    print(f"lr {lr:<5}  loss after {steps} steps {ravine(path[-1]):8.3g}")
axes[0].set_ylabel("second parameter")
fig.savefig("rates.png")

# %% [markdown]
# Too small, and after all steps the point is still on its way. Too large, and each step
# jumps across the ravine to a place that is higher than the last: the run diverges. In
# between it zigzags down.
#
# Lesson 2 worked this out: in a direction of curvature `c`, a step of gradient descent
# multiplies the distance by `1 - lr c`, and the run converges while `lr` is below
# `2 / c`. Across the ravine `c` is 25. Along it `c` is 1, and there the same `lr` makes
# slow progress. The steepest direction sets the limit, the flattest one the time.

# %%
lr = 0.07
for name, c in [("across", 25), ("along", 1)]:
    print(f"{name:6}  limit of lr {2 / c:4.2f}  factor of a step {1 - lr * c:5.2f}")

# %% [markdown]
# ## All starting points at once
#
# `descend` is a function of one starting point. `fl.vmap` makes it a function of many,
# and all of them walk together: the loop still takes its steps one by one, but each
# step moves every point. A tuple in `in_dims` says for each argument whether it has a
# row for each run (0) or is shared by all (None).

# %%
starts = torch.tensor(
    [[-1.3, 1.5], [-1.2, -0.6], [-0.3, 1.7], [0.4, -1.2], [1.3, -0.6]]
)
optimizer = fl.optim.sgd(lr=0.07)
together = fl.vmap(
    lambda start, noise: descend(ravine, optimizer, start, noise), in_dims=(0, None)
)(starts, exact)
alone = descend(ravine, optimizer, starts[0], exact)
assert torch.allclose(together[0], alone, atol=1e-6)
print("one path:", tuple(alone.shape), " all paths at once:", tuple(together.shape))

# %% [markdown]
# ## Momentum, RMSProp and Adam
#
# You know from lesson 4 that an optimizer is a pair: `init` makes a state, `update`
# turns gradients into updates. Gradient descent needs no state. The others remember.
#
# *Momentum* remembers a sum of the past gradients, in which each step back counts less
# by the factor `momentum`. What points one way and then the other cancels out, as it
# does across a ravine. What points the same way each time adds up. The state begins as
# `fl.tree.zeros_like(params)`, a zero for each parameter; `fl.tree.scale` multiplies
# every leaf by a number. `fl.types.GradientTransformation(init, update)` is the pair:
# its parts are `optimizer.init` and `optimizer.update`.


# %%
def momentum(lr, momentum=0.9):
    def update(grads, velocity, params=None):
        velocity = fl.tree.map(lambda v, g: momentum * v + g, velocity, grads)
        return fl.tree.scale(velocity, -lr), velocity

    return fl.types.GradientTransformation(fl.tree.zeros_like, update)


# %% [markdown]
# *RMSProp* remembers the mean square of the past gradients, of each parameter by
# itself, and divides by its root. A steep direction and a flat one then take steps of
# the same length, about `lr`. `eps` keeps the division away from zero.


# %%
def rmsprop(lr, alpha=0.99, eps=1e-8):
    def update(grads, square, params=None):
        square = fl.tree.map(lambda s, g: alpha * s + (1 - alpha) * g**2, square, grads)
        updates = fl.tree.map(lambda g, s: -lr * g / (s.sqrt() + eps), grads, square)
        return updates, square

    return fl.types.GradientTransformation(fl.tree.zeros_like, update)


# %% [markdown]
# *Adam* does both: a running mean of the gradient over the root of a running mean of
# its square. Both means begin at zero and are too small at first. RMSProp's first steps
# are too long for that reason. Adam divides by `1 - beta**step`, which is what is
# missing.


# %%
def adam(lr, betas=(0.9, 0.999), eps=1e-8):
    def init(params):
        zeros = fl.tree.zeros_like(params)
        return {"step": torch.tensor(0.0), "mean": zeros, "square": zeros}

    def update(grads, state, params=None):
        b1, b2 = betas
        step = state["step"] + 1
        mean = fl.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state["mean"], grads)
        square = fl.tree.map(
            lambda s, g: b2 * s + (1 - b2) * g**2, state["square"], grads
        )

        def direction(m, s):
            return -lr * (m / (1 - b1**step)) / ((s / (1 - b2**step)).sqrt() + eps)

        updates = fl.tree.map(direction, mean, square)
        return updates, {"step": step, "mean": mean, "square": square}

    return fl.types.GradientTransformation(init, update)


# %% [markdown]
# The library has all three, with checks and more options. Yours walk the same paths.

# %%
mine = {"momentum": momentum(0.0005), "RMSProp": rmsprop(0.01), "Adam": adam(0.1)}
library = {
    "SGD": fl.optim.sgd(lr=0.0005),
    "momentum": fl.optim.sgd(lr=0.0005, momentum=0.9),
    "RMSProp": fl.optim.rmsprop(lr=0.01),
    "Adagrad": fl.optim.adagrad(lr=0.1),
    "Adam": fl.optim.adam(lr=0.1),
}
for name, optimizer in mine.items():
    here = descend(rosenbrock, optimizer, starts[0], exact)
    there = descend(rosenbrock, library[name], starts[0], exact)
    assert torch.allclose(here, there, rtol=1e-4, atol=1e-5)
    ends = f"{rosenbrock(here[-1]):.4f}  library {rosenbrock(there[-1]):.4f}"
    print(f"{name:8}  first step {(here[1] - here[0]).norm():.4f}  final loss {ends}")

# %% [markdown]
# One more divides by a root. *Adagrad*, the oldest of the family, takes the sum of all
# squares in place of a running mean. The sum only grows, and the steps shrink with it.
# You write it in an exercise.
#
# ## Noise, and a fair comparison
#
# In training the gradient comes from a minibatch. It is the gradient of the whole loss
# plus an error that differs from batch to batch and is zero on average. A surface has
# no samples to draw, so you add such an error: normal numbers from a key. Gradient
# descent on noisy gradients is *stochastic* gradient descent, SGD.
#
# The learning rate of one method is useless for another. A fair comparison gives each
# its own: of many rates the smallest one that ends within 0.001 of the lowest loss.
# `lr` may be a tensor, so one `fl.vmap` maps over the starting points and another one
# over the rates. RMSProp gets a smaller `alpha`: a shorter memory, shorter first steps.

# %%
methods = {
    "gradient descent": lambda lr: fl.optim.sgd(lr=lr),
    "SGD": lambda lr: fl.optim.sgd(lr=lr),
    "momentum": lambda lr: fl.optim.sgd(lr=lr, momentum=0.9),
    "RMSProp": lambda lr: fl.optim.rmsprop(lr=lr, alpha=0.97),
    "Adagrad": lambda lr: fl.optim.adagrad(lr=lr),
    "Adam": lambda lr: fl.optim.adam(lr=lr),
}
rates = torch.tensor([1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0])
normal = fl.random.normal(fl.random.key(0), (len(starts), steps, 2))


def sweep(surface, method):
    """The paths of all rates from all starts: (rates, starts, steps + 1, 2)."""
    noise = normal if method == "SGD" else torch.zeros_like(normal)

    def run(lr, start, noise):
        return descend(surface, methods[method](lr), start, noise)

    over_starts = fl.vmap(run, in_dims=(None, 0, 0))
    return fl.vmap(over_starts, in_dims=(0, None, None))(rates, starts, noise)


paths, losses, best = {}, {}, {}
print(f"best rate       {''.join(f'{surface.__name__:>12}' for surface in levels)}")
for method in methods:
    for surface in levels:
        pair = surface, method
        paths[pair] = sweep(surface, method)
        loss = fl.vmap(fl.vmap(surface))(paths[pair][:, :, -1]).mean(1)  # one per rate
        losses[pair] = torch.where(loss.isfinite(), loss, math.inf)  # diverged: inf
        good = losses[pair] < losses[pair].min() + 0.001
        best[pair] = good.int().argmax().item()  # the smallest good rate
    row = [f"{rates[best[surface, method]]:12.4f}" for surface in levels]
    print(f"{method:16}{''.join(row)}")

fig, axes = plt.subplots(1, 2, figsize=(7, 3.7))
for ax, surface in zip(axes, [ravine, rosenbrock], strict=True):
    for method in methods:
        ax.plot(rates.cpu(), losses[surface, method].cpu(), ".-", label=method)
    ax.set(xscale="log", yscale="log", title=surface.__name__.capitalize())
    ax.set_xlabel("learning rate")
axes[0].set(ylim=(1e-7, 1e2), ylabel=f"mean loss after {steps} steps")
axes[1].set(ylim=(1, 1e3))
fig.legend(*axes[0].get_legend_handles_labels(), ncols=3, loc="outside lower center")
fig.savefig("sweep.png")

# %% [markdown]
# Read a curve from left to right: too small, right, too large. Gradient descent, SGD
# and momentum end at a cliff, behind which the runs diverge. The three that divide by a
# root have no cliff: the length of their steps depends little on how steep the place
# is, so a large rate makes them restless and no more. On Rosenbrock the noise is small
# beside the gradients, and the curve of SGD hides that of gradient descent.
#
# ## Six methods on four surfaces
#
# Now the paths. The black dot is the start, the star the lowest point, and each small
# dot a step. Each method has its best learning rate.


# %%
def draw_paths(surface):
    fig, axes = plt.subplots(2, 3, figsize=(7, 5.2), sharex=True, sharey=True)
    for ax, method in zip(axes.flat, methods, strict=True):
        draw_contours(ax, surface)
        index = best[surface, method]
        for path in paths[surface, method][index].cpu():
            ax.plot(*path.T, ".-", linewidth=1, markersize=3)
            ax.plot(*path[0], "ko", markersize=4)
        ax.set_title(f"{method[0].upper()}{method[1:]}, lr = {rates[index]:g}")
    fig.supxlabel("first parameter", fontsize=10)
    fig.supylabel("second parameter", fontsize=10)
    return fig


draw_paths(bowl).savefig("bowl.png")

# %% [markdown]
# On the bowl the gradient points at the minimum, and gradient descent walks straight to
# it. SGD gets near and is pushed about. Momentum goes straight too, with a far smaller
# rate: the sum of the past gradients makes up for it. RMSProp, Adagrad and Adam walk
# diagonally at first: both parameters change by the same length per step, whichever has
# further to go.

# %%
draw_paths(ravine).savefig("ravine.png")

# %% [markdown]
# In the ravine gradient descent turns a corner: first across, then slowly along.
# Momentum swings from side to side, and is faster along. The three methods of the
# second row walk as they do on the bowl. Their division cancels the factor of 25: they
# do not see that this is a ravine. It helps that it lies along an axis; the last
# exercise turns it.

# %%
draw_paths(double_well).savefig("double_well.png")
for method in methods:
    left = paths[double_well, method][best[double_well, method], :, -1, 0] < 0
    print(f"{method:16}  {left.sum().item()} of {len(starts)} runs end on the left")

# %% [markdown]
# In the double well the start decides. A gradient knows the slope at one place and
# nothing of a deeper well elsewhere: the two runs that begin on the right stay there.

# %%
draw_paths(rosenbrock).savefig("rosenbrock.png")

# %% [markdown]
# On Rosenbrock most runs find the valley within a few steps, and then crawl along its
# floor, which has almost no slope. Larger steps would help there, but then the walls
# throw a run from side to side, as they do with momentum. None arrives. This walk needs
# thousands of small steps, and you come back to it below.
#
# ## A learning rate that decays
#
# SGD gets near the minimum and then hovers. On the bowl you can say how near. With
# noise of variance 1 the mean loss falls to `lr / (2 - lr)` and no further, however
# long you wait. A large rate arrives soon and stays high up, a small one arrives late
# and lower. A *schedule* has the good half of both: it is a function of the step that
# gives the rate. Every place that takes a number for `lr` takes a schedule.

# %%
length = 150
many = fl.random.normal(fl.random.key(1), (1000, length, 2))  # 1000 runs at once
schedules = {
    "constant 0.4": fl.optim.schedules.constant(0.4),
    "constant 0.04": fl.optim.schedules.constant(0.04),
    "step": fl.optim.schedules.step(0.4, step_size=50, gamma=0.1),
    "exponential": fl.optim.schedules.exponential(0.4, gamma=0.97),
    "cosine": fl.optim.schedules.cosine(0.4, decay_steps=length),
}
counts = torch.arange(length)
fig, axes = plt.subplots(1, 2, figsize=(7, 3.4))
for name, schedule in schedules.items():
    # all arguments but the noise are the same in each run
    run = functools.partial(descend, bowl, fl.optim.sgd(lr=schedule), starts[0])
    heights = fl.vmap(fl.vmap(bowl))(fl.vmap(run)(many))  # (1000, length + 1)
    mean_loss = heights.mean(0)
    axes[0].plot(torch.as_tensor(schedule(counts)).cpu(), label=name)
    axes[1].plot(mean_loss.cpu())
    early, late = mean_loss[30], mean_loss[-1]
    print(f"{name:13}  mean loss after 30 steps {early:.3f}  at the end {late:.4f}")
for lr in [0.4, 0.04]:
    print(f"lr / (2 - lr) for lr = {lr:<4}  {lr / (2 - lr):.4f}")
axes[0].set(xlabel="step", ylabel="learning rate", yscale="log", ylim=(1e-3, 0.6))
axes[1].set(xlabel="step", ylabel="mean loss of 1000 runs", yscale="log")
fig.legend(ncols=5, loc="outside lower center", columnspacing=1, handlelength=1.3)
fig.savefig("decay.png")

# %% [markdown]
# The decaying rates begin as fast as the large constant one, and end about as low as
# the small one or lower. Which decay is the best depends on the problem.
#
# ## A large batch in small parts
#
# A larger batch has less noise, but may not fit into memory. The gradient of a mean is
# the mean of the gradients. So you take the gradients of equal parts of the batch, one
# part after the other, average them, and make one update: *gradient accumulation*. The
# result is that of the large batch, up to rounding. (`fl.tree.add` adds two trees.)


# %%
def line_loss(params, x, y):
    return ((params["w"] * x + params["b"] - y) ** 2).mean()


x_key, y_key = fl.random.split(fl.random.key(2), 2)
x = fl.random.uniform(x_key, (32,))
y = 3 * x + 2 + 0.5 * fl.random.normal(y_key, (32,))
params = {"w": torch.tensor(0.5), "b": torch.tensor(-0.5)}
large = fl.grad(line_loss)(params, x, y)
total = fl.tree.zeros_like(params)
for part_x, part_y in zip(x.split(8), y.split(8), strict=True):
    total = fl.tree.add(total, fl.grad(line_loss)(params, part_x, part_y))
accumulated = fl.tree.scale(total, 1 / 4)
assert fl.tree.allclose(accumulated, large, rtol=1e-6)
for name, grads in [("batch of 32", large), ("mean of 4 x 8", accumulated)]:
    print(f"{name:14}  w {grads['w']:.5f}  b {grads['b']:.5f}")
print(f"{'sum of 4 x 8':14}  w {total['w']:.5f}  b {total['b']:.5f}")

# %% [markdown]
# The last line is a common slip, the sum without the division: it is 4 times too long,
# as if the learning rate were 4 times larger. Parts of different sizes need weights in
# proportion to their sizes.
#
# ## `jit`: one step as one program
#
# Back to Rosenbrock. So far each operation of a step was a call from Python: a
# subtraction, a square, each with a table of its own for the result. With few numbers
# in a table nearly all the time goes into the calls. `fl.jit` makes one program of the
# whole step: loss, gradient and update.


# %%
def step(points, velocity, momentum):
    grads = fl.vmap(fl.grad(rosenbrock))(points)
    velocity = momentum * velocity + grads
    return points - 0.0002 * velocity, velocity


fast_step = fl.jit(step)
axis = torch.linspace(-2, 2, 20)
grid = torch.cartesian_prod(axis, axis)  # (400, 2)


def repeat(step, points, momentum, calls):
    """The points after so many steps."""
    velocity = torch.zeros_like(points)
    for _ in range(calls):
        points, velocity = step(points, velocity, momentum)
    return points


def seconds(step, calls, rounds):
    """What one call takes: the best of some rounds, since a computer is never idle."""
    taken = []
    for _ in range(rounds):
        begin = time.perf_counter()
        repeat(step, grid, 0.9, calls).sum().item()  # .item() waits for the result
        taken.append((time.perf_counter() - begin) / calls)
    return min(taken)


first = seconds(fast_step, calls=1, rounds=1)
later = seconds(fast_step, calls=20, rounds=5)
eager = seconds(step, calls=20, rounds=5)
print(f"eager, each call       {1e3 * eager:9.3f} ms")
print(f"jit, the first call    {first:9.3f} s")
print(f"jit, each later call   {1e6 * later:9.3f} us")
same = [repeat(one, grid, 0.9, 20) for one in (step, fast_step)]
assert torch.allclose(*same, rtol=1e-3, atol=1e-3)

# %% [markdown]
# The first call *traces* the function: it runs it once on stand-ins, which have a shape
# and a dtype but no values, and writes down every operation. It hands the list to the
# compiler. That takes seconds. Each later call runs the finished program, and costs
# little more than the arithmetic in it. So you compile what you call often, and leave
# the rest eager. Where the machine has no C++ compiler `jit` warns once and runs the
# function as it is: both kinds of call then take about the same time, and the results
# do not change.
#
# A trace knows shapes, so the shapes must stay the same: points of another shape mean a
# new trace and a new wait. It does not know values. A number such as `momentum` may
# change from call to call, and an `if` on the value of a tensor can't be traced. Keep
# `print` out of the function, too: the program has only its operations on tensors.
#
# With `fl.jit(step, donate_argnums=(0, 1))` you *donate* the old points and velocity:
# the results take over their memory, and you may not use the old tensors again.
#
# Now thousands of steps are cheap. Here are 2000 of them from 400 points on a grid,
# once without momentum and once with it. The figure shows where the runs end.

# %%
fig, axes = plt.subplots(1, 2, figsize=(7, 3.7), sharey=True)
for ax, factor in zip(axes, [0.0, 0.9], strict=True):
    ends = repeat(fast_step, grid, factor, 2000)
    share = (fl.vmap(rosenbrock)(ends) < 0.01).float().mean()
    print(f"momentum {factor}  loss below 0.01 from {share:4.0%} of the points")
    draw_contours(ax, rosenbrock)
    ax.plot(*ends.cpu().T, "o", color="C1", alpha=0.3)
    ax.set(title=f"Momentum {factor}", xlabel="first parameter")
axes[0].set_ylabel("second parameter")
fig.savefig("ends.png")
print("traces of the step so far:", fast_step.traces)

# %% [markdown]
# Without momentum few of the runs arrive. With momentum most do, from the same number
# of gradients. The step was traced once: the two factors share one program.
#
# ## The same in classic PyTorch
#
# | here | in classic PyTorch |
# |---|---|
# | `fl.optim.sgd(lr=lr, momentum=0.9)` | `torch.optim.SGD(params, lr, momentum=0.9)` |
# | `optimizer.update(grads, state, params)` | `optimizer.step()`, in place |
# | the state is a value that you pass on | it hides in `optimizer.state` |
# | there is nothing to zero | `optimizer.zero_grad()` |
# | `lr=fl.optim.schedules.cosine(...)` | `CosineAnnealingLR`, `scheduler.step()` |
# | the mean of the parts' gradients | `(loss / 4).backward()` for each part |
# | `fl.vmap(descend)` | a loop over the starting points |
# | `fl.jit(step)`: all of the step | `torch.compile(model)`: the model |
#
# There `.backward()` adds to what is in `.grad`. This is why a loop without
# `zero_grad()` goes wrong, and it is also how one accumulates gradients there.

# %%
classic = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.0005),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.0005, momentum=0.9),
    "RMSProp": lambda p: torch.optim.RMSprop(p, lr=0.01),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.1),
}
for name, make in classic.items():
    point = torch.nn.Parameter(starts[0].clone())
    optimizer = make([point])
    for _ in range(steps):
        optimizer.zero_grad()
        rosenbrock(point).backward()
        optimizer.step()
    end = descend(rosenbrock, library[name], starts[0], exact)[-1]
    assert torch.allclose(end, point.detach(), rtol=1e-4, atol=1e-5)
    x_and_y = [f"({a:.4f}, {b:.4f})" for a, b in (end.tolist(), point.tolist())]
    print(f"{name:8}  here {x_and_y[0]}  classic {x_and_y[1]}")

# %% [markdown]
# ## Exercises
#
# **1.** Gradient descent on a sum of parabolas `c x² / 2` converges while `lr` is below
# a limit. Write `limit(curvatures)`, which gives this limit for a list of all the `c`.


# %% tags=["solution"]
def limit(curvatures):
    return 2 / max(curvatures)


# %% tags=["check"]
curvatures = torch.tensor([3.0, 40.0, 7.0])
for share, converges in [(0.98, True), (1.02, False)]:
    optimizer = fl.optim.sgd(lr=float(share * limit([3.0, 40.0, 7.0])))
    noise = torch.zeros(200, 3)
    path = descend(
        lambda p: (curvatures * p**2).sum() / 2, optimizer, noise[0] + 1, noise
    )
    size = path[-1].norm().item()
    assert (size < 1) == converges, f"exercise 1: at {share} of the limit: {size:.3g}"
    print(f"exercise 1: {share} of the limit, distance after 200 steps {size:.3f}")

# %% [markdown]
# **2.** Write `adagrad(lr, eps=1e-10)` as a pair of `init` and `update`, like `rmsprop`
# above: the sum of all squares takes the place of the running mean. `params` may be any
# tree.


# %% tags=["solution"]
def adagrad(lr, eps=1e-10):
    def update(grads, total, params=None):
        total = fl.tree.map(lambda t, g: t + g**2, total, grads)
        updates = fl.tree.map(lambda g, t: -lr * g / (t.sqrt() + eps), grads, total)
        return updates, total

    return fl.types.GradientTransformation(fl.tree.zeros_like, update)


# %% tags=["check"]
mine, theirs = adagrad(0.3), fl.optim.adagrad(lr=0.3)
states = [one.init(params) for one in (mine, theirs)]
for scale in [1.0, -0.5, 2.0]:
    grads = fl.tree.scale(large, scale)
    first, states[0] = mine.update(grads, states[0], params)
    second, states[1] = theirs.update(grads, states[1], params)
    assert fl.tree.allclose(first, second, rtol=1e-5), (
        f"exercise 2: expected the update {second}, got {first}"
    )
    print(f"exercise 2: update of w {first['w']:.4f}")

# %% [markdown]
# **3.** Does a method see the axes? Turn the ravine and the starting points by the same
# angle: the picture is the same, tilted. Write `turned(points, degrees)`, which turns
# points, of shape (..., 2), anticlockwise around (0, 0), and
# `turned_losses(make, degrees)`, the losses on the turned ravine after 100 exact steps
# of the optimizer `make()` from all turned `starts`. Then explain what you see.


# %% tags=["solution"]
def turned(points, degrees):
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    return points @ torch.tensor([[cos, sin], [-sin, cos]])


def turned_losses(make, degrees):
    def surface(point):
        return ravine(turned(point, -degrees))

    run = fl.vmap(lambda s, n: descend(surface, make(), s, n), in_dims=(0, None))
    return fl.vmap(surface)(run(turned(starts, degrees), exact)[:, -1])


# %% tags=["check"]
quarter = turned(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), 90)
assert torch.allclose(quarter, torch.tensor([[0.0, 2.0], [-1.0, 0.0]]), atol=1e-6), (
    f"exercise 3: (2, 0) and (0, 1), turned by 90 degrees, gave {quarter.tolist()}"
)
makers = {
    "gradient descent": lambda: fl.optim.sgd(lr=0.03),
    "momentum": lambda: fl.optim.sgd(lr=0.005, momentum=0.9),
    "Adagrad": lambda: fl.optim.adagrad(lr=0.5),
    "Adam": lambda: fl.optim.adam(lr=0.15),
}
for name, make in makers.items():
    straight, tilted = [turned_losses(make, degrees).mean() for degrees in (0, 45)]
    sees_axes = name in ("Adagrad", "Adam")
    same = torch.allclose(straight, tilted, rtol=1e-2, atol=1e-6)
    assert same != sees_axes, f"exercise 3: {name}: {straight:.5f} and {tilted:.5f}"
    print(f"exercise 3: {name:16}  straight {straight:.5f}  turned {tilted:.5f}")
