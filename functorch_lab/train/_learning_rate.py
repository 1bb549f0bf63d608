# SPDX-License-Identifier: Apache-2.0
"""Where an optimizer's state has its learning rate."""

import re
from typing import Any

from functorch_lab import tree

_PART = re.compile(r"\.(\w+)|\['(\w+)'\]|\[(\d+)\]")


def lr_path(opt_state: Any) -> tuple[str | int, ...]:
    """The way to the one learning rate, the same for all parameters; () if not one."""
    ends = (".hyperparams['lr']", ".scheduled['lr']")
    found = [path for path in tree.paths(opt_state) if path.endswith(ends)]
    if len(found) != 1:
        return ()
    parts = list(_PART.finditer(found[0]))
    if "".join(part[0] for part in parts) != found[0]:  # a key with other characters
        return ()
    return tuple(int(part[3]) if part[3] else part[1] or part[2] for part in parts)


def follow(path: tuple[str | int, ...], opt_state: Any) -> Any:
    """What lies at a path."""
    node: Any = opt_state
    for part in path:
        is_key = isinstance(part, int) or isinstance(node, dict)
        node = node[part] if is_key else getattr(node, str(part))
    return node
