# SPDX-License-Identifier: Apache-2.0
"""Figures of what training, metrics and per-sample gradients return.

Each function returns a `matplotlib.figure.Figure`: a notebook shows it, and
`figure.savefig("name.png")` writes it. None of them touches `pyplot` or the settings of
matplotlib, so a figure looks the same wherever it is drawn. Tensors may be on any
device, of any real dtype, and require gradients. NaN and infinity, and with them
numbers beyond 1e100, are not drawn.

Matplotlib comes with `pip install 'functorch-lab[lab]'`; without it these functions
raise `ModuleNotFoundError`.
"""

from functorch_lab.plots._confusion_matrix import confusion_matrix
from functorch_lab.plots._curves import curves
from functorch_lab.plots._histogram import histogram
from functorch_lab.plots._image_grid import image_grid
from functorch_lab.plots._schedule import schedule

__all__ = ["confusion_matrix", "curves", "histogram", "image_grid", "schedule"]
