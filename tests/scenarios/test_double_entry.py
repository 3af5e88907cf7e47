"""The ledger against the customer's own KMS log, on a stack whose roots are in MiniStack."""

import json

import pytest

from running_stack import Stack, until


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    running = Stack(tmp_path_factory.mktemp("aws") / "state", "--aws")
    running.up()
    try:
        yield running
    finally:
        running.down()


def test_every_call_of_the_kms_has_its_order_and_every_order_its_call(stack, tmp_path):
    trail = stack.state / "aws" / "trail.ndjson"

    def compared(log, *more):
        done = stack.openkcm("audit", "match", "--state", str(stack.state), "--kms-log", str(log), "--json", *more)
        return done.returncode, json.loads(done.stdout)

    def agreed():
        status, told = compared(trail)
        return told if status == 0 else None

    first = until(agreed, why="the first keys are wrapped")
    assert {m["tag"] for m in first["matched"]} == {"RootKeyLinked.1"}
    with stack.portal("acme/admin") as portal:
        portal.post("/tenants/acme/regions/eu-frankfurt/rotations", {"level": "L2"})

    def rotated_too():
        now = agreed()
        return now if now and len(now["matched"]) == len(first["matched"]) + 1 else None

    told = until(rotated_too, why="version 2 is wrapped")
    rotated = next(m for m in told["matched"] if m["tag"] == "RotationOrdered.1")
    assert (rotated["tenant"], rotated["region"], rotated["version"]) == ("acme", "eu-frankfurt", 2)
    assert len(rotated["records"]) == 1
    assert len({m["correlation"] for m in told["matched"]}) == len(told["matched"])

    # A call that nobody ordered, and an order whose call is gone, are both named.
    records = [json.loads(line) for line in trail.read_text().splitlines()]
    odd = next(r for r in records if r["eventName"] == "Decrypt")
    context = odd["requestParameters"]["encryptionContext"]
    extra = {**odd, "requestParameters": {"encryptionContext": {**context, "openkcm-version": "7"}}}
    (tmp_path / "more.ndjson").write_text("".join(json.dumps(r) + "\n" for r in [*records, extra]))
    status, told = compared(tmp_path / "more.ndjson")
    assert (status, [number for number, _ in told["unordered"]]) == (1, [len(records) + 1])
    fewer = [
        r for r in records
        if (r["requestParameters"]["encryptionContext"] or {}).get("openkcm-version") != "2"
    ]  # fmt: skip
    (tmp_path / "fewer.ndjson").write_text("".join(json.dumps(r) + "\n" for r in fewer))
    status, told = compared(tmp_path / "fewer.ndjson")
    assert (status, len(told["unseen"]), told["unordered"]) == (1, 1, [])
    assert b"Plaintext" not in trail.read_bytes()
