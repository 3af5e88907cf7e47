"""Asking customers' roots from the custodian, without their SDKs and without ever holding a KEK outside an arena view.

One throw-away process a call (see `unseal_helper`): 32 bytes come through a pipe straight into the caller's view, all
else through another. Calls of one residence follow one another, equal ones are one; not more than a few run at once; a
root that does not answer is left alone for a while. A revocation `cancel`s: pipes closed, processes killed and gone
before it returns, so that nothing can arrive afterwards.

Raised: `roots.base.RootError` with a code of its `ACTIONS`; `UnsealCancelled` for a call that was cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import signal
import socket
import subprocess
import time
from collections import defaultdict
from typing import Any, Final

import msgspec

from openkcm.contract.decrees import RootReference
from openkcm.execution.breaker import Breaker
from openkcm.execution.keyring import KeyContext, root_name
from openkcm.execution.roots.base import KEK_BYTES, RootError, RootSettings, UnsealCancelled, Wrapped
from openkcm.execution.secretmem import wipe
from openkcm.execution.unseal_process import (
    MAX_MESSAGE_BYTES,
    Answer,
    Forked,
    Operation,
    Request,
    decode_answer,
    spawn,
)

__all__ = ["Unsealer"]

_log: Final = logging.getLogger("openkcm.unseal")
CONCURRENCY: Final = 4  # calls at once, a provider: one that hangs keeps nobody at another one waiting
#: Over the root's own deadline, which a helper keeps by itself: a burst on a busy machine waits for the SDKs' import.
START_GRACE_S: Final = 28.0
GONE_S: Final = 0.5  # a killed process ends within milliseconds; after this its zygote goes too
MAX_ANSWER_BYTES: Final = 64 << 10
_FORKED: Final = msgspec.msgpack.Decoder(Forked)


class _Call:
    """A request under way."""

    __slots__ = ("answer", "done", "got", "into", "key_pipe", "meta_pipe", "n", "pidfd", "raw", "tenant", "timer")

    def __init__(self, n: int, tenant: str, into: list[memoryview], key_pipe: int, meta_pipe: int) -> None:
        self.n, self.tenant, self.into, self.key_pipe, self.meta_pipe = n, tenant, into, key_pipe, meta_pipe
        self.done: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.pidfd: int | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.got, self.raw = 0, bytearray()
        self.answer: Answer | None = None


class Unsealer:
    """The custodian's way to the roots. Use it from one event loop, in the main thread."""

    def __init__(self, settings: RootSettings) -> None:
        """Prepare; `start` makes the zygote.

        Args:
            settings: Of this node's configuration; go with every request.
        """
        self._settings = settings
        self._slots: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(CONCURRENCY))
        self._queues: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._breakers: defaultdict[str, Breaker] = defaultdict(Breaker)
        self._closings: defaultdict[str, int] = defaultdict(int)
        self._calls: dict[int, _Call] = {}
        self._same: dict[tuple[str, bytes, str], _Call] = {}
        self._n = 0
        self._zygote: subprocess.Popen[Any] | None = None
        self._control: socket.socket | None = None
        self._ready = False  # the zygote has done its imports
        self._unborn: set[int] = set()  # asked for, and the zygote has not named its process yet
        self._dying: set[int] = set()  # pidfds of processes that were killed

    def start(self) -> None:
        """Start the zygote: early, so that its imports are done when the first residence needs it."""
        if self._zygote is not None and self._zygote.poll() is None and self._control is not None:
            return
        self._drop_zygote()
        self._zygote, self._control = spawn("zygote", self._settings.policy.providers)
        asyncio.get_running_loop().add_reader(self._control, self._hear)

    def close(self) -> None:
        """End every call and the zygote."""
        for tenant in {call.tenant for call in self._calls.values()}:
            self.cancel(tenant)
        self._drop_zygote()

    async def wrap_new_kek(self, tenant: str, root: RootReference, context: KeyContext, into: memoryview) -> Wrapped:
        """Have a new KEK made and wrapped by the root; its 32 bytes lie in `into`. The answer has a canary with it.

        Raises:
            RootError: The root did not. `into` is zeros.
        """
        answer = await self._ask("wrap", tenant, root, context, None, into)
        return _wrapped(answer)

    async def unwrap(
        self, tenant: str, root: RootReference, wrapped: Wrapped, context: KeyContext, into: memoryview
    ) -> None:
        """Have the root unwrap a KEK into `into`.

        Raises:
            RootError: The root did not. `into` is zeros.
        """
        await self._ask("unwrap", tenant, root, context, wrapped, into)

    async def rewrap(self, tenant: str, root: RootReference, wrapped: Wrapped, context: KeyContext) -> Wrapped:
        """Have the same KEK wrapped by the root's current version, with a new canary. It never leaves the helper.

        Raises:
            RootError: The root did not. The old wrapping is as good as it was.
        """
        return _wrapped(await self._ask("rewrap", tenant, root, context, wrapped, None))

    def cancel(self, tenant: str) -> None:
        """End all calls of a residence, those waiting too: nothing of them arrives after this returns.

        (1) close the pipes and wipe what came; (2) kill; (3) wait until the processes are gone, half a second at most,
        then kill the zygote and with it every child. A zygote that still imports is not waited for but killed.
        """
        self._closings[tenant] += 1
        mine = [call for call in self._calls.values() if call.tenant == tenant]
        for call in mine:
            self._finish(call, UnsealCancelled())  # (1) (2)
        unborn = {call.n for call in mine} & self._unborn
        if mine and not ((self._ready or not unborn) and self._gone(unborn, time.monotonic() + GONE_S)):  # (3)
            _log.warning("unsealing processes of %s are not known to be gone; killing the zygote", tenant)
            self._drop_zygote()

    # --- one call -----------------------------------------------------------------------------------------------------

    async def _ask(
        self,
        op: Operation,
        tenant: str,
        root: RootReference,
        context: KeyContext,
        wrapped: Wrapped | None,
        into: memoryview | None,
    ) -> Answer:
        if into is not None and (into.readonly or into.nbytes != KEK_BYTES):
            raise ValueError(f"a KEK goes into {KEK_BYTES} writable bytes")
        same = (tenant, wrapped.ciphertext if wrapped else b"", str(context))
        if op == "unwrap" and into is not None and (running := self._same.get(same)) is not None:
            running.into.append(into)
            try:
                return await asyncio.shield(running.done)
            except asyncio.CancelledError:  # this caller is gone, and its view may be somebody else's next
                running.into[:] = [view for view in running.into if view is not into]
                raise
        breaker, closings = self._breakers[root_name(root)], self._closings[tenant]
        async with self._queues[tenant], self._slots[root.provider]:
            if self._closings[tenant] != closings:
                raise UnsealCancelled
            breaker.check()
            call = self._begin(op, tenant, root, context, wrapped, into)
            if op == "unwrap":
                self._same[same] = call
            try:
                answer = await call.done
            except RootError as no:
                if not isinstance(no, UnsealCancelled):
                    breaker.note(no)
                raise
            finally:  # the caller's own cancellation comes this way too
                self._finish(call, UnsealCancelled())
                if self._same.get(same) is call:
                    del self._same[same]
            breaker.note(None)
            return answer

    def _begin(
        self,
        op: Operation,
        tenant: str,
        root: RootReference,
        context: KeyContext,
        wrapped: Wrapped | None,
        into: memoryview | None,
    ) -> _Call:
        self.start()
        assert self._control is not None
        loop = asyncio.get_running_loop()
        self._n += 1
        request = Request(n=self._n, op=op, root=root, settings=self._settings, wrapped=wrapped,
                          context=context.encryption_context())  # fmt: skip
        key_pipe, key_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        meta_pipe, meta_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(meta_pipe, False)
        call = _Call(self._n, tenant, [] if into is None else [into], key_pipe, meta_pipe)
        self._calls[call.n] = call
        try:
            socket.send_fds(self._control, [msgspec.msgpack.encode(request)], [key_end, meta_end])
            self._unborn.add(call.n)
        except OSError as gone:
            self._finish(call, RootError("Unreachable", f"the unsealing process: {gone.strerror}"))
            self._drop_zygote()
            return call
        finally:
            os.close(key_end)
            os.close(meta_end)
        loop.add_reader(key_pipe, self._key_arrives, call)
        loop.add_reader(meta_pipe, self._answer_arrives, call)
        limit_s = self._settings.deadline_s + START_GRACE_S
        late = RootError("Unreachable", f"no answer within {limit_s:g} s")
        call.timer = loop.call_later(limit_s, self._finish, call, late)
        return call

    def _key_arrives(self, call: _Call) -> None:
        try:
            view = call.into[0][call.got :] if call.into and call.got < KEK_BYTES else memoryview(bytearray(1))
            count = os.readv(call.key_pipe, [view])
        except BlockingIOError:
            return
        call.got += count
        if call.got > KEK_BYTES or (count and not call.into):
            self._finish(call, RootError("Misconfigured", "the unsealing process wrote more than a key"))
        elif not count:
            asyncio.get_running_loop().remove_reader(call.key_pipe)
            self._conclude(call)

    def _answer_arrives(self, call: _Call) -> None:
        try:
            chunk = os.read(call.meta_pipe, MAX_ANSWER_BYTES)
        except BlockingIOError:
            return
        call.raw += chunk
        if len(call.raw) > MAX_ANSWER_BYTES:
            self._finish(call, RootError("Misconfigured", "the unsealing process answers too much"))
        elif not chunk:  # the key was written, and its pipe closed, before this one: read what is left of it
            asyncio.get_running_loop().remove_reader(call.meta_pipe)
            call.answer = decode_answer(bytes(call.raw))
            self._conclude(call)

    def _conclude(self, call: _Call) -> None:
        """Finish once both pipes are at their end."""
        answer = call.answer
        if answer is None or call.done.done():
            return
        if answer.code != "ok":
            self._finish(call, RootError(answer.code, answer.detail))
        elif call.into and call.got < KEK_BYTES:
            return  # the other pipe's turn comes, or the timer's
        else:
            self._finish(call, answer)

    def _finish(self, call: _Call, outcome: Answer | RootError) -> None:
        """End a call once: pipes, timer, process; then tell. After this nothing of it can arrive."""
        if self._calls.pop(call.n, None) is None:
            return
        loop = asyncio.get_running_loop()
        for pipe in (call.key_pipe, call.meta_pipe):
            loop.remove_reader(pipe)
            os.close(pipe)
        if call.timer is not None:
            call.timer.cancel()
        if call.pidfd is not None:
            self._kill(call.pidfd)
        if isinstance(outcome, Answer):
            for copy in call.into[1:]:
                copy[:] = call.into[0]
            call.done.set_result(outcome)
            return
        for view in call.into:
            wipe(view)
        if not call.done.done():
            call.done.set_exception(outcome)
            call.done.exception()  # whoever waited may be gone: not an error nobody saw

    # --- processes ----------------------------------------------------------------------------------------------------

    def _hear(self) -> None:
        """Read what the zygote says: which process does which call."""
        assert self._control is not None
        while True:
            try:
                raw, fds, _, _ = socket.recv_fds(self._control, MAX_MESSAGE_BYTES, 1)
            except BlockingIOError:
                return
            except OSError:
                raw, fds = b"", []
            if not raw:
                _log.error("the unsealing zygote is gone; the next call starts another")
                self._drop_zygote()
                return
            forked = _FORKED.decode(raw)
            if not forked.n:
                self._ready = True
                continue
            self._unborn.discard(forked.n)
            call = self._calls.get(forked.n)
            if call is None:  # over before it was born
                self._kill(fds[0])
            else:
                call.pidfd = fds[0]

    def _kill(self, pidfd: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        self._dying.add(pidfd)
        asyncio.get_running_loop().add_reader(pidfd, self._bury, pidfd)

    def _bury(self, pidfd: int) -> None:
        if pidfd in self._dying:
            self._dying.discard(pidfd)
            asyncio.get_running_loop().remove_reader(pidfd)
            os.close(pidfd)

    def _gone(self, unborn: set[int], until: float) -> bool:
        """Wait, without the loop, until no killed process is left and none of these is about to be born."""
        while (self._dying or unborn & self._unborn) and self._control is not None:
            left_ms = (until - time.monotonic()) * 1000
            if left_ms <= 0:
                return False
            poller = select.poll()
            poller.register(self._control, select.POLLIN)
            for pidfd in self._dying:
                poller.register(pidfd, select.POLLIN)
            control = self._control.fileno()
            for fd, _ in poller.poll(left_ms):
                if fd == control:
                    self._hear()
                else:
                    self._bury(fd)
        return True

    def _drop_zygote(self) -> None:
        """Kill the zygote; its children die with it. Calls under way fail."""
        zygote, control, self._zygote, self._control = self._zygote, self._control, None, None
        self._unborn.clear()
        self._ready = False
        if control is not None:
            asyncio.get_running_loop().remove_reader(control)
            control.close()
        if zygote is not None:
            zygote.kill()
            zygote.wait()
        for call in list(self._calls.values()):
            self._finish(call, RootError("Unreachable", "the unsealing process ended"))


def _wrapped(answer: Answer) -> Wrapped:
    if answer.wrapped is None or answer.wrapped.canary is None:
        raise RootError("Misconfigured", "the unsealing process answered without a wrapped key")
    return answer.wrapped
