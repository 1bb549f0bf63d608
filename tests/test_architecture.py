# SPDX-License-Identifier: Apache-2.0
"""The map of the package holds: what may import what, and what may be called where."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import functorch_lab

PACKAGE = Path(functorch_lab.__file__).parent
NAME = PACKAGE.name
FILES = sorted(PACKAGE.rglob("*.py"))

# A part imports parts of a lower rank only; equal ranks are siblings.
RANKS = {
    "types": 0,
    "tree": 10,
    "random": 11,
    "transforms": 12,
    **dict.fromkeys(["nn", "losses", "metrics", "optim", "per_sample", "data"], 20),
    **dict.fromkeys(["train", "plots"], 30),
    **dict.fromkeys(["recipes", "lessons"], 40),
    "cli": 41,
    "__main__": 42,
}
ROOT_RANK = 39  # recipes, lessons and cli are written as a user writes: import the root
REQUIRED = {"torch", "optree", "jaxtyping", "beartype"}
EXTRAS = {"tyro", "rich", "matplotlib", "sklearn", "safetensors", "numpy"}
EXTRAS |= {"jupytext", "nbformat"}

DRAWS = {
    *(f"torch.{name}" for name in ("rand", "randn", "randint", "randperm", "normal")),
    *(f"torch.{name}_like" for name in ("rand", "randn", "randint")),
    *(f"torch.{name}" for name in ("bernoulli", "multinomial", "poisson", "binomial")),
    *(f"torch.{name}" for name in ("seed", "manual_seed", "Generator", "dropout")),
    *(f"torch.nn.functional.{name}" for name in ("gumbel_softmax", "rrelu")),
}
DRAWING_PREFIXES = (
    "torch.random.",
    "torch.cuda.manual_seed",
    "torch.nn.init.",
    "torch.nn.functional.dropout",
    "torch.nn.functional.alpha_dropout",
    "torch.nn.functional.feature_alpha_dropout",
    "numpy.random.",
    "random.",
)
DRAWING_METHODS = {
    *("normal_", "uniform_", "random_", "bernoulli_", "bernoulli", "exponential_"),
    *("cauchy_", "geometric_", "log_normal_", "multinomial"),
}
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc"}


def part(file: Path) -> str:
    """The part of the map that a file belongs to; '' for the package's `__init__`."""
    first = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


@cache
def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def imports(file: Path, nodes: ast.AST | None = None) -> Iterator[tuple[int, str, str]]:
    """`(line, address, alias)` of every imported name, relative imports resolved."""
    for node in ast.walk(nodes or parse(file)):
        if isinstance(node, ast.Import):
            for name in node.names:
                bound = name.asname or name.name.split(".")[0]
                address = name.name if name.asname else bound
                yield node.lineno, address, bound
                if address != name.name:
                    yield node.lineno, name.name, ""
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                folder = [NAME, *file.parent.relative_to(PACKAGE).parts]
                above = folder[: len(folder) - node.level + 1]
                base = ".".join([*above, *filter(None, [base])])
            for name in node.names:
                yield node.lineno, f"{base}.{name.name}", name.asname or name.name


def target(address: str) -> str | None:
    """Part that an address is in, '' for the root, None outside the package."""
    names = address.split(".")
    if names[0] != NAME:
        return None
    is_part = len(names) > 1 and names[1] in RANKS
    return names[1] if is_part else ""


def uses(file: Path) -> Iterator[tuple[int, str, bool]]:
    """`(line, address, is_called)` of every dotted name, import aliases resolved."""
    aliases = {alias: address for _, address, alias in imports(file) if alias}
    called = {id(n.func) for n in ast.walk(parse(file)) if isinstance(n, ast.Call)}
    for node in ast.walk(parse(file)):
        names, inner = [], node
        while isinstance(inner, ast.Attribute):
            names.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name) and inner.id in aliases:
            address = ".".join([aliases[inner.id], *reversed(names)])
            yield node.lineno, address, id(node) in called  # pyright: ignore[reportAttributeAccessIssue]


def at(file: Path, line: int) -> str:
    return f"{file.relative_to(PACKAGE.parent)}:{line}"


def test_every_part_has_its_place_on_the_map() -> None:
    assert {part(file) for file in FILES} - {""} <= RANKS.keys()


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_down(file: Path) -> None:
    here = part(file)
    if here == "":
        return
    wrong = []
    for line, address, _ in imports(file):
        there = target(address)
        if there is None or there == here:
            continue
        rank = RANKS[there] if there else ROOT_RANK
        if rank >= RANKS[here]:
            wrong.append(f"{at(file, line)}: {here} imports {address}")
    assert not wrong


# Per-sample gradients are a transform in a folder of their own: they stand on the
# engine, and speak of functions and lines as the other transforms do. The bridge opens
# the functions of torch as they do.
SEAMS = {
    "per_sample": ("_engine", "_flat", "_abstract", "_opened", "_shown"),
    "nn": ("_opened",),
}


def is_seam(file: Path, address: str) -> bool:
    allowed = [f"{NAME}.transforms.{name}" for name in SEAMS.get(part(file), ())]
    return any(f"{address}.".startswith(f"{name}.") for name in allowed)


def test_parts_use_the_public_names_of_one_another() -> None:
    wrong = [
        f"{at(file, line)}: {address}"
        for file in FILES
        for line, address, _ in imports(file)
        if target(address) not in (None, part(file))
        if any(n[:1] == "_" and n != "__version__" for n in address.split("."))
        if part(file) and not is_seam(file, address)
    ]
    assert not wrong


def test_only_transforms_compiles() -> None:
    wrong = [
        f"{at(file, line)}: {address}"
        for file in FILES
        if part(file) != "transforms"
        for line, address, is_called in uses(file)
        if address == "torch.compile" or (is_called and "torch._dynamo" in address)
    ]
    assert not wrong


def test_only_tree_flattens() -> None:
    wrong = [
        f"{at(file, line)}: {address}"
        for file in FILES
        if part(file) not in ("tree", "types")
        for line, address, _ in uses(file)
        if address.startswith(("optree", "torch.utils._pytree", "torch.utils._cxx"))
    ]
    assert not wrong


def test_only_random_draws() -> None:
    # Lessons repeat published numbers, which come from torch's global generator.
    files = [file for file in FILES if part(file) != "lessons"]
    wrong = [
        f"{at(file, line)}: {address}"
        for file in files
        if part(file) != "random"
        for line, address, is_called in uses(file)
        if is_called and (address in DRAWS or address.startswith(DRAWING_PREFIXES))
    ]
    for file in files:
        aliases = {alias for _, _, alias in imports(file)}
        for node in ast.walk(parse(file)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = node.func.value
                of_module = isinstance(owner, ast.Name) and owner.id in aliases
                if node.func.attr in DRAWING_METHODS and not of_module:
                    wrong.append(f"{at(file, node.lineno)}: .{node.func.attr}()")
    assert not wrong


def test_files_have_telling_names_and_one_concept() -> None:
    names = {at(file, 1): set(file.relative_to(PACKAGE).parts) for file in FILES}
    vague = {f"{name}{end}" for name in VAGUE for end in ("", ".py")}
    vague |= {f"_{name}" for name in vague}
    assert not [where for where, parts in names.items() if parts & vague]
    # In a folder, what is not private is the folder's list or a namespace of its own.
    scripts = {"recipes", "lessons"}
    inner = [f for f in FILES if f.parent != PACKAGE and part(f) not in scripts]
    shown = [f for f in inner if not f.name.startswith("_")]
    assert not [at(f, 1) for f in shown if "__all__" not in f.read_text("utf-8")]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_file_is_short_and_licensed(file: Path) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    # A lesson is a page of prose and code.
    assert len(lines) < (750 if part(file) == "lessons" else 500)
    assert lines[0] == "# SPDX-License-Identifier: Apache-2.0"


def namespaces() -> list[str]:
    """Modules of the package whose names have no underscore, and the package itself."""
    found = pkgutil.walk_packages([str(PACKAGE)], prefix=f"{NAME}.")
    public = [m.name for m in found if "._" not in m.name]
    scripts = (f"{NAME}.recipes.", f"{NAME}.lessons.")
    return [NAME, *(name for name in public if not name.startswith(scripts))]


@pytest.mark.parametrize("name", namespaces())
def test_namespace_lists_its_public_names(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__
    assert len(set(module.__all__)) == len(module.__all__)
    assert not [n for n in module.__all__ if not hasattr(module, n)]


def test_a_public_name_has_one_address() -> None:
    homes: dict[int, list[str]] = {}
    for name in namespaces():
        # The core transforms are shown at the top level: that is their address.
        if name == f"{NAME}.transforms":
            continue
        module = importlib.import_module(name)
        for public in module.__all__:
            value = getattr(module, public)
            if callable(value) and not isinstance(value, type(sys)):
                homes.setdefault(id(value), []).append(f"{name}.{public}")
    assert not [addresses for addresses in homes.values() if len(addresses) > 1]


def outermost(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run when the module is imported."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith(
            "TYPE_CHECKING"
        ):
            continue
        yield node


def test_only_required_packages_are_imported_with_a_module() -> None:
    wrong = []
    for file in FILES:
        if part(file) in ("recipes", "lessons"):
            continue
        for node in outermost(parse(file).body):
            for line, address, _ in imports(file, node):
                known = sys.stdlib_module_names | REQUIRED | {NAME}
                if address.split(".")[0] not in known:
                    wrong.append(f"{at(file, line)}: {address}")
    assert not wrong


def test_only_declared_packages_are_imported() -> None:
    known = sys.stdlib_module_names | REQUIRED | EXTRAS | {NAME}
    wrong = [
        f"{at(file, line)}: {address}"
        for file in FILES
        for line, address, _ in imports(file)
        if address.split(".")[0] not in known
    ]
    assert not wrong


def loaded_by(statement: str) -> set[str]:
    """Names in sys.modules of a fresh interpreter after `statement`."""
    code = f"{statement}; import sys; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return set(run.stdout.split())


def test_importing_the_package_imports_no_extra() -> None:
    # jaxtyping loads numpy where there is one; that counts as its own.
    required = loaded_by(f"import {', '.join(sorted(REQUIRED))}")
    more = loaded_by(f"import {NAME}") - required
    heavy = EXTRAS | {"jax", "jaxlib", "scipy", "pandas", "torch._dynamo"}
    heavy |= {"torch._inductor", "torch._functorch.aot_autograd"}
    assert not more & heavy


def test_the_tests_see_what_they_forbid(tmp_path: Path) -> None:
    # The functions above, on a file that breaks the rules.
    file = tmp_path / "bad.py"
    file.write_text(
        "import torch.nn.functional as F\nfrom torch import compile as c\n"
        "import torch.utils._pytree\nimport numpy as np\n"
        "F.dropout(1)\nc(1)\ntorch.utils._pytree.tree_map(1)\nnp.random.rand(1)\n"
    )
    found = {(line, address) for line, address, is_called in uses(file) if is_called}
    assert found == {
        (5, "torch.nn.functional.dropout"),
        (6, "torch.compile"),
        (7, "torch.utils._pytree.tree_map"),
        (8, "numpy.random.rand"),
    }
    inside = PACKAGE / "nn" / "_linear.py"
    tree = ast.parse("from ..optim import adam\nfrom . import _conv\nfrom .. import fl")
    assert [target(address) for _, address, _ in imports(inside, tree)] == [
        "optim",
        "nn",
        "",
    ]
