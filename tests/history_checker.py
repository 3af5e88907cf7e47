"""Decides whether anything in a recorded history broke S1, S6, S9 or S12. Independent: reads the NDJSON of
`docs/history.md`, imports nothing of OpenKCM, knows the rules of the design and none of its code.

- S1: after a node acknowledged a revocation (or a workload's removal), it serves nothing of it until it is lifted.
- S6: nothing is served later than the lease after the sending of a nonce that governance echoed in a beat that did not
  leave the tenant out.
- S9: once the portal says Revoked, or `certain_by` is past, no node of the region serves, unless the ledger itself lost
  the revocation and an operator accepted that loss. What a node acknowledged holds even then (S1).
- S12: what lifts is a restore that two different people of the tenant signed; anything else lifts nothing.
- Lost: what the API answered for is in the ledger, once the history is `complete`, unless that loss was accepted.
- Key: what is served was made with a key, never with the zeros of a wiped one; what is closed keeps none.
"""

from __future__ import annotations

import json
import sys
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

DRIFT_RATIO, DRIFT_S = 0.001, 0.1  # preempted between the comparison and the kernel
SETTLED = ("Revoked", "RevokedByLease")
Line = dict[str, Any]
Echo = tuple[float, float, Collection[str]]  # when the beat came, when its nonce was sent, whom it left out


@dataclass
class Residence:
    revocations: list[Line] = field(default_factory=list)
    restores: list[Line] = field(default_factory=list)
    configurations: list[Line] = field(default_factory=list)
    acks: dict[str, list[Line]] = field(default_factory=lambda: defaultdict(list))
    portal: list[tuple[float, str, tuple[str, ...]]] = field(default_factory=list)
    lost: dict[str, float] = field(default_factory=dict)
    known: dict[tuple[Any, ...], Any] = field(default_factory=dict)

    def lifted(self, revocation: Line) -> tuple[float, float]:
        """Since when a restore by two people, and any restore, names this revocation or a later one of its epoch."""
        key = "lifted", *_place(revocation)
        if (found := self.known.get(key)) is None:
            epoch, counter = revocation["epoch"], revocation["counter"]
            same = {r["event"] for r in self.revocations if r["epoch"] == epoch and r["counter"] >= counter}
            naming = [r for r in self.restores if same & set(r["lifts"])]
            good = [r["t"] for r in naming if len(set(r["people"])) >= 2]
            found = min(good, default=inf), min((r["t"] for r in naming), default=inf)
            self.known[key] = found
        return found

    def acked(self, node: str, lane: str, decree: Line) -> float:
        """When a node first acknowledged a decree."""
        key = node, lane, *_place(decree)
        if (found := self.known.get(key)) is None:
            acks = (a for a in self.acks[node] if a["lane"] == lane and covers(a, decree))
            found = self.known[key] = next((a["t"] for a in acks), inf)
        return found

    def said(self, revocation: Line) -> tuple[float, str]:
        """Since when the portal says that a revocation is obeyed, and how."""
        key = "said", *_place(revocation)
        if (found := self.known.get(key)) is None:
            told = ((since, status) for since, status, events in self.portal if revocation["event"] in events)
            found = self.known[key] = min(told, default=(inf, ""))
        return found


def _place(decree: Line) -> tuple[Any, ...]:
    """One decree; a restored ledger has it a second time, at another place."""
    return decree["event"], decree["epoch"], decree["counter"]


def covers(ack: Line, decree: Line) -> bool:
    if ack["epoch"] != decree["epoch"]:
        return False
    return decree["counter"] <= ack["floor"] or decree["counter"] in ack["above"]


def check(lines: Iterable[Line]) -> list[str]:
    """Return what was broken, a sentence each; an empty list when nothing was."""
    lines = sorted(lines, key=lambda line: line["t"])
    residences: dict[tuple[str, str], Residence] = defaultdict(Residence)
    removals: list[Line] = []
    nonces: dict[str, tuple[str, float]] = {}
    echoed: dict[str, list[Echo]] = defaultdict(list)
    served: list[Line] = []
    lost: dict[str, float] = {}
    for line in lines:
        kind, at = line["kind"], (line.get("tenant", ""), line.get("region", ""))
        if kind == "decree" and line["tag"] == "AccessRevoked":
            residences[at].revocations.append(line)
        elif kind == "decree" and line["tag"] == "AccessRestored":
            residences[at].restores.append(line)
        elif kind == "decree" and line["tag"] == "TenantConfigurationUpdated":
            known = residences[at].configurations
            if line["event"] not in {c["event"] for c in known}:  # a restored ledger has it a second time
                known.append(line)
        elif kind == "decree" and line["tag"] == "WorkloadRemoved":
            removals.append(line)
        elif kind == "ack":
            residences[at].acks[line["node"]].append(line)
        elif kind == "nonce":
            nonces[line["nonce"]] = line["node"], line["t"]
        elif kind == "beat":
            for nonce in line["nonces"]:
                if nonce in nonces:
                    node, sent = nonces[nonce]
                    echoed[node].append((line["t"], sent, line.get("withheld", ())))
        elif kind == "portal":
            said = tuple(line["events"])
            if line["status"] in SETTLED:
                residences[at].portal.append((line["t"], line["status"], said))
            elif line.get("certain_by") is not None:
                residences[at].portal.append((line["certain_by"], "certain by then", said))
        elif kind == "loss":
            lost |= dict.fromkeys(line["events"], line["t"])
        elif kind == "op" and line["result"] == "served":
            served.append(line)
    broken = [f"Key: {x['node']} keeps a key of {x['tenant']} at {x['t']}" for x in lines if x["kind"] == "residue"]
    if any(line["kind"] == "complete" for line in lines):
        there = {line["event"] for line in lines if line["kind"] == "decree"} | lost.keys()
        answered = {line["event"] for line in lines if line["kind"] == "answer"}
        broken += [f"Lost: the answered {event} is nowhere in the ledger" for event in sorted(answered - there)]
    for home in residences.values():
        home.lost = lost
    for op in served:
        broken += _judge(op, residences[op["tenant"], op["region"]], removals, echoed[op["node"]])
    return broken


def _judge(op: Line, home: Residence, removals: list[Line], echoed: list[Echo]) -> list[str]:
    at, node = op.get("sent", op["start"]), op["node"]
    what = f"{node} served {op['tenant']} at {at}"
    out: list[str] = []
    if op.get("wrong_key"):
        out.append(f"Key: {what} with a key that was wiped")
    for revocation in home.revocations:
        good, any_ = home.lifted(revocation)
        if good <= at:
            continue
        rule = "S12" if any_ <= at else None
        acked = home.acked(node, "critical", revocation)
        if acked < at:
            out.append(f"{rule or 'S1'}: {what}, after its ack at {acked} of {revocation['event']}")
        since, status = home.said(revocation)
        if since < at < home.lost.get(revocation["event"], at + 1):
            out.append(f"{rule or 'S9'}: {what}, though the portal says {status} at {since}")
    for removal in removals:
        mine = removal["tenant"] == op["tenant"] and removal["region"] == op["region"]
        if mine and op.get("enrolment") in removal["ids"] and home.acked(node, "critical", removal) < at:
            out.append(f"S1: {what} for the removed {op['enrolment']}")
    sent = _newest(echoed, at, op["tenant"])
    if sent is None:
        out.append(f"S6: {what} without any beat")
    else:
        lease = _longest_lease(home, node, sent, at)
        if at > sent + lease * (1 + DRIFT_RATIO) + DRIFT_S:
            out.append(f"S6: {what}, {at - sent:.3f} s after the nonce, on a lease of {lease} s")
    return out


def _newest(echoed: list[Echo], at: float, tenant: str) -> float | None:
    """The latest sending among the nonces echoed by then to this tenant's lease. A list in the order of time."""
    newest = None
    for beat_at, sent, withheld in reversed(echoed[: bisect_right(echoed, (at, inf))]):
        if tenant in withheld:
            continue
        if newest is None or sent > newest:
            newest = sent
        if beat_at < newest:
            break
    return newest


def _longest_lease(home: Residence, node: str, sent: float, at: float) -> float:
    """The longest lease this node may have had: those ordered, from the newest it had acknowledged at `sent` on."""
    allowed: list[Line] = []
    for c in home.configurations:
        if c["t"] > at:
            break
        if not allowed or c["lease_s"] <= allowed[-1]["lease_s"] or len(set(c["people"])) >= 2:
            allowed.append(c)
    newest = max((i for i, c in enumerate(allowed) if home.acked(node, "routine", c) <= sent), default=0)
    return max((c["lease_s"] for c in allowed[newest:]), default=0.0)


def main() -> None:
    """Check histories given as files; the exit status says whether all are clean."""
    bad = 0
    for path in sys.argv[1:]:
        with Path(path).open(encoding="utf-8") as opened:
            broken = check(json.loads(line) for line in opened)
        print(f"{path}: {'clean' if not broken else f'{len(broken)} broken'}")
        for sentence in broken[:20]:
            print(f"  {sentence}")
        bad += bool(broken)
    raise SystemExit(1 if bad else 0)


if __name__ == "__main__":
    main()
