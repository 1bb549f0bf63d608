# SPDX-License-Identifier: Apache-2.0
"""Pure functions, trees of tensors and explicit keys for PyTorch."""

__version__ = "0.1.0"
