# SPDX-License-Identifier: Apache-2.0
# %% [markdown]
# # Hyperparameters, and the gradient of each sample
#
# You choose what training can't learn: learning rate, momentum, batch size, width and
# depth. All networks of one shape are trained at once by `fl.vmap`. Then you take one
# step beyond: the gradient of each single sample, which shows which samples are hard,
# and which labels are wrong.

# %%
import time

import matplotlib.pyplot as plt
import torch

import functorch_lab as fl

plt.style.use("functorch_lab.lessons.figures")

# %% [markdown]
# ## What is chosen, and on which data
#
# Parameters are found by gradients. *Hyperparameters* are what you fix before: the
# learning rate has no gradient here, you try values and look. What you look at must be
# the *validation* samples. On the training samples the largest network always looks
# best, and the test samples are for one look at the end.

# %%
digits = fl.data.digits(validation=0.2)
x, y = digits.train
x_valid, y_valid = digits.validation
print("training", tuple(x.shape), "validation", tuple(x_valid.shape))


def loss(layer, params, x, y):
    return fl.losses.cross_entropy(layer.apply(params, x), y).mean()


def accuracy(layer, params, x, y):
    return (layer.apply(params, x).argmax(-1) == y).float().mean()


# %% [markdown]
# ## A step of many networks
#
# A step of SGD with momentum, as in lesson 8. There is nothing in it about many
# networks. The learning rate and the momentum are numbers in the optimizer's state, and
# `fl.optim.set_hyperparams` replaces them there.
#
# `fl.vmap` makes the step of a *population* from it: every parameter and everything in
# the state, so also every learning rate, gets a leading axis with one entry per
# network. The batch has none (`None`), because all networks see the same samples.

# %%
optimizer = fl.optim.sgd(lr=0.1, momentum=0.9)


def make_population_step(layer):
    def step(params, opt_state, x, y):
        value, grads = fl.value_and_grad(lambda p: loss(layer, p, x, y))(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return fl.optim.apply_updates(params, updates), opt_state, value

    return fl.vmap(step, in_dims=(0, 0, None, None))


def start_state(params, lr, momentum):
    state = optimizer.init(params)
    return fl.optim.set_hyperparams(state, lr=lr, momentum=momentum)


def train(layer, params, lr, momentum, *, batch_size=64, epochs=6, seed=1):
    """Train a population: params, lr and momentum have a leading axis."""
    step = make_population_step(layer)
    opt_state = fl.vmap(start_state)(params, lr, momentum)
    values = []
    for epoch in range(epochs):
        key = fl.random.fold_in(fl.random.key(seed), epoch)
        for batch in fl.data.batches(key, (x, y), batch_size):
            params, opt_state, value = step(params, opt_state, *batch)
            values.append(value)
    return params, torch.stack(values, dim=1)  # losses: (networks, steps)


def validate(layer, params):
    """The accuracy of each network of a population on the validation samples."""
    return fl.vmap(lambda p: accuracy(layer, p, x_valid, y_valid))(params)


# %% [markdown]
# ## The learning rate
#
# Nineteen networks start at the same parameters and see the same batches in the same
# order. Only the learning rate differs: from 0.001 to 10, each the same factor larger
# than the one before, because what matters about a learning rate is its order of
# magnitude.

# %%
layer = fl.nn.mlp(64, [32], 10)
start = layer.init(fl.random.key(0))
lrs = torch.logspace(-3, 1, 19)
began = time.perf_counter()
swept, curves = train(layer, fl.tree.stack([start] * 19), lrs, torch.full((19,), 0.9))
seconds_population = time.perf_counter() - began
swept_accuracy = validate(layer, swept)

for i in range(0, 19, 3):
    final = curves[i, -16:].mean()  # a network that guesses has loss log 10 = 2.3
    outcome = f"loss {final:.3f}, validated {swept_accuracy[i]:.3f}"
    print(f"lr {lrs[i]:7.4f}: {outcome if final < 2.3 else 'unstable'}")
best = int(swept_accuracy.argmax())
print(f"best: lr {lrs[best]:.3f}, validated {swept_accuracy[best]:.3f}")
print(f"all {len(lrs)} networks in {seconds_population:.2f} s")

# %% [markdown]
# Too small a rate does not arrive in the time that it has. Too large a rate leaves the
# valley, and the network guesses. Between them lies a broad range that works. The
# curves of all networks show it better than the table.

# %%
fig, (left, right) = plt.subplots(1, 2, gridspec_kw={"width_ratios": [1.3, 1]})
colours = plt.get_cmap("viridis")(torch.linspace(0, 0.95, 19).numpy())
for curve, colour in zip(curves, colours, strict=True):
    smooth = curve.clamp(max=10).unfold(0, 8, 1).mean(-1)  # of 8 steps in a row
    left.plot(smooth.numpy(), color=colour, lw=1.2)
left.set(yscale="log", ylim=(0.01, 12), xlabel="step", ylabel="loss, mean of 8 steps")
left.set_title("all training curves")
right.scatter(lrs.numpy(), swept_accuracy.numpy(), c=colours, s=30, zorder=3)
right.plot(lrs.numpy(), swept_accuracy.numpy(), color="0.7", lw=1)
right.set(xscale="log", xlabel="learning rate", ylabel="validation accuracy")
right.set_title("what came out, same colours")
fig.savefig("learning_rates.png")

# %% [markdown]
# ## Is a difference real?
#
# Two settings differ by half a percent: is one better, or was it lucky? Train one
# setting from several random starts. A leading axis of keys gives a leading axis of
# parameters.

# %%
seeds = 16
starts = fl.vmap(layer.init)(fl.random.split(fl.random.key(2), seeds))
constant = torch.full((seeds,), float(lrs[best]))
seeded, _ = train(layer, starts, constant, torch.full((seeds,), 0.9))
seed_accuracy = validate(layer, seeded)
mean, spread = seed_accuracy.mean(), seed_accuracy.std()
print(f"{seeds} seeds: mean {mean:.4f}, standard deviation {spread:.4f}")
print(f"worst {seed_accuracy.min():.4f}, best {seed_accuracy.max():.4f}")

# %% [markdown]
# Whoever reports the best seed of one setting against one seed of another reports luck.
# Differences below about two standard deviations say nothing.

# %% [markdown]
# ## The batch size
#
# Networks that see batches of different sizes can't share a step: their arrays have
# different shapes. So there is one population per batch size, and in each population
# every network has its own learning rate. All see every sample equally often.

# %%
sizes = (16, 64, 256)
size_lrs = torch.logspace(-2.5, 0.5, 10)
momenta = torch.full((10,), 0.9)
by_size = {}
for size in sizes:
    population = fl.tree.stack([start] * len(size_lrs))
    trained, values = train(layer, population, size_lrs, momenta, batch_size=size)
    by_size[size] = validate(layer, trained)
    at = int(by_size[size].argmax())
    print(
        f"batch {size:3}: {values.shape[1]:3} steps, best lr {size_lrs[at]:.3f}, "
        f"validated {by_size[size][at]:.3f}"
    )

# %% [markdown]
# A small batch makes many steps, each with a noisy gradient, and wants a small learning
# rate. A large batch makes few steps and wants larger ones. Change the batch size and
# you must look for the learning rate again: that is why the two are searched together.

# %%
fig, ax = plt.subplots(figsize=(7, 3))
for size, found in by_size.items():
    ax.plot(size_lrs.numpy(), found.numpy(), "o-", label=f"batch of {size}")
ax.set(xscale="log", xlabel="learning rate", ylabel="validation accuracy")
ax.legend(loc="lower center")
fig.savefig("batch_sizes.png")

# %% [markdown]
# ## Width and depth
#
# The same for the shape of the network: one population per shape, five learning rates
# in each, and the best of them counts. A comparison of shapes at one learning rate
# would compare how well that rate fits each shape.

# %%
shapes = ([], [4], [16], [64], [16, 16], [64, 64], [16, 16, 16, 16])
shape_lrs = torch.logspace(-2.2, -0.6, 5)
momenta = torch.full((5,), 0.9)
shape_accuracy = {}
for hidden in shapes:
    shaped = fl.nn.mlp(64, hidden, 10)
    population = fl.tree.stack([shaped.init(fl.random.key(3))] * 5)
    trained, _ = train(shaped, population, shape_lrs, momenta, epochs=5)
    size = fl.tree.size(population) // 5
    found = shape_accuracy[str(hidden)] = float(validate(shaped, trained).max())
    print(f"hidden {hidden!s:17} {size:5} parameters, validated {found:.3f}")

# %% [markdown]
# Four hidden numbers are too few to tell ten digits apart. Four narrow layers after one
# another need more steps than they had here. Between the others the differences are
# small, about the spread of the seeds above, and no hidden layer at all is nearly as
# good: these images are easy. Begin with a usual shape, and spend your time on the
# learning rate.

# %% [markdown]
# ## Grid or random
#
# Two hyperparameters, learning rate and momentum, and 25 runs. A *grid* tries five
# values of each. *Random search* draws each run's values: the learning rate by its
# logarithm, the momentum uniformly. All 50 networks have one shape, so they are one
# population.

# %%
grid_lr, grid_momentum = (
    v.flatten()
    for v in torch.meshgrid(
        torch.logspace(-3, 0, 5), torch.linspace(0.0, 0.96, 5), indexing="ij"
    )
)
key_lr, key_momentum = fl.random.split(fl.random.key(4), 2)
random_lr = 10 ** fl.random.uniform(key_lr, (25,), minval=-3.0, maxval=0.0)
random_momentum = fl.random.uniform(key_momentum, (25,), minval=0.0, maxval=0.96)

search_lr = torch.cat([grid_lr, random_lr])
search_momentum = torch.cat([grid_momentum, random_momentum])
searched, _ = train(layer, fl.tree.stack([start] * 50), search_lr, search_momentum)
search_accuracy = validate(layer, searched)
for name, part in (("grid", slice(0, 25)), ("random", slice(25, 50))):
    found = search_accuracy[part]
    at = int(found.argmax())
    print(
        f"{name:7} best {found[at]:.3f} at lr {search_lr[part][at]:.3f}, momentum "
        f"{search_momentum[part][at]:.2f}; {len(search_lr[part].unique())} learning "
        "rates tried"
    )

# %%
fig, axes = plt.subplots(1, 2, sharex=True, sharey=True)
parts = {"grid search": slice(0, 25), "random search": slice(25, 50)}
for ax, (name, part) in zip(axes, parts.items(), strict=True):
    place = search_lr[part].numpy(), search_momentum[part].numpy()
    found = search_accuracy[part].numpy()
    ax.scatter(*place, c=found, s=70, vmin=0.85, vmax=0.98)
    ax.set(xscale="log", title=name, xlabel="learning rate")
axes[0].set_ylabel("momentum")
colours_of = axes[0].collections[0]
fig.colorbar(colours_of, ax=axes, label="validation accuracy", extend="min")
fig.savefig("search.png")

# %% [markdown]
# With the same number of runs the random search has tried 25 learning rates and the
# grid five. When one hyperparameter matters more than the other, and you rarely know
# which, the random search has looked at the important one more closely. The picture
# also shows that the two belong together: with a large momentum, a smaller learning
# rate is enough, since a step of momentum adds up the ones before.
#
# The search is over. Now, once, the test samples.

# %%
chosen = int(search_accuracy.argmax())
winner = fl.tree.map(lambda leaf: leaf[chosen], searched)
test_accuracy = accuracy(layer, winner, *digits.test)
print(f"validated {search_accuracy[chosen]:.3f}, tested {test_accuracy:.3f}")

# %% [markdown]
# The accuracy on the validation samples is the best of 50, so a part of it is luck, and
# the test tells the truth. That is what it is kept for.

# %% [markdown]
# ## The gradient of each sample
#
# The gradient of a batch is a mean, and a mean hides what it is made of. `fl.grad` of
# the loss of *one* sample, mapped over the samples by `fl.vmap`, gives every sample's
# own gradient. Its length says how much this sample wants to change the network.
#
# To see what it is good for, spoil some labels on purpose: 54 of the 1078 samples, 5 %,
# get another digit. Then train on them as if nothing had happened, for a short time.

# %%
key_which, key_digit = fl.random.split(fl.random.key(5), 2)
planted = fl.random.permutation(key_which, len(y))[:54]
y_spoiled = y.clone()
y_spoiled[planted] = (y[planted] + fl.random.randint(key_digit, (54,), 1, 10)) % 10
print("labels changed:", int((y_spoiled != y).sum()), "of", len(y))

# A population of one, on the spoiled labels.
y_true, y = y, y_spoiled
spoiled, _ = train(
    layer, fl.tree.stack([start]), lrs[best : best + 1] / 3, torch.tensor([0.9])
)
y = y_true
params = fl.tree.map(lambda leaf: leaf[0], spoiled)


def sample_loss(params, x, y):
    return fl.losses.cross_entropy(layer.apply(params, x), y)


grads = fl.vmap(fl.grad(sample_loss), in_dims=(None, 0, 0))(params, x, y_spoiled)
norms = fl.vmap(fl.tree.norm)(grads)
print("first layer's gradients:", tuple(grads[0]["weight"].shape))
print(f"length: median {norms.median():.2f}, largest {norms.max():.2f}")

# %% [markdown]
# Sort the samples by this length. If it knew nothing, one in twenty of the samples at
# the top would have a wrong label.

# %%
order = norms.argsort(descending=True)
is_wrong = y_spoiled != y
found_wrong = int(is_wrong[order[:54]].sum())
print(f"wrong labels among the 54 longest gradients: {found_wrong}")

fig, (left, right) = plt.subplots(1, 2)
bins = torch.linspace(0, float(norms.max()), 30).tolist()
left.hist(norms[~is_wrong].tolist(), bins=bins, label="right label", alpha=0.8)
left.hist(norms[is_wrong].tolist(), bins=bins, label="wrong label", alpha=0.8)
left.set(yscale="log", xlabel="length of the gradient", ylabel="samples")
left.legend()
share = is_wrong[order].cumsum(0) / 54
right.plot(range(1, len(y) + 1), share.numpy())
right.plot([0, len(y)], [0, 1], "--", color="C6", lw=1, label="at random")
right.set(xlabel="samples looked at, longest first", ylabel="wrong labels found")
right.legend()
fig.savefig("wrong_labels.png")

# %% [markdown]
# Why does it work? The loss of a sample is `-log p[label]`, and you know from lesson 7
# that its slope with respect to the scores is `p - onehot`: the probabilities, minus
# one at the label. This is exactly the gradient of the last bias. Its length is near 0
# when the network agrees with the label, and near √2 when it is sure of another digit.
# The other gradients are this vector, handed back through the network.

# %%
p = fl.nn.softmax(layer.apply(params, x))
slope = p - torch.nn.functional.one_hot(y_spoiled, 10)
last_bias = grads[2]["bias"]
same = torch.allclose(last_bias, slope, atol=1e-5)
print("gradient of the last bias is p - onehot:", same)
print(f"longest p - onehot: {slope.norm(dim=1).max():.3f}")

# %% [markdown]
# Some samples with the *right* label have long gradients as well. They are the hard
# ones. Look at them: a person would hesitate too.

# %%
hard = order[~is_wrong[order]][:6]
easy = order[~is_wrong[order]].flip(0)[:6]
pixels = fl.data.digits(validation=0.2, standardize=False).train[0].reshape(-1, 8, 8)
fig, axes = plt.subplots(2, 6, figsize=(7, 3))
for row, indices, name in ((0, hard, "hard"), (1, easy, "easy")):
    for ax, i in zip(axes[row], indices.tolist(), strict=True):
        ax.imshow(pixels[i].numpy(), cmap="gray_r")
        ax.set(xticks=[], yticks=[])
        ax.set_title(f"{int(y[i])}, seen as {int(p[i].argmax())}")
    axes[row][0].set_ylabel(name)
fig.savefig("hard_samples.png")

# %% [markdown]
# ## The same in classic PyTorch
#
# | here | in classic PyTorch |
# |---|---|
# | all learning rates: `fl.vmap(step)` | a loop, with a model and an optimizer each |
# | 19 networks: one tree with a leading axis | a list of 19 modules |
# | `fl.optim.set_hyperparams(state, lr=lr)` | `param_group["lr"] = lr` |
# | 16 starts: `fl.vmap(layer.init)(keys)` | `torch.manual_seed`, 16 constructors |
# | `fl.vmap(fl.grad(sample_loss))` | a loop of `backward()`, one sample each |
#
# The loop trains one network of the population, with the same start and batches.

# %%
module = torch.nn.Sequential(
    torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10)
)
module.load_state_dict(
    {f"{i}.{name}": start[i][name] for i in (0, 2) for name in ("weight", "bias")}
)
classic = torch.optim.SGD(module.parameters(), lr=float(lrs[8]), momentum=0.9)
classic_losses = []
began = time.perf_counter()
for epoch in range(6):
    key = fl.random.fold_in(fl.random.key(1), epoch)
    for x_batch, y_batch in fl.data.batches(key, (x, y), 64):
        classic.zero_grad()
        value = torch.nn.functional.cross_entropy(module(x_batch), y_batch)
        value.backward()
        classic.step()
        classic_losses.append(value.item())
seconds_one = time.perf_counter() - began

apart = (curves[8] - torch.tensor(classic_losses)).abs().max()
print(f"lr {lrs[8]:.4f}, first and last loss")
print(f"  in the population  {curves[8, 0]:.4f} {curves[8, -1]:.4f}")
print(f"  by itself          {classic_losses[0]:.4f} {classic_losses[-1]:.4f}")
assert apart < 1e-3
print(f"one classic network takes {seconds_one:.2f} s,")
print(f"19 of ours at once take   {seconds_population:.2f} s")

# %% [markdown]
# ## Exercises
#
# **1.** The random search drew learning rates by their logarithm. Write
# `log_uniform(key, n, low, high)`, which returns `n` such numbers between `low` and
# `high`, so that each factor of ten gets its equal share.


# %% tags=["solution"]
def log_uniform(key, n, low, high):
    ends = torch.tensor([low, high]).log()
    return (ends[0] + (ends[1] - ends[0]) * fl.random.uniform(key, (n,))).exp()


# %% tags=["check"]
drawn = log_uniform(fl.random.key(6), 3000, 1e-4, 1e-1)
assert drawn.shape == (3000,), "exercise 1: n numbers, please"
assert drawn.min() >= 0.99e-4, "exercise 1: some are below low"
assert drawn.max() <= 1.01e-1, "exercise 1: some are above high"
third = (drawn < 1e-3).float().mean()
assert abs(third - 1 / 3) < 0.04, "exercise 1: a third should be below 0.001"
print(f"exercise 1: {third:.2f} of the numbers are below 0.001")

# %% [markdown]
# **2.** Sixteen networks were trained to measure luck, and now lie about. Let them
# vote: write `vote(params, x)`, which returns the digits that the *mean* of the
# networks' probabilities gives. `params` is the tree with the leading axis.


# %% tags=["solution"]
def vote(params, x):
    probabilities = fl.vmap(lambda p: fl.nn.softmax(layer.apply(p, x)))(params)
    return probabilities.mean(0).argmax(-1)


# %% tags=["check"]
votes = vote(seeded, x_valid)
assert votes.shape == y_valid.shape, "exercise 2: one digit per sample"
vote_accuracy = (votes == y_valid).float().mean()
assert vote_accuracy >= mean, "exercise 2: worse than the mean of the networks?"
print(f"exercise 2: together {vote_accuracy:.4f}, alone {mean:.4f} on average")

# %% [markdown]
# **3.** Most runs of a search are hopeless after one epoch. *Successive halving* stops
# them: train all for one epoch, keep the better half, train these for two more epochs,
# keep the better half, and so on, twice as many epochs each time. Write
# `halving(params, lr, momentum, rounds)`, which returns the parameters and the learning
# rates of the survivors. (Begin the momentum anew in each round; use another `seed` of
# `train` for each.) How much work does it save against training all to the end?


# %% tags=["solution"]
def halving(params, lr, momentum, rounds):
    for number in range(rounds):
        params, _ = train(
            layer, params, lr, momentum, epochs=2**number, seed=10 + number
        )
        keep = validate(layer, params).argsort(descending=True)[: len(lr) // 2]
        params = fl.tree.map(lambda leaf, keep=keep: leaf[keep], params)
        lr, momentum = lr[keep], momentum[keep]
    return params, lr


# %% tags=["check"]
population = fl.tree.stack([start] * 25)
survivors, survivor_lrs = halving(population, random_lr, random_momentum, 3)
assert len(survivor_lrs) == 3, "exercise 3: 25 networks, halved three times, leave 3"
survived = validate(layer, survivors)
assert survived.max() > 0.93, "exercise 3: the survivors should be good"
print(f"exercise 3: survivors validated {[round(v, 3) for v in survived.tolist()]}")
