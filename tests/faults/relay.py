"""A TCP relay on loopback that can hold everything back: `relay.py LISTEN TARGET`. SIGUSR1: 100 ms each way, SIGUSR2: none."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import signal
import sys

HELD_S = 0.1
HOST = "127.0.0.1"


class Relay:
    """One listening port and its target."""

    held_s = 0.0

    def hold(self, seconds: float) -> None:
        self.held_s = seconds

    async def serve(self, listen: int, target: int) -> None:
        async def joined(near: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
            try:
                far, far_out = await asyncio.open_connection(HOST, target)
            except OSError:
                near_out.transport.abort()
                return
            ways = [
                asyncio.ensure_future(self._carry(near, far_out)),
                asyncio.ensure_future(self._carry(far, near_out)),
            ]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            for writer in (near_out, far_out):
                writer.transport.abort()

        server = await asyncio.start_server(joined, HOST, listen)
        await server.serve_forever()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry bytes, each as late as the delay was when it came."""
        loop = asyncio.get_running_loop()
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(1000)

        async def read() -> None:
            while data := await reader.read(65536):
                await waiting.put((loop.time() + self.held_s, data))

        reading = asyncio.ensure_future(read())
        with contextlib.suppress(OSError):
            while not (reading.done() and waiting.empty()):
                getting = asyncio.ensure_future(waiting.get())
                await asyncio.wait([getting, reading], return_when=asyncio.FIRST_COMPLETED)
                if not getting.done():
                    getting.cancel()
                    continue
                due, data = getting.result()
                await asyncio.sleep(max(0.0, due - loop.time()))
                writer.write(data)
                await writer.drain()
        reading.cancel()


async def main() -> None:
    relay, loop = Relay(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, relay.hold, HELD_S)
    loop.add_signal_handler(signal.SIGUSR2, relay.hold, 0.0)
    await relay.serve(int(sys.argv[1]), int(sys.argv[2]))


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: not longer than the test
    asyncio.run(main())
