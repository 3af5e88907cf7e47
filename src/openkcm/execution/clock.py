"""The only clock of a decision: CLOCK_BOOTTIME, which runs while the machine sleeps and no administrator can set."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

__all__ = ["BOOT_ID", "boottime_ns"]

#: This boot of the machine; a deadline stored under another one counts as over.
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def boottime_ns() -> int:
    """Return CLOCK_BOOTTIME in nanoseconds."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
