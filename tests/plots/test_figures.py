# SPDX-License-Identifier: Apache-2.0
"""What all figures have in common."""

import functools
import io
import pickle
import sys
from typing import Any

import matplotlib as mpl
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from functorch_lab import plots

VALUES = torch.tensor([[3.0, 2.0], [5.0, 7.0]])
FIGURES = {
    "curves": lambda v: plots.curves({"a": {"loss": v[0]}, "b": {"loss": v[1]}}),
    "confusion_matrix": plots.confusion_matrix,
    "histogram": lambda v: plots.histogram({"a": v[0], "b": v[1]}),
    "image_grid": lambda v: plots.image_grid(v[None], titles=["a"]),
    "schedule": lambda v: plots.schedule({"a": v[0, 1], "b": lambda step: v[1, 0]}, 3),
}


def png(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer)
    return buffer.getvalue()


@functools.cache
def expected(name):
    return png(FIGURES[name](VALUES))


def test_all_are_here():
    assert sorted(FIGURES) == sorted(plots.__all__)


@pytest.mark.parametrize("name", FIGURES)
def test_it_is_a_figure_that_can_be_shown_and_pickled(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # nothing loads it
    figure: Any = FIGURES[name](VALUES)
    shown = figure._repr_png_()  # what a notebook asks for
    assert isinstance(figure, Figure)
    with Image.open(io.BytesIO(shown)) as image:
        width, height = figure.get_size_inches() * 150
        assert abs(image.width - width) <= 1
        assert abs(image.height - height) <= 1
        assert min(image.convert("L").tobytes()) < 128  # not only white
    assert shown == expected(name)
    assert png(pickle.loads(pickle.dumps(figure))) == shown


@pytest.mark.parametrize("name", FIGURES)
def test_it_looks_the_same_in_any_style_and_leaves_it(name):
    changed: Any = {
        "lines.linewidth": 7.0,
        "axes.facecolor": "red",
        "xtick.color": "red",
    }
    changed |= {"font.size": 20.0, "axes.grid": True, "image.cmap": "viridis"}
    with mpl.rc_context(changed):
        before = dict(mpl.rcParams)
        assert png(FIGURES[name](VALUES)) == expected(name)
        assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_tensors_may_have_any_dtype_and_device_and_are_copied(name, dtype, device):
    values = VALUES.to(device, dtype).requires_grad_()
    figure = FIGURES[name](values)
    assert_close = torch.testing.assert_close
    assert_close(values.detach(), VALUES.to(device, dtype), rtol=0, atol=0)
    with torch.no_grad():
        values.zero_()  # which doesn't change the picture
    assert png(figure) == expected(name)


@pytest.mark.parametrize("name", FIGURES)
def test_says_what_is_missing(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    match = rf"^plots\.{name}: expected matplotlib.*pip install 'functorch-lab\[lab\]'$"
    with pytest.raises(ModuleNotFoundError, match=match):
        FIGURES[name](VALUES)
