"""Double entry: the ledger and a KMS's own log agree, and say where they do not."""

import json

import pytest

from audit.evidence import lines
from audit.sealed_ledger import PEOPLE, REGION, ROOT, TENANT, SealedLedger
from openkcm.audit.examine import examine
from openkcm.audit.match import BadLog, Causes, match, read_log
from openkcm.contract import decrees as d
from openkcm.contract import statements

FIRST = statements.approvers_hash(TENANT, REGION, 1, [(n, k.public_key) for n, k in PEOPLE.items()], None)


def causes(*, rotations=1):
    ledger = SealedLedger().open()
    ledger.residence(d.RootKeyLinked(root=d.RootReference(provider="aws", ref="arn:one")))
    ledger.residence(d.SystemRegistered(system="payments", registration="reg-00000001"))
    for n in range(rotations):
        ledger.residence(d.RotationOrdered(level="L2", rotation=f"rot-{n:08d}"))
        ledger.residence(d.RotationOrdered(level="L3", registration="reg-00000001", rotation=f"rot-{n:08d}-l3"))
    found = Causes()
    examine(lines(ledger), ROOT.public_key, hear=[found.take])
    return found


def call(verb="Encrypt", *, version=1, record="r", error=None, **changed):
    context = {
        "openkcm-tenant": TENANT, "openkcm-region": REGION, "openkcm-level": "L2", "openkcm-version": str(version),
        "openkcm-record": record, "openkcm-root": "aws:arn:one", "openkcm-approvers": FIRST,
    }  # fmt: skip
    context |= {f"openkcm-{name}": value for name, value in changed.items()}
    record = {
        "eventTime": "2026-01-01T00:00:00Z",
        "eventName": verb,
        "requestParameters": {"encryptionContext": context},
    }
    return record | ({"errorCode": error} if error else {})


def compared(calls, **how):
    return match(causes(**how), read_log(b"".join(json.dumps(one).encode() + b"\n" for one in calls)))


def test_each_order_is_matched_with_its_calls_by_its_correlation_id():
    found = compared([call(), call("Decrypt"), call(version=2, record="s"), call("Decrypt", error="KeyDisabled")])
    assert found.agree
    first, second = found.matched
    assert (first.tag, first.version, first.records, first.wraps, first.unwraps, first.refused) == (
        "RootKeyLinked.1", 1, ("r",), 1, 1, 1,
    )  # fmt: skip
    assert (second.tag, second.version, second.records) == ("RotationOrdered.1", 2, ("s",))
    assert first.correlation != second.correlation


@pytest.mark.parametrize(
    ("odd", "why"),
    [
        (call(tenant="stranger"), "was ever linked"),
        (call(region="us-virginia"), "was ever linked"),
        (call(root="aws:arn:thief"), "never linked there"),
        (call(approvers="0" * 64), "other first approvers"),
        (call(version=3), "nobody ordered version 3"),
        (call(version="x"), "nobody ordered version x"),
        (call("Decrypt", level="L3"), "nobody ordered version 1 of L3"),
    ],
)
def test_a_call_without_an_order_is_named(odd, why):
    found = compared([call(), call(version=2), odd])
    assert not found.agree
    assert [number for number, said in found.unordered if why in said] == [3]


def test_an_order_that_the_kms_never_saw_is_named():
    found = compared([call(), call(version=2, error="AccessDeniedException")])
    assert not found.agree
    assert found.unseen == ("RotationOrdered.1 at 9 (acme, eu-frankfurt): version 2 was never wrapped",)


def test_the_customers_own_calls_are_none_of_ours():
    own = {"eventTime": "t", "eventName": "Encrypt", "requestParameters": {"encryptionContext": {"app": "theirs"}}}
    found = compared([own, {"eventTime": "t", "eventName": "ListKeys"}, call()], rotations=0)
    assert (found.agree, found.others) == (True, 2)


def test_cloudtrails_own_file_is_read_and_garbage_is_not():
    wrapped = json.dumps({"Records": [call()]}).encode()
    assert [one.verb for one in read_log(wrapped)] == ["Encrypt"]
    for bad in (b"[]", b"nonsense", b'{"eventName": "Encrypt"}'):
        with pytest.raises(BadLog):
            list(read_log(bad))
