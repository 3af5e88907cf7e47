"""The watch over customers' roots: one long-lived process unwraps each residence's canary. Reports; decides nothing."""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import msgspec

from openkcm.contract.decrees import RootReference
from openkcm.execution.keyring import KeyContext
from openkcm.execution.roots.base import Canary, RootSettings
from openkcm.execution.unseal_process import MAX_MESSAGE_BYTES, Observed, Unwatch, Watch, spawn

__all__ = ["Observation", "Prober"]

_log: Final = logging.getLogger("openkcm.prober")
RESTART_S: Final = 1.0
_OBSERVED: Final = msgspec.msgpack.Decoder(Observed)


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What a residence's root said to one probe.

    Attributes:
        code: "ok", or a key of `roots.base.ACTIONS`.
        root_version: The version a wrap would be by now; another than the record's is a rotation. None when unknown.
    """

    tenant: str
    code: str
    detail: str = ""
    root_version: str | None = None


class Prober:
    """Use it from one event loop, in the main thread."""

    def __init__(self, settings: RootSettings, on_observation: Callable[[Observation], None]) -> None:
        """Prepare.

        Args:
            on_observation: Called in the event loop for every probe of a residence that is still watched.
        """
        self._settings, self._tell = settings, on_observation
        self._watches: dict[str, Watch] = {}
        self._tenants: dict[int, str] = {}  # the same, by the watch's number
        self._n = 0
        self._outbox: deque[bytes] = deque()  # orders that the socket has no room for yet
        self._process: subprocess.Popen[Any] | None = None
        self._control: socket.socket | None = None
        self._closed = False

    def start(self) -> None:
        """Start the process, and all watches in it."""
        if self._closed:
            return
        self._process, self._control = spawn("prober", self._settings.policy.providers)
        asyncio.get_running_loop().add_reader(self._control, self._hear)
        self._outbox.extend(map(msgspec.msgpack.encode, self._watches.values()))
        self._flush()

    def close(self) -> None:
        """End it."""
        self._closed = True
        self._drop()

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        return None if self._process is None else self._process.pid

    def watch(self, tenant: str, root: RootReference, context: KeyContext, canary: Canary) -> None:
        """Probe a residence's root from now on, at once for the first time; instead of what was watched of it before.

        Saying the same again changes nothing.
        """
        asked = Watch(n=0, root=root, settings=self._settings, context=context.encryption_context(), canary=canary,
                      interval_s=self._settings.probe_s(root.provider))  # fmt: skip
        now = self._watches.get(tenant)
        if now is not None and msgspec.structs.replace(now, n=0) == asked:
            return
        self.unwatch(tenant)
        self._n += 1
        self._watches[tenant] = msgspec.structs.replace(asked, n=self._n)
        self._tenants[self._n] = tenant
        self._send(self._watches[tenant])

    def unwatch(self, tenant: str) -> None:
        """Probe it no more; nothing of it is told after this."""
        watch = self._watches.pop(tenant, None)
        if watch is not None:
            del self._tenants[watch.n]
            self._send(Unwatch(n=watch.n))

    def _send(self, order: Watch | Unwatch) -> None:
        if self._control is not None:  # else `start` tells it what is watched by then
            self._outbox.append(msgspec.msgpack.encode(order))
            self._flush()

    def _flush(self) -> None:
        """Send what the socket takes: a few hundred orders; the rest when the prober has read some."""
        while self._control is not None and self._outbox:
            try:
                self._control.send(self._outbox[0])
            except BlockingIOError:
                asyncio.get_running_loop().add_writer(self._control, self._flush)
                return
            except OSError:
                self._restart()
                return
            self._outbox.popleft()
        if self._control is not None:
            asyncio.get_running_loop().remove_writer(self._control)

    def _hear(self) -> None:
        while self._control is not None:
            try:
                raw = self._control.recv(MAX_MESSAGE_BYTES)
            except BlockingIOError:
                return
            except OSError:
                raw = b""
            if not raw:
                self._restart()
                return
            seen = _OBSERVED.decode(raw)
            tenant = self._tenants.get(seen.n)
            if tenant is not None:
                self._tell(
                    Observation(tenant=tenant, code=seen.code, detail=seen.detail, root_version=seen.root_version)
                )

    def _restart(self) -> None:
        _log.error("the prober is gone; another starts in %g s", RESTART_S)
        self._drop()
        asyncio.get_running_loop().call_later(RESTART_S, self.start)

    def _drop(self) -> None:
        process, control, self._process, self._control = self._process, self._control, None, None
        self._outbox.clear()
        if control is not None:
            asyncio.get_running_loop().remove_reader(control)
            asyncio.get_running_loop().remove_writer(control)
            control.close()
        if process is not None:
            process.kill()
            process.wait()
