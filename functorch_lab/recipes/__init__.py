# SPDX-License-Identifier: Apache-2.0
"""Complete training scripts, each a file to read and to copy."""

from functorch_lab.recipes import diabetes, digits, settings, text

__all__ = ["diabetes", "digits", "settings", "text"]
