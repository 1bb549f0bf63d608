# SPDX-License-Identifier: Apache-2.0
"""The docs cover every public name, and what they show is what happens.

Tutorials and guides are plain Markdown whose blocks are run here, and not by the docs'
builder: a page is readable in any viewer, and a wrong output fails like any other test.
"""

import doctest
import importlib
import inspect
import pkgutil
import warnings
from functools import cache
from pathlib import Path

import pytest

import functorch_lab
from markdown_code import ROOT, blocks, check_page

DOCS = ROOT / "docs"
NAME = functorch_lab.__name__


def modules(*, private: bool) -> list[str]:
    found = pkgutil.walk_packages(functorch_lab.__path__, prefix=f"{NAME}.")
    names = [NAME, *(module.name for module in found)]
    # Recipes and lessons are scripts, shown as files.
    names = [
        n for n in names if not n.startswith((f"{NAME}.recipes", f"{NAME}.lessons"))
    ]
    return [n for n in names if private or "._" not in n]


def public_names() -> dict[str, object]:
    """All public names that are no namespaces, by address."""
    names: dict[str, object] = {}
    for module in modules(private=False):
        if module == f"{NAME}.transforms":
            continue
        # The top level is the address of the transforms: fl.grad, fl.debug.nans.
        address = module.replace(f"{NAME}.transforms.", f"{NAME}.")
        namespace = importlib.import_module(module)
        found = {name: getattr(namespace, name) for name in namespace.__all__}
        names |= {
            f"{address}.{name}": value
            for name, value in found.items()
            if not inspect.ismodule(value)
        }
    return names


PUBLIC = public_names()


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Addresses that have an entry in the docs, as Sphinx sees them."""
    from sphinx.application import Sphinx

    folder = tmp_path_factory.mktemp("docs")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Sphinx's own; the docs' go to its log
        app = Sphinx(
            DOCS,
            DOCS,
            folder,
            folder,
            "dummy",
            status=None,
            confoverrides={"nb_execution_mode": "off"},
        )
        app.build(force_all=True)
    return set(app.env.domaindata["py"]["objects"])


def test_every_public_name_has_an_entry(documented: set[str]) -> None:
    assert not sorted(PUBLIC.keys() - documented)


RUN = [*DOCS.glob("tutorial/*.md"), *DOCS.glob("per_sample/*.md")]


@pytest.mark.parametrize("page", sorted(RUN), ids=lambda p: p.stem)
def test_page_shows_what_happens(page: Path) -> None:
    ran = check_page(page)
    assert ran > 0 or not blocks(page, "python")


@cache
def collected_examples() -> set[str | None]:
    """Docstrings whose examples doctest collects, in any file of the package."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    return {
        test.docstring
        for name in modules(private=True)
        for test in finder.find(importlib.import_module(name))
        if test.examples
    }


@pytest.mark.parametrize("address", PUBLIC)
def test_example_is_executed(address: str) -> None:
    docstring = PUBLIC[address].__doc__
    if docstring and ">>>" in docstring:
        assert docstring in collected_examples()
