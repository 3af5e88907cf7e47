"""One request message being answered, item by item. Owns no socket; may wait for the custodian between two steps.

For each item, in this order (DESIGN section 5):

1. read workload word, gate word, lease and alive deadline; refuse when one of them says no;
2. decode the payload, do the operation;
3. read both words again, then the lease and the alive deadline: an answer exists only when nothing has changed;
4. whatever went wrong in between is "revoked" when a word has changed.

While an exchange waits, the worker's drain counter is even, nothing of a key is in the scratch page, and on resumption
(1) is done anew for the item and every answer already there is compared with its gate.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from time import CLOCK_BOOTTIME, clock_gettime_ns
from types import GeneratorType
from typing import Any, Final

from openkcm.execution import control, keygen
from openkcm.execution.arena import ALIVE_WORD, STATE_MASK, Gate
from openkcm.execution.bench import HISTOGRAM_LAST, HISTOGRAM_SHIFT, Bench, Caller, Slot
from openkcm.execution.clock import boottime_ns
from openkcm.execution.operations.call import READS, Call, Operation, Put, Spawn, Work
from openkcm.execution.operations.outcome import (
    VERDICTS,
    AccessRefused,
    KeysWanted,
    ObjectWanted,
    OperationFailed,
    Wanted,
    refusal,
)
from openkcm.kmip import KmipError, Request, RequestItem, Structure, decode_payload, encode_item, encode_response
from openkcm.kmip.enums import BatchErrorContinuationOption, ResultReason, ResultStatus

__all__ = ["Exchange"]

#: The gate that an answer depends on, what its word read, and the same of older key versions that were used.
Guard = tuple[Slot | None, int, tuple[tuple[int, int], ...]]

_log: Final = logging.getLogger("openkcm.worker")
_SUCCESS: Final = ResultStatus.SUCCESS
_FAILED: Final = ResultStatus.OPERATION_FAILED
CHANGE_ANSWER_BYTES: Final = 512  # more than any answer to an operation that changes something takes
AROUND_BYTES: Final = 96  # the message and its header; a client's correlation value comes on top

#: What the custodian's refusal of a record comes to.
PUT_REFUSALS: Final[dict[str, tuple[ResultReason, str]]] = {
    "conflict": (ResultReason.GENERAL_FAILURE, "the object is being changed by somebody else; ask again"),
    "unavailable": (ResultReason.GENERAL_FAILURE, "the region's vault does not answer; ask again"),
    "revoked": (ResultReason.PERMISSION_DENIED, "access revoked"),
    "full": (ResultReason.PERMISSION_DENIED, "the system has as many objects as it may have"),
    "invalid": (ResultReason.GENERAL_FAILURE, "the record was refused"),
}


class Exchange(Call):
    """A request and the answers to it so far."""

    _work: Work | None = None  # the current item's handler, when it is a generator that waits
    _given: Any = None  # what it waited for

    def __init__(
        self,
        bench: Bench,
        caller: Caller,
        operations: Mapping[int, Operation],
        request: Request,
        ready: Callable[[], None],
    ) -> None:
        """Begin.

        Args:
            ready: Called when a waiting exchange can go on: call `advance` again.
        """
        self.bench, self.caller, self.version = bench, caller, request.header.protocol_version
        self.now_s = int(bench.wall_s())
        self.operations, self._request, self._ready = operations, request, ready
        self._outputs: list[bytes] = []
        self._guards: list[Guard] = []
        # What every item looks at is the object's own: read in a third of the time that a default of the class takes.
        self.extra = ()
        self._failure: OperationFailed | None = None  # what the current item waited for failed
        self._asked_keys = self._retried = False
        self._stored = False  # a record of the item: it is not started anew, what fails is thrown into its handler
        self._size = 0
        option = request.header.batch_error_continuation_option
        # Absent means Stop (section 6.14). Undo stops as well: Query's capabilities say that nothing is undone, each
        # item that was done says so, and the profiles' vectors send Undo with batches that succeed.
        self._stop = option is None or option != BatchErrorContinuationOption.CONTINUE

    # --- the batch --------------------------------------------------------------------------------------------------

    def advance(self) -> bytes | None:
        """Go on until the response is complete, and return it; None while the exchange waits."""
        outputs, items, header = self._outputs, self._request.items, self._request.header
        if outputs:
            self._compare_answers()
        most = header.maximum_response_size
        while len(outputs) < len(items):
            item = items[len(outputs)]
            output = self._attempt(item)
            if output is None:
                return None
            if most is not None and self._size + len(output) + AROUND_BYTES > most:
                output = self._too_large(item, self._size + len(output) + AROUND_BYTES)
            outputs.append(output)
            self._size += len(output)
            if self._stop and self._guards[-1] is _FAULT:
                break
        again = header.client_correlation_value
        return encode_response(outputs, self.version, self.now_s, client_correlation_value=again)

    def still_open(self) -> bool:
        """Whether every gate, lease and deadline that the answers depend on is as it was when they were given."""
        words, caller = self.bench.words, self.caller
        answered = [g for g in self._guards if g is not _FAULT]
        if not answered:
            return True
        now = boottime_ns()
        return (
            words[caller.word] == caller.open_word
            and words[ALIVE_WORD] > now
            and all(self._unchanged(guard, now) for guard in answered)
        )

    def _unchanged(self, guard: Guard, now: int) -> bool:
        slot, word, extra = guard
        words = self.bench.words
        if slot is None:
            return True
        return bool(words[slot.lease] > now) and all(
            words[i] == read or (words[i] >> 8 == read >> 8 and words[i] & STATE_MASK in READS)
            for i, read in ((slot.gate, word), *extra)
        )

    def _compare_answers(self) -> None:
        """After a wait: an answer whose gate has changed is taken back."""
        now, items = boottime_ns(), self._request.items
        cut = self.bench.words[self.caller.word] != self.caller.open_word
        for i, guard in enumerate(self._guards):
            if guard is not _FAULT and (cut or not self._unchanged(guard, now)):
                self._outputs[i] = self._fault(items[i], ResultReason.PERMISSION_DENIED, "access revoked")
                self._guards[i] = _FAULT

    # --- one item ---------------------------------------------------------------------------------------------------

    def _attempt(self, item: RequestItem) -> bytes | None:
        """Do one item; None when it must wait."""
        began = clock_gettime_ns(CLOCK_BOOTTIME)
        self.slot = None
        try:
            row = self.operations.get(item.operation)
            if row is None:
                raise OperationFailed(  # noqa: TRY301 -- one place answers failures
                    ResultReason.OPERATION_NOT_SUPPORTED, f"operation 0x{item.operation:08X} is not served"
                )
            self.row = row
            if self._failure is not None:
                raise self._failure  # noqa: TRY301 -- as above
            self._admit(row, began)  # (1)
            if self._work is not None:
                result: Any = self._step()
            else:
                if row.steps:
                    self.reserve(CHANGE_ANSWER_BYTES if row.gates <= _CHANGING else 0)
                result = row.handler(self, decode_payload(item, self.version))  # (2)
                if result.__class__ is GeneratorType:
                    self._work = result
                    result = self._step()
            if result is None:
                return None
            ended = clock_gettime_ns(CLOCK_BOOTTIME)
            self._compare(ended)  # (3)
            output = encode_item(item.operation, item.unique_batch_item_id, _SUCCESS, None, None, result, self.version)
        except Wanted as wanted:
            if not self._stored:
                self._drop_work()
            self._ask(wanted)
            return None
        except Exception as bad:  # whatever an operation raises fails its item alone
            return self._failed(item, bad)
        bench = self.bench
        took = ended - began >> HISTOGRAM_SHIFT
        bench.board[bench.histogram + (took if took < HISTOGRAM_LAST else HISTOGRAM_LAST)] += 1  # noqa: FURB136
        if row.counted >= 0:
            uid = self.placeholder
            count = self.caller.used.get(uid)  # type: ignore[arg-type]  # such an operation has named its object
            if count is None:
                bench.use(self.caller, uid, row.counted)  # type: ignore[arg-type]  # as above
            else:
                count[row.counted] += 1
        self._guards.append((self.slot, self.word, self.extra))
        if self.extra or self._asked_keys or self._retried or self._stored:
            self._next()
        return output

    def _next(self) -> None:
        self._asked_keys = self._retried = self._stored = False
        self._failure, self._work, self._given, self.extra = None, None, None, ()

    def _admit(self, row: Operation, now: int) -> None:
        """Step (1). Sets `slot` and `word`."""
        words, caller = self.bench.words, self.caller
        if words[caller.word] != caller.open_word:
            raise refusal(Gate.REMOVED)
        ring = caller.system.ring
        if ring is None:
            raise KeysWanted
        slot = ring.current
        if slot is None:
            gate = VERDICTS.get(ring.state, Gate.COLD)
            if gate in row.gates:
                return
            if not self._asked_keys and ring.until_ns <= now:
                raise KeysWanted
            raise refusal(gate)
        word = words[slot.gate]
        if word != slot.open_word:
            state = word & STATE_MASK
            if word >> 8 != slot.open_word >> 8 or state in _UNSETTLED:
                if not self._asked_keys:
                    raise KeysWanted
                if word >> 8 != slot.open_word >> 8:
                    raise refusal(VERDICTS.get(ring.state, Gate.COLD))
            if state not in row.gates:
                if state == Gate.DECRYPT_ONLY and not self._asked_keys:
                    raise KeysWanted  # a rotation: there is a newer version
                raise refusal(state)
        if (words[slot.lease] <= now or words[ALIVE_WORD] <= now) and Gate.COLD not in row.gates:
            raise refusal(Gate.COLD)
        self.slot, self.word = slot, word

    def _compare(self, now: int, *, storing: bool = False) -> None:
        """Step (3). A rotation meanwhile harms no answer, but what is to be stored must be under the new key."""
        slot = self.slot
        if slot is None:
            return
        words, caller = self.bench.words, self.caller
        word = words[slot.gate]
        if word != self.word:
            state = word & STATE_MASK
            if word >> 8 != self.word >> 8:
                raise refusal(Gate.REVOKED if state == Gate.OPEN else state)
            if state == Gate.DECRYPT_ONLY:
                if storing:
                    raise KeysWanted
            elif state not in self.row.gates:
                raise refusal(state)
        if words[caller.word] != caller.open_word:
            raise refusal(Gate.REMOVED)
        for index, read in self.extra:
            if words[index] != read:
                raise refusal(Gate.REVOKED)
        if (words[slot.lease] <= now or words[ALIVE_WORD] <= now) and Gate.COLD not in self.row.gates:
            raise refusal(Gate.COLD)

    def _failed(self, item: RequestItem, bad: Exception) -> bytes:
        """Answer a failure: step (4), then the error's own reason."""
        self._drop_work()
        try:
            self._compare(boottime_ns())
        except AccessRefused as refused:
            bad = refused
        if isinstance(bad, OperationFailed):
            reason, message = bad.reason, bad.message
        elif isinstance(bad, KmipError):
            reason, message = bad.reason, str(bad)
        else:
            _log.error("operation 0x%08X failed: %s", item.operation, type(bad).__name__, exc_info=bad)
            reason, message = ResultReason.GENERAL_FAILURE, "the operation failed inside the server"
        self.bench.count("items_refused" if isinstance(bad, AccessRefused) else "items_failed")
        self._guards.append(_FAULT)
        self._next()
        return self._fault(item, reason, message)

    def _too_large(self, item: RequestItem, size: int) -> bytes:
        """Answer an item whose result does not fit the client's limit; what changes something was asked before."""
        self._guards[-1] = _FAULT
        return self._fault(item, ResultReason.RESPONSE_TOO_LARGE, f"the response would have {size} bytes or more")

    def _fault(self, item: RequestItem, reason: ResultReason, message: str) -> bytes:
        return encode_item(item.operation, item.unique_batch_item_id, _FAILED, reason, message, None, self.version)

    # --- waiting ----------------------------------------------------------------------------------------------------

    def reserve(self, answer_bytes: int) -> None:
        """Refuse what changes something when its answer would not fit the client's limit: before it happens.

        Raises:
            OperationFailed: It would not.
        """
        most = self._request.header.maximum_response_size
        if most is not None and answer_bytes and self._size + answer_bytes > most:
            raise OperationFailed(ResultReason.RESPONSE_TOO_LARGE, f"the answer may not fit {most} bytes")

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
                self._asked_keys = False
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
        else:
            self._asked_keys = True
            version = wanted.version if isinstance(wanted, KeysWanted) else 0
            self.bench.ask_keys(who.tenant, who.registration, self._ready, version)

    def _drop_work(self) -> None:
        if self._work is not None:
            self._work.close()
            self._work = None


_FAULT: Final[Guard] = (None, -1, ())
_UNSETTLED: Final = frozenset({Gate.COLD, Gate.EMPTY})
_CHANGING: Final = frozenset({Gate.OPEN})
