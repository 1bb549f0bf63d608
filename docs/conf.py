# SPDX-License-Identifier: Apache-2.0
"""Configuration of Sphinx: `sphinx-build -W docs <folder>`."""

import os
from pathlib import Path

import nbformat

import functorch_lab
from functorch_lab import lessons

project = "functorch_lab"
author = "the functorch_lab contributors"
copyright = author
version = release = functorch_lab.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"functorch_lab {version}"

# Headings are link targets, as on GitHub.
myst_heading_anchors = 3

# Docstrings write code in single backticks, as Markdown does.
default_role = "code"
autodoc_member_order = "alphabetical"
autodoc_typehints = "signature"
maximum_signature_line_length = 80
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Source"]

# A lesson's page is its notebook, executed here; unchanged ones come from a cache.
nb_execution_mode = "cache"
nb_execution_in_temp = True  # the figures that a lesson saves go nowhere else
# Small tensors gain nothing from threads, and wait for them where cores are shared.
os.environ.setdefault("OMP_NUM_THREADS", "1")
nb_execution_timeout = 120
nb_execution_raise_on_error = True
nb_code_prompt_show = "Show the solution"
nb_code_prompt_hide = "Hide the solution"
for _name in lessons.NAMES:
    _page = Path(__file__).parent / "lessons" / f"{_name}.ipynb"
    _text = nbformat.writes(lessons.notebook(_name))
    if not _page.exists() or _page.read_text(encoding="utf-8") != _text:
        _part = _page.with_suffix(f".{os.getpid()}.part")  # others may build at once
        _part.write_text(_text, encoding="utf-8")
        os.replace(_part, _page)
