"""A connection while its server stands still and comes back."""

from __future__ import annotations

import asyncio
import signal

import pytest

from openkcm.bus.errors import Unavailable
from orbital_fixture import EU, EU_NODE, Orbital


async def test_a_pong_that_comes_too_late_leaves_the_connection_listening(orbital: Orbital) -> None:
    server = orbital.servers[EU].process
    connection = await orbital.connect(EU_NODE)
    server.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(Unavailable, match="did not answer"):
            await connection.flush(timeout_s=0.2)
        waiting = asyncio.ensure_future(connection.flush(timeout_s=5))
        await asyncio.sleep(0.1)
        waiting.cancel()
    finally:
        server.send_signal(signal.SIGCONT)
    await connection.flush()
    await connection.flush()
    assert connection.reconnects == 0
    await connection.close()
