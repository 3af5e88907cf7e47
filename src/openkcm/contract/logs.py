"""How every process logs: a line an entry, text or (OPENKCM_LOG=json) JSON with its trace, secrets blanked.

The blanking is the last of several walls: nothing passes a secret to a log in the first place, and tests look for that.
It works on shapes, so that it also catches what a library of somebody else's writes.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from typing import Final, TextIO

from openkcm.contract import trace

__all__ = ["Formatter", "blanked", "start"]

#: What never reaches a log, by shape: (pattern, what stands there instead).
SHAPES: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"-----BEGIN [A-Z ]+-----.*?(-----END [A-Z ]+-----|\Z)", re.DOTALL), "<PEM>"),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{4,}(\.[\w-]*)?"), "<token>"),
    (re.compile(r"\bS[ACNOUX][A-Z2-7]{56}\b"), "<seed>"),  # a NATS key's seed
    (re.compile(r"(?<![A-Z0-9])(?:AKIA|ASIA)[A-Z0-9]{12,}"), "<access key>"),
    (re.compile(r"(?i)\b(bearer|authorization:?|passw(?:or)?d|secret|pin)(\s*[=:]\s*|\s+)\S+"), r"\1\2<blanked>"),
    (re.compile(r"://[^/\s:@]+:[^/\s@]+@"), "://<blanked>@"),
    (re.compile(r"(?<![0-9A-Za-z])[0-9a-fA-F]{48,}(?![0-9A-Za-z])"), "<hex>"),
    (
        re.compile(r"(?<![\w+/=-])(?=[\w+/-]*[A-Z])(?=[\w+/-]*[a-z])(?=[\w+/-]*[0-9])[A-Za-z0-9+/_-]{40,}={0,2}"),
        "<base64>",
    ),
)


def blanked(text: str) -> str:
    """Return `text` with everything that has the shape of a secret replaced by its kind."""
    for pattern, instead in SHAPES:
        text = pattern.sub(instead, text)
    return text


class Formatter(logging.Formatter):
    """One line an entry. `process` names who writes; JSON when asked for."""

    def __init__(self, process: str, *, as_json: bool) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")
        self._process, self._as_json = process, as_json

    def format(self, record: logging.LogRecord) -> str:
        """Return the entry; a traceback goes along, on the same line in JSON."""
        if not self._as_json:
            return blanked(super().format(record))
        entry = {
            "at": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": blanked(record.getMessage()),
        }
        if (here := trace.current()) is not None:
            entry["trace_id"] = here.trace_id
        if record.exc_info:
            entry["exception"] = blanked(self.formatException(record.exc_info))
        return json.dumps(entry, ensure_ascii=False)


def start(process: str, stream: TextIO | None = None) -> None:
    """Have this process log to a stream (standard error) at level INFO; libraries only warn."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(Formatter(process, as_json=os.environ.get("OPENKCM_LOG") == "json"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for chatty in ("httpx", "botocore", "azure", "urllib3", "google"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
