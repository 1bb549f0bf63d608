# SPDX-License-Identifier: Apache-2.0
# %% [markdown]
# # Losses
#
# You learn what the usual losses measure, how each of them pulls at a prediction, and
# which one to take for which task. A loss is what you ask for; training does the rest,
# and it does what you asked, not what you meant.

# %%
import matplotlib.pyplot as plt
import torch
from torch import nn

import functorch_lab as fl

plt.style.use("functorch_lab.lessons.figures")

# %% [markdown]
# ## One prediction, two errors
#
# You forecast 23.5 degrees, and the day has 25. The error is -1.5 degrees. Its square
# is 2.25, its absolute value 1.5. The means of these over many samples are the two most
# common losses for numbers: MSE, the *mean squared error*, and MAE, the *mean absolute
# error*.

# %%
prediction, target = torch.tensor(23.5), torch.tensor(25.0)
print("squared error: ", fl.losses.squared_error(prediction, target).item())
print("absolute error:", fl.losses.absolute_error(prediction, target).item())

predictions = torch.tensor([23.5, 19.0, 21.5, 30.0])
targets = torch.tensor([25.0, 18.0, 22.0, 24.0])
errors = predictions - targets
print("errors:", errors.tolist())
print("MSE:   ", fl.losses.mse(predictions, targets).item())
print("MAE:   ", fl.losses.mae(predictions, targets).item())
print(f"share of the last day in MSE: {errors[3] ** 2 / (errors**2).sum():.0%}")
print(f"share of the last day in MAE: {errors[3].abs() / errors.abs().sum():.0%}")

# %% [markdown]
# MAE is in degrees, MSE in degrees squared, and its root is in degrees again. The one
# bad day is nearly all of the MSE, but two thirds of the MAE. So you choose how much
# one large error counts.
#
# One slip before you go on. A model often returns the shape (4, 1) where the targets
# have (4,). By hand, this silently compares each prediction with *each* target. The
# losses of this library refuse.

# %%
column = predictions[:, None]
print("wrong:", ((column - targets) ** 2).mean().item(), end=", ")
print("over the shape", tuple((column - targets).shape), "in place of (4,)")
try:
    fl.losses.mse(column, targets)
except ValueError as error:
    print(error)

# %% [markdown]
# ## How hard a loss pulls
#
# Training does not see the loss, it sees its gradient. The squared error pulls in
# proportion to the error: twice as far away, twice as hard. The absolute error pulls
# with the same force from everywhere, 1 or -1. The *Huber loss* is half the square up
# to `delta`, which is 1 here, and straight beyond. It settles softly, and no sample
# pulls harder than `delta`.

# %%
losses = {
    "squared": fl.losses.squared_error,
    "absolute": fl.losses.absolute_error,
    "Huber": fl.losses.huber,
}
grid = torch.linspace(-3, 3, 601)
truth = torch.zeros_like(grid)
pulls = {}
fig, axes = plt.subplots(1, 2)
for (name, loss), style in zip(losses.items(), ("-", "--", ":"), strict=True):
    pulls[name] = fl.vmap(fl.grad(loss))(grid, truth)
    axes[0].plot(grid.tolist(), loss(grid, truth).tolist(), style, label=name)
    axes[1].plot(grid.tolist(), pulls[name].tolist(), style, label=name)
axes[0].set(xlabel="error", ylabel="loss", title="The loss", ylim=(-0.2, 5))
axes[1].set(xlabel="error", ylabel="slope of the loss", title="Its gradient: the pull")
axes[0].legend(loc="upper center")
fig.savefig("pulls.png")

# %% [markdown]
# ## What an outlier does
#
# Five waiting times, one of them wrong, and one number that is to describe them all.
# The best number for MSE is the mean: there the pulls cancel. The best for MAE is the
# *median*, the one in the middle: there as many samples pull up as down, and how far
# away they are does not matter.
#
# It is the same with a line. The last of these points is a failure of the instrument.
# Each loss gets its line by gradient descent, with a learning rate that falls to 0:
# near its goal the absolute error still pulls at full force, and would jump to and fro.
# (`fl.tree.add_scaled(params, c, grads)` is `p + c * g` for each leaf.)

# %%
waits = torch.tensor([2.0, 3.0, 3.5, 4.4, 19.0])
constants = torch.linspace(0, 12, 1201)
tried = constants[:, None].expand(1201, 5)  # each number, against each of the times
best = {}
for name, loss in losses.items():
    means = loss(tried, waits.expand(1201, 5)).mean(dim=1)
    best[name] = round(constants[means.argmin()].item(), 2)
print(f"mean {waits.mean():.2f}, median {waits.median():.2f}; the best: {best}")

x = torch.linspace(-2, 2, 21)
y = 2 * x + 1 + 0.3 * fl.random.normal(fl.random.key(7), (21,))
y_wrong = torch.cat([y[:-1], torch.tensor([-8.0])])


def fit(loss, y):
    def objective(params):
        return loss(params["w"] * x + params["b"], y).mean()

    params = {"w": torch.tensor(0.0), "b": torch.tensor(0.0)}
    for step in range(400):
        lr = 0.3 * (1 - step / 400)
        params = fl.tree.add_scaled(params, -lr, fl.grad(objective)(params))
    return params


lines = {name: fit(loss, y_wrong) for name, loss in losses.items()}
lines["squared, point corrected"] = fit(fl.losses.squared_error, y)
for name, line in lines.items():
    print(f"{name:24} w = {line['w']:5.2f}  b = {line['b']:5.2f}")

fig, ax = plt.subplots()
ax.plot(x.tolist(), y_wrong.tolist(), "o", color="C6", label="samples")
for (name, line), style in zip(lines.items(), ("-", "--", ":", "-."), strict=True):
    ax.plot(x.tolist(), (line["w"] * x + line["b"]).tolist(), style, label=name)
ax.set(xlabel="x", ylabel="y", title="One point of 21 is wrong")
ax.legend(loc="lower left")
fig.savefig("outlier.png")

# %% [markdown]
# MAE and Huber stay close to the line of the others. MSE gives them all up a little, to
# please the one that is wrong. If large errors are real and costly, that is what you
# want. If they are failures of the instrument, it is not.
#
# ## Cross entropy: the surprise at the truth
#
# A classifier gives a probability to each class. Its loss is the *surprise* at the
# class that came: `-log` of the probability that it had. If it was sure of that class
# the surprise is 0, and it grows without limit as the probability goes to 0.
#
# The truth as probabilities is *one-hot*: 1 for the class that came, 0 for all others.
# *Cross entropy* is the surprise expected under the truth p if you believe q:
# `H(p, q) = -Σ p log q`. For a one-hot p, one term is left. Below, the class is 1. A
# network gives it 0.17 at first, and 0.79 after some training.

# %%
label = torch.tensor(1)
one_hot = nn.functional.one_hot(label, 2).float()
before, after = torch.tensor([0.83, 0.17]), torch.tensor([0.21, 0.79])
print("class 1 as one-hot:", one_hot.tolist())
for q in (before, after):
    by_hand = -(one_hot * q.log()).sum()
    print(f"{q[0]:.2f}/{q[1]:.2f}: H(p, q) = {by_hand:.4f},", end=" ")
    print(f"by the library {fl.losses.nll(q.log(), label):.4f}")
print(f"had class 0 come, at first: {fl.losses.nll(before.log(), 1 - label):.4f}")

# %% [markdown]
# ## Softmax, and why its logarithm
#
# A network returns logits, any numbers. The softmax of lesson 5 makes probabilities of
# them: `exp` of each, divided by the sum. Its logarithm in two steps, softmax and then
# `log`, breaks. In `float32`, `exp` of 89 is infinite, and `exp` of -110 is 0, so large
# logits give `nan` and small probabilities a loss without end. Logarithm and `exp`
# should meet on paper first: `log softmax(z) = z - m - log Σ exp(z - m)`, and with the
# largest logit for m no `exp` is above 1. That is `torch.log_softmax`, and
# `fl.losses.cross_entropy` uses it: give it logits, never probabilities.


# %%
def naive(z, label):
    return -(z.exp() / z.exp().sum()).log()[label]


print("float32: exp(89) =", torch.tensor(89.0).exp().item(), end=", ")
print("exp(-110) =", torch.tensor(-110.0).exp().item())
for row in ([2.0, 1.0], [0.0, -110.0], [100.0, 90.0]):
    z = torch.tensor(row)
    print(f"{row!s:15} naive {naive(z, 1).item():7.4f},", end=" ")
    print(f"with log-softmax {fl.losses.cross_entropy(z, label).item():8.4f}")

# %% [markdown]
# ## The gradient of cross entropy
#
# It has the simplest form there is: softmax minus one-hot, belief minus truth. The
# logit of the right class is pulled up by as much as its probability is short of 1, and
# each other is pushed down by its own.
#
# This is why a classifier is not trained with squared errors of probabilities. Where it
# is sure and wrong, softmax is flat, and the squared error hardly pulls at all. Cross
# entropy pulls there with full force.

# %%
logits = before.log()  # softmax gives 0.83 and 0.17 back
slopes = fl.grad(fl.losses.cross_entropy)(logits, label)
print(
    "softmax - one-hot:", [round(v, 2) for v in (logits.softmax(-1) - one_hot).tolist()]
)
print("gradient:         ", [round(v, 2) for v in slopes.tolist()])

lead = torch.linspace(-8, 8, 161)  # logit of the right class minus that of the other


def entropy_loss(lead):
    return fl.losses.binary_cross_entropy_with_logits(lead, torch.ones_like(lead))


def squared_loss(lead):
    return (torch.sigmoid(lead) - 1) ** 2


fig, axes = plt.subplots(1, 2)
for loss, style, name in (
    (entropy_loss, "C0-", "cross entropy"),
    (squared_loss, "C1--", "squared error of p"),
):
    axes[0].plot(lead.tolist(), loss(lead).tolist(), style, label=name)
    axes[1].plot(
        lead.tolist(), fl.vmap(fl.grad(loss))(lead).tolist(), style, label=name
    )
axes[0].set(ylabel="loss", title="The loss")
axes[1].set(ylabel="slope of the loss", title="Its gradient: the pull")
for ax in axes:
    ax.set(xlabel="lead of the right class (below 0: wrong)")
axes[0].legend()
fig.savefig("surprise.png")

# %% [markdown]
# ## KL: the part of the surprise that you could avoid
#
# A truth need not be one-hot: of ten experts, seven may say one thing. Then even who
# knows p is surprised: by `H(p) = -Σ p log p`, the *entropy*. What believing q costs on
# top of that is the *Kullback-Leibler divergence*: `H(p, q) = H(p) + KL(p, q)`. It is 0
# if q is p, and above 0 otherwise. It is no distance: the two directions differ.

# %%
p, q = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.4, 0.4, 0.2])
cross = fl.losses.cross_entropy(q.log(), p)
entropy = -(p * p.log()).sum()
kl = fl.losses.kl_div(q.log(), p)
print(f"H(p, q) = {cross:.4f} = H(p) + KL(p, q) = {entropy:.4f} + {kl:.4f}")
print(f"KL(q, p) = {fl.losses.kl_div(p.log(), q):.4f}", end=", ")
print(f"KL(p, p) = {fl.losses.kl_div(p.log(), p).abs():.4f}")
print(f"one-hot: H(p, q) = {fl.losses.nll(before.log(), label):.4f}", end=", ")
print(f"KL(p, q) = {fl.losses.kl_div(before.log(), one_hot):.4f}")
by_cross = fl.grad(lambda z: fl.losses.cross_entropy(z, p))(q.log())
by_kl = fl.grad(lambda z: fl.losses.kl_div(z.log_softmax(-1), p))(q.log())
print("the same gradient:", torch.allclose(by_cross, by_kl, atol=1e-6))

# %% [markdown]
# H(p) does not depend on the network. So cross entropy and KL have the same gradient
# and train the same network. For one-hot targets, whose entropy is 0, they are equal.
#
# ## Label smoothing
#
# A one-hot target is never reached: softmax is 1 only for an infinite logit. So the
# logits grow on and on, and the network becomes surer than its data allow. *Label
# smoothing* takes a share of the target, here 0.1, and spreads it over all classes.
# Now the best lead is finite, and more costs.

# %%
soft = 0.9 * nn.functional.one_hot(label, 3) + 0.1 / 3
print("smoothed target:", [round(v, 4) for v in soft.tolist()])
smooth = {}
for c in (1.0, 2.0, 3.33, 5.0, 10.0):
    z = torch.tensor([0.0, c, 0.0])
    smooth[c] = fl.losses.cross_entropy(z, label, label_smoothing=0.1).item()
    print(f"lead {c:5.2f}: one-hot {fl.losses.cross_entropy(z, label):.4f}", end=", ")
    print(f"smoothed {smooth[c]:.4f}")

# %% [markdown]
# ## Hinge: far enough is enough
#
# The *hinge loss* does not ask for probabilities. The right class is to lead by a
# margin, 1: what is missing is the loss, and beyond it the loss is 0, and so is the
# gradient. What is right by a margin does not pull any more.

# %%
for scores in ([2.0, 3.5, 1.0], [2.0, 2.4, 1.0], [2.0, 0.5, 1.0]):
    value, slope = fl.value_and_grad(fl.losses.hinge)(torch.tensor(scores), label)
    print(f"scores {scores}: loss {value:.1f}, gradient {slope.tolist()}")

# Class 1 leads by `lead`.
pairs = torch.stack([torch.zeros_like(lead), lead], dim=1)  # (161, 2)
ones = torch.ones(len(lead), dtype=torch.long, device=lead.device)
fig, ax = plt.subplots(figsize=(7, 3))
ax.plot(lead.tolist(), fl.losses.hinge(pairs, ones).tolist(), label="hinge")
entropies = fl.losses.cross_entropy(pairs, ones)
ax.plot(lead.tolist(), entropies.tolist(), "--", label="cross entropy")
ax.step(lead.tolist(), (lead <= 0).float().tolist(), "C6:", label="is it wrong?")
ax.set(xlabel="lead of the right class", ylabel="loss", xlim=(-3, 5), ylim=(-0.1, 4))
ax.set_title("Both stand in for the step, which has no gradient")
ax.legend()
fig.savefig("margins.png")

# %% [markdown]
# ## Which loss for what
#
# | task | loss | because |
# |---|---|---|
# | a number, errors of one size | `mse` | finds the mean; settles softly |
# | a number, some samples wrong | `huber`, `mae` | no sample pulls without limit |
# | a bound that holds for 90 % | `quantile` | unequal pulls up and down |
# | yes or no, also several at once | `binary_cross_entropy_with_logits` | one logit |
# | one of several classes | `cross_entropy` | never flat where it is wrong |
# | the same, some labels wrong | ... with `label_smoothing=0.1` | no endless logits |
# | a distribution to be matched | `kl_div` | 0 when reached |
# | a decision, no probabilities | `hinge` | only the hard samples count |
#
# ## The same in classic PyTorch
#
# | here | in classic PyTorch |
# |---|---|
# | `mse`, `mae`, `huber(...).mean()` | `nn.MSELoss`, `nn.L1Loss`, `nn.HuberLoss` |
# | one number for each sample, `.mean()` in sight | the mean, unless `reduction=` |
# | `cross_entropy`, the classes on the last axis | `nn.CrossEntropyLoss`, on axis 1 |
# | `kl_div`, summed over the classes | `nn.KLDivLoss(reduction="batchmean")` |
# | `(n, 1)` against `(n,)` raises | a warning, or nothing |
#
# Two slips are common there. `nn.CrossEntropyLoss` takes logits; on probabilities it
# takes the softmax a second time, and no error says so. And the plain `nn.KLDivLoss`
# divides by the number of classes as well.

# %%
batch, labels = torch.stack([q.log(), p.log()]), torch.tensor([0, 2])
truths = torch.stack([p, q])
same = {
    "MSE": (fl.losses.mse, nn.MSELoss(), (predictions, targets)),
    "MAE": (fl.losses.mae, nn.L1Loss(), (predictions, targets)),
    "Huber": (fl.losses.huber, nn.HuberLoss(), (predictions, targets)),
    "entropy": (fl.losses.cross_entropy, nn.CrossEntropyLoss(), (batch, labels)),
    "KL": (fl.losses.kl_div, nn.KLDivLoss(reduction="batchmean"), (batch, truths)),
}
for name, (ours, classic, inputs) in same.items():
    value, expected = ours(*inputs).mean(), classic(*inputs)
    print(f"{name:9} {value:.4f}  {expected:.4f}")
    assert torch.allclose(value, expected)
twice = nn.CrossEntropyLoss()(after, label)
once = nn.CrossEntropyLoss()(after.log(), label)
print(f"softmax taken twice: {twice:.4f} in place of {once:.4f}")
by_class = nn.KLDivLoss(reduction="none")(batch, truths).mean()
print(f"KL divided by the classes as well: {by_class:.4f}")

# %% [markdown]
# ## Exercises
#
# **1.** Write `log_softmax(z)` for a vector, without torch's softmax functions, such
# that it holds for logits of any size.


# %% tags=["solution"]
def log_softmax(z):
    shifted = z - z.max()
    return shifted - shifted.exp().sum().log()


# %% tags=["check"]
for z in (q.log(), torch.tensor([1000.0, 0.0]), torch.tensor([-1000.0, -1001.0])):
    found = log_softmax(z)
    assert found.isfinite().all(), "exercise 1: subtract the largest logit first"
    assert torch.allclose(found, torch.log_softmax(z, -1)), "exercise 1: other values"
print("exercise 1:", [round(v, 4) for v in log_softmax(z).tolist()])

# %% [markdown]
# **2.** KL is not symmetric, and infinite where q is 0 and p is not. Compare both with
# their mean m instead: write `divergence(p, q)`, the mean of KL(p, m) and KL(q, m). How
# large can it be?


# %% tags=["solution"]
def divergence(p, q):
    middle = ((p + q) / 2).log()
    return (fl.losses.kl_div(middle, p) + fl.losses.kl_div(middle, q)) / 2


# %% tags=["check"]
assert torch.allclose(divergence(p, q), divergence(q, p)), "exercise 2: not symmetric"
assert divergence(p, p).abs() < 1e-6, "exercise 2: 0 for equal distributions"
largest = divergence(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
assert torch.allclose(largest, torch.tensor(2.0).log()), (
    "exercise 2: log 2 at most; 0 log 0 counts as 0"
)
print(f"exercise 2: {divergence(p, q):.4f}, at most {largest:.4f}")

# %% [markdown]
# **3.** An answer without its uncertainty is half an answer. The mean of
# `fl.losses.quantile(prediction, target, q=0.9)` is least where nine of ten targets lie
# below. Write `band(x, y, qs)`, which fits a line for each entry of the tensor `qs`,
# all at once by `fl.vmap`, and returns a dict of `w` and `b`, each of the shape of qs.


# %% tags=["solution"]
def band(x, y, qs):
    def objective(params, q):
        prediction = params["w"] * x + params["b"]
        return fl.losses.quantile(prediction, y, q=q).mean()

    params = {"w": torch.zeros_like(qs), "b": torch.zeros_like(qs)}
    for step in range(600):
        grads = fl.vmap(fl.grad(objective))(params, qs)
        params = fl.tree.add_scaled(params, -1.5 * (1 - step / 600), grads)
    return params


# %% tags=["check"]
key_x, key_y = fl.random.split(fl.random.key(3), 2)
u = 2 * fl.random.uniform(key_x, (500,)) - 1
v = 3 * u + (1.5 + u) * fl.random.normal(key_y, (500,))  # surer on the left
qs = torch.tensor([0.1, 0.5, 0.9])
found = band(u, v, qs)
shares = (v < found["w"][:, None] * u + found["b"][:, None]).float().mean(dim=1)
assert ((shares - qs).abs() < 0.03).all(), "exercise 3: the shares below are not qs"
assert found["w"][0] < found["w"][1] < found["w"][2], "exercise 3: the band widens"
print("exercise 3: below the lines:", [f"{share:.2f}" for share in shares])
