# SPDX-License-Identifier: Apache-2.0
# %% [markdown]
# # Networks of neurons
#
# You build networks that bend lines into curves and regions, and see what each part is
# good for: depth, width, and the function between the layers. You train a line, a
# curve, and dozens of small networks at once.

# %%
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap
from torch import nn

import functorch_lab as fl

plt.style.use("functorch_lab.lessons.figures")


def flat(tensor):  # the numbers as a list, for matplotlib
    return tensor.flatten().tolist()


# %% [markdown]
# ## One neuron draws a line
#
# A *neuron* multiplies its inputs by weights and adds a bias. With one input that is a
# line, `weight * x + bias`, and `fl.nn.linear(1, 1)` is one neuron. Its params are a
# dict with a weight of shape (1, 1), one row per output and one column per input, and a
# bias of shape (1,). Samples are rows, so x and y have the shape (50, 1).
#
# The exercise is widely used: 50 points on `y = 2x + 3` with a little noise, from the
# weight -1 and the bias 5, by 1000 steps with learning rate 0.1. All samples go into
# each step, so a step is an epoch. Its published numbers come from torch's global
# generator, so that is where you draw from: first x, then the noise.

# %%
torch.manual_seed(42)
x_line = torch.rand(50, 1)
y_line = 2 * x_line + 3 + 0.05 * torch.randn(50, 1)

line = fl.nn.linear(1, 1)
start = {"weight": torch.tensor([[-1.0]]), "bias": torch.tensor([5.0])}

# %% [markdown]
# Training is the loop of the lessons before, written once for all that follows.
# `gradient(params, *data)` gives the loss and its gradient, the optimizer turns the
# gradient into updates. (`update` takes the params too, for optimizers that look at
# them; lesson 4 left them out, since `sgd` does not.)


# %%
def train(gradient, params, data, optimizer, steps):
    state = optimizer.init(params)
    losses = []
    for _ in range(steps):
        value, grads = gradient(params, *data)
        updates, state = optimizer.update(grads, state, params)
        params = fl.optim.apply_updates(params, updates)
        losses.append(value)
    return params, torch.stack(losses)


def mean_squared_error(model):
    return lambda params, x, y: ((model.apply(params, x) - y) ** 2).mean()


def fit(model, params, x, y):
    gradient = fl.value_and_grad(mean_squared_error(model))
    return train(gradient, params, (x, y), fl.optim.sgd(lr=0.1), 1000)


fitted_line, line_losses = fit(line, start, x_line, y_line)
for epoch in range(0, 1000, 100):
    print(f"epoch {epoch:3}: loss {line_losses[epoch]:.6f}")
weight, bias = float(fitted_line["weight"]), float(fitted_line["bias"])
print(f"fitted: y = {weight:.4f} x + {bias:.4f}")

# %% [markdown]
# ## A curve is too much for it
#
# The next points lie on a parabola, `y = (2x - 1)²`, with noise from 0 to 0.1. The
# first model is the line again. The second will be a network with 100 neurons between
# input and output. Both start where torch's own layers start. `nn.Linear` is torch's
# layer: when it is made, it draws its weight and then its bias from the global
# generator. So make all layers here, in this order, and put the values into params.


# %%
def from_torch(layer):
    return {"weight": layer.weight.detach(), "bias": layer.bias.detach()}


torch.manual_seed(42)
x = torch.rand(100, 1)
y = (2 * x - 1) ** 2 + 0.1 * torch.rand(100, 1)
line_start = from_torch(nn.Linear(1, 1))
network_start = (from_torch(nn.Linear(1, 100)), (), from_torch(nn.Linear(100, 1)))

bent_line, bent_losses = fit(line, line_start, x, y)
for epoch in (0, 100, 200, 900):
    print(f"epoch {epoch:3}: loss {bent_losses[epoch]:.6f}")
print(f"variance of y:   {((y - y.mean()) ** 2).mean():.6f}")

# %% [markdown]
# The loss stands still at nearly the variance of y: the line is no better than the one
# number `y.mean()`. More steps can't help. Can more layers?
#
# ## Depth alone is one matrix
#
# `fl.nn.sequential` puts layers after one another. Its params are a tuple with one
# entry per layer. Here 2 inputs go to 5 neurons, on to 7, and on to 3.

# %%
keys = fl.random.split(fl.random.key(0), 6)
key_deep, key_points, key_width, key_train, key_test, key_regions = keys
deep = fl.nn.sequential(fl.nn.linear(2, 5), fl.nn.linear(5, 7), fl.nn.linear(7, 3))
first, second, third = deep_params = deep.init(key_deep)

one = {
    "weight": third["weight"] @ second["weight"] @ first["weight"],  # (3, 2)
    "bias": deep.apply(deep_params, torch.zeros(2)),  # (3,), what is left at 0
}
points = fl.random.normal(key_points, (4, 2))
of_three = deep.apply(deep_params, points)
of_one = fl.nn.linear(2, 3).apply(one, points)
sizes = fl.tree.size(deep_params), fl.tree.size(one)
print("numbers in three layers and in one:", *sizes)
print("same outputs:", torch.allclose(of_three, of_one, atol=1e-5))

# %% [markdown]
# Put one line into another, `c (a x + b) + d`, and it is the line
# `(c a) x + (c b + d)`. For matrices it is the same: three layers are one layer, whose
# matrix is the product of the three. Depth needs something between the layers that is
# not a line.
#
# ## What goes between
#
# An *activation* is a function that is applied to each number between two layers. Its
# derivative matters as much as its value: the gradient of a layer is multiplied by the
# derivative of each activation after it.
#
# - *sigmoid*, `1 / (1 + e^-z)`, squeezes all numbers between 0 and 1;
# - *tanh* squeezes them between -1 and 1;
# - *ReLU*, `max(z, 0)`, cuts off what is negative;
# - *leaky ReLU* leaves a little of it, `0.01 z`, here `0.1 z` so that one sees it;
# - *ELU* goes over into `e^z - 1` for negative z, smoothly;
# - *maxout* has no fixed shape. It takes the largest of several neurons, here two, so
#   the layer before needs twice as many. Which lines meet, training decides; the figure
#   takes `0.5 z` and `-z - 1`.


# %%
def maxout(z):
    pairs = z.unflatten(-1, (-1, 2))  # (..., 2 n) to (..., n, 2)
    return pairs.amax(-1)  # (..., n)


def two_lines(z):
    return maxout(torch.stack((0.5 * z, -z - 1)))[0]


shapes = {
    "sigmoid": fl.nn.sigmoid,
    "tanh": fl.nn.tanh,
    "ReLU": fl.nn.relu,
    "leaky ReLU": lambda z: fl.nn.leaky_relu(z, 0.1),
    "ELU": fl.nn.elu,
    "maxout": two_lines,
}
z = torch.linspace(-4, 4, 401)
curves = {name: fl.vmap(f)(z) for name, f in shapes.items()}
slopes = {name: fl.vmap(fl.grad(f))(z) for name, f in shapes.items()}

at = [100, 300]  # where z is -2 and 2
print("            at z = -2: value  slope   at z = 2: value  slope   largest slope")
for name in shapes:
    (v0, v1), (s0, s1) = curves[name][at].tolist(), slopes[name][at].tolist()
    largest = slopes[name].max()
    print(f"{name:10} {v0:17.3f} {s0:6.3f} {v1:18.3f} {s1:6.3f} {largest:15.2f}")

fig, axes = plt.subplots(2, 3, figsize=(7, 4.2), sharex=True, sharey=True)
for ax, name in zip(axes.flat, shapes, strict=True):
    ax.plot(z.tolist(), curves[name].tolist(), label="value")
    ax.plot(z.tolist(), slopes[name].tolist(), "--", label="derivative")
    ax.set(title=name[0].upper() + name[1:], ylim=(-1.3, 3.2))
for ax in axes[1]:
    ax.set_xlabel("z")
axes[0, 0].legend()
fig.savefig("activations.png")

# %% [markdown]
# Far from 0 the derivative of sigmoid and tanh is almost 0: a neuron there hardly
# learns. That of sigmoid is 1/4 at most. ReLU's is 1 or 0. Its neurons learn at full
# speed where z is positive and not at all elsewhere, which leaky ReLU and ELU repair.
#
# ## A sum of ReLUs bends a line
#
# Take three ReLU neurons and an output that adds them up, with params chosen by hand.
# A neuron is 0 on one side of the place where `weight * x + bias = 0`, and a line on
# the other, where it is *on*. At that place, `x = -bias / weight`, the sum gets a
# *kink*. Between kinks it is a straight piece. Its slope is the sum of
# `output weight * weight` over the neurons that are on.

# %%
relu_3 = fl.nn.sequential(fl.nn.linear(1, 3), fl.nn.relu, fl.nn.linear(3, 1))
by_hand = (
    {
        "weight": torch.tensor([[1.0], [2.0], [-1.0]]),
        "bias": torch.tensor([1.0, -1.0, 0.0]),
    },
    (),
    {"weight": torch.tensor([[1.0, -1.5, 0.5]]), "bias": torch.tensor([-1.0])},
)


def kinks(params):
    return (-params[0]["bias"] / params[0]["weight"][:, 0]).sort().values


def slope(params, x):
    return fl.vmap(fl.grad(lambda x: relu_3.apply(params, x[None])[0]))(x)


middles = torch.tensor([-1.5, -0.5, 0.25, 1.25])
print("kinks: ", kinks(by_hand).tolist())
print("slopes:", slope(by_hand, middles).tolist())

u = torch.linspace(-2, 2, 201)[:, None]
on = fl.nn.relu(fl.nn.linear(1, 3).apply(by_hand[0], u))  # (201, 3)
fig, (left, right) = plt.subplots(1, 2, figsize=(7, 3))
for i in range(3):
    left.plot(flat(u), flat(by_hand[2]["weight"][0, i] * on[:, i]), label=f"neuron {i}")
left.set(xlabel="x", ylabel="neuron times its output weight", title="Three ReLUs")
left.legend()
right.plot(flat(u), flat(relu_3.apply(by_hand, u)), color="C6")
at_kinks = relu_3.apply(by_hand, kinks(by_hand)[:, None])
right.plot(flat(kinks(by_hand)), flat(at_kinks), "o", color="C1")
places = [(-2.05, -0.68), (-0.42, -0.52), (-0.8, 0.28), (1.3, -0.7)]
for place, value in zip(places, slope(by_hand, middles), strict=True):
    right.annotate(f"slope {value:g}", place, fontsize=9)
right.set(xlabel="x", ylabel="output", title="Their sum minus 1: four pieces")
fig.savefig("pieces.png")

# %% [markdown]
# So a network with one layer of n ReLU neurons draws a line of up to n + 1 pieces.
# Training moves the kinks and turns the pieces.
#
# ## The curve again
#
# A network of 100 ReLU neurons takes up the parabola, from torch's initial values made
# above, by the same steps as the line.

# %%
network = fl.nn.sequential(fl.nn.linear(1, 100), fl.nn.relu, fl.nn.linear(100, 1))
curve, curve_losses = fit(network, network_start, x, y)
print("epoch      line     network")
for epoch in range(0, 1000, 100):
    print(f"{epoch:5}  {bent_losses[epoch]:.6f}  {curve_losses[epoch]:.6f}")
print(f"variance of the noise:        {0.1**2 / 12:.6f}")
print(f"largest loss of the network:  {curve_losses.max():.1f}")
inside = [place for place in flat(kinks(curve)) if 0 < place < 1]
print(f"share of kinks in 0 to 1:     {len(inside) / 100:.2f}")

grid = torch.linspace(0, 1, 101)[:, None]
fig, (left, right) = plt.subplots(1, 2, figsize=(7, 3.2))
left.scatter(flat(x), flat(y), s=8, color="0.6", label="samples")
left.plot(flat(grid), flat(line.apply(bent_line, grid)), label="line")
left.plot(flat(grid), flat(network.apply(curve, grid)), label="network")
left.plot(inside, [-0.06] * len(inside), "|", color="C6", ms=6, label="kinks")
left.set(xlabel="x", ylabel="y", title="After 1000 epochs", ylim=(-0.12, 1.3))
left.legend(loc="upper center", ncols=2)
right.semilogy(bent_losses.tolist(), color="C0", label="line")
right.semilogy(curve_losses.tolist(), color="C1", label="network")
right.axhline(0.1**2 / 12, color="C6", ls=":", label="noise alone")
right.set(xlabel="epoch", ylabel="mean squared error", title="Training")
right.legend()
fig.savefig("curve.png")

# %% [markdown]
# The network gets down to nearly what the noise alone leaves: noise that is spread
# evenly from 0 to 0.1 has the variance `0.1² / 12`. Look at the first steps, too. The
# loss jumps far up before it falls: all 100 neurons move the output the same way at
# once, and together they go too far. With half the learning rate there is no jump.
#
# ## How wide is wide enough
#
# With enough neurons, one layer comes as close as you like to any continuous curve on
# an interval: this is the *universal approximation theorem*. For ReLU you have seen
# why: over a short distance a curve is nearly straight, so a line of many short pieces
# comes close to it. But the theorem says that good params exist, not that training
# finds them. So try both. For several widths, train five networks from five keys.
# Beside them put a construction: a line of as many pieces as there are neurons, with
# evenly spaced corners that lie on the curve.
#
# All five networks of a width have the same shapes, so they train at once:
# `fl.vmap(model.init)` makes params with a leading axis over networks, and
# `fl.vmap(fl.value_and_grad(loss))` computes all losses and gradients. The optimizer
# works on each number by itself and needs no change. It is `fl.optim.sgd` with
# `momentum=0.9`: each step repeats 0.9 of the step before and adds the new gradient, so
# that steps in a common direction add up; lesson 8 looks closer.


# %%
def wiggle(x):
    return torch.sin(8 * x) + x**2


def relu_network(width):
    return fl.nn.sequential(fl.nn.linear(1, width), fl.nn.relu, fl.nn.linear(width, 1))


def share_bending(hidden):
    on = x_wide.T * hidden["weight"] + hidden["bias"][..., None] > 0  # (5, width, n)
    return float((on.any(-1) & ~on.all(-1)).float().mean())


x_wide = torch.linspace(-1, 1, 64)[:, None]
y_wide = wiggle(x_wide)
widths = [2, 5, 20, 100]
errors, trained, constructed, bending = {}, {}, {}, {}
for width in widths:
    wide = relu_network(width)
    starts = fl.vmap(wide.init)(fl.random.split(key_width, 5))  # (5, ...) each
    gradient = fl.value_and_grad(mean_squared_error(wide))
    all_five = fl.vmap(gradient, in_dims=(0, None, None))  # one data set for all
    momentum = fl.optim.sgd(lr=0.03, momentum=0.9)
    ends, losses = train(all_five, starts, (x_wide, y_wide), momentum, 400)
    errors[width] = losses[-1].sqrt().sort().values.tolist()
    bending[width] = share_bending(starts[0]), share_bending(ends[0])
    # unstack gives a list of five params, without the leading axis
    best = fl.tree.unstack(ends)[int(losses[-1].argmin())]
    trained[width] = flat(wide.apply(best, x_wide))
    corners = torch.linspace(-1, 1, width + 1)
    pieces = np.interp(flat(x_wide), flat(corners), flat(wiggle(corners)))
    constructed[width] = np.mean((pieces - flat(y_wide)) ** 2) ** 0.5

print("         root mean squared error        share of kinks among the data")
print("neurons  best  median  constructed      at the start  at the end")
for width in widths:
    row = f"{width:7} {errors[width][0]:5.2f} {errors[width][2]:7.2f}"
    before, after = bending[width]
    print(f"{row} {constructed[width]:12.4f} {before:17.2f} {after:11.2f}")

fig, (left, right) = plt.subplots(1, 2, figsize=(7, 3.4))
left.plot(flat(x_wide), flat(y_wide), color="0.8", lw=5, label="the curve")
for width in widths:
    left.plot(flat(x_wide), trained[width], lw=1.4, label=f"{width} neurons")
left.set(xlabel="x", ylabel="y", title="The best of five trained networks")
left.set_ylim(-1.1, 3.3)
left.legend(fontsize=8, ncols=2, loc="upper center")
each = [(width, error) for width in widths for error in errors[width]]
right.loglog(*zip(*each, strict=True), "o", color="C5", ms=4, label="trained, each")
medians = [errors[width][2] for width in widths]
right.loglog(widths, medians, color="C0", label="trained, median")
right.loglog(widths, list(constructed.values()), "s--", color="C1", label="constructed")
right.set(xlabel="neurons", ylabel="root mean squared error")
right.set(title="Error against width")
right.legend()
fig.savefig("width.png")

# %% [markdown]
# Both errors fall with the width, but from 5 neurons on training stays far behind the
# construction. The last columns give one reason. A neuron bends the line only if its
# kink lies among the data. The kinks start at random places, about half of them there,
# and training brings hardly any others in: a neuron that is off for all samples has the
# gradient 0 and stays off. A wide network has enough kinks at good places from the
# start. That is one reason why networks are made wider than they need to be.
#
# ## What each activation separates
#
# Now two inputs and two classes: circles in one another, a grid like a checkerboard,
# and two spirals. The network has two hidden layers of 16 neurons and one output, the
# logit, trained with the binary cross entropy of lesson 5. `fl.nn.identity`,
# which changes nothing, stands for no activation. `fl.tree.stack` puts the sets along a
# leading axis, so that three networks train at once, one per set. The share of right
# answers is counted on 1000 new points per set.


# %%
def draw(key, n):
    for_circles, for_grid, for_spirals = fl.random.split(key, 3)
    sets = [
        fl.data.circles(for_circles, n),
        fl.data.checkerboard(for_grid, n, squares=3),
        fl.data.spirals(for_spirals, n, noise=0.05),
    ]
    x, y = fl.tree.stack(sets)  # (3, n, 2), (3, n)
    return x, y.float()


def classifier(activation):
    twice = 2 if activation is maxout else 1
    return fl.nn.sequential(
        fl.nn.linear(2, 16 * twice),
        activation,
        fl.nn.linear(16, 16 * twice),
        activation,
        fl.nn.linear(16, 1),
    )


def cross_entropy(model):
    loss = fl.losses.binary_cross_entropy_with_logits
    return lambda params, x, y: loss(model.apply(params, x)[:, 0], y).mean()


def share_right(model, params, x, y):
    return ((model.apply(params, x)[:, 0] > 0) == (y > 0.5)).float().mean()


names = ["circles", "grid", "spirals"]
activations = {"none": fl.nn.identity, **shapes, "maxout": maxout}
x_train, y_train = draw(key_train, 300)
x_test, y_test = draw(key_test, 1000)
accuracy, first_grads, classified = {}, {}, {}
for name, activation in activations.items():
    model = classifier(activation)
    starts = fl.vmap(model.init)(fl.random.split(key_regions, 3))
    gradient = fl.vmap(fl.value_and_grad(cross_entropy(model)))
    _, grads = gradient(starts, x_train, y_train)
    first_grads[name] = float(fl.vmap(fl.tree.norm)(grads[0]).mean())
    momentum = fl.optim.sgd(lr=0.3, momentum=0.9)
    classified[name], _ = train(gradient, starts, (x_train, y_train), momentum, 300)
    share = fl.vmap(partial(share_right, model))  # its first argument is given
    accuracy[name] = share(classified[name], x_test, y_test).tolist()

print("share of right answers on new points; size of the first layer's first gradient")
print(" " * 11 + "".join(f"{name:>9}" for name in names) + "   first gradient")
for name in activations:
    shares = "".join(f"{share:9.2f}" for share in accuracy[name])
    print(f"{name:11}{shares} {first_grads[name]:16.4f}")

# %% [markdown]
# The figure shows the probability of class 1 everywhere, and the training samples.

# %%
side = torch.linspace(-1.4, 1.4, 57)
plane = torch.cartesian_prod(side, side)  # (57 * 57, 2), the first input slowest
two_colors = LinearSegmentedColormap.from_list("", ["#8fc1de", "white", "#f0b483"])
fig, axes = plt.subplots(3, 7, figsize=(7, 3.5), sharex=True, sharey=True)
for column, (name, activation) in enumerate(activations.items()):
    apply = fl.vmap(classifier(activation).apply, in_dims=(0, None))
    probability = torch.sigmoid(apply(classified[name], plane)).reshape(3, 57, 57)
    for row, ax in enumerate(axes[:, column]):
        image = probability[row].T.tolist()
        ax.imshow(image, two_colors, origin="lower", extent=(-1.4, 1.4) * 2)
        for label, color in ((0, "C0"), (1, "C1")):
            of_class = x_train[row][y_train[row] == label]
            ax.scatter(*of_class.T.tolist(), s=0.8, color=color)
        ax.set(xticks=[], yticks=[])
        ax.set_xlabel(f"{100 * accuracy[name][row]:.0f} %", fontsize=9)
    axes[0, column].set_title(name[0].upper() + name[1:], fontsize=9)
for ax, name in zip(axes[:, 0], names, strict=True):
    ax.set_ylabel(name)
fig.savefig("regions.png")

# %% [markdown]
# Without an activation, two hidden layers separate what one straight line separates,
# which is nothing here. Tanh and ELU draw smooth borders; those of ReLU, leaky ReLU and
# maxout have corners, for they are made of straight pieces.
#
# Sigmoid got nowhere in 300 steps. It could draw such borders (you make it do so in
# exercise 3), but with the settings of the others it learns slowly: its derivative of
# 1/4 at most is multiplied into the gradient at each of the two layers, and the first
# layer hears little. This is the *vanishing gradient*, and it gets worse with each
# layer. It is the reason why ReLU and its relatives are the usual choice between
# layers, and sigmoid only where the output is a probability.
#
# ## The same in classic PyTorch
#
# | here | in classic PyTorch |
# |---|---|
# | `fl.nn.linear(1, 100)`, params beside it | `nn.Linear(1, 100)`, which owns params |
# | `fl.nn.sequential(..., fl.nn.relu, ...)` | `nn.Sequential(..., nn.ReLU(), ...)` |
# | `model.apply(params, x)` | `model(x)` |
# | `fl.value_and_grad` returns the gradient | `backward()` writes it into the params |
# | nothing to zero | `optimizer.zero_grad()` |
# | params go in, new params come out | `optimizer.step()` changes the model in place |
# | many networks at once: `fl.vmap` | a loop over models |


# %%
def classic(model, x, y):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss_function = nn.MSELoss()
    losses = []
    for _ in range(1000):
        value = loss_function(model(x), y)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.detach())
    return torch.stack(losses)


torch.manual_seed(42)
x_again = torch.rand(100, 1)
y_again = (2 * x_again - 1) ** 2 + 0.1 * torch.rand(100, 1)
torch_line = nn.Linear(1, 1)
torch_network = nn.Sequential(nn.Linear(1, 100), nn.ReLU(), nn.Linear(100, 1))
results = {
    "line": (bent_losses, classic(torch_line, x_again, y_again)),
    "network": (curve_losses, classic(torch_network, x_again, y_again)),
}
for name, both in results.items():
    here, there = ([f"{v:.6f}" for v in flat(t[::100])] for t in both)
    print(f"{name:7}  here     {here[0]} {here[1]} ... {here[-1]}")
    print(f"{name:7}  classic  {there[0]} {there[1]} ... {there[-1]}")
    assert torch.allclose(*both, rtol=1e-3)

# %% [markdown]
# ## Exercises
#
# **1.** *Swish* is `z * sigmoid(z)`. Write `swish(z)` for one number, a tensor of shape
# (), and `swish_slopes(z)` for its derivatives at all numbers of a tensor of shape
# (n,).


# %% tags=["solution"]
def swish(z):
    return z * fl.nn.sigmoid(z)


def swish_slopes(z):
    return fl.vmap(fl.grad(swish))(z)


# %% tags=["check"]
places = torch.tensor([-3.0, -0.5, 0.0, 2.0])
s = 1 / (1 + torch.exp(-places))
expected = s + places * s * (1 - s)
found = swish_slopes(places)
assert found.shape == (4,), "exercise 1: one derivative for each number"
assert torch.allclose(found, expected, atol=1e-5), (
    "exercise 1: differentiate the product"
)
print("exercise 1: slopes", [round(v, 3) for v in found.tolist()])

# %% [markdown]
# **2.** A ReLU network with two neurons can compute |x| exactly. Write its params by
# hand, `absolute`, for the model `relu_network(2)`.

# %% tags=["solution"]
absolute = (
    {"weight": torch.tensor([[1.0], [-1.0]]), "bias": torch.zeros(2)},
    (),
    {"weight": torch.ones(1, 2), "bias": torch.zeros(1)},
)

# %% tags=["check"]
some = torch.tensor([[-7.0], [-0.5], [0.0], [3.0]])
found = relu_network(2).apply(absolute, some)
assert torch.equal(found, some.abs()), "exercise 2: one neuron for each side of 0"
print("exercise 2: |x| at", flat(some), "is", flat(found))

# %% [markdown]
# **3.** Rescue the sigmoid. Write `rescue(start, x, y)` that trains
# `classifier(fl.nn.sigmoid)` from the params `start` on circles for 300 steps and
# returns the new params. Change only the optimizer's settings, until more than 95 % of
# the new points are right.


# %% tags=["solution"]
def rescue(start, x, y):
    gradient = fl.value_and_grad(cross_entropy(classifier(fl.nn.sigmoid)))
    optimizer = fl.optim.sgd(lr=1.5, momentum=0.9)  # small gradients, large steps
    params, _ = train(gradient, start, (x, y), optimizer, 300)
    return params


# %% tags=["check"]
sigmoid_model = classifier(fl.nn.sigmoid)
rescued = rescue(sigmoid_model.init(key_regions), x_train[0], y_train[0])
found = share_right(sigmoid_model, rescued, x_test[0], y_test[0])
assert found > 0.95, "exercise 3: the gradients are small, so what has to be large?"
print(f"exercise 3: {found:.2f} of the new points right")

# %% [markdown]
# **4.** Build the construction of the section on width as a network. Write
# `through(knots, heights)`: given n + 1 places in ascending order and the heights
# there, two tensors of shape (n + 1,), it returns params of `relu_network(n)` whose
# output is straight between the places and passes through all the heights. No training:
# work out what each kink has to add to the slope.


# %% tags=["solution"]
def through(knots, heights):
    slopes = heights.diff() / knots.diff()  # (n,), of the pieces
    # Before the first kink the slope is 0.
    turns = torch.cat((slopes[:1], slopes.diff()))
    hidden = {"weight": torch.ones(len(turns), 1), "bias": -knots[:-1]}
    return hidden, (), {"weight": turns[None], "bias": heights[:1]}


# %% tags=["check"]
knots = torch.tensor([-1.0, -0.2, 0.5, 1.0])
heights = torch.tensor([2.0, -1.0, 0.5, 3.0])
found = relu_network(3).apply(through(knots, heights), knots[:, None])
assert torch.allclose(found[:, 0], heights, atol=1e-5), "exercise 4: not through all"
middle = relu_network(3).apply(through(knots, heights), torch.tensor([[-0.6]]))
assert torch.allclose(middle, torch.tensor(0.5), atol=1e-5), "exercise 4: not straight"
built = {}
for width in (5, 10, 20, 40):
    knots = torch.linspace(-1, 1, width + 1)
    prediction = relu_network(width).apply(through(knots, wiggle(knots)), x_wide)
    built[width] = float(((prediction - y_wide) ** 2).mean().sqrt())
assert built[20] < built[10] / 3, "exercise 4: more pieces must come closer"
print("exercise 4: errors", {width: round(error, 4) for width, error in built.items()})
