"""What all sessions of one worker share: the mapped memory, the systems' keys, counts. Opens no socket, asks nobody."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from openkcm.contract.fleet import Limits
from openkcm.execution import control, registers
from openkcm.execution.arena import BOARD_COUNTS, BOARD_HISTOGRAM, STATE_MASK, Gate, WorkerArena
from openkcm.execution.clock import boottime_ns
from openkcm.execution.handoutlog import HandOutLog
from openkcm.execution.objects import MAX_ENTRIES, Entry, Objects

__all__ = ["COUNTS", "Asker", "Bench", "Caller", "Ring", "Slot", "System"]

#: What a worker counts, from word BOARD_COUNTS of its part of the board on. Operations are the histogram's sum.
COUNTS: Final = (
    "connections", "handshakes_failed", "denied", "messages_refused", "items_failed", "items_refused",
    "handed_out", "outputs_dropped", "overflows", "certificates_ending",
)  # fmt: skip
NEVER: Final = -1  # no word reads so
IV_BYTES: Final = 12
IV_POOL: Final = 64  # drawing 256 at once held up whoever came then for 0.1 ms
MOST_KEYS: Final = 4096  # of one workload, counted between two hand-overs
CLOSED_RING_NS: Final = 50_000_000  # how long "no keys" is believed before the custodian is asked again
HISTOGRAM_SHIFT: Final = 12  # buckets of 4.096 us; the last one is all that took longer
HISTOGRAM_LAST: Final = 63
KEPT_MESSAGES: Final = 8  # that came at once and share an unwrapped key: some 0.2 ms, which a drain may have to wait
HELD_BYTES: Final = 512  # of the scratch page: the key in use; the rest is room for what is wrapped, signed with, made
ZEROS: Final = bytes(4096)
SOMETHING: Final = object()  # lies in the scratch page and is no object's key


class Asker(Protocol):
    """Questions to the custodian (`link.Link`)."""

    def ask(self, question: Callable[[int], control.Message], then: Callable[[control.Message], None], /) -> None:
        """Send a question; call `then` with its answer."""

    def tell(self, message: control.Message, /) -> None:
        """Send something that has no answer."""


class Slot:
    """One version of a system's L3: where it lies. The key view is read-only; never copy its bytes."""

    __slots__ = ("gate", "key", "lease", "open_word", "version")

    def __init__(self, arena: WorkerArena, version: int, slot: int, generation: int) -> None:
        self.version, self.key = version, arena.key(slot)
        self.gate = arena.gate_index(slot)
        self.lease = self.gate + 1
        self.open_word = generation << 8 | Gate.OPEN


class Ring:
    """A system's key versions, as the custodian last said."""

    __slots__ = ("current", "hand_out", "slots", "state", "until_ns")

    def __init__(self, arena: WorkerArena, keys: control.Keys) -> None:
        self.slots = {v: Slot(arena, v, slot, generation) for v, (slot, generation) in keys.slots.items()}
        self.current = self.slots.get(keys.current)
        self.state, self.hand_out = keys.state, keys.hand_out
        self.until_ns = boottime_ns() + CLOSED_RING_NS


class System:
    """One registered system of one tenant: its keys and the objects of it that were used."""

    __slots__ = ("entries", "ring", "used", "waiting")

    def __init__(self) -> None:
        self.ring: Ring | None = None
        self.used: dict[str, dict[str, list[int]]] = {}  # workload -> object -> [encrypted, decrypted]
        self.entries: dict[str, Entry] = {}
        self.waiting: list[Callable[[], None]] = []

    def keep(self, entry: Entry) -> None:
        """Remember an object; forget all when there are too many."""
        if len(self.entries) >= MAX_ENTRIES:
            self.entries.clear()
        self.entries[entry.uid] = entry


class Caller:
    """Who is at the other end of a connection.

    Attributes:
        word, open_word: Index of the enrolment's gate word, and what it read when the custodian named it; NEVER when it
            was closed already.
    """

    __slots__ = ("enrolment", "max_objects", "open_word", "region", "registration", "system", "tenant",
                 "used", "word", "workload")  # fmt: skip

    def __init__(self, identity: control.Identity, system: System, arena: WorkerArena) -> None:
        self.tenant, self.region, self.registration = identity.tenant, identity.region, identity.registration
        self.workload, self.enrolment = identity.workload, identity.enrolment
        self.max_objects = identity.max_objects
        self.system = system
        self.used = system.used.setdefault(identity.workload, {})
        self.word = arena.workload_index(identity.workload_word)
        read = int(arena.words[self.word])
        self.open_word = read if read & STATE_MASK == Gate.OPEN else NEVER


class Bench:
    """One worker's memory and bookkeeping.

    Attributes:
        words: The region arena as 64-bit words, read-only.
        board, drain: The board's words, and the index of our drain counter there.
        keys: Views of the scratch page by key size; `held` is the object whose key lies there, or SOMETHING.
        gcm: A cipher that holds a schedule made of the key of `held`, once one was needed.
        wide: More than a symmetric key lies in the scratch page.
        soon: Calls something once all that has come in so far is answered; None: no key is kept for the next message.
    """

    __slots__ = (
        "_ending",
        "_for_room",
        "_ivs",
        "_kept",
        "_page",
        "_scratch",
        "_systems",
        "_zeros",
        "arena",
        "board",
        "board_start",
        "drain",
        "gcm",
        "handed",
        "held",
        "histogram",
        "keys",
        "link",
        "objects",
        "rng",
        "rng_seed_bytes",
        "soon",
        "streams",
        "wall_s",
        "wide",
        "words",
    )  # fmt: skip

    def __init__(
        self,
        arena: WorkerArena,
        board: memoryview,
        board_start: int,
        scratch: memoryview,
        objects: Objects,
        link: Asker,
        handed: HandOutLog,
    ) -> None:
        self.arena, self.words, self.board, self.objects, self.link = arena, arena.words, board, objects, link
        self.handed = handed
        self._for_room: list[Callable[[], None]] = []
        self.board_start = self.drain = board_start
        self.histogram = board_start + BOARD_HISTOGRAM
        self._page, self._scratch, self.wide = scratch, scratch[:32], False
        self.keys = {size: scratch[:size] for size in (16, 24, 32)}
        self._zeros = bytes(32)
        self.held: object = None
        self.gcm: AESGCM | None = None
        self._kept = 0  # messages answered since the key in use came to lie there
        self._ending = False  # somebody will call `let_go`
        self.soon: Callable[[Callable[[], None]], object] | None = None
        self._systems: dict[tuple[str, str], System] = {}
        self._ivs: list[bytes] = []
        self.rng_seed_bytes, self.rng = Limits().rng_seed_bytes, Limits().rng
        self.streams: dict[bytes, Any] = {}  # `operations.streams.Stream` by correlation value
        self.wall_s: Callable[[], float] = time.time

    # --- being inside an operation ------------------------------------------------------------------------------------

    def enter(self) -> None:
        """From here on the custodian waits for us: the drain counter is odd."""
        if not self._kept:
            self.board[self.drain] += 1

    def leave(self) -> None:
        """The answer is with the kernel: the scratch page is wiped, and the counter even again.

        But a symmetric key stays, and the counter odd, while messages are answered that had come by then: the next one
        may want the same key (ADR 0063). Whether it may have it, its own gates and its object's epoch say.
        """
        if self.held is not None:
            self._kept += 1
            if self.soon is not None and not self.wide and self._kept < KEPT_MESSAGES:
                if not self._ending:
                    self._ending = True
                    self.soon(self._end)
                return
            self.wipe()
        self._kept = 0
        self.board[self.drain] += 1

    def _end(self) -> None:
        self._ending = False
        self.let_go()

    def let_go(self) -> None:
        """Keep no key: what comes next takes its time, or nothing does."""
        if self._kept:
            self.wipe()
            self._kept = 0
            self.board[self.drain] += 1

    # --- memory -----------------------------------------------------------------------------------------------------

    def wipe(self) -> None:
        """Overwrite the key in the scratch page, and what ciphers left in the processor's registers."""
        self._scratch[:] = self._zeros
        if self.wide:
            self._page[:] = ZEROS[: len(self._page)]
            self.wide = False
        self.held = self.gcm = None  # the cipher's end overwrites its schedule
        registers.clear()

    def key_view(self, size: int) -> memoryview | None:
        """Return where the key in use lies; None for a size that is no key's."""
        view = self.keys.get(size)
        if view is None and 0 < size <= HELD_BYTES:
            self.wide = True
            view = self._page[:size]
        return view

    def room(self, size: int) -> memoryview | None:
        """Return room in the scratch page beside the key in use; None when that much is not there."""
        if not 0 < size <= len(self._page) - HELD_BYTES:
            return None
        self.wide = True
        if self.held is None:
            self.held = SOMETHING
        return self._page[HELD_BYTES : HELD_BYTES + size]

    def new_iv(self) -> bytes:
        """Return 12 random bytes, drawn from the kernel by the few KiB; the pool is filled after exec."""
        if not self._ivs:
            raw = os.urandom(IV_BYTES * IV_POOL)
            self._ivs = [raw[i : i + IV_BYTES] for i in range(0, len(raw), IV_BYTES)]
        return self._ivs.pop()

    # --- systems ----------------------------------------------------------------------------------------------------

    def system(self, tenant: str, registration: str) -> System:
        """Return the shared state of a system, made on first use."""
        return self._systems.setdefault((tenant, registration), System())

    def take_keys(self, keys: control.Keys) -> None:
        """Believe the custodian's newest word on a system's keys."""
        self.system(keys.tenant, keys.registration).ring = Ring(self.arena, keys)

    def ask_keys(self, tenant: str, registration: str, then: Callable[[], None], version: int = 0) -> None:
        """Ask where a system's keys are, once for all who wait; call `then` when it is known.

        Args:
            version: One that the custodian should have before it answers; asked for by itself.
        """
        system = self.system(tenant, registration)
        if version:

            def known(answer: control.Message) -> None:
                if isinstance(answer, control.Keys):
                    self.take_keys(answer)
                then()

            self.link.ask(lambda n: control.KeysOf(n, tenant, registration, version), known)
            return
        self._ask_for_all(system.waiting, then, lambda n: control.KeysOf(n, tenant, registration))

    def ask_room(self, then: Callable[[], None]) -> None:
        """Have the log of hand-outs taken, once for all who wait; call `then` when it was."""
        self._ask_for_all(self._for_room, then, control.HandOutsWait)

    def _ask_for_all(
        self, waiting: list[Callable[[], None]], then: Callable[[], None], question: Callable[[int], control.Message]
    ) -> None:
        """Ask unless somebody who waits has asked; then all of them go on."""
        waiting.append(then)
        if len(waiting) > 1:
            return

        def answered(answer: control.Message) -> None:
            if isinstance(answer, control.Keys):
                self.take_keys(answer)
            resumed = waiting.copy()
            waiting.clear()  # before they go on: one of them may ask again
            for resume in resumed:
                resume()

        self.link.ask(question, answered)

    # --- counts -----------------------------------------------------------------------------------------------------

    def use(self, caller: Caller, uid: str, place: int) -> None:
        """Count an object that the workload has not used since the last hand-over."""
        if len(caller.used) >= MOST_KEYS:
            self.hand_over_uses()
        count = caller.used[uid] = [0, 0]
        count[place] = 1

    def hand_over_uses(self) -> None:
        """Tell the custodian what was counted, and begin anew."""
        for (tenant, registration), system in self._systems.items():
            for workload, used in system.used.items():
                if used:
                    counts = {uid: (encrypted, decrypted) for uid, (encrypted, decrypted) in used.items()}
                    self.link.tell(control.Used(tenant, registration, workload, counts))
                    used.clear()

    def count(self, what: str) -> None:
        """Count one of COUNTS."""
        self.board[self.board_start + BOARD_COUNTS + COUNTS.index(what)] += 1
