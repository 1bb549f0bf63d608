# SPDX-License-Identifier: Apache-2.0
"""Draws the pictures of plots.md by running the page's code."""

import re
from pathlib import Path

PAGE = Path(__file__).with_name("plots.md")


def main() -> None:
    """Run the page, then save the figure that each of its images is named after."""
    text = PAGE.read_text(encoding="utf-8")
    found: dict = {}
    exec("\n".join(re.findall(r"^```python\n(.*?)^```$", text, re.S | re.M)), found)
    for image in re.findall(r"^```\{image\} (.+)$", text, re.MULTILINE):
        found[Path(image).stem].savefig(PAGE.parent / image, dpi=100)


if __name__ == "__main__":
    main()
