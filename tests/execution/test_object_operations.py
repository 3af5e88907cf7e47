"""Objects coming, changing and going: attributes by their rules, pairs whole or not at all, templates, import, limits."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from execution.custodian_double import CustodianDouble
from execution.every_request import EC, OPAQUE
from execution.in_process import InProcess, ok
from execution.kmip_client import BOTH, Failed, attribute, create_request
from openkcm.execution import control
from openkcm.execution.arena import Gate
from openkcm.kmip import KMIP_1_2, custom_attribute
from openkcm.kmip import enums as e
from openkcm.kmip.enums import ResultReason, ResultStatus
from openkcm.kmip.objects import Template, TemplateAttribute
from openkcm.kmip.payloads import attributes as a
from openkcm.kmip.payloads.derivation import ReKeyRequest
from openkcm.kmip.payloads.keypairs import CreateKeyPairRequest, ReKeyKeyPairRequest
from openkcm.kmip.payloads.lifecycle import ActivateRequest, DestroyRequest
from openkcm.kmip.payloads.objects import CreateRequest, RegisterRequest
from openkcm.kmip.payloads.retrieval import GetAttributesRequest, GetRequest, LocateRequest
from openkcm.kmip.payloads.transfer import ExportRequest, ImportRequest
from openkcm.kmip.payloads.usage import CheckRequest, GetUsageAllocationRequest
from openkcm.kmip.structures import Link, Name, UsageLimits
from openkcm.kmip.ttlv import ItemType

LATER, EARLIER = 1 << 33, 1


def name(text):
    return attribute("Name", Name(name_value=text, name_type=e.NameType.UNINTERPRETED_TEXT_STRING))


def values(inside, uid, what):
    found = ok(inside.item(GetAttributesRequest(unique_identifier=uid, attribute_name=(what,)))).attribute
    return {f.attribute_index or 0: f.attribute_value for f in found}


def add(inside, uid, new):
    return inside.item(a.AddAttributeRequest(unique_identifier=uid, attribute=new))


def modify(inside, uid, new):
    return inside.item(a.ModifyAttributeRequest(unique_identifier=uid, attribute=new))


def delete(inside, uid, what, index=None):
    return inside.item(a.DeleteAttributeRequest(unique_identifier=uid, attribute_name=what, attribute_index=index))


def test_instances_keep_their_indexes_and_new_ones_get_the_next(inside):
    uid = inside.new_key(name="first")
    assert ok(add(inside, uid, name("second"))).attribute.attribute_index == 1
    assert ok(add(inside, uid, name("third"))).attribute.attribute_index == 2
    ok(delete(inside, uid, "Name", 1))
    assert {i: v.name_value for i, v in values(inside, uid, "Name").items()} == {0: "first", 2: "third"}
    assert ok(add(inside, uid, name("fourth"))).attribute.attribute_index == 3
    assert delete(inside, uid, "Name", 1).reason == ResultReason.ITEM_NOT_FOUND
    by = LocateRequest(attribute=(name("fourth"),))
    assert ok(inside.item(by)).unique_identifier == (uid,)
    assert ok(inside.item(LocateRequest(attribute=(name("second"),)))).unique_identifier == ()


@pytest.mark.parametrize("kind", [k for k in ItemType if k is not ItemType.STRUCTURE])
def test_a_clients_own_attributes_have_every_type_and_keep_it(inside, kind):
    value = {ItemType.BOOLEAN: True, ItemType.TEXT_STRING: "x", ItemType.BYTE_STRING: b"x"}.get(kind, 7)
    uid = inside.new_key()
    ok(add(inside, uid, custom_attribute("x-own", kind, value)))
    assert values(inside, uid, "x-own")[0] == custom_attribute("x-own", kind, value).attribute_value
    found = ok(inside.item(LocateRequest(attribute=(custom_attribute("x-own", kind, value),))))
    assert found.unique_identifier == (uid,)
    other = ItemType.TEXT_STRING if kind is not ItemType.TEXT_STRING else ItemType.INTEGER
    changed = custom_attribute("x-own", other, "y" if other is ItemType.TEXT_STRING else 1)
    assert modify(inside, uid, changed).reason == ResultReason.INVALID_FIELD
    ok(delete(inside, uid, "x-own"))
    assert values(inside, uid, "x-own") == {}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda i, u: add(i, u, attribute("State", e.State.ACTIVE)), ResultReason.PERMISSION_DENIED),
        (lambda i, u: modify(i, u, attribute("State", e.State.ACTIVE)), ResultReason.PERMISSION_DENIED),
        (lambda i, u: delete(i, u, "State"), ResultReason.PERMISSION_DENIED),
        (lambda i, u: delete(i, u, "Cryptographic Usage Mask"), ResultReason.PERMISSION_DENIED),
        (lambda i, u: modify(i, u, attribute("Cryptographic Usage Mask", 3)), ResultReason.PERMISSION_DENIED),
        (lambda i, u: modify(i, u, attribute("Activation Date", 5)), ResultReason.PERMISSION_DENIED),
        (lambda i, u: add(i, u, attribute("Activation Date", 5)), ResultReason.ILLEGAL_OPERATION),
        (lambda i, u: modify(i, u, attribute("Contact Information", "x")), ResultReason.ITEM_NOT_FOUND),
        (lambda i, u: delete(i, u, "No Such Attribute"), ResultReason.ITEM_NOT_FOUND),
        (lambda i, u: add(i, u, custom_attribute("y-server", ItemType.INTEGER, 1)), ResultReason.PERMISSION_DENIED),
        (lambda i, u: add(i, u, custom_attribute("nobody's", ItemType.INTEGER, 1)), ResultReason.ITEM_NOT_FOUND),
    ],
)
def test_what_the_rules_forbid_changes_nothing(inside, change, reason):
    uid = inside.new_key()
    before = ok(inside.item(GetAttributesRequest(unique_identifier=uid)))
    stored = len(inside.puts)
    assert change(inside, uid).reason == reason
    assert len(inside.puts) == stored
    assert ok(inside.item(GetAttributesRequest(unique_identifier=uid))) == before


def test_dates_can_be_moved_until_they_have_come(inside):
    uid = ok(inside.item(create_request(more=(attribute("Activation Date", LATER),)))).unique_identifier
    ok(modify(inside, uid, attribute("Activation Date", LATER + 1)))
    ok(add(inside, uid, attribute("Protect Stop Date", EARLIER)))
    assert modify(inside, uid, attribute("Protect Stop Date", LATER)).reason == ResultReason.PERMISSION_DENIED
    ok(modify(inside, uid, attribute("Activation Date", EARLIER)))
    assert values(inside, uid, "State")[0] == e.State.ACTIVE
    assert modify(inside, uid, attribute("Activation Date", LATER)).reason == ResultReason.PERMISSION_DENIED


def test_what_was_once_readable_never_was_always_sensitive(inside):
    uid = ok(
        inside.item(create_request(more=(attribute("Sensitive", True), attribute("Extractable", False))))
    ).unique_identifier
    assert values(inside, uid, "Always Sensitive")[0] is values(inside, uid, "Never Extractable")[0] is True
    assert inside.item(GetRequest(unique_identifier=uid)).reason == ResultReason.NOT_EXTRACTABLE
    ok(modify(inside, uid, attribute("Extractable", True)))
    assert inside.item(GetRequest(unique_identifier=uid)).reason == ResultReason.SENSITIVE
    for value in (False, True):
        ok(modify(inside, uid, attribute("Sensitive", value)))
        ok(modify(inside, uid, attribute("Extractable", not value)))
    assert values(inside, uid, "Always Sensitive")[0] is values(inside, uid, "Never Extractable")[0] is False


def test_a_newer_attribute_does_not_exist_in_an_older_version(inside):
    uid = inside.new_key()
    ok(add(inside, uid, attribute("Comment", "new in 1.4")))
    asked = a.DeleteAttributeRequest(unique_identifier=uid, attribute_name="Comment")
    assert inside.item(asked, version=KMIP_1_2).reason == ResultReason.ITEM_NOT_FOUND
    assert values(inside, uid, "Comment")


def fail_at(inside, monkeypatch, *numbers):
    """Have the vault refuse the puts of these numbers, from now on."""
    ask, count = inside.ask, [0]

    def asked(question, then):
        if isinstance(question(1), control.Put):
            count[0] += 1
            if count[0] in numbers:
                then(control.Refused(1, "unavailable", "no"))
                return
        ask(question, then)

    monkeypatch.setattr(inside, "ask", asked)


def states(inside):
    newest = {put.record.uid: put.record for put in inside.puts}
    return sorted(e.State(record.state).name for record in newest.values())


def test_a_pair_is_there_whole_or_not_at_all(inside, monkeypatch):
    fail_at(inside, monkeypatch, 2)
    item = inside.item(CreateKeyPairRequest(common_template_attribute=EC))
    assert item.status == ResultStatus.OPERATION_FAILED
    assert states(inside) == ["DESTROYED"]
    assert ok(inside.item(LocateRequest())).unique_identifier == ()


@pytest.mark.parametrize("at", [2, 3, 4])
def test_a_pair_is_replaced_whole_or_not_at_all(inside, monkeypatch, at):
    pair = ok(inside.item(CreateKeyPairRequest(common_template_attribute=EC)))
    fail_at(inside, monkeypatch, at)
    item = inside.item(ReKeyKeyPairRequest(private_key_unique_identifier=pair.private_key_unique_identifier))
    assert item.status == ResultStatus.OPERATION_FAILED
    alive = ok(inside.item(LocateRequest())).unique_identifier
    assert set(alive) == {pair.private_key_unique_identifier, pair.public_key_unique_identifier}


def test_a_replacement_takes_names_and_limits_over_and_dates_by_their_offset(inside):
    limits = UsageLimits(usage_limits_total=9, usage_limits_unit=e.UsageLimitsUnit.OBJECT)
    more = (attribute("Usage Limits", limits), attribute("Activation Date", 100), attribute("Deactivation Date", LATER),
            custom_attribute("x-own", ItemType.INTEGER, 1))  # fmt: skip
    old = ok(inside.item(create_request(name="moves", more=more))).unique_identifier
    ok(inside.item(GetUsageAllocationRequest(unique_identifier=old, usage_limits_count=4)))
    new = ok(inside.item(ReKeyRequest(unique_identifier=old, offset=3600))).unique_identifier
    assert values(inside, new, "Usage Limits")[0].usage_limits_count == 9
    assert values(inside, new, "Deactivation Date")[0] - values(inside, new, "Activation Date")[0] == LATER - 100
    assert values(inside, new, "State")[0] == e.State.PRE_ACTIVE
    assert values(inside, new, "x-own")
    assert values(inside, old, "Name") == {}
    assert values(inside, new, "Link")[0] == Link(link_type=e.LinkType.REPLACED_OBJECT, linked_object_identifier=old)
    assert inside.item(ReKeyRequest(unique_identifier=old)).reason == ResultReason.ILLEGAL_OPERATION


def test_a_template_gives_what_the_request_does_not_say_itself(inside):
    own = (*create_request().template_attribute.attribute, attribute("Contact Information", "from the template"))
    template = RegisterRequest(
        object_type=e.ObjectType.TEMPLATE, template_attribute=TemplateAttribute(attribute=(name("usual"),)),
        template=Template(attribute=own),
    )  # fmt: skip
    uid = ok(inside.item(template)).unique_identifier
    assert {x.attribute_name for x in ok(inside.item(GetRequest(unique_identifier=uid))).template.attribute} == {
        x.attribute_name for x in own
    }
    asked = TemplateAttribute(
        name=(name("usual").attribute_value,), attribute=(attribute("Cryptographic Length", 128),)
    )
    made = ok(
        inside.item(CreateRequest(object_type=e.ObjectType.SYMMETRIC_KEY, template_attribute=asked))
    ).unique_identifier
    assert values(inside, made, "Cryptographic Length")[0] == 128
    assert values(inside, made, "Contact Information")[0] == "from the template"
    ok(inside.item(DestroyRequest(unique_identifier=uid)))
    gone = inside.item(CreateRequest(object_type=e.ObjectType.SYMMETRIC_KEY, template_attribute=asked))
    assert gone.reason == ResultReason.ITEM_NOT_FOUND


def test_what_is_exported_can_be_imported_elsewhere_as_it_was(inside, tmp_path):
    mask = BOTH | int(e.CryptographicUsageMask.EXPORT)
    uid = inside.new_key(usage=mask, name="moves house")
    out = ok(inside.item(ExportRequest(unique_identifier=uid)))
    (tmp_path / "other").mkdir()
    other = InProcess(tmp_path / "other")
    asked = ImportRequest(
        unique_identifier=uid, object_type=out.object_type, attribute=out.attribute, symmetric_key=out.symmetric_key
    )
    assert ok(other.item(asked)).unique_identifier == uid
    got = ok(other.item(GetRequest(unique_identifier=uid)))
    assert got.symmetric_key == out.symmetric_key
    assert values(other, uid, "State")[0] == e.State.ACTIVE
    assert other.item(asked).reason == ResultReason.OBJECT_ALREADY_EXISTS
    ok(
        other.item(
            ImportRequest(
                unique_identifier=uid, object_type=e.ObjectType.OPAQUE_OBJECT, replace_existing=True, **OPAQUE
            )
        )
    )
    assert ok(other.item(GetRequest(unique_identifier=uid))).object_type == e.ObjectType.OPAQUE_OBJECT
    wrong = ImportRequest(unique_identifier="No/Such Form", object_type=e.ObjectType.OPAQUE_OBJECT, **OPAQUE)
    assert other.item(wrong).reason == ResultReason.INVALID_FIELD
    assert inside.item(ExportRequest(unique_identifier=inside.new_key())).reason == ResultReason.PERMISSION_DENIED
    other.end()


def test_check_says_what_is_not_allowed_and_reserves_nothing(inside):
    limits = UsageLimits(usage_limits_total=9, usage_limits_unit=e.UsageLimitsUnit.OBJECT)
    uid = inside.new_key(more=(attribute("Usage Limits", limits),))
    fine = ok(
        inside.item(
            CheckRequest(unique_identifier=uid, usage_limits_count=9, cryptographic_usage_mask=BOTH, lease_time=60)
        )
    )
    assert (fine.usage_limits_count, fine.cryptographic_usage_mask, fine.lease_time) == (None, None, None)
    no = ok(
        inside.item(
            CheckRequest(unique_identifier=uid, usage_limits_count=10, cryptographic_usage_mask=1, lease_time=99999)
        )
    )
    assert (no.usage_limits_count, no.cryptographic_usage_mask, no.lease_time) == (9, BOTH, 3600)
    assert values(inside, uid, "Usage Limits")[0].usage_limits_count == 9


def test_a_group_gives_its_fresh_members_until_they_are_handed_out(inside):
    more = (attribute("Object Group", "pool"),)
    uids = {ok(inside.item(create_request(more=more))).unique_identifier for _ in range(2)}
    fresh = LocateRequest(object_group_member=e.ObjectGroupMember.GROUP_MEMBER_FRESH, attribute=more)
    assert set(ok(inside.item(fresh)).unique_identifier) == uids
    taken = uids.pop()
    ok(inside.item(GetRequest(unique_identifier=taken)))
    assert set(ok(inside.item(fresh)).unique_identifier) == uids
    assert values(inside, taken, "Fresh")[0] is False


async def test_a_revocation_kills_the_making_of_a_key_pair_and_nothing_of_it_is_stored(tmp_path):
    async with CustodianDouble(tmp_path) as custodian:
        custodian.system("acme", "pay")
        client = await custodian.client(custodian.enrol("acme", "pay", "p"))
        rsa = TemplateAttribute(attribute=(
            attribute("Cryptographic Algorithm", e.CryptographicAlgorithm.RSA), attribute("Cryptographic Length", 4096),
            attribute("Cryptographic Usage Mask", 3),
        ))  # fmt: skip
        making = asyncio.ensure_future(client.call(CreateKeyPairRequest(common_template_attribute=rsa)))
        (worker,) = custodian.crew.pids
        child = await until(lambda: children(worker))
        custodian.close("acme", Gate.REVOKED)
        with pytest.raises(Failed, match="access revoked"):
            await making
        assert not custodian.vault
        await until(lambda: not children(worker))
        assert child
        await client.close()


def children(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


async def until(what):
    for _ in range(3000):
        if found := what():
            return found
        await asyncio.sleep(0.01)
    raise AssertionError("not within 30 s")


def test_activating_twice_is_refused(inside):
    uid = inside.new_key()
    assert inside.item(ActivateRequest(unique_identifier=uid)).reason == ResultReason.PERMISSION_DENIED
