"""One request message being answered, item by item. Owns no socket; may wait for the custodian between two steps.

For each item, in this order (DESIGN section 5):

1. read workload word, gate word, lease and alive deadline; refuse when one of them says no;
2. decode the payload, do the operation;
3. read both words again, then the lease and the alive deadline: an answer exists only when nothing has changed;
4. whatever went wrong in between is "revoked" when a word has changed.

When an exchange that has waited (`waiting`) goes on, (1) is done anew for the item, and every answer already there is
compared with its gate. `advance` and what it calls, in the order in which it stands here, is the worker's hot path.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from time import CLOCK_BOOTTIME, clock_gettime_ns
from types import GeneratorType
from typing import Any, Final

from openkcm.execution.arena import ALIVE_WORD, STATE_MASK, Gate
from openkcm.execution.bench import HISTOGRAM_LAST, HISTOGRAM_SHIFT, Bench, Caller, Slot
from openkcm.execution.clock import boottime_ns
from openkcm.execution.operations.call import READS, Operation
from openkcm.execution.operations.outcome import VERDICTS, AccessRefused, KeysWanted, OperationFailed, Wanted, refusal
from openkcm.execution.waiting import Waiting
from openkcm.kmip import KmipError, Request, RequestItem, decode_payload, encode_item, encode_response
from openkcm.kmip.enums import BatchErrorContinuationOption, ResultReason, ResultStatus

__all__ = ["Exchange"]

#: The gate that an answer depends on, what its word read, and the same of older key versions that were used.
Guard = tuple[Slot | None, int, tuple[tuple[int, int], ...]]

_log: Final = logging.getLogger("openkcm.worker")
_SUCCESS: Final = ResultStatus.SUCCESS
_CONTINUE: Final = BatchErrorContinuationOption.CONTINUE
_FAILED: Final = ResultStatus.OPERATION_FAILED
CHANGE_ANSWER_BYTES: Final = 512  # more than any answer to an operation that changes something takes
MOST_ASKED: Final = 8  # times that an item asks for keys which give way again before it has used them
AROUND_BYTES: Final = 96  # the message and its header; a client's correlation value comes on top


class Exchange(Waiting):
    """A request and the answers to it so far."""

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
        self.bench, self.caller, self.operations = bench, caller, operations
        self._request, self.version, self._ready = request, request.header.protocol_version, ready
        self.now_s = int(bench.wall_s())
        self._outputs: list[bytes] = []
        self._guards: list[Guard] = []
        self._size = 0  # of the outputs; kept only for a client with a limit
        self.placeholder, self.absent = None, _NONE
        self.slot, self.word = None, 0
        self._next()

    def advance(self) -> bytes | None:
        """Go on until the response is complete, and return it; None while the exchange waits."""
        outputs, request, header = self._outputs, self._request, self._request.header
        if outputs:
            self._compare_answers()
        self._began = clock_gettime_ns(CLOCK_BOOTTIME)
        for item in request.items[len(outputs) :]:
            output = self._attempt(item)
            if output is None:
                return None
            if header.maximum_response_size is not None:
                output = self._fitting(item, output, header.maximum_response_size)
            outputs.append(output)
            # Absent means Stop (section 6.14). Undo stops as well: Query's capabilities say that nothing is undone,
            # each item that was done says so, and the profiles' vectors send Undo with batches that succeed.
            if self._guards[-1] is _FAULT and header.batch_error_continuation_option is not _CONTINUE:
                break
        again = header.client_correlation_value
        return encode_response(outputs, self.version, self.now_s, client_correlation_value=again)

    def _attempt(self, item: RequestItem) -> bytes | None:
        """Do one item; None when it must wait."""
        began = self._began
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
            ended = self._began = clock_gettime_ns(CLOCK_BOOTTIME)  # and the next item begins
            self._compare(ended)  # (3)
            output = encode_item(item.operation, item.unique_batch_item_id, _SUCCESS, None, None, result, self.version)
        except Wanted as wanted:
            if not self._stored:
                self._drop_work()
            self._ask(wanted)
            return None
        except Exception as bad:  # whatever an operation raises fails its item alone
            if not self._stored and self._gave_way(self.slot, self.word):  # whatever its keys, gone, made of it
                self._drop_work()
                self._ask(KeysWanted())
                return None
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
        if self.extra or self._asked_keys or self._retried or self._stored or self.asked_room:
            self._next()
        return output

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
                if not self._asked_keys or self._gave_way(slot, slot.open_word):
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

    def _gave_way(self, slot: Slot | None, read: int) -> bool:
        """Whether the keys went, since the gate read so, to make room for others: the item is done anew then."""
        if slot is None or self._asked_keys >= MOST_ASKED:
            return False
        word = self.bench.words[slot.gate]
        state = word & STATE_MASK
        return state in _UNSETTLED or (word >> 8 != read >> 8 and state not in SHUT_FOR_GOOD)

    # --- failing ----------------------------------------------------------------------------------------------------

    def _failed(self, item: RequestItem, bad: Exception) -> bytes:
        """Answer a failure: step (4), then the error's own reason."""
        self._drop_work()
        self._began = boottime_ns()
        try:
            self._compare(self._began)
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

    def _fitting(self, item: RequestItem, output: bytes, most: int) -> bytes:
        """Answer an item whose result does not fit the client's limit; what changes something was asked before."""
        size = self._size + len(output) + AROUND_BYTES
        if size > most:
            self._guards[-1] = _FAULT
            output = self._fault(item, ResultReason.RESPONSE_TOO_LARGE, f"the response would have {size} bytes or more")
        self._size += len(output)
        return output

    def reserve(self, answer_bytes: int) -> None:
        """Refuse what changes something when its answer would not fit the client's limit: before it happens.

        Raises:
            OperationFailed: It would not.
        """
        most = self._request.header.maximum_response_size
        if most is not None and answer_bytes and self._size + answer_bytes > most:
            raise OperationFailed(ResultReason.RESPONSE_TOO_LARGE, f"the answer may not fit {most} bytes")

    def _fault(self, item: RequestItem, reason: ResultReason, message: str) -> bytes:
        return encode_item(item.operation, item.unique_batch_item_id, _FAILED, reason, message, None, self.version)

    # --- after a wait -----------------------------------------------------------------------------------------------

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


_NONE: Final[frozenset[str]] = frozenset()
_FAULT: Final[Guard] = (None, -1, ())
SHUT_FOR_GOOD: Final = frozenset({Gate.REVOKED, Gate.LOCKED, Gate.DESTROYED, Gate.REMOVED})
_UNSETTLED: Final = frozenset({Gate.COLD, Gate.EMPTY})
_CHANGING: Final = frozenset({Gate.OPEN})
