"""The use of a tenant's keys in its export: each report judged, none twice, a missing one said."""

from __future__ import annotations

import base64

import msgspec
from msgspec.structs import replace

from openkcm.audit import usage
from openkcm.contract import reports
from openkcm.contract.envelope import encode
from openkcm.contract.seal import Signer
from openkcm.execution.voice import Voice

OWN, OTHER = Signer(bytes(32)), Signer(bytes(range(32)))
NODES = {OWN.key_id: ("eu-frankfurt-1", "eu-frankfurt", OWN.public_key)}
SERIES = "0a0b0c0d-0e0f-4a0b-8c0d-0e0f0a0b0c0d"
USED = reports.Used(registration="reg-1", workload="app", object_id="key-1", encrypted=7, decrypted=3)


def told(number, *, tenant="acme", signer=OWN, node="eu-frankfurt-1", report=None):
    made = report or reports.KeyUsage(tenant=tenant, series=SERIES, number=number, since_ms=1, until_ms=2, used=(USED,))
    e = Voice(node, "eu-frankfurt", signer).report(tenant, made, epoch=1)
    return e.subject, encode(e)


def test_each_report_is_there_once_with_the_bytes_that_prove_it():
    first, second = told(1), told(2)
    found = usage.read([first, second, first], "acme", NODES)
    assert (len(found.lines), found.missing, found.refused) == (2, 0, 0)
    line = msgspec.json.decode(found.lines[0])
    assert base64.b64decode(line["original"]) == first[1]
    assert (line["subject"], line["node"], line["report"]["used"][0]["encrypted"]) == (first[0], "eu-frankfurt-1", 7)


def test_a_missing_report_is_said():
    found = usage.read([told(1), told(4)], "acme", NODES)
    assert (len(found.lines), found.missing) == (2, 2)


def test_what_no_node_of_the_region_sealed_for_this_tenant_is_refused():
    subject, body = told(1)
    handed = replace(reports.HandedOut(tenant="acme", handed=()), series=SERIES, number=1)
    for bad in (
        told(1, signer=OTHER), told(1, node="eu-frankfurt-2"), told(1, tenant="bolt"), told(1, report=handed),
        (subject.replace("eu-frankfurt-1", "eu-frankfurt-2"), body), (subject.replace("acme", "bolt"), body),
        (subject, body[:-2]), (subject, body.replace(b'"encrypted":7', b'"encrypted":8')),
    ):  # fmt: skip
        found = usage.read([bad, (subject, body)], "acme", NODES)
        assert (len(found.lines), found.refused) == (1, 1)
