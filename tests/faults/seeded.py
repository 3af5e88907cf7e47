"""Violations put by hand into a history that was kept: the checker must find each by its rule's name."""

from __future__ import annotations

from typing import Any

Line = dict[str, Any]


def violations(lines: list[Line]) -> dict[str, list[Line]]:
    """Return rule -> a history that breaks it, made of `lines`."""
    ops = [x for x in lines if x["kind"] == "op"]
    acks = sorted((x for x in lines if x["kind"] == "ack" and x["lane"] == "critical"), key=lambda x: x["t"])
    revoked = sorted((x for x in lines if x.get("tag") == "AccessRevoked"), key=lambda x: x["t"])
    shown = [x for x in lines if x["kind"] == "portal" and x["status"] in ("Revoked", "RevokedByLease")]
    ack = next(a for a in acks if a["floor"] >= revoked[0]["counter"] and a["t"] > revoked[0]["t"])
    restore = next(x for x in lines if x.get("tag") == "AccessRestored" and revoked[0]["event"] in x["lifts"])
    beats = sorted((x for x in lines if x["kind"] == "beat"), key=lambda x: x["t"])
    lease = max(x["lease_s"] for x in lines if x.get("tag") == "TenantConfigurationUpdated")

    def served(at: float) -> Line:
        return {**ops[0], "t": at, "start": at, "end": at, "result": "served"}

    one_signed = [x | {"people": x["people"][:1]} if x is restore else x for x in lines]
    silent = [x for x in lines if x["kind"] != "beat" or x["t"] <= beats[0]["t"]]
    return {
        "S1": [*lines, served(ack["t"] + 0.001)],
        "S6": [*silent, served(beats[0]["t"] + 2 * lease + 1)],
        "S9": [x for x in lines if x["kind"] != "ack"] + [served(shown[0]["t"] + 0.001)],
        "S12": one_signed,
        "Lost": [x for x in lines if x.get("event") != revoked[-1]["event"] or x["kind"] != "decree"],
    }
