"""Step 4 of the demo: the kill switch is pulled while KMIP load runs and routine events wait behind a held lane."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Final

from openkcm.audit.examine import examine
from openkcm.audit.verify import Event
from openkcm.cli import rogue
from openkcm.cli.layout import TENANTS
from openkcm.cli.load import Load, Record
from openkcm.cli.sources import read_mirror, trust_root
from openkcm.cli.stage import Stage
from openkcm.client import Answer
from openkcm.contract import api, envelope, reports
from openkcm.contract import decrees as d

__all__ = ["revoke"]

ACME: Final = "acme"
REGIONS: Final = TENANTS[ACME].regions
REVOKED_S: Final = 20.0
BACKLOG_S: Final = 300.0
TOP_UPS: Final = 5


def revoke(stage: Stage) -> None:
    """4: per node the ms from the API's answer to the gate's closing and to the SyncAck; nothing served after it."""
    admin = stage.portal("acme/admin")
    dry = admin.revoke(ACME, reason="demo", dry_run=True)
    stage.must(dry.dryRun and {r.region for r in dry.regions or ()} == set(REGIONS), f"the dry run answered {dry}")
    before = {region: admin.region(ACME, region) for region in REGIONS}
    stage.must(all(r.state == "Active" for r in before.values()), "a dry run changed something")
    stage.fact("the dry run showed what would be cut, and cut nothing")
    stage.say(f"holding the routine lanes and queuing {stage.backlog} events behind them")
    rogue.pause_routine(stage.layout)
    try:
        heads = rogue.queue_backlog(stage.layout, [(ACME, region) for region in REGIONS], stage.backlog)
        with contextlib.ExitStack() as running:
            loads = {
                region: running.enter_context(stage.load(region, stage.kept["ciphertexts"][region]["uid"]))
                for region in REGIONS
            }
            time.sleep(0.5)  # some load before
            waiting = _waiting(stage, heads)
            for _ in range(TOP_UPS):  # a batch asked for before the lane was held; what governance says again on lane0
                if waiting < stage.backlog:
                    more = stage.backlog - waiting + stage.backlog // 20  # governance goes on saying it meanwhile
                    heads |= rogue.queue_backlog(stage.layout, list(heads), more)
                    waiting = _waiting(stage, heads)
            stage.figure("routine events waiting at the nodes at the pull", waiting)
            stage.must(waiting >= stage.backlog, f"{waiting} routine events wait, not the {stage.backlog} queued")
            _pull(stage, loads, before)
    finally:
        rogue.resume_routine(stage.layout)
    stage.say("letting the backlog through")
    start = time.monotonic()
    for region in REGIONS:
        admin.in_sync(ACME, region, admin.region(ACME, region).generation, timeout_s=BACKLOG_S)
    stage.figure("backlog applied afterwards in (s)", time.monotonic() - start)


def _waiting(stage: Stage, heads: dict[tuple[str, str], int]) -> int:
    """How many routine events are in the ledger and not yet obeyed by the slowest node of their region."""
    total = 0
    for (tenant, region), head in heads.items():
        total += head - min(node.routine for node in stage.portal("acme/admin").sync(tenant, region).nodes)
    return total


def _pull(stage: Stage, loads: dict[str, Load], before: dict[str, api.Region_]) -> None:
    admin = stage.portal("acme/admin")
    stage.say("pulling the kill switch")
    ordered = {pulled.region: pulled.event for pulled in admin.revoke(ACME, reason="demo").revocations or ()}
    answer = admin.last
    stage.must(answer.status == 202, f"the revocation answered {answer.status}")
    stage.must(set(ordered) == set(REGIONS), f"revoked in {sorted(ordered)}, not in {sorted(REGIONS)}")
    stage.kept["revocations"] = set(ordered.values())
    said_revoked: dict[str, int] = {}

    def all_revoked() -> bool:
        for region in REGIONS:
            if region not in said_revoked:
                critical = admin.sync(ACME, region).critical
                stage.must(critical.status != "RevokedByLease", f"{region}: revoked by lease, not by acks")
                if critical.status == "Revoked" and critical.counter > before[region].fence:
                    said_revoked[region] = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        return len(said_revoked) == len(REGIONS)

    stage.wait(all_revoked, "the portal says Revoked", timeout_s=REVOKED_S)
    time.sleep(0.5)  # load goes on against closed gates
    records = {region: load.end() for region, load in loads.items()}
    for region in REGIONS:
        refused = stage.decrypts(region)
        stage.must("refused" in refused, f"{region}: revoked, and yet: {dict(refused)}")
        for ack in _confirmed(stage, region, ordered[region]):
            _judge(stage, region, ack, records[region], answer, said_revoked[region])
    stage.fact("negative: the gate was closed, or the ack was sent, before the API's answer had come back")
    stage.fact("the portal said Revoked only after every node's ack; the sealed acks are in the ledger")


def _confirmed(stage: Stage, region: str, event: str) -> list[tuple[str, reports.SyncAck, int]]:
    """Return (node, ack, its time in ms) as RevocationConfirmed embeds them in the ledger, once the auditor has it."""

    def found() -> list[tuple[str, reports.SyncAck, int]]:
        confirmations: list[d.RevocationConfirmed] = []

        def hear(one: Event, _body: bytes) -> None:
            if isinstance(one.decree, d.RevocationConfirmed) and one.decree.revocation == event:
                confirmations.append(one.decree)

        examine(asyncio.run(read_mirror(stage.layout.state)), trust_root(stage.layout.state), hear=[hear])
        for decree in confirmations:
            stage.must(decree.outcome == "acked", f"{region}: confirmed by {decree.outcome}")
            sealed = [envelope.decode(bytes(raw)) for raw in decree.acks]
            acks = [(s.actor.subject, reports.read(s.tag, s.data), s.at_ms) for s in sealed]
            return [(node, ack, at_ms) for node, ack, at_ms in acks if isinstance(ack, reports.SyncAck)]
        return []

    acks: list[tuple[str, reports.SyncAck, int]] = stage.wait(found, f"{region}: RevocationConfirmed in the ledger")
    return acks


def _judge(
    stage: Stage, region: str, acked: tuple[str, reports.SyncAck, int], records: list[Record], answer: Answer,
    said_ns: int,
) -> None:  # fmt: skip
    """One node: when its gate closed, when it acknowledged, and that it served nothing that was asked later."""
    node, ack, at_ms = acked
    closed_ns = ack.closed_boottime_ns
    stage.must(closed_ns is not None, f"{node}: an ack without the gate's closing")
    assert closed_ns is not None
    to_boottime_ms = (time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.time_ns()) / 1e6
    acked_ms = at_ms + to_boottime_ms - answer.at_ns / 1e6
    stage.figure(f"order sent to gate closed, {node} (ms)", (closed_ns - answer.asked_ns) / 1e6)
    stage.figure(f"API's answer to gate closed, {node} (ms)", (closed_ns - answer.at_ns) / 1e6)
    stage.figure(f"API's answer to SyncAck, {node} (ms)", acked_ms)
    stage.must(said_ns / 1e6 + 1 >= at_ms + to_boottime_ms, f"{node}: the portal said Revoked before the ack")
    served = [r for r in records if r.outcome == "served"]
    late = [r for r in served if r.sent_ns > closed_ns]
    wrong = [r for r in records if r.outcome == "wrong"]
    refused = [r for r in records if r.outcome == "refused"]
    stage.must(any(r.sent_ns < closed_ns for r in served), f"{node}: no load was served before the closing")
    stage.must(refused, f"{node}: no load was refused after the closing")
    stage.must(not late, f"{node}: {len(late)} operations asked after the gate's closing were served")
    stage.must(not wrong, f"{node}: {len(wrong)} wrong answers")
    stage.figure(f"served before / refused after / served after, {region}", f"{len(served)} / {len(refused)} / 0")
