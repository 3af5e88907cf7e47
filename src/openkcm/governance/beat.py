"""Governance's beat: the answer to nodes' nonces, from which their leases count. Reads the head from the leader only.

1. nonces come in with HealthChecks that an enrolled node sealed for its own subject;
2. only then head and enrolment are read, the head from the stream's leader: never from the projection;
3. the rolling hash over the region's critical decrees has reached that head;
4. one beat in flight per region; nonces that come meanwhile go into the next;
5. a leader that names an older head than we have read or written (it lies, or lost its disk) gets no beat, and
   neither does one that no majority has followed since the nonces came: it may be cut off and not know it;
6. a tenant whose revocation is in this CMK's spool is left out; what is in the spool is read after the nonces came and
   before the head: what has left it by then, the head covers. With too many, nobody gets a beat.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from openkcm.bus.errors import BusError
from openkcm.bus.ledger import Ledger
from openkcm.contract import envelope as env
from openkcm.contract import reports, seal, subjects
from openkcm.contract.errors import ContractError
from openkcm.projector.heads import Head

__all__ = ["Beats", "Chain", "filters_of"]

log = logging.getLogger(__name__)
NONCES: Final = 256
HEADS_KEPT: Final = 4096
CHAIN_WAIT_S: Final = 2.0
NodeKeys = Callable[[], dict[str, tuple[str, str, bytes]]]
NOTHING_READ: Final = Head(0, 0, bytes(32))
Send = Callable[[str, bytes, str, str], Awaitable[None]]


def filters_of(region: str) -> list[str]:
    """Return the critical subjects that concern a region."""
    return [f"kcm.decree.{region}.*.critical.>", "kcm.decree.global._.critical.>"]


class Chain:
    """The rolling hash over one region's critical decrees, in the order of their sequences."""

    def __init__(self, sequence: int = 0, known: bytes = bytes(32)) -> None:
        self._hash = known
        self._sequence = sequence
        self._heads: dict[int, str] = {sequence: known.hex()}
        self._grown = asyncio.Event()

    def add(self, sequence: int, body: bytes) -> None:
        """Take the next decree in, good or bad: nodes do the same."""
        self._hash = reports.grown_head(self._hash, self._sequence, sequence, body)
        self._sequence = sequence
        self._heads[sequence] = self._hash.hex()
        if len(self._heads) > HEADS_KEPT:
            del self._heads[next(iter(self._heads))]
        self._grown.set()

    @property
    def sequence(self) -> int:
        """The last critical decree's sequence, as far as read."""
        return self._sequence

    async def head_at(self, sequence: int) -> reports.Head:
        """Return the head at a sequence, as soon as the chain has come so far."""
        while self._sequence < sequence:
            self._grown.clear()
            await self._grown.wait()
        return reports.Head(sequence=sequence, hash=self._heads[sequence])


class Beats:
    """Answers the nodes of all regions.

    Args:
        node_keys: (node, region, public key) by key name, as enrolled now.
        heard: Told of each HealthCheck that is genuine.
        withheld: The tenants of a region whose leases are not to be renewed.
        send: Publishes (region, bytes, id, tag).
    """

    def __init__(
        self, ledger: Ledger, signer: seal.Signer, *, node_keys: NodeKeys,
        epoch: Callable[[], int], heard: Callable[[reports.HealthCheck], None], send: Send,
        withheld: Callable[[str], tuple[str, ...]],
    ) -> None:  # fmt: skip
        self._ledger = ledger
        self.signer = signer
        self._node_keys = node_keys
        self._epoch = epoch
        self._heard = heard
        self._send = send
        self._withheld = withheld
        self._nonces: dict[str, deque[str]] = {}
        self._woken: dict[str, asyncio.Event] = {}
        self.chains: dict[str, Chain] = {}
        self._read_to: dict[str, int] = {}
        self._recorded: dict[str, int] = {}
        self.dropped = 0
        self.sent = 0
        self._count = time.time_ns() // 1_000_000  # above every earlier run's; a record, no decision

    def join(self, region: str, head: Head = NOTHING_READ) -> None:
        """Take a region in: its nonces are kept from now on, for `follow` and `answer`.

        Args:
            head: Its rolling hash as the read model has it: the chain goes on from there.
        """
        self._nonces[region], self._woken[region] = deque(maxlen=NONCES), asyncio.Event()
        self.chains[region] = Chain(head.sequence, head.hash)
        self._read_to[region] = head.read_to

    def on_health(self, subject: str, body: bytes) -> None:
        """Take a HealthCheck in; drop and count what no enrolled node sealed."""
        try:  # (1)
            where = subjects.parse_report(subject)
            e = env.decode(body)
            node, region, public = self._node_keys().get(e.key, ("", "", b""))
            env.verify(e, subject, {e.key: public} if public else {})
            check = reports.read(e.tag, e.data)
        except ContractError:
            self.dropped += 1
            return
        mine = (where.region, where.node) == (region, node)
        if not isinstance(check, reports.HealthCheck) or not mine or (check.node, check.region) != (node, region):
            self.dropped += 1
            return
        self._heard(check)
        if region in self._nonces and check.ledger_epoch <= self._epoch():
            self._nonces[region].append(check.nonce)
            self._woken[region].set()

    def recorded(self, region: str, sequence: int) -> None:
        """Note that a critical decree of a region is in the ledger at `sequence`: no older head is told from now on."""
        self._recorded[region] = max(sequence, self._recorded.get(region, 0))

    async def follow(self, region: str) -> None:
        """Keep the region's chain, for ever."""
        async for stored in self._ledger.follow(after=self._read_to[region], filters=filters_of(region)):
            self.chains[region].add(stored.sequence, stored.body)

    async def answer(self, region: str) -> None:
        """Answer the region's nonces, for ever."""
        while True:
            await self._woken[region].wait()
            self._woken[region].clear()
            nonces = tuple(dict.fromkeys(self._nonces[region]))
            self._nonces[region].clear()
            if not nonces:
                continue
            try:  # (4) the next round starts when this one is through
                await self._answer(region, nonces)
            except (BusError, TimeoutError) as away:  # without a beat leases run out: that is what they are for
                log.info("no beat for %s: %s", region, away or "the chain has not come so far")

    async def _answer(self, region: str, nonces: tuple[str, ...]) -> None:
        since_s = asyncio.get_running_loop().time()
        withheld = self._withheld(region)  # (6)
        if len(withheld) > reports.MOST_WITHHELD:
            raise BusError(f"{len(withheld)} tenants' revocations are spooled: more than a beat can leave out")
        last = await self._ledger.leader_last(filters_of(region), since_s=since_s)  # (2)
        known = max(self.chains[region].sequence, self._recorded.get(region, 0))
        if known > (0 if last is None else last.sequence):  # (5)
            raise BusError(f"the ledger's leader names an older head than {known}, which we know")
        head = await asyncio.wait_for(  # (3)
            self.chains[region].head_at(0 if last is None else last.sequence), CHAIN_WAIT_S
        )
        beat = reports.Beat(region=region, ledger_epoch=self._epoch(), head=head, nonces=nonces)
        if withheld:
            beat = reports.Withholding(**msgspec.structs.asdict(beat), withheld=withheld)
        await self._say(region, reports.WITHHOLDING_TAG if withheld else reports.BEAT_TAG, beat)
        self.sent += 1

    async def ask(self, question: reports.Recheck) -> None:
        """Ask a node about its residences.

        Raises:
            BusError: It could not be sent.
        """
        await self._say(question.region, reports.RECHECK_TAG, question)

    async def _say(self, region: str, tag: str, said: reports.Beat | reports.Recheck) -> None:
        self._count += 1
        own = str(uuid.uuid4())
        e = env.Envelope(
            id=own, tag=tag, subject=subjects.beat(region), counter=self._count, epoch=self._epoch(),
            actor=env.Actor(issuer="cmk", subject="beat"), correlation=own, at_ms=time.time_ns() // 1_000_000,
            time_source="cmk-clock", key=self.signer.key_id, data=msgspec.Raw(msgspec.json.encode(said)),
        )  # fmt: skip
        await self._send(region, env.encode(env.seal_envelope(e, self.signer)), own, tag)
