"""Who gets in at all, decided from the head of a request, before a signature is checked or a body is read. No I/O.

(1) a path tells the kind; only revocations are revocations, whoever asks; (2) whoever was recognised lately is let in
while the budget of that identity lasts; (3) a stranger is let in while the budgets of the address and of all strangers
last; an address that somebody we know came from has a budget of its own, and those that ask seldom share one, unless
credentials from there did not hold; at the revocations' door they are others again; (4) inside, only a few work at a
time, in turn: the rest waits, or is told to come back. A revocation waits for none of them: while one is under way,
nothing else begins. Before all of that, connections are counted as in (3).
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from openkcm.governance.portal.auth import Identity
from openkcm.governance.portal.limits import BUDGETS, RETRY_AFTER_S, Budget, Kind, Limits, fields

__all__ = ["BUSY", "TOO_MANY", "Admission", "Refusal", "Slots", "kind_of"]

#: How many of a kind work at once. Reading costs this process's time alone; writing waits for the ledger.
AT_ONCE: Final[dict[str, int]] = {"probe": 8, "read": 2, "write": 24, "strange-revoke": 1, "revoke": 256}
#: These wait in no queue: a probe that waits is read as a process that is dead.
AT_ONCE_OR_NEVER: Final = frozenset({"probe", "revoke"})
PROBES: Final = frozenset({"/healthz", "/readyz"})
WAITING: Final = 256
#: An address that asked no more than this of late is not one of a crowd.
RARE: Final = 3
#: Credentials that did not hold, of late, of an address that is still a known one.
FORGED: Final = 5
WAIT_S: Final = 2.0
#: How long a revocation keeps others from beginning: what takes longer waits for the hub, not for this process.
HOLD_S: Final = 0.25
REASONS: Final = ("identity", "stranger", "busy", "connections", "slow")
#: Addresses that somebody we know came from lately.
KNOWN_ADDRESSES: Final = 10_000
PREFIX: Final = "/cmk/v1/tenants/"


class Refusal(NamedTuple):
    """An answer that costs nothing to make: ready bytes, head and body."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def raw(self, *, close: bool) -> bytes:
        """Return it as it goes over the wire."""
        phrase = {429: b"Too Many Requests", 503: b"Service Unavailable"}[self.status]
        head = b"".join(name + b": " + value + b"\r\n" for name, value in self.headers)
        end = b"connection: close\r\n\r\n" if close else b"\r\n"
        return b"HTTP/1.1 %d %s\r\n%s%s%s" % (self.status, phrase, head, end, self.body)


def _refusal(status: int, title: str, code: str, detail: str, kind: Kind) -> Refusal:
    body = (
        f'{{"type":"urn:openkcm:problem:{code}","title":"{title}","status":{status},"code":"{code}",'
        f'"detail":"{detail}","instance":"/","requestId":"none"}}'
    ).encode()
    headers = [
        (b"content-type", b"application/problem+json"), (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"), (b"x-request-id", b"none"),
        (b"retry-after", str(RETRY_AFTER_S).encode()), *(fields(kind, 0) if status == 429 else ()),
        (b"content-length", str(len(body)).encode()),
    ]  # fmt: skip
    return Refusal(status, tuple(headers), body)


_KINDS: Final[tuple[Kind, ...]] = ("read", "write", "revoke", "probe")
#: The budget a stranger is let in by.
STRANGERS: Final[dict[str, Kind]] = {"revoke": "strange-revoke", "probe": "probe"}
TOO_MANY: Final = {
    kind: _refusal(429, "Too Many Requests", "too-many-requests", "faster than your budget: come back", kind)
    for kind in _KINDS
}
BUSY: Final = _refusal(503, "Service Unavailable", "busy", "as much is being done as can be: come back", "read")


def kind_of(method: str, path: str) -> Kind:
    """Return the kind of a request (1)."""
    if method in {"GET", "HEAD", "OPTIONS"}:
        return "probe" if path in PROBES else "read"
    if method == "POST" and path.startswith(PREFIX) and path.endswith("/revocations"):
        return "revoke"
    return "write"


def _home(address: str) -> str:
    """Return whose budget an address spends: of IPv6, the network's that one household or host has."""
    if ":" not in address:
        return address
    try:
        found = ipaddress.IPv6Address(address)
    except ValueError:
        return address
    return str(found.ipv4_mapped or ipaddress.IPv6Network((int(found) >> 64 << 64, 64)))


class Slots:
    """How many work at once; the rest waits in turn (4)."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._busy: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {kind: deque() for kind in AT_ONCE}
        self._held_until = 0.0

    @property
    def held(self) -> bool:
        """Whether a revocation is under way, and others wait for it."""
        return self._busy["revoke"] > 0 and self._clock() < self._held_until

    def full(self, kind: Kind) -> bool:
        """Whether another one would not even be let wait."""
        return self._busy[kind] >= AT_ONCE[kind] and (kind in AT_ONCE_OR_NEVER or len(self._waiting[kind]) >= WAITING)

    async def enter(self, kind: Kind) -> bool:
        """Wait for a place; False when there was none in time."""
        if kind in AT_ONCE_OR_NEVER:
            if self.full(kind):
                return False
            self._begin(kind)
            return True
        if not self._waiting[kind] and self._free(kind):
            self._busy[kind] += 1
            return True
        if self.full(kind):
            return False
        place = asyncio.get_running_loop().create_future()
        self._waiting[kind].append(place)
        try:
            await asyncio.wait_for(place, WAIT_S)
        except TimeoutError:
            return False
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.leave(kind)
            raise
        return True

    def prove(self, kind: Kind) -> Kind:
        """Somebody of whom nothing was known is known now: who is there to revoke goes on as such."""
        if kind != "strange-revoke":
            return kind
        self._begin("revoke")
        self.leave(kind)
        return "revoke"

    def _begin(self, kind: Kind) -> None:
        self._busy[kind] += 1
        if kind == "revoke":
            self._held_until = self._clock() + HOLD_S
            asyncio.get_running_loop().call_later(HOLD_S, self._let_in)

    def leave(self, kind: Kind) -> None:
        """Give a place back."""
        self._busy[kind] -= 1
        self._let_in()

    def _free(self, kind: str) -> bool:
        return self._busy[kind] < AT_ONCE[kind] and (not self.held or kind == "strange-revoke")

    def _let_in(self) -> None:
        for kind, waiting in self._waiting.items():
            while waiting and self._free(kind):
                place = waiting.popleft()
                if not place.done():
                    self._busy[kind] += 1
                    place.set_result(None)


class Admission:
    """The door of one portal.

    Args:
        recognise: Whose a credential is, without checking a signature; None: a stranger's.
        proxies: Addresses of ours, whose connections are many people's.
    """

    def __init__(
        self, limits: Limits, recognise: Callable[[str], Identity | None], proxies: Iterable[str] = ()
    ) -> None:
        self._limits = limits
        self._recognise = recognise
        self.slots = Slots()
        self.proxies = frozenset(proxies)
        self._known: dict[str, None] = {}
        self.refused: Counter[str] = Counter(dict.fromkeys(REASONS, 0))

    def vouch(self, address: str) -> None:
        """Somebody we know came from there."""
        home = _home(address)
        self._known.pop(home, None)
        if len(self._known) >= KNOWN_ADDRESSES:
            del self._known[next(iter(self._known))]
        self._known[home] = None

    def knows(self, address: str) -> bool:
        """Whether somebody we know came from there, or it is a proxy of ours."""
        return address in self.proxies or self._trusts(_home(address))

    def forged(self, address: str) -> None:
        """A credential from there did not hold."""
        self._limits.take("address", _home(address), "forged")

    def _forged(self, home: str) -> float:
        return BUDGETS["address", "forged"].burst - self._limits.left("address", home, "forged")

    def _trusts(self, home: str) -> bool:
        return home in self._known and self._forged(home) < FORGED

    def may_connect(self, address: str) -> bool:
        """Whether a connection from there is taken in, which may cost a handshake."""
        return address in self.proxies or self._stranger("connection", address)

    def judge(self, method: str, path: str, credential: str, address: str) -> tuple[Kind, Refusal | None]:
        """Return the kind of a request, and why it is not let in."""
        kind = kind_of(method, path)
        who = self._recognise(credential) if credential else None
        if who is not None and not self._may(who, kind, path):  # (2)
            self.refused["identity"] += 1
            return kind, TOO_MANY[kind]
        if who is None:
            if not self._stranger(STRANGERS.get(kind, "stranger"), address):  # (3)
                self.refused["stranger"] += 1
                return kind, TOO_MANY[kind]
            kind = "strange-revoke" if kind == "revoke" else kind
        if self.slots.full(kind):  # (4)
            self.refused["busy"] += 1
            return kind, BUSY
        return kind, None

    def _may(self, who: Identity, kind: Kind, path: str) -> bool:
        if kind == "revoke" and self._limits.left("subject", f"{who.subject} {path}", "refused") < 1:
            return False
        return self._limits.left("subject", who.subject, kind) >= 1

    def _stranger(self, kind: Kind, address: str) -> bool:
        """Whether budgets allow one more; who asked little of late still finds room when a crowd used the rest up."""
        address = _home(address)
        if self._trusts(address) and self._limits.take("known", address, kind):
            return True
        rare = self._limits.left("address", address, kind) > BUDGETS.get(("address", kind), Budget(0, 0)).burst - RARE
        rare = rare and self._forged(address) < RARE
        if not self._limits.take("address", address, kind):
            return False
        return self._limits.take("all", "", kind) or (rare and self._limits.take("rare", "", kind))
