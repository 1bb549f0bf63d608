# SPDX-License-Identifier: Apache-2.0
"""Groups of parameters by path pattern."""

from __future__ import annotations

from collections.abc import Mapping

from functorch_lab import tree
from functorch_lab.per_sample._call import Selected
from functorch_lab.transforms._flat import kind_of

Groups = Mapping[str, str]


def check_groups(where: str, groups: object) -> None:
    """What can be said of groups before there are params.

    Raises:
        TypeError: they are no dict from names to patterns.
        ValueError: there are none.
    """
    if not isinstance(groups, Mapping) or not all(
        isinstance(part, str) for pair in groups.items() for part in pair
    ):
        raise TypeError(
            f"{where}: expected a dict from the groups' names to path patterns, got "
            f"{kind_of(groups)}. Write {{'encoder': 'encoder.*', 'head': 'head.*'}}."
        )
    if not groups:
        raise ValueError(
            f"{where}: expected at least one group, got none. "
            "Write {'all': '*'} for one group of all leaves."
        )


def members(where: str, groups: Groups, selected: Selected) -> dict[str, list[int]]:
    """For each group the numbers of its leaves among those that are differentiated.

    Raises:
        ValueError: a pattern matches none of them.
    """
    numbers = selected.tree(list(range(len(selected.leaves))))
    found: dict[str, list[int]] = {}
    for group, pattern in groups.items():
        try:
            found[group] = list(tree.select(numbers, pattern).values())
        except ValueError as error:
            text = str(error).removeprefix("tree.select: pattern: ")
            raise ValueError(f"{where}: {group}: {text}") from None
    return found


def check_partition(
    where: str, found: dict[str, list[int]], selected: Selected
) -> None:
    """That each leaf is in one group.

    Raises:
        ValueError: one is in none, or in two.
    """
    names = tree.paths(selected.tree(selected.leaves))
    for i, name in enumerate(names):
        holders = [group for group, leaves in found.items() if i in leaves]
        if len(holders) != 1:
            got = " and ".join(holders) or "none"
            raise ValueError(
                f"{where}: expected each leaf in one group, got {got} for "
                f"{name or 'the root'}. Change the patterns, or freeze it with wrt=."
            )
