# SPDX-License-Identifier: Apache-2.0
# %% [markdown]
# # Gradients
#
# You learn to compute with tensors, and to ask a function how its result changes when
# its inputs change. The answer is the gradient, and all that a network learns later in
# this course it learns from it. You need Python and school mathematics, nothing else.

# %%
import math

import matplotlib.pyplot as plt
import numpy as np
import torch

import functorch_lab as fl

plt.style.use("functorch_lab.lessons.figures")

# %% [markdown]
# ## A tensor is a table of numbers
#
# A *tensor* holds numbers in a regular grid. Its *shape* says how many there are along
# each *axis*: a table with two rows and three columns has the shape (2, 3), a list of
# three numbers has the shape (3,), and a single number has the empty shape (). Its
# *dtype* says how each number is stored: `float32`, with about seven digits, is what
# you get for numbers with a decimal point unless you ask for something else.
#
# - To *slice* is to take a part out. Give one index for each axis, counted from 0: `1`
#   takes one entry and drops the axis, `:` takes all, and `1:3` takes the entries from
#   1 up to, and not including, 3.
# - To *concatenate* (`torch.cat`) is to put tensors one behind the other, along an axis
#   that they have.
# - To *permute* is to reorder the axes: with two of them, rows become columns.

# %%
table = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
print("shape and dtype: ", tuple(table.shape), table.dtype)
print("second row:      ", table[1].tolist())
print("third column:    ", table[:, 2].tolist())
print("last two columns:", table[:, 1:3].tolist())
print("below each other:", tuple(torch.cat([table, table], dim=0).shape))
print("side by side:    ", tuple(torch.cat([table, table], dim=1).shape))
print("permuted:        ", table.permute(1, 0).tolist())

# %% [markdown]
# Arithmetic is *elementwise*: each number meets its counterpart. A single number meets
# all of them, and a row of three meets each row of three. That is *broadcasting*.
#
# A *reduction* makes one number of many: a sum, a mean, a maximum. With `dim` it
# reduces that axis and keeps the others: `dim=0` runs down the rows, and one number
# remains for each column.
#
# The *dot product* of two vectors is both in one: multiply elementwise, then sum. A
# matrix times a vector is the dot product of each row with the vector; Python has the
# sign `@` for it. (`.item()` and `.tolist()` turn tensors into Python's own numbers,
# which is what printing and plotting want.)

# %%
row = torch.tensor([10.0, 20.0, 30.0])
weights = torch.tensor([1.0, -1.0, 2.0])
print("table * 2:       ", (table * 2).tolist())
print("table + row:     ", (table + row).tolist())
print("sum of all:      ", table.sum().item(), " largest:", table.max().item())
print("sum of columns:  ", table.sum(dim=0).tolist())
print("mean of each row:", table.mean(dim=1).tolist())
print("dot product:     ", torch.dot(row, weights).item(), (row * weights).sum().item())
print("table @ weights: ", (table @ weights).tolist())

# %% [markdown]
# ## From NumPy and back
#
# NumPy has the same idea, the array. `torch.from_numpy` and `.numpy()` convert without
# copying: array and tensor are two names for *the same memory*. That is fast, and a
# pitfall: write a number into one of them, and it stands in both. `.clone()` makes a
# copy, with memory of its own.

# %%
array = np.array([1.0, 2.0, 3.0])
shared = torch.from_numpy(array)
copied = shared.clone()
array[0] = 100.0
print("shared:", shared.tolist(), shared.dtype)
print("copied:", copied.tolist())
print("converted:", copied.float().dtype, " back in NumPy:", shared.numpy())

# %% [markdown]
# The second pitfall is the dtype. NumPy's numbers with a decimal point are `float64`,
# and stay so. Convert them once, on their way in: `.float()` gives `float32`.
#
# ## Devices
#
# A tensor lives on a *device*: the CPU, a graphics card from NVIDIA (`cuda`) or that of
# an Apple computer (`mps`). Only tensors on the same device can be combined. Take what
# is there, and write the rest of the program for any of them.

# %%
if torch.cuda.is_available():
    device = torch.device("cuda")
elif torch.backends.mps.is_available():
    device = torch.device("mps")
else:
    device = torch.device("cpu")
moved = table.to(device)
print("summed there:    ", moved.sum().item())
print("back as an array:", moved.cpu().numpy()[0])

# %% [markdown]
# `print(device)` says which one it is. `.to` gives a tensor on the device, and leaves
# the old one where it was. `.numpy()` works on the CPU only, hence the `.cpu()`. The
# rest of this course needs nothing but a CPU.
#
# ## What a derivative is
#
# Zoom in on a point of a curve. The closer you come, the more the curve looks like a
# straight line. That line is the *tangent*, and its slope is the *derivative* of the
# function at that point: how much the result grows per unit of input.
#
# You can measure it. Go a small step `h` to the right, see how much the curve has
# risen, and divide by `h`. This is a *finite difference*. For x² at x = 2:


# %%
def square(x):
    return x**2


def difference(f, x, h):
    return (f(x + h) - f(x)) / h


two = torch.tensor(2.0)
for h in (1.0, 0.1, 0.01, 1e-4, 1e-6, 1e-8):
    print(f"h = {h:<6g} slope = {difference(square, two, h).item():.4f}")

# %% [markdown]
# As `h` shrinks the slope comes closer to 4, as it should: from school, x² has the
# derivative 2x. Then it goes astray, and ends at 0. A large step measures the curve,
# not its tangent. A tiny one drowns in the rounding: with seven digits, 2 + 1e-8 is 2.
# The best step lies in between, and is another one for each function. Draw it.
# (`torch.linspace` makes equally spaced numbers, `torch.logspace` powers of ten with
# equally spaced exponents, and `torch.stack` one tensor of a list of them.)

# %%
x = torch.linspace(0, 4, 61)
steps = torch.logspace(-6, 0, 61)
errors = torch.stack([difference(square, two, h) - 4 for h in steps]).abs()
fig, (ax, right) = plt.subplots(1, 2)
ax.plot(x.tolist(), square(x).tolist(), "C6", label="x²")
for h, color in ((2, "C1"), (1, "C4")):
    slope = difference(square, two, h)
    label = f"h = {h}: slope {slope.item():g}"
    ax.plot(x.tolist(), (4 + slope * (x - 2)).tolist(), color, lw=1.2, label=label)
    ax.plot([2 + h], [(2 + h) ** 2], "o", color=color)
ax.plot(x.tolist(), (4 + 4 * (x - 2)).tolist(), "C0", label="tangent: slope 4")
ax.plot([2], [4], "o", color="C0")
ax.set(xlabel="x", ylabel="x²", title="Lines through the point at x = 2")
ax.legend(loc="upper left")
right.loglog(steps.tolist(), errors.tolist(), ".", color="C0")
right.set(xlabel="step h", ylabel="error", title="Error of the measured slope")
fig.savefig("tangent.png")

# %% [markdown]
# ## The gradient, exactly
#
# `fl.grad` takes a function and returns a function: its derivative. No step has to be
# chosen. While the function runs, each operation is recorded, and the chain rule from
# school is applied to the record, from the last operation back to the first.
#
# A function of two inputs has two slopes: one when only x moves, one when only y moves.
# Together they are the *gradient*. `argnums` says for which arguments you want it (the
# first, if you say nothing). `fl.value_and_grad` gives the value and the gradient from
# one run of the function.


# %%
def f(x, y):
    return x**2 + y


def g(x, y):
    return x * (y + 3)


x0, y0 = torch.tensor(2.0), torch.tensor(3.0)
grad_f = fl.grad(f, argnums=(0, 1))(x0, y0)
value_g, grad_g = fl.value_and_grad(g, argnums=(0, 1))(x0, y0)
print("slope of x² at 2:", fl.grad(square)(two).item())
print("f = x² + y:    value", f(x0, y0).item(), " gradient", [d.item() for d in grad_f])
print("g = x (y + 3): value", value_g.item(), "gradient", [d.item() for d in grad_g])

# %% [markdown]
# Check it by hand. For f: 2x = 4 and 1. For g: y + 3 = 6 and x = 2.
#
# The gradient has a picture. Draw the lines on which the function stays the same, like
# the contour lines of a map. The gradient stands at a right angle to them and points
# uphill, where the function grows fastest. Its length says how steep it is.
# (`torch.meshgrid` makes two tables: the x and the y of each point of a grid.)

# %%
grid_x, grid_y = torch.meshgrid(
    torch.linspace(0, 6, 61), torch.linspace(1, 5, 41), indexing="xy"
)
fig, axes = plt.subplots(1, 2, sharey=True, figsize=(7, 2.9))
for ax, function, slopes, title in (
    (axes[0], f, grad_f, "f = x² + y: gradient (4, 1)"),
    (axes[1], g, grad_g, "g = x (y + 3): gradient (6, 2)"),
):
    height = function(grid_x, grid_y).tolist()
    lines = ax.contour(
        grid_x.tolist(), grid_y.tolist(), height, levels=range(5, 36, 5), vmax=50
    )
    ax.clabel(lines, fontsize=8, colors="black")
    ax.grid(False)
    # Arrows a third as long, so that they stay within the picture.
    dx, dy = (slope.item() / 3 for slope in slopes)
    ax.annotate("", (2 + dx, 3 + dy), (2, 3), arrowprops={"color": "C1", "width": 2})
    ax.plot([2], [3], "o", color="C1")
    ax.set(xlabel="x", title=title, aspect="equal")
axes[0].set_ylabel("y")
fig.savefig("contours.png")

# %% [markdown]
# ## The gradient of a tree, and of a gradient
#
# Networks have millions of inputs, not two. An argument may be a whole tensor; the
# gradient then has its shape, one slope for each entry. It may also be a *tree*:
# tensors in a dict, a list, a tuple, or dicts of those. The gradient is a tree of the
# same structure, so that you find each slope under the name of its number.
#
# And `fl.grad(cube)` is a function like any other. So it has a gradient, too.


# %%
def volume(box):
    length, width = box["base"]
    return length * width * box["height"]


def cube(x):
    return x**3


box = {"base": torch.tensor([2.0, 3.0]), "height": torch.tensor(5.0)}
slopes = fl.grad(volume)(box)
print("volume:", volume(box).item())
print("slopes: base", slopes["base"].tolist(), " height", slopes["height"].item())

five = torch.tensor(5.0)
print("x³   at 5:", cube(five).item())
print("3x²  at 5:", fl.grad(cube)(five).item())
print("6x   at 5:", fl.grad(fl.grad(cube))(five).item())

# %% [markdown]
# The slope for the height is the area of the base: that is what the box gains when it
# grows by one.
#
# ## One function, many inputs at once
#
# To draw a derivative you need it at many points. Passing them all is refused: a
# gradient is the slope of *one* number, and `cube` of three numbers is three. You could
# loop over them in Python, slowly. `fl.vmap` takes a function of one thing and returns
# the function of many, each computed as if it were alone, and all at once. The many
# stand along the first axis.


# %%
def wave(x):
    return torch.sin(2 * x) * x


three = torch.tensor([1.0, 2.0, 3.0])
try:
    fl.grad(cube)(three)
except ValueError as error:
    print(error)
print("slopes of x³ at 1, 2, 3:", fl.vmap(fl.grad(cube))(three).tolist())

x = torch.linspace(0, 5, 101)
slope, second = fl.vmap(fl.grad(wave))(x), fl.vmap(fl.grad(fl.grad(wave)))(x)
fig, ax = plt.subplots()
ax.plot(x.tolist(), wave(x).tolist(), label="x sin(2x)")
ax.plot(x.tolist(), slope.tolist(), "C1--", label="its slope")
ax.plot(x.tolist(), second.tolist(), "C2:", label="the slope of the slope")
ax.set(xlabel="x", ylabel="value", title="Where the slope is 0, the wave turns")
ax.legend(loc="upper left")
fig.savefig("derivatives.png")

# %% [markdown]
# Apply it to the dot product. Mapped over the rows of a matrix, it is the matrix-vector
# product. That, mapped over the columns of a second matrix, is the matrix-matrix
# product. `in_dims` names the axis to map over for each argument, `None` what all of
# them share, and `out_dims` where the results stand.

# %%
columns = torch.tensor([[1.0, 2.0], [3.0, 5.0], [7.0, 11.0]])
matrix_vector = fl.vmap(torch.dot, in_dims=(0, None))
matrix_matrix = fl.vmap(matrix_vector, in_dims=(None, 1), out_dims=1)
print("matrix-vector:", matrix_vector(table, weights).tolist())
print("matrix-matrix:", matrix_matrix(table, columns).tolist())
print("with @:       ", (table @ columns).tolist())

# %% [markdown]
# ## When memory runs out
#
# A tensor takes as many bytes as it has numbers, times the bytes of one. On the device
# `meta` a tensor has a shape but no memory, so that you can ask before you pay. What
# does not fit raises an error. On a graphics card it looks like the one that this cell
# raises by hand. On the CPU it is a `RuntimeError` that speaks of
# `DefaultCPUAllocator`, or the system ends the program with the one word `Killed`.

# %%
for dtype in (torch.float64, torch.float32, torch.bfloat16):
    photos = torch.empty(1000, 3, 224, 224, dtype=dtype, device="meta")
    print(f"{dtype!s:15} {photos.nbytes / 1e6:5.0f} MB", end="   ")
    third = torch.tensor(1 / 3, device="cpu").to(dtype)
    print(f"1/3 is {third.item():.7f}")
try:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.12 GiB.")
except RuntimeError as error:
    print(f"{type(error).__name__}: {error}")

# %% [markdown]
# What helps, in the order in which to try it:
#
# 1. **Fewer at a time.** The gradient of a sum is the sum of the gradients. Take the
#    data in parts and add up what they give. Only one part needs memory at a time.
# 2. **Chunks within vmap.** `vmap` computes all at once, and takes the memory for it.
#    With `chunk_size` only so many are computed together, and the answer is the same
#    (`torch.allclose` compares up to rounding).
# 3. **Fewer bytes for each number.** `bfloat16` takes half of `float32`, and pays with
#    digits: see above. Do not let `float64` in by accident.
# 4. **Let go.** Memory is freed when its last name is gone: `del photos`, or leave the
#    function that made it. A slice keeps the *whole* tensor alive; keep its `.clone()`.
#
# `torch.no_grad()`, a remedy in other books, has no counterpart here: nothing is
# recorded outside `fl.grad`, and nothing stays recorded after it.


# %%
def total(scale, data):
    return ((scale * data - 1) ** 2).sum()


def farthest(point):  # compares one point with all: a table of the shape of data
    return ((data - point) ** 2).sum(dim=1).max().sqrt()


data = torch.linspace(-1, 1, 300).reshape(100, 3)  # the same numbers, as a table
parts = [fl.grad(total)(two, part).item() for part in data.split(25)]
print(f"gradient at once {fl.grad(total)(two, data):.3f}, in 4 parts {sum(parts):.3f}")

at_once = fl.vmap(farthest)(data)  # (100,), by way of a table (100, 100, 3)
in_chunks = fl.vmap(farthest, chunk_size=10)(data)  # of tables (10, 100, 3)
print("the same:", torch.allclose(at_once, in_chunks), end=", ")
print(f"with {10 * data.nbytes} in place of {100 * data.nbytes} bytes")

first = data[:1]
print(f"a slice keeps {first.untyped_storage().nbytes()} bytes, ", end="")
print(f"its clone {first.clone().untyped_storage().nbytes()}")

# %% [markdown]
# ## The same in classic PyTorch
#
# | here | in classic PyTorch |
# |---|---|
# | `fl.grad(f, argnums=(0, 1))(x, y)` | `requires_grad=True`, `f(x, y).backward()` |
# | the gradient is what the function returns | the gradient is added to `x.grad` |
# | nothing to reset | `x.grad = None`, or `optimizer.zero_grad()` |
# | nothing is recorded outside `fl.grad` | `with torch.no_grad():` |
# | `fl.grad(fl.grad(f))` | `torch.autograd.grad(..., create_graph=True)`, twice |
#
# The second row is a slip in waiting. First f, then g, both by `.backward()`:


# %%
def stored(*inputs):
    return [i.grad.item() for i in inputs]


a = torch.tensor(2.0, requires_grad=True)
b = torch.tensor(3.0, requires_grad=True)
f(a, b).backward()
after_f = stored(a, b)
g(a, b).backward()
after_both = stored(a, b)
a.grad = b.grad = None
g(a, b).backward()
print("after f.backward():          ", after_f)
print("after g.backward() as well:  ", after_both)
print("g.backward() after the reset:", stored(a, b))
print("fl.grad of g:                ", [d.item() for d in grad_g])
assert after_f == [d.item() for d in grad_f]
assert stored(a, b) == [d.item() for d in grad_g]

# %% [markdown]
# (10, 3) is the gradient of neither: it is (4, 1) plus (6, 2). `.backward()` has a
# place to write to, `.grad`, and adds to what is there. `fl.grad` has no such place. It
# is a *pure* function: what it returns depends on its arguments and on nothing else.
# The same question has the same answer, however often and in whatever order you ask.
#
# ## Exercises
#
# **1.** A tangent is a function as well. Write `tangent(f, a)`, which returns the
# function whose graph is the tangent of `f` at `a`.


# %% tags=["solution"]
def tangent(f, a):
    value, slope = fl.value_and_grad(f)(a)
    return lambda x: value + slope * (x - a)


# %% tags=["check"]
line = tangent(cube, two)
assert line(two) == 8, "exercise 1: at a itself the tangent meets the function"
assert line(two + 1) == 20, "exercise 1: one to the right, it is higher by the slope"
print("exercise 1: the tangent of x³ at 2 has at 3 the height", line(two + 1).item())

# %% [markdown]
# **2.** Where is a function 0? Follow its tangent down to 0, go there, and repeat.
# Write `roots(f, starts, steps)`, which takes so many steps from all entries of the
# tensor `starts` at once, and returns where they end.


# %% tags=["solution"]
def roots(f, starts, steps):
    value_and_slope = fl.vmap(fl.value_and_grad(f))
    for _ in range(steps):
        value, slope = value_and_slope(starts)
        starts = starts - value / slope
    return starts


# %% tags=["check"]
found = roots(lambda x: x**3 - 2, torch.tensor([1.0, 2.0, 5.0]), 20)
assert torch.allclose(found**3, torch.tensor(2.0)), "exercise 2: x³ is not 2 there"
once = roots(square, torch.tensor([1.0, 2.0]), 1)
assert torch.allclose(once, torch.tensor([0.5, 1.0])), "exercise 2: one step is too far"
print(f"exercise 2: the cube root of 2 is {found[0]:.5f}")

# %% [markdown]
# **3.** A tangent copies a function's value and slope. Copy more: the slope of the
# slope, and so on. The polynomial c₀ + c₁ (x - a) + c₂ (x - a)² + ... does it if cₖ is
# the k-th derivative at a, divided by k!. Write `taylor(f, a, n)`, which returns the
# n + 1 numbers cₖ as a tensor. Then draw: how many does the sine need from 0 to 2π?


# %% tags=["solution"]
def taylor(f, a, n):
    coefficients = [f(a)]
    for k in range(1, n + 1):
        f = fl.grad(f)
        coefficients.append(f(a) / math.factorial(k))
    return torch.stack(coefficients)


# %% tags=["check"]
found = taylor(lambda x: 2 + 3 * x + 5 * x**3, torch.tensor(0.0), 4)
expected = torch.tensor([2.0, 3.0, 0.0, 5.0, 0.0])
assert torch.allclose(found, expected), "exercise 3: 2, 3, 0, 5, 0: divide by k!"
found = taylor(torch.exp, torch.tensor(0.0), 5)
assert torch.allclose(found.sum(), torch.tensor(163 / 60)), "exercise 3: cₖ is 1 / k!"
print(f"exercise 3: e is about {found.sum():.4f}, from {len(found)} coefficients")
