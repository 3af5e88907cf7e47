"""`openkcm drill`: a rehearsal of the kill switch in production, on a tenant that exists for nothing else.

(1) the canary tenant comes aboard where it is missing, (2) every node serves it, (3) the switch is pulled in all its
regions while each node is under load, (4) each node's gate is seen closing, by its own sealed acknowledgement and from
outside by what its clients got, (5) two people restore, (6) every node serves again. The ledger keeps it: an
AccessRevoked with the drill's name, a RevocationConfirmed with the nodes' seals, an AccessRestored with two signatures.
"""

from __future__ import annotations

import base64
import contextlib
import os
import time
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.table import Table

from openkcm.cli import background, endpoints
from openkcm.cli.endpoints import Endpoints, Node, Workload
from openkcm.cli.layout import CANARY, Layout, Tenant
from openkcm.cli.load import Load, Record, Task, make_key
from openkcm.cli.onboarding import bring_aboard, portal_of
from openkcm.cli.show import wide_console
from openkcm.client import Client, Problem, SyncTimeout
from openkcm.contract import decrees as d
from openkcm.contract import envelope, reports
from openkcm.contract.seal import Signer

__all__ = ["DrillFailed", "NodeFigures", "run"]

SYSTEM: Final = "probe"
RATE: Final = 200  # operations a second at each node
BEFORE_S: Final = 1.0
AFTER_S: Final = 0.5
AGAIN_S: Final = 5.0
REVOKED_S: Final = 30.0
SERVES_S: Final = 30.0
LOOK_S: Final = 0.02


class DrillFailed(Exception):
    """Something that must hold does not; the message says what. Look at the canary's state before the next drill."""


class NodeFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One node in the drill. Milliseconds count from the API's answer to the order; negative: before it came back.

    Attributes:
        closed_ms: To the gate's closing, by the node's ack; None when it runs on another machine than the drill.
        refused_ms: To the first refusal that its client got.
        served_before, refused: Operations. None was served between the first refusal and the restore.
        serves_again_ms: From the second signature to the first operation served again.
    """

    node: str
    region: str
    closed_ms: float | None
    refused_ms: float
    served_before: int
    refused: int
    serves_again_ms: float


def run(state: Path, *, as_json: bool) -> int:
    """Rehearse; return 0 when every node obeyed, served nothing late, and serves again.

    Raises:
        FileNotFoundError, ValueError: No stack on this state directory.
    """
    console = wide_console()
    layout, running = background.saved_layout(state), endpoints.load(state)
    name = f"drill-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.urandom(2).hex()}"
    try:
        figures = _rehearse(layout, running, name)
    except (DrillFailed, Problem, SyncTimeout) as bad:
        console.print(f"[red]{name} failed:[/] {bad}", soft_wrap=True)
        return 1
    if as_json:
        print(msgspec.json.encode({"drill": name, "nodes": figures}).decode())
    else:
        console.print(_shown(name, figures))
    return 0


def _rehearse(layout: Layout, running: Endpoints, name: str) -> list[NodeFigures]:
    regions = tuple(region.region for region in layout.regions if not region.draining)
    with portal_of(running, "provider/operator") as operator:
        known = {tenant.id: tenant for tenant in operator.tenants()}
    if CANARY in known:  # regions that came later are not the canary's
        regions = tuple(home.region for home in known[CANARY].regions if home.region in regions)
    for _ in bring_aboard(layout, running, CANARY, Tenant(regions, (SYSTEM,))):  # (1)
        pass
    workload = layout.workload(CANARY, SYSTEM)
    nodes = [node for node in running.nodes if node.region in regions]
    with portal_of(running, f"{CANARY}/admin") as admin, contextlib.ExitStack() as loads:
        for home in admin.regions(CANARY):
            if home.region in regions and home.state == "Revoked":  # by a drill that failed
                _restore(layout, running, admin, home.region)
        keys = {region: _key(next(n for n in nodes if n.region == region), workload) for region in regions}  # (2)
        load = {node.name: loads.enter_context(_load(node, workload, keys[node.region])) for node in nodes}
        time.sleep(BEFORE_S)
        pulled = admin.revoke(CANARY, *regions, reason=name).revocations or ()  # (3)
        answer, events = admin.last, {one.region: one.event for one in pulled}
        for region, event in events.items():
            _wait(partial(_revoked, admin, region), f"{region}: not every node has acknowledged {event}", REVOKED_S)
        acks = _acks(admin, set(events.values()))  # (4)
        time.sleep(AFTER_S)
        again = {region: _restore(layout, running, admin, region) for region in regions}  # (5)
        time.sleep(AGAIN_S)  # (6)
        records = {name: one.end() for name, one in load.items()}
    return [_judge(node, answer.at_ns, again[node.region], acks.get(node.name), records[node.name]) for node in nodes]


def _revoked(admin: Client, region: str) -> bool:
    return bool(admin.sync(CANARY, region).critical.status == "Revoked")


def _key(node: Node, workload: Workload) -> str:
    return str(_wait(partial(make_key, node.kmip, workload), f"{node.name} makes no key for the canary", SERVES_S))


def _load(node: Node, workload: Workload, uid: str) -> Load:
    return Load(Task(kmip=node.kmip, workload=workload, uid=uid, rate=RATE))


def _acks(admin: Client, events: set[str]) -> dict[str, reports.SyncAck]:
    """Return each node's sealed ack, as the confirmations in the ledger embed them."""
    found: dict[str, reports.SyncAck] = {}
    confirmed: set[str] = set()

    def all_there() -> bool:
        for event in admin.ledger(CANARY):
            e = envelope.decode(base64.b64decode(event.body))
            decree = d.read(e.tag, e.data) if e.tag.startswith("RevocationConfirmed.") else None
            if isinstance(decree, d.RevocationConfirmed) and decree.revocation in events:
                confirmed.add(decree.revocation)
                for raw in decree.acks:
                    sealed = envelope.decode(bytes(raw))
                    ack = reports.read(sealed.tag, sealed.data)
                    if isinstance(ack, reports.SyncAck):
                        found[sealed.actor.subject] = ack
        return confirmed == events

    _wait(all_there, "a revocation is not confirmed in the ledger", REVOKED_S)
    return found


def _restore(layout: Layout, running: Endpoints, admin: Client, region: str) -> int:
    """Have two people lift the revocation; return when the second one signed (CLOCK_BOOTTIME ns)."""
    asks, signs = (Signer(layout.approval_key(f"{CANARY}/{who}").read_bytes()) for who in ("admin", "approver"))
    words = admin.prepare(CANARY, "RestoreAccess", region)
    admin.propose(CANARY, "RestoreAccess", region, words, asks)
    with portal_of(running, f"{CANARY}/approver") as approver:
        approver.grant(CANARY, words.approval, signs, words)
        return approver.last.asked_ns


def _judge(node: Node, asked_ns: int, again_ns: int, ack: reports.SyncAck | None, records: list[Record]) -> NodeFigures:
    """Hold one node's clients and its acknowledgement against what must be so.

    Raises:
        DrillFailed: It served after it had refused, or did not serve again, or nothing can be said of it.
    """
    if ack is None:
        raise DrillFailed(f"{node.name} counts, but its acknowledgement is not in the ledger")
    served = [r for r in records if r.outcome == "served"]
    refused = [r for r in records if r.outcome == "refused" and "revoked" in r.detail]
    before = [r for r in served if r.sent_ns < asked_ns]
    if not before or not refused:
        raise DrillFailed(
            f"{node.name}: {len(before)} operations served, {len(refused)} refused: no figure comes of it"
        )
    first = refused[0]
    after = [r for r in served if r.sent_ns > first.answered_ns]
    if late := [r for r in after if r.answered_ns < again_ns]:
        raise DrillFailed(f"{node.name} served {len(late)} operations after it had refused one")
    if not after:
        raise DrillFailed(f"{node.name} does not serve the canary {AGAIN_S} s after the restore")
    here = Path("/proc/sys/kernel/random/boot_id").read_text().strip() == ack.boot_id
    closed = (ack.closed_boottime_ns - asked_ns) / 1e6 if here and ack.closed_boottime_ns else None
    return NodeFigures(
        node=node.name, region=node.region, closed_ms=closed, refused_ms=(first.answered_ns - asked_ns) / 1e6,
        served_before=len(before), refused=len(refused), serves_again_ms=(after[0].answered_ns - again_ns) / 1e6,
    )  # fmt: skip


def _wait(until: Any, otherwise: str, timeout_s: float) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (answer := until()):
        if time.monotonic() > deadline:
            raise DrillFailed(otherwise)
        time.sleep(LOOK_S)
    return answer


def _shown(name: str, figures: list[NodeFigures]) -> Table:
    table = Table(title=f"{name}: every node obeyed and serves again", title_justify="left")
    for column in ("Node", "Gate closed (ms)", "First refusal (ms)", "Served, then refused", "Serves again (ms)"):
        table.add_column(column, justify="left" if column == "Node" else "right")
    for f in figures:
        closed = "elsewhere" if f.closed_ms is None else f"{f.closed_ms:.1f}"
        counts = f"{f.served_before}, {f.refused}"
        table.add_row(f.node, closed, f"{f.refused_ms:.1f}", counts, f"{f.serves_again_ms:.0f}")
    return table
