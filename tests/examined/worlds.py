"""Small worlds around the production `step`: one node, a handful of sealed messages, a hostile bus, a crash anywhere.

Each world says what is true of it in its own words (`bad`), from the messages alone and not from the node's rules. The
node's effects wait in a queue and happen one by one, so that a crash may fall between any two of them; a restart loads
the committed rows. Time, where there is any, is a small number.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator

import msgspec
from msgspec.structs import replace

from examined.search import Found, search
from openkcm.contract import decrees as d
from openkcm.contract import envelope as env
from openkcm.contract import reports, statements
from openkcm.execution import rows
from openkcm.execution.desired import step
from openkcm.execution.inputs import Arrived, BeatArrived, NonceSent, ReadAgain
from openkcm.execution.residence_state import CLOSED, Mark, Residence, State, verdict
from openkcm.governance import pending
from press import Press, seed, sign

NODE = ("eu-frankfurt-1", "eu-frankfurt")
S = 1_000_000_000


Disk = tuple[tuple[int, int, bytes], bytes]


class Node(msgspec.Struct, frozen=True):
    """A node's memory, its disk, what still waits to be done, and what it has promised.

    Commits that wait become one, as the custodian's do; an ack waits for the commit behind which it came.
    """

    mem: State
    disk: Disk
    unwritten: Disk | None = None
    wanted: frozenset[str] = frozenset()  # lanes whose ack waits for the commit
    ready: frozenset[str] = frozenset()  # lanes whose ack may go out
    acked: frozenset[tuple[int, int]] = frozenset()  # (epoch, counter) of critical decrees in its SyncAcks
    acked_routine: int = 0

    def key(self) -> Hashable:
        """Everything that can matter later; not what only counts or lists for people."""
        return _pack(self.mem), self.disk, self.unwritten, self.wanted, self.ready, self.acked, self.acked_routine


_pack = msgspec.msgpack.Encoder().encode


def quiet(state: State) -> State:
    """The same without what only counts: else a hostile bus makes endless worlds of nothing."""
    homes = {
        t: replace(
            r, head_critical=(), head_routine=None, refusal=None, critical=_in_order(r.critical),
            revocations=_in_order(r.revocations), systems=_in_order(r.systems),
        )
        for t, r in state.residences.items()
    }  # fmt: skip
    return replace(
        state, dropped={}, residences=homes, ledger_critical=_in_order(state.ledger_critical),
        keys=_in_order(state.keys), retired=_in_order(state.retired),
    )  # fmt: skip


def _in_order(table: dict) -> dict:
    return dict(sorted(table.items()))


def headless(n: Node, *, cursors: bool) -> Node:
    """The same without the rolling hash, for worlds that have no beats; without cursors, where no mirror reads."""
    mem = replace(n.mem, chain=bytes(32), recent_heads={0: bytes(32)})
    if not cursors:
        homes = {t: replace(r, routine_sequence=0, frozen_at=None) for t, r in mem.residences.items()}
        mem = replace(mem, residences=homes, cursor_routine=0, seen_routine=0)
    return replace(n, mem=mem, wanted=n.wanted - {"routine"})


def begin(press: Press, *, lease_s: int = 60) -> Node:
    """A node with acme on board, all committed."""
    state = State(node=NODE[0], region=NODE[1], boot_id="boot-1", trust_root=press.root.public_key)
    for sequence, e in enumerate((*press.opening(NODE), *press.onboarded("acme", lease_s=lease_s)), 1):
        lane = "critical" if ".critical." in e.subject else "routine"
        state, _ = step(state, Arrived(lane, sequence, e.subject, env.encode(e), 0, final=True))
    press.sequence = sequence
    state = quiet(state)
    return Node(state, (_node_row(rows.node_row(state)[1]), rows.residence_row(state.residences["acme"])[1]["body"]))


def _node_row(row: rows.Row) -> tuple[int, int, bytes]:
    return row["cursor_routine"], row["cursor_critical"], row["body"]  # type: ignore[return-value]


def give(n: Node, given) -> Node:
    """Let the node decide; its gates close within the decision, the rest waits."""
    mem, effects = step(n.mem, given)
    mem = quiet(mem)
    unwritten, wanted = n.unwritten, set(n.wanted)
    for e in effects:
        if e.kind == "commit":
            node, residence = unwritten or n.disk
            for name, _ in e.rows:
                if name == "node":
                    node = _node_row(rows.node_row(mem)[1])
                else:
                    residence = rows.residence_row(mem.residences["acme"])[1]["body"]
            unwritten = node, residence
        elif e.kind == "ack":
            wanted.add(e.detail)
    return replace(n, mem=mem, unwritten=unwritten, wanted=frozenset(wanted))


def happen(n: Node) -> Iterator[tuple[str, Node]]:
    """What waits, happens: the commit of all that is unwritten, then the acks, which say what the disk holds."""
    if n.unwritten is not None or n.wanted:
        disk = n.unwritten or n.disk
        yield "commit", replace(n, disk=disk, unwritten=None, wanted=frozenset(), ready=n.ready | n.wanted)
    durable = msgspec.json.decode(n.disk[1], type=Residence)
    if "critical" in n.ready:
        held = {(epoch, c) for epoch, m in durable.critical.items() for c in (*range(1, m.floor + 1), *m.above)}
        yield "ack critical", replace(n, acked=n.acked | held, ready=n.ready - {"critical"})
    if "routine" in n.ready:
        floor = max(n.acked_routine, durable.routine.get(1, Mark()).floor)
        yield "ack routine", replace(n, acked_routine=floor, ready=n.ready - {"routine"})


def restart(n: Node, boot: str | None = None) -> Node:
    """kill -9 and start: memory and what waited are gone."""
    fresh = State(
        node=NODE[0], region=NODE[1], boot_id=boot or n.mem.boot_id, trust_root=n.mem.trust_root
    )  # fmt: skip
    mem = quiet(rows.load(fresh, n.disk[0], [n.disk[1]]))
    return replace(n, mem=mem, unwritten=None, wanted=frozenset(), ready=frozenset())


def home(n: Node) -> Residence:
    return n.mem.residences["acme"]


class World:
    """Base: messages by name, and the moves every world has."""

    def __init__(self) -> None:
        self.press = Press()
        self.first = begin(self.press)
        self.messages: dict[str, tuple[int, env.Envelope]] = {}

    def message(self, name: str, e: env.Envelope, sequence: int | None = None) -> env.Envelope:
        """Put a message into the ledger under the next sequence."""
        if sequence is None:
            sequence = self.press.sequence = self.press.sequence + 1
        self.messages[name] = (sequence, e)
        return e

    def arrive(self, name: str, source: str, now_ns: int = 0) -> Arrived:
        sequence, e = self.messages[name]
        return Arrived(source, sequence, e.subject, env.encode(e), now_ns, final=True)  # type: ignore[arg-type]

    mirrors = False  # whether lanes are read in order, by cursors; else a hostile bus brings anything at any time

    def moves(self, n: Node) -> Iterator[tuple[str, Node]]:
        for name, (sequence, e) in self.messages.items():
            lane = "critical" if ".critical." in e.subject else "routine"
            if lane == "critical":
                yield f"lane0 brings {name}", self._after(n, self.arrive(name, "lane0"))
            cursor = n.mem.cursor_critical if lane == "critical" else n.mem.cursor_routine
            if (self.mirrors and sequence > cursor) or (not self.mirrors and lane == "routine"):
                yield f"the {lane} mirror brings {name}", self._after(n, self.arrive(name, lane))
        yield from happen(n)
        yield "kill -9, restart", headless(restart(n), cursors=self.mirrors)
        if home(n).frozen_at is not None:
            yield "read the routine lane again", self._after(n, ReadAgain("routine"))

    def _after(self, n: Node, given) -> Node:
        return headless(give(headless(n, cursors=self.mirrors), given), cursors=self.mirrors)

    def key(self, n: Node) -> Hashable:
        return n.key()

    def search(self) -> Found:
        """Everything that can happen here."""
        return search(self.first, self.moves, self.bad, self.key)

    def bad(self, n: Node) -> str | None:
        """S2, S4: what was acknowledged is held, over any crash."""
        marks = home(n).critical
        lost = [(e, c) for e, c in sorted(n.acked) if c not in marks.get(e, Mark())]
        if lost:
            return f"S4: {lost[0]} was acknowledged and is not held"
        return None


class Lattice(World):
    """Revocations of two epochs, and restores: genuine, by one person, forged, naming numbers not ids."""

    def __init__(self) -> None:
        super().__init__()
        p = self.press
        self.v = {
            (1, 1): self.message("R1", p.residence("acme", d.AccessRevoked(reason="test"))),
            (1, 2): self.message("R2", p.residence("acme", d.AccessRevoked(reason="test"))),
            (2, 1): self.message("R1 of epoch 2", p.residence("acme", d.AccessRevoked(reason="x"), epoch=2, counter=1)),
        }
        v = list(self.v.values())
        self.restores = {
            6: (self.message("restore of R2", p.restore("acme", v[1])), {v[1].id}),
            7: (self.message("restore by one", p.restore("acme", *v, people={"p-ann": seed("ann")})), set()),
            8: (self.message("restore of R2 and epoch 2's R1", p.restore("acme", v[1], v[2])), {v[1].id, v[2].id}),
        }

    def bad(self, n: Node) -> str | None:
        r = home(n)
        held = {at: e for at, e in self.v.items() if at[1] in r.critical.get(at[0], Mark())}
        lifted = set().union(*(ids for c, (_, ids) in self.restores.items() if c in r.routine[1]))
        highest = [max((at, e.id) for at, e in held.items() if at[0] == epoch)[1] for epoch in {at[0] for at in held}]
        revoked = any(i not in lifted for i in highest)
        if revoked and verdict(r) not in CLOSED:
            return f"S1, S3: {verdict(r)} under a revocation that nobody lifted"
        if not revoked and verdict(r) == "revoked":
            return "L: revoked, though two people lifted what it holds"
        return super().bad(n)


class Approvers(World):
    """Governance seals what it likes: its own approvers, an old set again, restores signed by its own people."""

    def __init__(self) -> None:
        super().__init__()
        p = self.press
        self.revocation = self.message("revocation", p.residence("acme", d.AccessRevoked(reason="test")))
        evil = {"p-eve": seed("eve"), "p-mal": seed("mal")}
        new = {"p-ann": seed("ann"), "p-cid": seed("cid")}
        first = p.sets["acme"]

        def again() -> None:
            p.sets["acme"] = first

        honest = p.approvers("acme", new, signed_by=["p-ann", "p-bob"], counter=6)
        self.message("new approvers, signed by the old", honest)
        second = p.sets["acme"]
        again()
        self.message("governance's approvers over the old", p.approvers("acme", evil, counter=6))
        again()
        forged = p.approvers("acme", evil, previous=None, version=1, counter=6)
        self.message("governance's approvers as the first", forged)
        p.sets["acme"] = second
        for people, version, counter in ((evil, 1, 6), (new, 2, 7), (p.people, 1, 7)):
            who = "+".join(sorted(people))
            self.message(
                f"restore by {who} under set {version} at {counter}",
                p.restore("acme", self.revocation, people=people, version=version, counter=counter),
            )
        other = p.restore("acme", self.revocation, region="us-virginia", version=1, counter=6)
        self.message("restore signed for another region", other)
        self.genuine = {frozenset({"p-ann", "p-bob"}), frozenset({"p-ann", "p-cid"})}

    def bad(self, n: Node) -> str | None:
        r = home(n)
        if frozenset(r.approvers) not in self.genuine:
            return f"S12: {sorted(r.approvers)} are approvers now"
        if self.revocation.id in r.lifted and (r.approvers_version, 7 in r.routine[1]) == (1, False):
            return "S12: lifted under the first set by others than its people"
        return super().bad(n)


class CriticalGap(World):
    """Three critical decrees on lane0 and in a mirror that may keep some back."""

    mirrors = True

    def __init__(self) -> None:
        super().__init__()
        p = self.press
        self.message("R1", p.residence("acme", d.AccessRevoked(reason="test")))
        self.message("removal", p.residence("acme", d.WorkloadRemoved(enrolments=("enr-acme-app",))))
        self.message("R3", p.residence("acme", d.AccessRevoked(reason="test")))

    def bad(self, n: Node) -> str | None:
        if 2 in home(n).critical.get(1, Mark()) and "enr-acme-app" not in home(n).removed:
            return "S2: the removal counts as a duplicate and was never applied"
        shown = n.mem.cursor_critical >= self.messages["removal"][0]
        if shown and home(n).critical.get(1, Mark()).floor < 2 and verdict(home(n)) not in CLOSED:
            return "S8: the mirror has shown that a critical decree is missing, and it is served"
        return super().bad(n)


class RoutineGap(World):
    """Routine decrees of which some are kept back for a while, and come when the lane is read again."""

    mirrors = True

    def __init__(self) -> None:
        super().__init__()
        p = self.press
        self.message("suspended", p.residence("acme", d.AccessSuspended(reason="test")))
        self.message("resumed", p.residence("acme", d.AccessResumed()))
        later = p.residence("acme", d.SystemRegistered(system="archive", registration="reg-acme-archive"))
        self.message("system", later)

    def bad(self, n: Node) -> str | None:
        r = home(n)
        if r.routine[1].above:
            return "S2: a routine decree was applied over a gap"
        if r.suspended != (r.routine[1].floor == 6):
            return f"suspended={r.suspended} at generation {r.routine[1].floor}"
        if ("reg-acme-archive" in r.systems) != (r.routine[1].floor >= 8):
            return "a system came before what lies before it"
        return super().bad(n)


class Keys(World):
    """Governance's keys change; the old one is retired; lane0 says it too, and changes nothing by it."""

    def __init__(self) -> None:
        super().__init__()
        p = self.press
        k2, k3 = seed("cmk-2"), seed("cmk-3")
        self.message("suspended, by the first key", p.residence("acme", d.AccessSuspended(reason="test")))
        self.message("second key", p.ledger(d.SigningKeyRotated(key=k2.key_id, public_key=k2.public_key)))
        self.message("resumed, by the second key", p.residence("acme", d.AccessResumed(), signer=k2))
        self.old = both = (k2.key_id, p.cmk.key_id)
        third = d.SigningKeyRotated(key=k3.key_id, public_key=k3.public_key, retires=both)
        self.message("third key, retires both", p.ledger(third))
        for name, key in (("first", p.cmk), ("second", k2)):
            late = p.residence("acme", d.AccessRevoked(reason="test"), signer=key, counter=1)
            self.message(f"revocation by the retired {name} key", late)

    def bad(self, n: Node) -> str | None:
        knows = 3 in n.mem.ledger_critical.get(1, Mark())
        if knows and any(k in n.mem.keys for k in self.old):
            return "a retired key is a key again"
        return super().bad(n)


class Lease(World):
    """Nonces, beats, a shorter and a longer lease, a revocation, reboots; T as the portal computes it.

    Time runs in ticks of 30 s. The bus keeps beats for as long as it likes. Governance reads the head after the nonce.
    """

    TICK, END = 30, 4

    leases: tuple[str, ...] = ("shorter lease", "longer lease")
    reboots = restarts = False
    recorded = True

    def __init__(self, *, fresh: bool = True, sends: tuple[int, ...] = (0, 1)) -> None:
        super().__init__()
        p, self.fresh, self.sends = self.press, fresh, sends
        self.message("shorter lease", p.residence("acme", d.TenantConfigurationUpdated(lease_s=30)))
        words = statements.configuration_statement("acme", NODE[1], "approval-1", 60)
        longer = d.TenantConfigurationUpdated(lease_s=60, approval="approval-1", signatures=sign(words, p.people))
        self.message("longer lease", p.residence("acme", longer))
        self.revoked = self.message("revocation", p.residence("acme", d.AccessRevoked(reason="test")))
        self.ordered = [(1, 2, 60), (1, 6, 30), (1, 7, 60)]
        head = self.first.mem.cursor_critical
        chain = self.first.mem.chain
        sequence = self.messages["revocation"][0]
        after = reports.grown_head(chain, head, sequence, env.encode(self.revoked))
        self.heads = {False: (head, chain), True: (sequence, after)}
        self.start = Ticking(self.first)

    def beat(self, nonce: str, known: bool) -> env.Envelope:
        return self.press.beat(*self.heads[known], nonce)

    def search(self) -> Found:
        """Everything that can happen here."""
        return search(self.start, self.moves, self.bad, self.key)

    def moves(self, w):  # type: ignore[override]
        n, now = w.node, w.tick * self.TICK
        if w.tick < self.END:
            yield f"{now + self.TICK} s", replace(w, tick=w.tick + 1)
        if w.revoked_at is None and w.tick == 1:
            yield "the revocation is in the ledger", replace(w, revoked_at=w.tick)
        if w.boot_at <= w.tick and w.tick not in w.nonces and w.tick in self.sends:
            nonce = f"{w.tick:032x}"
            sent = give(n, NonceSent(nonce, (now - w.boot_at * self.TICK) * S))
            yield f"a nonce leaves at {now}", replace(w, node=sent, nonces=w.nonces | {w.tick})
        for tick in w.nonces - {t for t, _ in w.beats}:
            known = w.revoked_at is not None if self.fresh else False
            yield f"governance echoes the nonce of {tick * self.TICK}", replace(w, beats=w.beats | {(tick, known)})
        for tick, known in sorted(w.beats):
            e = self.beat(f"{tick:032x}", known)
            beat = BeatArrived(e.subject, env.encode(e))
            yield f"the beat for {tick * self.TICK} comes", replace(w, node=give(n, beat))
        names = list(self.leases) + (["revocation"] if w.revoked_at is not None and self.recorded else [])
        for name in names:
            lane = "critical" if name == "revocation" else "routine"
            if self.messages[name][0] > (n.mem.cursor_critical if lane == "critical" else n.mem.cursor_routine):
                local = (now - w.boot_at * self.TICK) * S
                yield f"the mirror brings the {name}", replace(w, node=give(n, self.arrive(name, lane, local)))
        for name, after in happen(n):
            yield name, replace(w, node=after)
        if self.restarts:
            yield "kill -9, restart", replace(w, node=restart(n))
        if self.reboots and not w.boot_at and w.tick:
            yield "reboot", replace(w, node=restart(n, "boot-2"), boot_at=w.tick)

    def key(self, w):  # type: ignore[override]
        return (w.node.key(), w.tick, w.revoked_at, w.nonces, w.beats, w.boot_at)

    def bad(self, w):  # type: ignore[override]
        r, now = home(w.node), w.tick * self.TICK
        local = (now - w.boot_at * self.TICK) * S
        if verdict(r) in CLOSED or w.node.mem.lease_until(r) <= local:
            return super().bad(w.node)
        if w.revoked_at is not None:
            ack = pending.Ack("n", 1, w.node.acked_routine)
            longest = pending.longest_lease_s(self.ordered, {"n": ack}, ["n"])
            if now > w.revoked_at * self.TICK + pending.certain_after_s(longest):
                return f"S9: serves at {now} s, though T was {w.revoked_at * self.TICK + longest} s"
            if (1, 1) in w.node.acked:
                return "S1: serves after its ack"
        return super().bad(w.node)


class Ticking(msgspec.Struct, frozen=True):
    """The lease world's state."""

    node: Node
    tick: int = 0
    revoked_at: int | None = None
    nonces: frozenset[int] = frozenset()
    beats: frozenset[tuple[int, bool]] = frozenset()
    boot_at: int = 0


class Reboot(Lease):
    """The same, without other leases, and with a reboot of the machine: its boot clock begins again."""

    leases = ()
    reboots = True


class Withheld(Lease):
    """The revocation is in the CMK's spool and never in the ledger: beats from then on leave its tenant out."""

    leases = ()
    restarts, recorded = True, False

    def __init__(self) -> None:
        super().__init__(sends=(0, 2, 3, 4))

    def beat(self, nonce: str, known: bool) -> env.Envelope:
        return self.press.beat(*self.heads[False], nonce, withheld=("acme",) if known else ())


ALL = (Lattice, Approvers, CriticalGap, RoutineGap, Keys, Lease, Reboot, Withheld)
