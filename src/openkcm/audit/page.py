"""A receipt as one HTML page, to read, to print, to file as PDF. The document is in it, so the page proves itself.

Nothing is loaded from anywhere: style and document are in the page. Every word is escaped.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import jinja2
import msgspec
from markupsafe import Markup

__all__ = ["page_of", "read_page"]

_TEMPLATE: Final = Path(__file__).parent / "shipped" / "receipt.html"
_EMBEDDED: Final = re.compile(rb'<script type="application/json" id="receipt">\n(.*?)\n</script>', re.DOTALL)
_OUTCOMES: Final = {
    "acked": "Obeyed by every node",
    "lease": "Ended by the nodes' leases",
    "open": "Not confirmed yet",
    "refused": "Refused: without authority",
}


def page_of(document: dict[str, Any]) -> bytes:
    """Return the page of a receipt: the same document gives the same bytes."""
    text = _TEMPLATE.read_text(encoding="utf-8")
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
                                  lstrip_blocks=True).from_string(text)  # fmt: skip
    embedded = msgspec.json.format(msgspec.json.encode(document), indent=1).decode()
    for character in "<>&":  # inside a script element only JSON's own escapes are understood
        embedded = embedded.replace(character, f"\\u{ord(character):04x}")
    slowest = max((node["after_ms"] for node in document["summary"]["nodes"]), default=1)
    words = _OUTCOMES[document["summary"]["outcome"]]
    safe = Markup(embedded)  # noqa: S704 -- JSON, with the three characters of markup escaped just above
    return template.render(
        r=document, s=document["summary"], embedded=safe, outcome=words, slowest=max(1, slowest)
    ).encode()


def read_page(raw: bytes) -> bytes:
    """Return the document in a page.

    Raises:
        ValueError: There is none.
    """
    found = _EMBEDDED.search(raw)
    if found is None:
        raise ValueError("no receipt in this page")
    return found[1]
