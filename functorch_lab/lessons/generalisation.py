# SPDX-License-Identifier: Apache-2.0
# %% [markdown]
# # Generalisation
#
# You find out how good a network is on samples that it has never seen, and what helps
# when it is not good: more samples, a smaller network, smaller weights, an earlier end,
# noise in the network, and changed images. You measure each of them.

# %%
import matplotlib.pyplot as plt
import torch

import functorch_lab as fl

plt.style.use("functorch_lab.lessons.figures")

# %% [markdown]
# ## Three parts
#
# A network that repeats its training samples by heart has learnt nothing that you can
# use. You want it to *generalise*: to be right about new samples. So you cut the
# samples into three parts.
#
# - On the *training* samples you find the parameters.
# - On the *validation* samples you choose everything else: the width, when to stop,
#   which of several networks you keep.
# - On the *test* samples you look once, at the end.
#
# `fl.data.split` cuts at random, by a key.

# %%
samples = {"x": torch.arange(200.0), "y": torch.arange(200) % 2}
train, validation, test = fl.data.split(fl.random.key(0), samples, (0.5, 0.25, 0.25))
sizes = [len(part["x"]) for part in (train, validation, test)]
print("training, validation, test:", *sizes)
print("first validation samples:", validation["x"][:5].tolist())

# %% [markdown]
# Why is one part for validation and test not enough? Because a choice is a kind of
# training. Here are 500 models that toss a coin for each sample. You keep the one that
# is best on the validation samples.

# %%
guesses = fl.random.bernoulli(fl.random.key(1), 0.5, (500, 200)).long()
validated = (guesses[:, :50] == validation["y"]).float().mean(1)
tested = (guesses[:, 50:100] == test["y"]).float().mean(1)
chosen = validated.argmax()
print(f"the chosen: validated {validated[chosen]:.2f}, tested {tested[chosen]:.2f}")

# %% [markdown]
# The coin looks good on the samples that it was chosen by, and only there. The test
# samples had no part in the choice, and tell the truth. They do so once: choose by them
# and they become validation samples.
#
# ## The same in classic PyTorch
#
# | here | in classic PyTorch |
# |---|---|
# | `fl.losses.l2_penalty(params)` in the loss | `torch.optim.SGD(..., weight_decay=)` |

# %%
start = {"weight": torch.tensor([0.5, -2.0, 3.0])}


def penalised(params):
    return (params["weight"] - 1).square().sum() + 0.1 * fl.losses.l2_penalty(params)


ours = start["weight"] - 0.05 * fl.grad(penalised)(start)["weight"]
weight = torch.nn.Parameter(start["weight"].clone())
classic = torch.optim.SGD([weight], lr=0.05, weight_decay=0.2)
(weight - 1).square().sum().backward()
classic.step()
assert torch.allclose(ours, weight.detach())
print("here   ", [round(w, 4) for w in ours.tolist()])
print("classic", [round(w, 4) for w in weight.tolist()])

# %% [markdown]
# ## Exercises
#
# **1.** Write `sizes_of(parts)`, the number of samples of each part.


# %% tags=["solution"]
def sizes_of(parts):
    return [len(fl.tree.leaves(part)[0]) for part in parts]


# %% tags=["check"]
assert sizes_of((train, test)) == [100, 50], "exercise 1: count the rows"
print("exercise 1:", sizes_of((train, test)))

# %% [markdown]
# **2.** Write `error_rate(prediction, target)`, the share of wrong labels.


# %% tags=["solution"]
def error_rate(prediction, target):
    return (prediction != target).float().mean()


# %% tags=["check"]
rate = error_rate(guesses[0, :50], validation["y"])
assert torch.allclose(rate, 1 - validated[0]), "exercise 2: one minus the accuracy"
print(f"exercise 2: {rate:.2f}")

# %% [markdown]
# **3.** Write `best_of(n)`, the validated accuracy of the best of the first `n` coins.


# %% tags=["solution"]
def best_of(n):
    return validated[:n].max()


# %% tags=["check"]
assert best_of(500) == validated[chosen], "exercise 3: the largest"
print(f"exercise 3: {best_of(500):.2f}")
