# SPDX-License-Identifier: Apache-2.0
"""Draws kept.svg, what is in memory for one linear layer, when it is run."""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

INK, ACTIVATION, DELTA, MATRIX = "#7a7a7a", "#4c8bf5", "#e8833a", "#3fa66b"
SAMPLES, ROWS, COLUMNS, UNIT = 4, 0.9, 1.5, 0.28


def bars(axes: Axes, x: float, y: float, length: float, color: str, name: str) -> None:
    """One vector for each sample, as bars above each other."""
    for sample in range(SAMPLES):
        corner = (x, y + sample * UNIT * 1.25)
        axes.add_patch(Rectangle(corner, length, UNIT, facecolor=color, lw=0))
    axes.text(x, y - 0.12, name, color=INK, va="top", fontsize=8)


def matrix(axes: Axes, x: float, y: float, name: str = "") -> None:
    """A gradient of the weight's shape."""
    axes.add_patch(
        Rectangle((x, y), COLUMNS, ROWS, facecolor=MATRIX, edgecolor="white", lw=1)
    )
    axes.text(x, y - 0.12, name, color=INK, va="top", fontsize=8)


def panel(axes: Axes, title: str, kept: str) -> None:
    """The activations and deltas that every way has, a title and what is kept."""
    bars(axes, 0.0, 0.6, COLUMNS, ACTIVATION, "activations a")
    bars(axes, 1.9, 0.6, ROWS, DELTA, "deltas d")
    axes.set_title(title, color=INK, fontsize=10, loc="left")
    axes.text(0.0, -0.25, kept, color=INK, fontsize=8, va="top")
    axes.set(xlim=(-0.1, 5.4), ylim=(-0.65, 2.05), aspect="equal")
    axes.axis("off")


def main() -> None:
    """Three ways side by side."""
    figure, (plain, mapped, factored) = plt.subplots(
        1, 3, figsize=(7.6, 1.7), layout="constrained"
    )
    panel(plain, "gradient of the mean", "kept: one matrix")
    matrix(plain, 3.3, 0.7, "sum of d aᵀ")
    panel(mapped, "vmap(grad)", "kept: a matrix for each sample")
    for sample in range(SAMPLES):
        shift = 0.16 * (SAMPLES - 1 - sample)
        matrix(mapped, 3.3 + shift, 0.6 + shift, "" if shift else "d aᵀ of each")
    panel(factored, "factored", "kept: the pairs (a, d), and no matrix")
    factored.text(3.2, 1.1, "norm² =\n|a|² |d|²", color=INK, fontsize=10)
    figure.savefig(Path(__file__).with_name("kept.svg"), transparent=True)


if __name__ == "__main__":
    main()
