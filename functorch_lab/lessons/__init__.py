# SPDX-License-Identifier: Apache-2.0
"""The course: each lesson a file that reads from top to bottom, and runs."""
