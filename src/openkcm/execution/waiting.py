"""What an item of an exchange waits for: the vault, keys, an object, a child that makes a key pair. Answers nothing.

While an exchange waits, the worker's drain counter is even and nothing of a key is in the scratch page. When `ready` is
called, the exchange goes on with the item: its handler gets what it waited for, or is started anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from openkcm.execution import control, keygen
from openkcm.execution.clock import boottime_ns
from openkcm.execution.operations.call import Call, Put, Spawn, Work
from openkcm.execution.operations.outcome import (
    AccessRefused,
    KeysWanted,
    ObjectWanted,
    OperationFailed,
    RoomWanted,
    Wanted,
)
from openkcm.kmip import Structure
from openkcm.kmip.enums import ResultReason

__all__ = ["Waiting"]

#: What the custodian's refusal of a record comes to.
PUT_REFUSALS: Final[dict[str, tuple[ResultReason, str]]] = {
    "conflict": (ResultReason.GENERAL_FAILURE, "the object is being changed by somebody else; ask again"),
    "unavailable": (ResultReason.GENERAL_FAILURE, "the region's vault does not answer; ask again"),
    "revoked": (ResultReason.PERMISSION_DENIED, "access revoked"),
    "full": (ResultReason.PERMISSION_DENIED, "the system has as many objects as it may have"),
    "invalid": (ResultReason.GENERAL_FAILURE, "the record was refused"),
}


class Waiting(Call):
    """The part of an exchange that waits for its current item."""

    _ready: Callable[[], None]
    _work: Work | None  # the current item's handler, when it is a generator that waits
    _given: Any  # what it waited for
    _failure: OperationFailed | None  # what the current item waited for failed
    _retried: bool
    _stored: bool  # a record of the item: it is not started anew, what fails is thrown into its handler

    def _compare(self, now: int, *, storing: bool = False) -> None:
        """Refuse to go on when a gate has changed (`exchange.Exchange`)."""
        raise NotImplementedError

    def _next(self) -> None:
        self._asked_keys = 0
        self._retried = self._stored = self.asked_room = False
        self._failure, self._work, self._given, self.extra = None, None, None, ()

    def _step(self) -> Structure | None:
        """Run the handler to its next wish, or to its end."""
        assert self._work is not None
        given, self._given = self._given, None
        try:
            wish = self._work.throw(given) if isinstance(given, OperationFailed) else self._work.send(given)
        except StopIteration as end:
            self._work = None
            result: Structure = end.value
            return result
        if isinstance(wish, Put):
            self._store(wish)
        elif isinstance(wish, Spawn):
            self._compare(boottime_ns())
            keygen.spawn(wish.bits, self.bench, self._may_go_on, self._spawned)
        else:
            self._compare(boottime_ns())
            asyncio.get_running_loop().call_soon(self._ready)
        return None

    def _store(self, wish: Put) -> None:
        try:
            self._compare(boottime_ns(), storing=wish.record.wrapped is not None)
        except KeysWanted:  # what was wrapped while the key went must never be stored
            if not self._stored:
                raise
            self._given = OperationFailed(*PUT_REFUSALS["conflict"])
            asyncio.get_running_loop().call_soon(self._ready)
            return
        tenant = self.caller.tenant
        self.bench.link.ask(lambda n: control.Put(n, tenant, wish.record, wish.expect, wish.named), self._put_answered)

    def _may_go_on(self) -> bool:
        """Whether an answer could still be given: asked while a child works for this item."""
        try:
            self._compare(boottime_ns())
        except AccessRefused:
            return False
        return True

    def _spawned(self, made: keygen.Made | None) -> None:
        """The child is done: the private key lies in the scratch page, or nothing came of it."""
        self._given = made
        if made is None:
            self._given = OperationFailed(ResultReason.GENERAL_FAILURE, "the key pair could not be made")
        self._ready()

    def _put_answered(self, answer: control.Message) -> None:
        if isinstance(answer, control.Stored):
            self._given, self._stored = answer.sequence, True
        else:
            code = answer.code if isinstance(answer, control.Refused) else "invalid"
            if self._stored:
                self._given = OperationFailed(*PUT_REFUSALS.get(code, PUT_REFUSALS["invalid"]))
                self._ready()
                return
            self._drop_work()
            if code == "conflict" and not self._retried:
                self._retried = True  # somebody was first, or the wrapping key is a newer one: look again, once
                self.caller.system.entries.clear()
                self.caller.system.ring = None
                self._asked_keys = 0
            else:
                self._failure = OperationFailed(*PUT_REFUSALS.get(code, PUT_REFUSALS["invalid"]))
        self._ready()

    def _ask(self, wanted: Wanted) -> None:
        who = self.caller
        if isinstance(wanted, ObjectWanted):
            uid = wanted.uid

            def answered(answer: control.Message) -> None:
                if isinstance(answer, control.Record):
                    self.absent |= {uid}  # what exists is in SQLite by now
                else:
                    self._failure = OperationFailed(*PUT_REFUSALS["unavailable"])
                self._ready()

            self.bench.link.ask(lambda n: control.Fetch(n, who.tenant, uid), answered)
        elif isinstance(wanted, RoomWanted):
            self.asked_room = True
            self.bench.ask_room(self._ready)
        else:
            self._asked_keys += 1
            version = wanted.version if isinstance(wanted, KeysWanted) else 0
            self.bench.ask_keys(who.tenant, who.registration, self._ready, version)

    def _drop_work(self) -> None:
        if self._work is not None:
            self._work.close()
            self._work = None
