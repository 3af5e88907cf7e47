"""The only clock of a decision: CLOCK_BOOTTIME, which runs while the machine sleeps and no administrator can set."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

__all__ = ["BOOT_ID", "boottime_ns"]


def _boot() -> str:
    """Name this boot, as this process sees its clock: a time namespace (time_namespaces(7)) shifts CLOCK_BOOTTIME."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    try:
        offsets = Path("/proc/self/timens_offsets").read_text(encoding="ascii").split()
    except OSError:  # a kernel without time namespaces
        return boot
    shift = offsets[offsets.index("boottime") + 1 :][:2]
    return boot if shift == ["0", "0"] else f"{boot}{int(shift[0]):+d}.{shift[1]}"


#: This boot of the machine; a deadline stored under another one counts as over.
BOOT_ID: Final = _boot()


def boottime_ns() -> int:
    """Return CLOCK_BOOTTIME in nanoseconds."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
