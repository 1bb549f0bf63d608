# SPDX-License-Identifier: Apache-2.0
"""What all figures have in common."""

import io
import pickle
import subprocess
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


def test_all_are_here():
    assert sorted(FIGURES) == sorted(plots.__all__)


@pytest.mark.parametrize("name", FIGURES)
def test_it_is_a_figure_that_can_be_saved_shown_and_pickled(name, tmp_path):
    figure: Any = FIGURES[name](VALUES)
    shown = figure._repr_png_()  # what a notebook asks for
    assert isinstance(figure, Figure)
    figure.savefig(tmp_path / "figure.png")
    figure.savefig(tmp_path / "figure.svg")
    with Image.open(tmp_path / "figure.png") as image:
        width, height = figure.get_size_inches() * 150
        assert abs(image.width - width) <= 1
        assert abs(image.height - height) <= 1
        assert min(image.convert("L").tobytes()) < 128  # not only white
    assert shown == png(figure)
    assert png(pickle.loads(pickle.dumps(figure))) == png(figure)


@pytest.mark.parametrize("name", FIGURES)
def test_it_looks_the_same_in_any_style_and_leaves_it(name):
    expected = png(FIGURES[name](VALUES))
    changed: Any = {
        "lines.linewidth": 7.0,
        "axes.facecolor": "red",
        "xtick.color": "red",
    }
    changed |= {"font.size": 20.0, "axes.grid": True, "image.cmap": "viridis"}
    with mpl.rc_context(changed):
        before = dict(mpl.rcParams)
        assert png(FIGURES[name](VALUES)) == expected
        assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int32])
def test_tensors_may_have_any_dtype_and_device(name, dtype, device):
    values = VALUES.to(device, dtype)
    if values.is_floating_point():
        values.requires_grad_()
    before = values.detach().clone()
    assert png(FIGURES[name](values)) == png(FIGURES[name](VALUES))
    torch.testing.assert_close(values.detach(), before, rtol=0, atol=0)


def test_a_figure_has_its_own_numbers():
    # Changing the tensor afterwards doesn't change the picture.
    values = VALUES.double()
    figures = [draw(values) for draw in FIGURES.values()]
    values.zero_()
    expected = [draw(VALUES) for draw in FIGURES.values()]
    assert [png(figure) for figure in figures] == [png(figure) for figure in expected]


@pytest.mark.parametrize("name", FIGURES)
def test_says_what_is_missing(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    match = rf"^plots\.{name}: expected matplotlib.*pip install 'functorch-lab\[lab\]'$"
    with pytest.raises(ModuleNotFoundError, match=match):
        FIGURES[name](VALUES)


def test_pyplot_is_not_loaded():
    code = (
        "import sys; from functorch_lab import plots; "
        "print('matplotlib' in sys.modules); "
        "plots.curves([3.0])._repr_png_(); print('matplotlib.pyplot' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["False", "False"]
