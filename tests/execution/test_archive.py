"""Archive and Recover: what is archived is out of use for every operation, and back as it was."""

from __future__ import annotations

import pytest

from execution.every_request import UNNAMED, requests, wrapped_under
from execution.in_process import ok
from execution.kmip_client import BOTH, GCM, attribute, create_request
from openkcm.execution.operations import OPERATIONS
from openkcm.kmip.enums import (
    CryptographicUsageMask,
    NameType,
    ObjectType,
    ResultReason,
    State,
    StorageStatusMask,
)
from openkcm.kmip.enums import Operation as Code
from openkcm.kmip.objects import Template, TemplateAttribute
from openkcm.kmip.payloads.cryptography import EncryptRequest
from openkcm.kmip.payloads.lifecycle import ArchiveRequest, DestroyRequest, RecoverRequest
from openkcm.kmip.payloads.objects import CreateRequest, RegisterRequest
from openkcm.kmip.payloads.retrieval import GetAttributesRequest, GetRequest, LocateRequest
from openkcm.kmip.structures import Name

STILL = {Code.GET_ATTRIBUTES, Code.GET_ATTRIBUTE_LIST, Code.REVOKE, Code.DESTROY, Code.RECOVER}
LINE, ARCHIVE = StorageStatusMask.ON_LINE_STORAGE, StorageStatusMask.ARCHIVAL_STORAGE


def archived(inside, uid):
    ok(inside.item(ArchiveRequest(unique_identifier=uid)))
    return uid


def attributes_of(inside, uid):
    found = ok(inside.item(GetAttributesRequest(unique_identifier=uid))).attribute
    return {a.attribute_name: a.attribute_value for a in found}


@pytest.mark.parametrize("code", [c for c in OPERATIONS if c not in UNNAMED], ids=lambda c: Code(c).name)
def test_an_archived_object_answers_to_no_operation_but_those_that_tell_of_it_or_end_it(inside, code):
    uid = inside.new_key()
    sealed = inside.puts[-1].record.wrapped
    archived(inside, uid)
    before = len(inside.puts)
    item = inside.item(requests(uid)[code])
    if code in STILL - {Code.DESTROY}:
        ok(item)
    elif code == Code.DESTROY:
        assert item.reason == ResultReason.PERMISSION_DENIED  # active, as ever: revoke it first
    else:
        assert item.reason == ResultReason.OBJECT_ARCHIVED
        assert len(inside.puts) == before
    assert inside.puts[1].record.wrapped == sealed  # it stays in the vault, sealed


def test_what_is_recovered_is_as_it_was(inside):
    uid = inside.new_key()
    before = attributes_of(inside, uid)
    encrypt = EncryptRequest(unique_identifier=uid, data=b"x", cryptographic_parameters=GCM)
    archived(inside, uid)
    assert "Archive Date" in attributes_of(inside, uid)
    assert inside.item(encrypt).reason == ResultReason.OBJECT_ARCHIVED
    ok(inside.item(RecoverRequest(unique_identifier=uid)))
    after = attributes_of(inside, uid)
    assert {**after, "Last Change Date": 0} == {**before, "Last Change Date": 0}
    ok(inside.item(encrypt))
    puts = len(inside.puts)
    ok(inside.item(RecoverRequest(unique_identifier=uid)))  # it is there: nothing to be done
    assert len(inside.puts) == puts


def test_an_archived_object_that_is_destroyed_is_archived_no_more(inside):
    uid = ok(inside.item(create_request())).unique_identifier
    archived(inside, uid)
    ok(inside.item(DestroyRequest(unique_identifier=uid)))
    assert "Archive Date" not in attributes_of(inside, uid)
    assert inside.puts[-1].record.wrapped is None
    assert inside.item(RecoverRequest(unique_identifier=uid)).reason == ResultReason.ITEM_NOT_FOUND
    by_state = LocateRequest(attribute=(attribute("State", State.DESTROYED),))
    assert ok(inside.item(by_state)).unique_identifier == (uid,)


@pytest.mark.parametrize(
    ("asked", "found"), [(None, "here"), (LINE, "here"), (ARCHIVE, "away"), (LINE | ARCHIVE, "here away"), (0, "")]
)
def test_locate_looks_where_it_is_asked_to(inside, asked, found):
    uids = {"here": inside.new_key(), "away": archived(inside, inside.new_key())}
    answer = ok(inside.item(LocateRequest(storage_status_mask=asked)))
    assert set(answer.unique_identifier) == {uids[name] for name in found.split()}


def test_an_archived_key_wraps_no_other_and_an_archived_template_makes_none(inside):
    uid = inside.new_key()
    kek = inside.new_key(usage=BOTH | CryptographicUsageMask.WRAP_KEY)
    wrapped = GetRequest(unique_identifier=uid, key_wrapping_specification=wrapped_under(kek))
    ok(inside.item(wrapped))
    archived(inside, kek)
    assert inside.item(wrapped).reason == ResultReason.OBJECT_ARCHIVED
    name = Name(name_value="t", name_type=NameType.UNINTERPRETED_TEXT_STRING)
    register = RegisterRequest(
        object_type=ObjectType.TEMPLATE, template=Template(attribute=create_request().template_attribute.attribute),
        template_attribute=TemplateAttribute(attribute=(attribute("Name", name),)),
    )  # fmt: skip
    template = ok(inside.item(register)).unique_identifier
    by_name = CreateRequest(object_type=ObjectType.SYMMETRIC_KEY, template_attribute=TemplateAttribute(name=(name,)))
    ok(inside.item(by_name))
    archived(inside, template)
    assert inside.item(by_name).reason == ResultReason.OBJECT_ARCHIVED
