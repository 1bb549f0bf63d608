# SPDX-License-Identifier: Apache-2.0
"""The settings of a recipe: what they may be, checked before any work.

A recipe says it in the types of its `Config`: `epochs: Count = 20`, `lr: Positive`.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

import functorch_lab as fl


@dataclass(frozen=True)
class Rule:
    """What a number must be.

    Attributes:
        expected: In words.
        holds: The same as a function of the number.
    """

    expected: str
    holds: Callable[[Any], bool]


def up_to(samples: int) -> Rule:
    """The rule for a batch size: at least 1, and no more than there are samples.

    Example:
        >>> from functorch_lab.recipes import settings
        >>> rule = settings.up_to(50)
        >>> rule.expected, rule.holds(50), rule.holds(51)
        ('1 .. 50 (the number of samples)', True, False)
    """
    return Rule(f"1 .. {samples} (the number of samples)", lambda n: 1 <= n <= samples)


Count = Annotated[int, Rule("at least 1", lambda n: n >= 1)]
Positive = Annotated[float, Rule("a finite number > 0", lambda x: 0 < x < math.inf)]
NotNegative = Annotated[
    float, Rule("a finite number >= 0", lambda x: 0 <= x < math.inf)
]
Share = Annotated[float, Rule("a share in [0, 1]", lambda x: 0 <= x <= 1)]
Device = Literal["auto", "cpu", "mps", "cuda"]

_WORDS = {int: "a whole number", float: "a number", bool: "True or False"}
_MEANT = {"gpu": "cuda", "metal": "mps", "--learning-rate": "--lr"}


def check(where: str, config: Any) -> None:
    """Check every setting against its type: words, or a number with or without a rule.

    Args:
        where: Whose settings they are, such as "recipes.digits".
        config: An instance of a dataclass whose fields have defaults.

    Raises:
        TypeError: If a setting is of another kind than its field.
        ValueError: If it is out of its range, not one of the words, or a device that
            is not there.

    Example:
        >>> from dataclasses import dataclass
        >>> from functorch_lab.recipes import settings
        >>> @dataclass
        ... class Config:
        ...     lr: settings.Positive = 0.1
        >>> settings.check("recipes.mine", Config(lr=0.5))
        >>> settings.check("recipes.mine", Config(lr=-1.0))
        Traceback (most recent call last):
        ValueError: recipes.mine: lr: expected a finite number > 0, got -1.0. Give
        e.g. 0.1.
    """
    hints = get_type_hints(type(config), include_extras=True)
    for field in fields(config):
        value, kind = getattr(config, field.name), hints[field.name]
        what, remedy = f"{where}: {field.name}", f"Give e.g. {field.default}."
        optional = NoneType in get_args(kind)
        if optional:
            kind = get_args(kind)[0]
        if kind == Device:
            find_device(where, value)
        elif get_origin(kind) is Literal:
            one_of(what, value, get_args(kind))
        elif not optional or value is not None:
            _check_number(what, value, kind, remedy)


def _check_number(what: str, value: Any, kind: Any, remedy: str) -> None:
    kind, *rules = get_args(kind) or (kind,)
    # True is an int to Python, and an int is a float to its reader.
    fits = int | float if kind is float else kind
    if not isinstance(value, fits) or (isinstance(value, bool) and kind is not bool):
        words = _WORDS.get(kind, f"a {kind.__name__}")
        raise TypeError(f"{what}: expected {words}, got {value!r}. {remedy}")
    for rule in rules:
        if not rule.holds(value):
            raise ValueError(f"{what}: expected {rule.expected}, got {value}. {remedy}")


def one_of(what: str, value: str, choices: Iterable[str]) -> None:
    """Check that the value is one of the choices.

    Args:
        what: Names the value in the message, such as "recipes.digits: model".
        value: What was given.
        choices: What there is.

    Raises:
        ValueError: If it is not; the nearest choice is named.

    Example:
        >>> from functorch_lab.recipes import settings
        >>> settings.one_of("recipes.digits: model", "ccn", ["mlp", "cnn"])
        Traceback (most recent call last):
        ValueError: recipes.digits: model: expected one of mlp, cnn, got ccn. Did you
        mean cnn?
    """
    choices, value = list(choices), str(value)
    if value in choices:
        return
    near = get_close_matches(_MEANT.get(value, value), choices, n=1, cutoff=0.5)
    remedy = f"Did you mean {near[0]}?" if near else "Choose one that is listed."
    raise ValueError(
        f"{what}: expected one of {', '.join(choices)}, got {value}. {remedy}"
    )


def open_run(
    recipe: str, config: Any, run_dir: str | Path | None, resume: bool
) -> fl.train.Run | None:
    """The run in that folder, opened for these settings; None if there is no folder.

    Args:
        recipe: The recipe's name, kept with the settings in the folder.
        config: An instance of a dataclass.
        run_dir: The folder, or None.
        resume: Go on with the run that is there.

    Returns:
        What `functorch_lab.train.open_run` gives, or None.

    Raises:
        ValueError: If `resume` is given without a folder; what `open_run` refuses.

    Example:
        >>> import tempfile
        >>> from functorch_lab.recipes import digits, settings
        >>> folder = tempfile.mkdtemp()
        >>> run = settings.open_run("digits", digits.Config(seed=3), folder, False)
        >>> run.config["recipe"], run.config["seed"]
        ('digits', 3)
    """
    if run_dir is not None:
        config = {"recipe": recipe, **asdict(config)}
        return fl.train.open_run(run_dir, config=config, resume=resume)
    if resume:
        raise ValueError(
            f"recipes.{recipe}: resume: expected run_dir with it, got none. Give the "
            "folder of the run to go on with."
        )
    return None


def find_device(where: str, name: str) -> torch.device:
    """The device of that name; auto takes cuda, else mps, else cpu.

    Args:
        where: Who asks, such as "recipes.digits".
        name: One of auto, cpu, mps, cuda.

    Returns:
        The device.

    Raises:
        ValueError: If there is no such device on this machine.

    Example:
        >>> from functorch_lab.recipes import settings
        >>> settings.find_device("recipes.digits", "cpu")
        device(type='cpu')
    """
    what = f"{where}: device"
    one_of(what, name, get_args(Device))
    present = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    found = [kind for kind, there in present.items() if there]
    if name != "auto" and name not in found:
        raise ValueError(
            f"{what}: expected one that is present ({', '.join(found)}), got {name}. "
            "Give auto to take the best one."
        )
    return torch.device(found[0] if name == "auto" else name)


def check_shape(what: str, x: Tensor, shape: tuple[int, ...]) -> None:
    """Check that there are samples of this shape.

    Args:
        what: Names them in the message, such as "recipes.digits.predict: images".
        x: The samples, a tensor `(n, *shape)`.
        shape: The shape of one.

    Raises:
        ValueError: If the shape of `x` is another.

    Example:
        >>> import torch
        >>> from functorch_lab.recipes import settings
        >>> settings.check_shape("images", torch.ones(3, 5, 8), (8, 8))
        Traceback (most recent call last):
        ValueError: images: expected shape (n, 8, 8), got (3, 5, 8). Give one row ...
    """
    if x.shape[1:] != shape or not x.ndim:
        words = ", ".join(map(str, ("n", *shape)))
        raise ValueError(
            f"{what}: expected shape ({words}), got {tuple(x.shape)}. Give one row per "
            "sample."
        )
