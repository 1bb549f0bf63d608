# SPDX-License-Identifier: Apache-2.0
"""Configuration of Sphinx: `sphinx-build -W docs <folder>`."""

import functorch_lab

project = "functorch_lab"
author = "the functorch_lab contributors"
copyright = author
version = release = functorch_lab.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
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
