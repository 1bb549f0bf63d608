# SPDX-License-Identifier: Apache-2.0
# %% [markdown]
# # A line that decides
#
# You sort birds into two kinds, then into three, with straight lines. You find such a
# line by the perceptron rule and by logistic regression, say how sure it is of each
# bird, and know why features are scaled first and when training has no end.

# %%
import matplotlib.pyplot as plt
import torch

import functorch_lab as fl

plt.style.use("functorch_lab.lessons.figures")

# %% [markdown]
# ## The birds
#
# Two *features* describe a bird, its leg length and its wingspan. Its kind is its
# *label*: 0 for a flamingo, 1 for a duck. This repeats a known exercise, so the birds
# come from torch's global generator with seed 0: one draw of shape (10, 2) for the
# flamingos, then one for the ducks. (`sigma * torch.randn(10, 2) + mean` is equal.)

# %%
sigma = 1.5
means = torch.tensor([[8.0, 7.0], [5.0, 3.0]])  # (kinds, features)
torch.manual_seed(0)
flamingos = torch.normal(0.0, sigma, (10, 2)) + means[0]
ducks = torch.normal(0.0, sigma, (10, 2)) + means[1]
x = torch.cat([flamingos, ducks])  # (20, 2)
y = torch.cat([torch.zeros(10), torch.ones(10)])  # (20,)
names, kinds = ["leg length", "wingspan"], {"flamingos": flamingos, "ducks": ducks}


def row(values, digits=2):
    return " ".join(f"{value:6.{digits}f}" for value in values.tolist())


for kind, birds in kinds.items():
    print(f"{kind:10} first {row(birds[0])}    mean {row(birds.mean(0))}")

# %% [markdown]
# ## Look before you train: counts and density
#
# Cut the range of one feature into intervals and count the birds of each kind. Divide
# by the number of birds and by the width of the interval and you have the *density*,
# whose area is 1: it compares with the curve of the distribution the birds come from.
# (`torch.distributions.Normal(mean, sigma)` knows the logarithm of that curve, as
# `log_prob`. In an index, `None` adds an axis, so that each bird meets each interval.)

# %%
edges = torch.arange(0.0, 13.0, 2.0)  # (7,): six intervals of width 2
fig, axes = plt.subplots(1, 2, figsize=(7, 2.8), sharey=True)
for feature, (ax, name) in enumerate(zip(axes, names, strict=True)):
    for kind, (birds, mean) in enumerate(zip(kinds.values(), means, strict=True)):
        values = birds[:, feature]
        inside = (values >= edges[:-1, None]) & (values < edges[1:, None])  # (6, 10)
        counts = inside.sum(1)
        density = counts / (len(birds) * 2.0)
        print(f"{name:10} label {kind} counts {counts.tolist()} density {row(density)}")
        look = {"color": f"C{kind}", "alpha": 0.5, "label": [*kinds][kind]}
        ax.stairs(density.tolist(), edges.tolist(), fill=True, **look)
        at, normal = torch.linspace(0, 12, 121), torch.distributions.Normal
        curve = normal(mean[feature], sigma).log_prob(at).exp()
        ax.plot(at.tolist(), curve.tolist(), f"C{kind}")
    ax.set_xlabel(name)
axes[0].set_ylabel("density (one bird: 0.05)")
axes[1].legend(loc="upper right")
fig.savefig("histograms.png")

# %% [markdown]
# ## One feature: a threshold
#
# The plainest rule compares one feature with a number. Halfway between the means of the
# two kinds is a good first choice: below it, say duck.

# %%
thresholds = (flamingos.mean(0) + ducks.mean(0)) / 2  # (2,)


def right(labels, y):
    return int((labels == y).sum())


for feature, name in enumerate(names):
    correct = right(x[:, feature] < thresholds[feature], y)
    print(f"{name:10} below {thresholds[feature]:.2f}: {correct} of {len(y)} right")

# %% [markdown]
# ## Two features: do they say the same?
#
# A second feature helps only if it tells something new. Draw each bird as a point and
# fit the line of lesson 2, wingspan from leg length: within each kind, then across
# both. (Centred leg lengths, with their mean subtracted, speed up the descent.) Ten
# birds say little, so the last column has the slopes of a thousand of each kind:
# `fl.data.birds(key, n)` draws them from a key.


# %%
def train(loss, params, x, y, lr, steps):
    for _ in range(steps):
        grads = fl.grad(loss)(params, x, y)
        params = fl.tree.map(lambda p, g: p - lr * g, params, grads)
    return params


def line_loss(params, leg, wing):
    return ((params["w"] * leg + params["b"] - wing) ** 2).mean()


def fit_line(birds):
    leg, wing = birds.unbind(1)
    start = {"w": torch.zeros(()), "b": torch.zeros(())}
    params = train(line_loss, start, leg - leg.mean(), wing, 0.1, 100)
    return params["w"], params["b"] - params["w"] * leg.mean()


many, many_y = fl.data.birds(fl.random.key(0), 1000)
groups = {"flamingos": (flamingos, many[:1000]), "ducks": (ducks, many[1000:])}
groups["both"] = (x, many)
fig, ax = plt.subplots()
for number, (name, (birds, large)) in enumerate(groups.items()):
    (slope, intercept), (slope_of_large, _) = fit_line(birds), fit_line(large)
    print(f"{name:9} slope {slope:.3f}  intercept {intercept:6.3f}", end="")
    print(f"    slope of {len(large)} birds {slope_of_large:.3f}")
    if name != "both":
        ax.scatter(*birds.T.tolist(), marker="o^"[number], label=name)
    ends = torch.stack([birds[:, 0].min(), birds[:, 0].max()])
    line = (slope * ends + intercept).tolist()
    ax.plot(ends.tolist(), line, f"C{number}", label=f"line of {name}")
ax.set(xlabel="leg length", ylabel="wingspan", title="Wingspan from leg length")
ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
fig.savefig("lines.png")

# %% [markdown]
# Within a kind the features were drawn independently: the slopes of ten birds are
# chance, those of a thousand are near 0. The slope across both is real: long legs mean
# flamingo, and flamingo means wide wings. Two features with independent errors are
# better than one. But this line predicts a number. You want one that divides the plane.
#
# ## A line that divides
#
# Give each feature a weight, add a bias, and you have a *score*: `x @ w + b`. The
# label is 1 where the score is above 0. The points of score 0 are a line, the
# *boundary*. The sigmoid, `1 / (1 + exp(-score))`, turns a score into the
# *probability* of label 1: 0.5 on the boundary, more the further a bird is on the
# ducks' side. Here is a rule for the raw features that somebody chose by hand.

# %%
by_hand = {"w": torch.tensor([-1.0, -2.0]), "b": torch.tensor(10.0)}


def score(params, x):
    return x @ params["w"] + params["b"]  # (n, 2) -> (n,)


def label(params, x):
    return (score(params, x) > 0).float()


for kind, birds in kinds.items():
    print(f"{kind:9} score", row(score(by_hand, birds)))
    print(f"{'label':>15}", row(label(by_hand, birds), 0))
    print(f"{'probability':>15}", row(torch.sigmoid(score(by_hand, birds))))
print(f"by hand: {right(label(by_hand, x), y)} of {len(y)} right")

# %% [markdown]
# It does worse than one threshold. Better numbers must come from the data.
#
# ## The perceptron rule
#
# The oldest way to learn them goes from bird to bird. If the label is right, do
# nothing. If a duck was called a flamingo, its score was too low: add its features to
# the weights and 1 to the bias. If a flamingo was called a duck, subtract them. Stop
# after a pass without a mistake. If some line makes none, the rule finds one after
# finitely many corrections. Without such a line it would never stop: hence `2000`.


# %%
def perceptron(x, y):
    params = {"w": torch.zeros(2), "b": torch.zeros(())}
    passes, corrections, mistakes = 0, 0, 1
    while mistakes and passes < 2000:
        mistakes = 0
        for bird, truth in zip(x, y, strict=True):
            error = truth - label(params, bird)  # -1, 0 or 1
            mistakes += int(error != 0)
            params = {"w": params["w"] + error * bird, "b": params["b"] + error}
        passes, corrections = passes + 1, corrections + mistakes
    print(f"{passes} passes, {corrections} corrections,", end=" ")
    print(f"{right(label(params, x), y)} of {len(y)} right, w {row(params['w'])}")
    return params


on_raw = perceptron(x, y)

# %% [markdown]
# It works, and slowly: the features are around 6, so that a correction turns the line a
# lot, and the bias has far to go in steps of 1. Smaller features would be better.
#
# ## Scaling to the interval from 0 to 1
#
# *Min-max scaling* maps the least value of each feature to 0 and the greatest to 1.
# The first line below is a common slip.


# %%
def slip(x):
    return (x - x.min()) / x.max()


proper = (x - x.amin(0)) / (x.amax(0) - x.amin(0))
versions = {"raw": x, "slip": slip(x), "slip twice": slip(slip(x)), "right": proper}
for name, values in versions.items():
    print(f"{name:10} least {row(values.amin(0))}   greatest {row(values.amax(0))}")
fresh, fresh_y = fl.data.birds(fl.random.key(1), 1000)
scaled, many_scaled, fresh_scaled = fl.data.min_max(x, many, fresh)
print(f"{len(fresh)} fresh birds: least {row(fresh_scaled.amin(0))}")
found = perceptron(scaled, y)

# %% [markdown]
# The slip has two mistakes. It divides by the greatest value and not by the span,
# greatest minus least, so nothing reaches 1. And `x.min()` is one number for all
# features, so each feature gets another interval.
#
# In a notebook the line usually reads `X = (X - X.min()) / X.max()`. Run that cell
# twice and the data change again: the least value is 0 by then, so the greatest one is
# the span, and the first mistake is gone. A function such as `slip` leaves its input
# alone.
#
# `fl.data.min_max(train, *others)` is the right line. It scales the others with the
# numbers of the first: new birds must go through the same map, and may lie outside the
# interval. The perceptron needs far fewer corrections now.
#
# ## Logistic regression
#
# The perceptron knows right and wrong, not how wrong, and stops at the first line
# without a mistake. Use the probability instead. The loss of a bird is minus the
# logarithm of the probability that the rule gives to its true kind: near 0 if it is
# sure and right, large if it is sure and wrong. This is the *binary cross entropy*.
# `fl.losses.binary_cross_entropy_with_logits(scores, y)` gives it for each bird. It
# takes scores (also called *logits*), because a probability that was rounded to 0 has
# no logarithm. Labels are floating-point numbers of the same shape: probabilities too.
#
# Its gradient is the mean of `(p - y) x`: the perceptron rule, with `p` for the label.


# %%
def loss(params, x, y):
    scores = score(params, x)
    return fl.losses.binary_cross_entropy_with_logits(scores, y).mean()


zeros = {"w": torch.zeros(2), "b": torch.zeros(())}
grads = fl.grad(loss)(zeros, scaled, y)
p = torch.sigmoid(score(zeros, scaled))
formula = ((p - y)[:, None] * scaled).mean(0)
print(f"gradient {row(grads['w'], 4)}   by the formula {row(formula, 4)}")
logistic, done = zeros, 0
for more in (100, 900, 2000):
    logistic, done = train(loss, logistic, scaled, y, 5.0, more), done + more
    value, size = loss(logistic, scaled, y), logistic["w"].norm()
    wrong = len(y) - right(label(logistic, scaled), y)
    print(f"{done:4} steps: loss {value:.4f}  |w| {size:5.2f}  mistakes {wrong}")

# %% [markdown]
# ## A minimum that is nowhere
#
# The loss falls, the weights grow, and neither ends. These twenty birds are
# *separable*: a line divides them without a mistake. Double its weights and its bias.
# The line stays, each probability moves towards the truth, and the loss is smaller. So
# the best weights are infinite, and those that you print depend on when you stopped.
#
# An *L2 penalty*, a price on large weights, makes the answer unique: add
# `0.5 * penalty * |w|²` to the loss. (The logistic regression of scikit-learn has one
# unless you switch it off, in the form of its `C = 1 / (penalty * n)`.)

# %%
penalty = 0.01


def penalised_loss(params, x, y):
    return loss(params, x, y) + 0.5 * penalty * (params["w"] ** 2).sum()


penalised = train(penalised_loss, zeros, scaled, y, 2.0, 600)

# %% [markdown]
# ## Decision regions
#
# Ask the rule about every point of the plane and colour it by the answer. The black
# line is the boundary. Then ask about the fresh birds, which no rule has seen. As you
# know where they come from, you know the best line: halfway between the means.
# `torch.special.ndtr` is the share of a normal distribution below a number.

# %%
side = torch.linspace(-0.2, 1.2, 141)
plane = torch.stack(torch.meshgrid(side, side, indexing="xy"), -1)  # (141, 141, 2)
grid, tenths = [side.tolist()] * 2, [tenth / 10 for tenth in range(11)]
rules = {"perceptron": found, "logistic": logistic, "with a penalty": penalised}
fig, axes = plt.subplots(1, 3, figsize=(7, 2.9), sharex=True, sharey=True)
for ax, (name, params) in zip(axes, rules.items(), strict=True):
    p = torch.sigmoid(score(params, plane)).tolist()  # (141, 141)
    ax.contourf(*grid, p, tenths, cmap="coolwarm", alpha=0.6)
    ax.contour(*grid, p, [0.5], colors="black")
    ax.scatter(*scaled[:10].T.tolist(), edgecolors="white")
    ax.scatter(*scaled[10:].T.tolist(), marker="^", edgecolors="white")
    ax.set(xlabel="leg length, scaled", title=name.capitalize(), aspect="equal")
axes[0].set_ylabel("wingspan, scaled")
shades = axes[0].collections[0]
fig.colorbar(shades, ax=axes, label="probability of a duck", shrink=0.7)
fig.savefig("regions.png")

apart = (means[0] - means[1]).norm() / (2 * sigma)  # mean to line, in sigmas
for name, params in rules.items():
    share = right(label(params, fresh_scaled), fresh_y) / len(fresh)
    print(f"{name:14} {share:.3f} of the fresh birds right")
print(f"best line      {torch.special.ndtr(apart):.3f}, from the normal distribution")

# %% [markdown]
# Without a penalty the rule is very sure: its colours change within a narrow strip. It
# has the least loss and is the worst of the three. The penalty gives up one bird of the
# twenty and gains on others.
#
# ## More than two kinds: a score for each
#
# With three kinds, each has its own weights and its own bias: a matrix `weight` of
# shape (kinds, features), as in `fl.nn.linear`, and three biases. A bird has three
# scores, and its label is the number of the largest, which `argmax` finds.
#
# There are two ways to turn them into probabilities. *One versus all* asks three
# questions, "this kind, or any other?", and answers each with a sigmoid; nothing makes
# the answers add up to 1. *Softmax* divides `exp(score)` by its sum over the kinds:
# positive numbers that add up to 1, as `torch.softmax(scores, -1)` does along an axis.

# %%
weight = torch.tensor([[0.2, 0.5], [2.1, -1.3], [-3.0, -2.2]])  # (kinds, features)
bias = torch.tensor([0.5, -0.2, 4.1])
z = weight @ torch.tensor([0.5, 1.0]) + bias  # (3,)
print("scores          ", row(z, 4), "  label", int(z.argmax()))
for name, shown in {
    "one versus all": torch.sigmoid(z),
    "softmax": torch.exp(z) / torch.exp(z).sum(),
    "slip: exp(-z)": torch.softmax(-z, -1),
    "slip: minus lost": torch.softmax(z * torch.tensor([1.0, -1.0, 1.0]), -1),
}.items():
    print(f"{name:16} {row(shown, 4)}   sum {shown.sum():.4f}  label {shown.argmax()}")

# %% [markdown]
# The last two are slips of the sign that one finds in print. The sigmoid has a minus in
# its exponent, softmax has none: with `exp(-z)` the order is turned round, and the
# *least* score wins. In the last row the minus of the second score was lost, so its
# kind gets about twice its share. Both still add up to 1.
#
# ## Training three kinds
#
# Gulls join, with short legs and wide wings: label 2. For one versus all,
# `torch.nn.functional.one_hot` turns a label into three yes-or-no labels, and the loss
# is the sum of three binary cross entropies. For softmax, `fl.losses.cross_entropy` is
# minus the logarithm of the true kind's share; it takes scores and integer labels. The
# model is that of lesson 4. A line in the left figure is where one of the three
# questions is answered with 0.5.

# %%
gulls = torch.tensor([4.0, 9.0]) + sigma * fl.random.normal(fl.random.key(2), (10, 2))
(three,) = fl.data.min_max(torch.cat([x, gulls]))
three_y = torch.arange(3).repeat_interleave(10)  # (30,): ten times 0, then 1, then 2
model = fl.nn.linear(2, 3)


def softmax_loss(params, x, y):
    return fl.losses.cross_entropy(model.apply(params, x), y).mean()


def versus_loss(params, x, y):
    targets = torch.nn.functional.one_hot(y, 3).float()  # (n, 3)
    scores = model.apply(params, x)
    return fl.losses.binary_cross_entropy_with_logits(scores, targets).sum(-1).mean()


start = model.init(fl.random.key(3))
by_versus = train(versus_loss, start, three, three_y, 2.0, 500)
by_softmax = train(softmax_loss, start, three, three_y, 2.0, 500)
fig, axes = plt.subplots(1, 2, figsize=(7, 3.2), sharex=True, sharey=True)
both = {"one versus all": by_versus, "softmax": by_softmax}
for ax, (name, params) in zip(axes, both.items(), strict=True):
    correct = right(model.apply(params, three).argmax(-1), three_y)
    print(f"{name:14} {correct} of {len(three)} right")
    scores = model.apply(params, plane)  # (141, 141, 3)
    regions, fills = scores.argmax(-1).tolist(), ["C0", "C1", "C2"]
    ax.contourf(*grid, regions, [-0.5, 0.5, 1.5, 2.5], colors=fills, alpha=0.25)
    for kind, kind_name in enumerate(["flamingos", "ducks", "gulls"]):
        if params is by_versus:
            ax.contour(*grid, scores[..., kind].tolist(), [0], colors=fills[kind])
        birds = three[three_y == kind].T.tolist()
        ax.scatter(*birds, marker="o^s"[kind], edgecolors="white", label=kind_name)
    ax.set(xlabel="leg length, scaled", title=name.capitalize(), aspect="equal")
axes[0].set_ylabel("wingspan, scaled")
axes[1].legend(loc="center left", bbox_to_anchor=(1, 0.5), handletextpad=0.1)
fig.savefig("three_kinds.png")

# %% [markdown]
# ## argmax along the wrong axis
#
# The scores of thirty birds have the shape (30, 3), and `argmax(-1)` runs along the
# kinds: a label for each bird. `argmax(0)` runs along the birds: for each kind, the
# number of the bird most like it. The shape tells, unless there are three birds.

# %%
scores = model.apply(by_softmax, three)  # (30, 3)
few = scores[[20, 1, 11]]  # a gull, a flamingo, a duck: labels 2, 0, 1
print("thirty birds:", scores.argmax(-1).shape, "but argmax(0)", scores.argmax(0))
print("three birds: ", few.argmax(-1), "       but argmax(0)", few.argmax(0))

# %% [markdown]
# ## The same in classic PyTorch
#
# | here | in classic PyTorch |
# | --- | --- |
# | `{"w": ..., "b": ...}`, `x @ w + b` | `nn.Linear(2, 1)`, `net(x).squeeze(1)` |
# | `binary_cross_entropy_with_logits`, `.mean()` | `nn.BCEWithLogitsLoss()` |
# | `cross_entropy`, `.mean()` | `nn.CrossEntropyLoss()`, without a softmax before it |
# | `0.5 * penalty * (params["w"] ** 2).sum()` | `weight_decay=penalty`, for weights |

# %%
net = torch.nn.Linear(2, 1)
torch.nn.init.zeros_(net.weight)
torch.nn.init.zeros_(net.bias)
groups = [{"params": [net.weight], "weight_decay": penalty}, {"params": [net.bias]}]
sgd, criterion = torch.optim.SGD(groups, lr=2.0), torch.nn.BCEWithLogitsLoss()
for _ in range(600):
    sgd.zero_grad()
    criterion(net(scaled).squeeze(1), y).backward()
    sgd.step()
print("here    w", row(penalised["w"], 3), "  b", row(penalised["b"][None], 3))
print("classic w", row(net.weight[0], 3), "  b", row(net.bias, 3))
torch.testing.assert_close(net.weight[0].detach(), penalised["w"], rtol=1e-4, atol=0)

# %% [markdown]
# ## Exercises
#
# **1.** Halfway between the means is not the best place. Write `threshold(values, y)`,
# the number with the most birds right, if label 1 lies below it.


# %% tags=["solution"]
def threshold(values, y):
    ordered = values.sort().values
    between = (ordered[1:] + ordered[:-1]) / 2  # (n - 1,)
    correct = ((values < between[:, None]) == y).sum(1)
    return between[correct.argmax()]


# %% tags=["check"]
chosen = [threshold(x[:, feature], y) for feature in range(2)]
counts = [right(x[:, i] < number, y) for i, number in enumerate(chosen)]
assert counts == [20, 18], "exercise 1: another number has more birds right"
print(f"exercise 1: {counts} right, below {chosen[0]:.2f} and {chosen[1]:.2f}")

# %% [markdown]
# **2.** A rule for scaled birds is no use to somebody with a ruler. Write
# `unscale(params, train)`, the params that give the same scores to raw birds, where the
# extremes of `train` gave the scale. The check trains on the large sample, where kinds
# overlap and a minimum exists, near the weights of the best line.


# %% tags=["solution"]
def unscale(params, train):
    least, greatest = train.amin(0), train.amax(0)
    w = params["w"] / (greatest - least)
    return {"w": w, "b": params["b"] - least @ w}


# %% tags=["check"]
of_many = train(loss, zeros, many_scaled, many_y.float(), 5.0, 1000)
unscaled = unscale(of_many, x)
apart = (score(unscaled, fresh) - score(of_many, fresh_scaled)).abs().max()
assert apart < 1e-3, "exercise 2: put (x - least) / span into the score, expand"
true_w = (means[1] - means[0]) / sigma**2
print(f"exercise 2: w {row(unscaled['w'])}   the best line {row(true_w)}")

# %% [markdown]
# **3.** Of all lines without a mistake, find the one in the middle of the widest
# street: its *margin*, the distance of the nearest bird, is the largest. Write
# `widest(x, y)`, its params. Only the direction of `w` is hard to find, and in the
# plane a direction is an angle. (Logistic regression turns there, slowly.)


# %% tags=["solution"]
def widest(x, y):
    angle = torch.linspace(-torch.pi, torch.pi, 20001)
    directions = torch.stack([angle.cos(), angle.sin()], -1)  # (angles, 2)
    along = directions @ x.T  # (angles, birds)
    lowest, highest = along[:, y == 1].amin(1), along[:, y == 0].amax(1)
    best = (lowest - highest).argmax()
    return {"w": directions[best], "b": -(lowest + highest)[best] / 2}


# %% tags=["check"]
def margin(params):
    return float((score(params, scaled) * (2 * y - 1)).min() / params["w"].norm())


street = widest(scaled, y)
assert margin(street) > 0.025, "exercise 3: a wider street exists"
print(f"exercise 3: margin {margin(street):.4f}, of the perceptron", end=" ")
print(f"{margin(found):.4f}, of logistic regression {margin(logistic):.4f}")
