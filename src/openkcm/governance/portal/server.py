"""Runs one CMK: governance and its portal, until told to stop. Plain HTTP on loopback only."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, Final

import uvicorn

from openkcm.governance.configuration import Configuration
from openkcm.governance.portal.app import create_app
from openkcm.governance.portal.edge import Edge
from openkcm.governance.portal.listener import Listener, bound, renewed
from openkcm.governance.portal.traced import traced
from openkcm.governance.service import Cmk, open_cmk

__all__ = ["run", "serving"]

log = logging.getLogger(__name__)
GRACE_S: Final = 2
SWITCH_S: Final = 0.0005  # threads that take the ledger in give the loop its turn so soon; Python's own is 5 ms


class _Server(uvicorn.Server):
    """Leaves signals to us, since the CMK has more to stop than its portal, and connections to `Listener`."""

    def __init__(self, config: uvicorn.Config, edge: Edge) -> None:
        super().__init__(config)
        self._edge = edge

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then take connections in."""
        listening = bound(self.config.host, self.config.port) if sockets is None else sockets
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            raise RuntimeError("the portal's application did not start")
        protocol = partial(
            self._edge.protocol, config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        listener = Listener(listening, self._edge.admission, protocol, self.config.ssl)
        self.servers = [listener]  # type: ignore[list-item]  # it is closed like a server of asyncio's
        self.started = True

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        """Capture none."""
        yield


def _server(cmk: Cmk, configuration: Configuration) -> _Server:
    tls = configuration.tls
    app = create_app(cmk)
    edge = Edge(app.state.desk.admission)
    return _Server(
        uvicorn.Config(
            traced(edge.guarded(app)),
            http=edge.protocol,  # type: ignore[arg-type]  # called like the class, which is all uvicorn does with it
            proxy_headers=bool(configuration.proxies),
            forwarded_allow_ips=list(configuration.proxies),
            host=configuration.listen.host,
            port=configuration.listen.port,
            ssl_certfile=tls.cert if tls else None,
            ssl_keyfile=tls.key if tls else None,
            ssl_context_factory=(lambda _config, make: renewed(tls, make)) if tls else None,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_S,
            timeout_keep_alive=30,
            ws="none",
            lifespan="on",
        ),
        edge,
    )


@contextlib.asynccontextmanager
async def serving(configuration: Configuration) -> AsyncIterator[tuple[Cmk, str]]:
    """Run a CMK and its portal while the block lasts; yield it and the portal's address.

    Raises:
        ConfigurationError, BusError, OSError: It cannot start.
    """
    cmk = await open_cmk(configuration)
    try:
        server = _server(cmk, configuration)
    except BaseException:
        await cmk.close()
        raise

    task = asyncio.create_task(server.serve())
    try:
        while not server.started:
            if task.done():
                task.result()
                raise OSError("the portal did not start")
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        host = f"[{configuration.listen.host}]" if ":" in configuration.listen.host else configuration.listen.host
        yield cmk, f"{'https' if configuration.tls else 'http'}://{host}:{port}"
    finally:
        cmk.news.close()  # open streams would hold the portal back
        server.should_exit = True
        try:
            await task
        finally:
            await cmk.close()


async def run(configuration: Configuration, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP has it read the regions again.

    Args:
        ready: Told the portal's address when it serves.

    Raises:
        ConfigurationError, BusError, OSError: It cannot start.
        Exception: What ended its work.
    """
    sys.setswitchinterval(SWITCH_S)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with serving(configuration) as (cmk, url):
        loop.add_signal_handler(signal.SIGHUP, cmk.reload_regions)
        gc.collect()
        gc.freeze()  # a collection that looked at all the code again would hold a revocation for 0.1 s
        ready(url)
        stopping = asyncio.create_task(stop.wait())
        ends: set[asyncio.Future[Any]] = {stopping, cmk.failed}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if cmk.failed.done():
            cmk.failed.result()
