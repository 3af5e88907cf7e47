"""Writes the tables of docs/kmip.md anew: `just manual`. Changes nothing else of the page."""

from __future__ import annotations

from pathlib import Path

from openkcm.execution.operations import OPERATIONS
from openkcm.execution.operations.profiles import manual

PAGE = Path(__file__).resolve().parents[2] / "docs" / "kmip.md"
BEGIN, END = "<!-- tables -->\n", "<!-- /tables -->\n"


def page() -> str:
    """The page as it should be."""
    head, _, rest = PAGE.read_text().partition(BEGIN)
    return head + BEGIN + manual(OPERATIONS) + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page())
