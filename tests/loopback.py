"""Ports on loopback that stay free until their server listens.

The kernel gives its own free ports to outgoing connections too: one that it named a moment ago may be taken by then.
So all are below what it gives away by itself, and each worker of a run in parallel has ports of its own.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
from itertools import islice

SHARE, SHARES = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 4, 4
SINGLE = range(10000 + SHARE, 20000, SHARES)
RUN = 128
RUNS = range(20000 + RUN * SHARE, 32768 - RUN, RUN * SHARES)


def free_ports(count: int) -> list[int]:
    """Return ports that differ, and on which nobody listens."""
    return list(islice((port for port in random.sample(SINGLE, len(SINGLE)) if _free(port, 1)), count))


def free_run() -> int:
    """Return the first of RUN ports on which nobody listens."""
    return next(port for port in random.sample(RUNS, len(RUNS)) if _free(port, RUN))


def _free(first: int, count: int) -> bool:
    with contextlib.ExitStack() as held:
        try:
            for port in range(first, first + count):
                held.enter_context(socket.socket()).bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
