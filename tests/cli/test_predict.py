# SPDX-License-Identifier: Apache-2.0
"""`predict`: images from PNG and CSV files, all of them checked before any answer."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from command_line import refused, snapshot, told
from functorch_lab import data, train
from functorch_lab.cli._images import read_images
from functorch_lab.recipes import digits


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "digits"
    digits.train(digits.Config(epochs=2, compile=False), run_dir=folder, progress=False)
    return folder


def some(first: int, last: int) -> tuple[Tensor, Tensor]:
    images, labels = data.digits(images=True, standardize=False).test
    return images[first:last, 0], labels[first:last]


def save(path: Path, ink: Tensor, mode: str = "L") -> Path:
    """Dark ink on light ground, from 255 down to 15."""
    light = (255 - 15 * ink).to(torch.uint8)
    Image.frombytes("L", (8, 8), bytes(light.flatten().tolist())).convert(mode).save(
        path
    )
    return path


def save_rows(path: Path, images: Tensor, header: str = "") -> Path:
    rows = [",".join(f"{v:g}" for v in image.flatten().tolist()) for image in images]
    path.write_text("\n".join([header, *rows] if header else rows), "utf-8")
    return path


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1"])
def test_reads_images_of_every_kind(mode: str, tmp_path: Path) -> None:
    ink = 16 * (some(2, 3)[0][0] > 7).double()
    # All ink is 15 of 255 here, but black where there are no greys.
    dark = 16.0 if mode == "1" else 16 * 240 / 255
    names, found = read_images((save(tmp_path / "a.png", ink, mode),), invert=False)
    assert names == [str(tmp_path / "a.png")]
    torch.testing.assert_close(found[0], ink / 16 * dark, atol=1e-5, rtol=0)


def test_what_is_transparent_is_paper(tmp_path: Path) -> None:
    pixels = torch.full((8, 8, 4), 0)
    pixels[3, 5, 3] = 255
    content = bytes(pixels.flatten().tolist())
    Image.frombytes("RGBA", (8, 8), content).save(tmp_path / "a.png")
    _, found = read_images((tmp_path / "a.png",), invert=False)
    expected = torch.zeros(1, 8, 8, dtype=torch.float64)
    expected[0, 3, 5] = 16
    torch.testing.assert_close(found, expected)


def test_light_ink_on_dark_is_inverted(tmp_path: Path) -> None:
    ink = some(2, 3)[0][0]
    path = save(tmp_path / "a.png", ink)
    (_, plain), (_, inverted) = (read_images((path,), invert=b) for b in (False, True))
    torch.testing.assert_close(inverted, 16 - plain)


@pytest.mark.parametrize("header", ["", ",".join(f"p{i}" for i in range(64))])
def test_prints_a_row_for_each_image(
    header: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, _ = some(0, 5)
    png = save(tmp_path / "three.png", images[0])
    rows = save_rows(tmp_path / "rows.csv", images[1:], header)
    before = snapshot(tmp_path) | snapshot(run)
    lines = told(capsys, "predict", run, png, rows).splitlines()
    assert lines[0].split() == ["image", "digit", "probability"]
    first = 2 if header else 1
    names = [str(png), *(f"{rows}:{first + i}" for i in range(4))]
    assert [line.split()[0] for line in lines[1:]] == names
    images[0] *= 15 * 16 / 255
    config = digits.Config(compile=False)
    expected = digits.predict(train.read_run(run).params(), config, images).max(-1)
    assert [int(line.split()[1]) for line in lines[1:]] == expected.indices.tolist()
    shares = [f"{share:.4f}" for share in expected.values.tolist()]
    assert [line.split()[2] for line in lines[1:]] == shares
    assert snapshot(tmp_path) | snapshot(run) == before


def test_asks_about_images_that_are_mostly_ink(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(tmp_path / "dark.png", 16 - some(2, 3)[0][0])
    told(capsys, "predict", run, path, "--invert")
    capsys.readouterr()
    assert cli_says(capsys, run, path).startswith(
        "functorch-lab: note: 1 of 1 images are more ink than ground. "
    )
    assert cli_says(capsys, run, path, "--invert") == ""


def cli_says(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    from functorch_lab import cli

    assert cli.main(["predict", *map(str, argv)]) == 0
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.png", None, "expected a file that can be read, got"),
        ("a.png", b"GIF89a", "a.png: expected a PNG image, or a CSV file by its name"),
        ("a.png", b"", "a.png: expected a PNG image, or a CSV file by its name"),
        ("a.png", (9, 7), "a.png: expected 8 x 8 pixels, got 9 x 7. Resize it, e.g."),
        ("a.png", 80, "a.png: expected a whole PNG image, got a damaged one ("),
        ("a.csv", b"", "a.csv: expected an image per row, got none. Give"),
        ("a.csv", b"1,2\n", "in line 1 64 numbers (an image of 8 x 8), got 2. Put"),
        ("a.csv", b"x,y\n\n3,4\n", "in line 3 64 numbers (an image of 8 x 8), got 2."),
        ("a.csv", b"17" + 63 * b",5", "in line 1 numbers from 0 (ground) to 16 (ink),"),
        (
            "a.csv",
            b"nan" + 63 * b",5",
            "numbers from 0 (ground) to 16 (ink), got 'nan'",
        ),
        ("a.csv", b"?" + 63 * b",5", "numbers from 0 (ground) to 16 (ink), got '?'."),
        (
            "a.csv",
            b"\xff\xfe1",
            "expected comma-separated text in UTF-8, got something",
        ),
    ],
)
def test_refuses_before_it_answers(
    name: str,
    content: bytes | tuple[int, int] | int | None,
    text: str,
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    good, bad = save(tmp_path / "good.png", some(2, 3)[0][0]), tmp_path / name
    if isinstance(content, bytes):
        bad.write_bytes(content)
    elif isinstance(content, tuple):
        Image.new("L", content).save(bad)
    elif content:
        bad.write_bytes(good.read_bytes()[:content])
    before = snapshot(tmp_path) | snapshot(run)
    assert text in refused(capsys, "predict", str(run), str(good), str(bad))
    assert snapshot(tmp_path) | snapshot(run) == before


def test_refuses_runs_that_cannot_predict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(tmp_path / "a.png", some(2, 3)[0][0])
    for name, config, text in (
        ("own", {"lr": 0.5}, "expected one of the recipe digits, got one of no recipe"),
        ("text", {"recipe": "text"}, "expected one of the recipe digits, got text in"),
        ("begun", {"recipe": "digits", "device": "cuda"}, "expected a checkpoint in"),
    ):
        run = train.open_run(tmp_path / name, config=config)
        assert text in refused(capsys, "predict", str(run.folder), str(path))
    text = refused(capsys, "predict", str(tmp_path / "begun"))
    assert "cli.predict: images: expected PNG or CSV files, got none. Run: fun" in text


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"size": 7}, "an unexpected keyword argument 'size'"),
        ({"lr": "high"}, "lr: expected a number, got 'high'"),
        ({"model": "big"}, "one of mlp, cnn, got big."),
        ({"model": "cnn"}, "nn.sequential: params: expected a tuple of 7"),
    ],
)
def test_refuses_settings_that_are_not_those_of_the_parameters(
    changed: dict[str, object],
    text: str,
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = save(tmp_path / "a.png", some(2, 3)[0][0])
    folder = shutil.copytree(run, tmp_path / "run")
    whole = json.loads((folder / "config.json").read_text("utf-8"))
    whole["config"].update(changed)
    (folder / "config.json").write_text(json.dumps(whole), "utf-8")
    said = refused(capsys, "predict", str(folder), str(path))
    assert said.startswith("cli.predict: run: expected the settings that the parameter")
    assert text in said
