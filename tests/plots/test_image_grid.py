# SPDX-License-Identifier: Apache-2.0
"""The image grid: pixels, scales, places, titles, and refusals."""

import math
import re
from typing import Any

import pytest
import torch

from functorch_lab import plots

GREY = torch.arange(2.0, 44.0).reshape(7, 2, 3)
COLORED = torch.arange(36).reshape(2, 3, 3, 2) / 40


def shown(axes):
    return torch.tensor(axes.images[0].get_array().tolist())


@pytest.mark.parametrize("images", [GREY, GREY[:, None], list(GREY), GREY.numpy()])
def test_grey_images_share_one_scale(images):
    figure = plots.image_grid(images)
    assert len(figure.axes) == 7
    for axes, image in zip(figure.axes, GREY, strict=True):
        torch.testing.assert_close(shown(axes), image)
        assert axes.images[0].get_clim() == (2, 43)
        assert axes.images[0].get_cmap().name == "gray_r"
        assert not axes.axison


def test_colours_in_the_unit_interval_are_left_as_they_are():
    for axes, image in zip(plots.image_grid(COLORED).axes, COLORED, strict=True):
        torch.testing.assert_close(shown(axes), image.permute(1, 2, 0))


def test_colours_of_integers_are_parts_of_255():
    images = (COLORED * 255).round().to(torch.uint8)
    first = plots.image_grid(images).axes[0]
    torch.testing.assert_close(shown(first), images[0].permute(1, 2, 0) / 255)


def test_other_colours_are_scaled_together():
    images = COLORED * 8 - 3  # from -3 to 4
    for axes, image in zip(plots.image_grid(images).axes, COLORED, strict=True):
        torch.testing.assert_close(shown(axes), image.permute(1, 2, 0) / (35 / 40))


def test_pixels_that_are_not_finite_are_orange():
    grey = GREY.clone()
    grey[1, 0, 2], grey[2, 1, 1] = math.nan, math.inf
    figure = plots.image_grid(grey)
    image: Any = figure.axes[1].images[0]
    assert image.get_array().mask.tolist() == [[False, False, True], [False] * 3]
    assert image.get_clim() == (2, 43)
    orange = torch.tensor([0xD5, 0x5E, 0x00]) / 255
    bad = torch.tensor(image.get_cmap().get_bad().tolist())
    torch.testing.assert_close(bad[:3], orange)
    colored = COLORED.clone()
    colored[1, 2, 0, 1] = math.nan
    pixels = shown(plots.image_grid(colored).axes[1])
    torch.testing.assert_close(pixels[0, 1], orange)
    torch.testing.assert_close(pixels[2], COLORED[1].permute(1, 2, 0)[2])


def boxes(figure):
    """Left, bottom, width, height of each image in inches."""
    wide, high = figure.get_size_inches()
    found = [axes.get_position().bounds for axes in figure.axes]
    return torch.tensor(found) * torch.tensor([wide, high, wide, high])


def test_images_go_from_left_to_right_and_down():
    found = boxes(plots.image_grid(GREY, columns=3))
    left, bottom, width, height = found.unbind(1)
    torch.testing.assert_close(height, width * 2 / 3)
    rows = [[0, 1, 2], [3, 4, 5], [6]]
    for row in rows:
        torch.testing.assert_close(bottom[row], bottom[row[0]].expand(len(row)))
        assert (left[row].diff() > width[0]).all()
    assert (bottom[[0, 3, 6]].diff() < -height[0]).all()
    assert (found[:, :2] > 0).all()


@pytest.mark.parametrize(("n", "columns"), [(1, 1), (3, 3), (7, 5), (37, 7), (101, 10)])
def test_the_grid_is_about_square_by_default(n, columns):
    left = boxes(plots.image_grid(torch.rand(n, 2, 2))).round(decimals=4)[:, 0]
    assert len(set(left.tolist())) == columns


def test_each_image_has_its_title():
    titles = ["true 3, got 5\nloss 2.5", *"bcdef", "_long $x$ " * 9]
    figure = plots.image_grid(GREY, titles=titles)
    found = [axes.get_title() for axes in figure.axes]
    assert found[:6] == titles[:6]
    assert found[6].split() == titles[6].split()
    # None runs into the image above it, or out of the figure.
    figure.draw_without_rendering()
    tops = [axes.title.get_window_extent().y1 for axes in figure.axes]
    assert max(tops[:5]) <= figure.bbox.y1
    assert max(tops[5:]) <= figure.axes[0].get_window_extent().y0


def test_titles_may_be_a_tensor():
    axes = plots.image_grid(GREY[:2], titles=torch.tensor([5, 3])).axes
    assert [one.get_title() for one in axes] == ["5", "3"]


@pytest.mark.parametrize(
    ("shape", "value"),
    [
        ((2, 3, 2), 0.0),
        ((2, 3, 2), math.nan),
        ((2, 3, 2, 3), 1e100),
        ((2, 3, 2, 3), math.nan),
        ((1, 1, 1), 0.5),
        ((1, 2, 300), 0.5),
    ],
)
def test_constant_images_can_be_drawn(shape, value):
    figure = plots.image_grid(torch.full(shape, value, dtype=torch.float64))
    figure.draw_without_rendering()


@pytest.mark.parametrize(
    ("images", "options", "error", "message"),
    [
        (GREY[0], {}, ValueError, "got (2, 3). Write images[None] for a single one"),
        (torch.ones(2, 5, 3, 3), {}, ValueError, "got (2, 5, 3, 3)"),
        (torch.ones(0, 3, 3), {}, ValueError, "images: expected at least one number"),
        (torch.ones(2, 0, 3), {}, ValueError, "images: expected at least one number"),
        (torch.ones(401, 1, 1), {}, ValueError, "expected at most 400, got 401"),
        ([torch.ones(2, 3), torch.ones(3, 2)], {}, ValueError,
         "images: expected entries of one shape, got (2, 3) and (3, 2)"),
        ("images", {}, TypeError, "images: expected real numbers, got str 'images'"),
        (GREY, {"titles": ["a"] * 6}, ValueError,
         "titles: expected 7 names, one per image, got 6"),
        (GREY, {"titles": "abcdefg"}, TypeError, "titles: expected a list of 7 names"),
        (GREY, {"columns": 0}, ValueError, "columns: expected at least 1, got 0"),
        (GREY, {"columns": 2.5}, TypeError, "columns: expected an int, got float 2.5"),
        (GREY, {"columns": True}, TypeError, "columns: expected an int, got bool True"),
        (GREY, {"cmap": "grey9"}, ValueError, "cmap: expected the name of a colormap"),
        (GREY, {"cmap": 3}, ValueError, "cmap: expected the name of a colormap"),
    ],
)  # fmt: skip
def test_refuses(images, options, error, message):
    with pytest.raises(error, match=f"^plots.image_grid: .*{re.escape(message)}"):
        plots.image_grid(images, **options)
