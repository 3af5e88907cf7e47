"""The hub's disk is full when the switch is pulled: `python -m faults.full_hub`, from tests/, as root. Takes a minute.

1. The revocation is answered "spool"; `sync` says Revoking and by when it is certain.
2. Another tenant region is served all the while; the revoked one until its lease is over, and no longer: by then at most.
3. The disk has room again: the revocation is in the ledger, every node acknowledges it, and two people lift it.

The history goes to the checker. Prints one JSON document. Exit status 1: something of that was not so.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from kmip.pie.exceptions import KmipOperationFailure

from faults import disk
from faults.approve import lift
from faults.recorder import Recorder, now
from history_checker import check
from running_stack import Stack, until

EU, US, TENANT, LEASE_S = "eu-frankfurt", "us-virginia", "acme", 30


def refusal(record: Recorder) -> str:
    """Why an operation is refused; empty when it is served."""
    try:
        return "" if record.works() else "another plaintext"
    except KmipOperationFailure as no:
        return str(no)


def played(stack: Stack, store: Any) -> dict[str, Any]:
    """The three steps."""
    told: dict[str, Any] = {}
    record, other = (until(lambda r=r: Recorder(stack, TENANT, r), 60, "a key") for r in (EU, US))
    with stack.portal(f"{TENANT}/admin") as portal:
        for region in (EU, US):
            path = f"/tenants/{TENANT}/regions/{region}"
            portal.patch(f"{path}/configuration", {"lease_s": LEASE_S})
            until(lambda at=path: portal.get(f"{at}/sync")["routine"]["status"] == "InSync", 20)
        with record.recording():
            store.fill()
            while (pulled := stack.revoke(TENANT, EU)["revocations"][0])["recorded"] != "spool":  # (1) a block had room
                until(lambda: lift(stack, TENANT, EU) is None, 40)
            record.add("answer", event=pulled["event"], recorded="spool")
            record.open_event = pulled["event"]
            begun = now()
            shown = portal.get(f"/tenants/{TENANT}/regions/{EU}/sync")["critical"]
            told["shown"] = shown["status"]
            told["certain after (s)"] = round(shown["certain_by"] / 1000 - time.time(), 1)
            while not (why := refusal(record)):  # (2)
                assert now() - begun < LEASE_S + 2, "it serves past its lease"
                assert not refusal(other), "another region pays for it"
                time.sleep(0.1)
            told["closed after (s)"] = round(now() - begun, 1)
            assert "the lease is over" in why, why
            assert told["closed after (s)"] <= told["certain after (s)"]
            until(lambda: not refusal(other), 1)
            store.heal()  # (3)
            until(lambda: "access revoked" in refusal(record), 60, "the revocation is obeyed")
            until(lambda: portal.get(f"/tenants/{TENANT}/regions/{EU}/sync")["critical"]["status"] == "Revoked", 60)
            told["revoked after there was room (s)"] = round(now() - begun - told["closed after (s)"], 1)
            record.open_event = None
            until(lambda: lift(stack, TENANT, EU) is None, 40)
            until(record.works, 30, "two people lifted it")
    told["broken"] = check(record.lines)
    assert not told["broken"]
    return told


def main() -> None:
    """Play it."""
    if why := disk.possible():
        raise SystemExit(f"it takes a small disk: {why}")
    with tempfile.TemporaryDirectory(prefix="openkcm-full-") as folder:
        stack = Stack(Path(folder) / "state")
        with disk.disk(Path(folder) / "hub", 256, at=stack.state / "nats/hub/store") as store:
            stack.up()
            try:
                told = played(stack, store)
            finally:
                stack.down()
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
