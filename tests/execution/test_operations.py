"""Each operation on its own: what it answers, what it refuses and why, and that the table is whole."""

from __future__ import annotations

import hashlib

import pytest

from execution.in_process import InProcess, ok
from execution.kmip_client import BOTH, GCM, attribute, create_request
from openkcm.execution.operations import OPERATIONS
from openkcm.kmip import KMIP_1_0, KMIP_1_2, PAYLOADS, custom_attribute
from openkcm.kmip.enums import (
    BlockCipherMode,
    CryptographicAlgorithm,
    CryptographicUsageMask,
    KeyFormatType,
    NameType,
    ObjectType,
    PaddingMethod,
    ResultReason,
    RevocationReasonCode,
    SecretDataType,
    State,
    UsageLimitsUnit,
)
from openkcm.kmip.objects import (
    KeyBlock,
    KeyValue,
    OpaqueObject,
    SecretData,
    SymmetricKey,
    TemplateAttribute,
    TransparentKey,
)
from openkcm.kmip.payloads.attributes import ModifyAttributeRequest
from openkcm.kmip.payloads.cryptography import DecryptRequest, EncryptRequest
from openkcm.kmip.payloads.lifecycle import ActivateRequest, DestroyRequest, RevokeRequest
from openkcm.kmip.payloads.objects import CreateRequest, RegisterRequest
from openkcm.kmip.payloads.retrieval import (
    GetAttributeListRequest,
    GetAttributesRequest,
    GetRequest,
    LocateRequest,
)
from openkcm.kmip.payloads.server import DiscoverVersionsRequest
from openkcm.kmip.structures import CryptographicParameters, Name, ProtocolVersion, RevocationReason, UsageLimits
from openkcm.kmip.ttlv import ItemType

COMPROMISE, SUPERSEDED = RevocationReasonCode.KEY_COMPROMISE, RevocationReasonCode.SUPERSEDED


def registered(inside, material=bytes(range(16)), form=KeyFormatType.RAW, more=(), **block):
    key = TransparentKey(key=material) if form == KeyFormatType.TRANSPARENT_SYMMETRIC_KEY else material
    block = {"cryptographic_algorithm": CryptographicAlgorithm.AES, "cryptographic_length": 8 * len(material), **block}
    request = RegisterRequest(
        object_type=ObjectType.SYMMETRIC_KEY,
        template_attribute=TemplateAttribute(
            attribute=(attribute("Cryptographic Usage Mask", BOTH), attribute("Activation Date", 1), *more)
        ),
        symmetric_key=SymmetricKey(
            key_block=KeyBlock(key_format_type=form, key_value=KeyValue(key_material=key), **block)
        ),
    )
    return inside.item(request)


def revoke(uid, reason, **more):
    return RevokeRequest(
        unique_identifier=uid, revocation_reason=RevocationReason(revocation_reason_code=reason), **more
    )


def state_of(inside, uid):
    answer = ok(inside.item(GetAttributesRequest(unique_identifier=uid, attribute_name=("State",))))
    return answer.attribute[0].attribute_value


def test_every_row_decodes_and_answers_with_its_own_payloads():
    for code, row in OPERATIONS.items():
        assert (row.request, row.response) == (PAYLOADS[code].request, PAYLOADS[code].response)
        assert row.gates
        assert row.states


# --- the state machine ----------------------------------------------------------------------------------------------

#: before -> (activate, revoke with a compromise, revoke otherwise, destroy, encrypt, decrypt): the state after, or None
MOVES = {
    "pre-active": (State.ACTIVE, State.COMPROMISED, None, State.DESTROYED, None, None),
    "active": (None, State.COMPROMISED, State.DEACTIVATED, None, State.ACTIVE, State.ACTIVE),
    "deactivated": (None, State.COMPROMISED, None, State.DESTROYED, None, State.DEACTIVATED),
    "compromised": (None, None, None, State.DESTROYED_COMPROMISED, None, State.COMPROMISED),
    "destroyed": (None, State.DESTROYED_COMPROMISED, None, None, None, None),
    "destroyed-compromised": (None, None, None, None, None, None),
}
REACH = {
    "pre-active": (),
    "active": (lambda u: ActivateRequest(unique_identifier=u),),
    "deactivated": (lambda u: ActivateRequest(unique_identifier=u), lambda u: revoke(u, SUPERSEDED)),
    "compromised": (lambda u: revoke(u, COMPROMISE),),
    "destroyed": (lambda u: DestroyRequest(unique_identifier=u),),
    "destroyed-compromised": (lambda u: revoke(u, COMPROMISE), lambda u: DestroyRequest(unique_identifier=u)),
}


@pytest.mark.parametrize("before", MOVES)
def test_an_object_moves_only_along_its_states(inside, before):
    sealed = {}
    for move, after in enumerate(MOVES[before]):
        made = registered(inside) if before == "active" else inside.item(create_request())
        uid = ok(made).unique_identifier
        if before != "active":
            for step in REACH[before]:
                ok(inside.item(step(uid)))
        requests = (
            ActivateRequest(unique_identifier=uid),
            revoke(uid, COMPROMISE),
            revoke(uid, SUPERSEDED),
            DestroyRequest(unique_identifier=uid),
            EncryptRequest(unique_identifier=uid, data=b"x", cryptographic_parameters=GCM),
            DecryptRequest(
                unique_identifier=uid, data=b"x" * 16, iv_counter_nonce=bytes(12), cryptographic_parameters=GCM
            ),
        )
        stored = len(inside.puts)
        item = inside.item(requests[move])
        if after is None:
            gone = before.startswith("destroyed") and move not in (1, 2)  # a revocation sees it, nothing else does
            assert item.reason == (ResultReason.ITEM_NOT_FOUND if gone else ResultReason.PERMISSION_DENIED), move
            assert len(inside.puts) == stored
        elif move == 5:
            assert item.reason == ResultReason.CRYPTOGRAPHIC_FAILURE  # allowed, and no ciphertext of this key
        else:
            ok(item)
            assert state_of(inside, uid) == after
    assert not sealed


def test_a_destroyed_object_keeps_its_attributes_and_nothing_of_its_key(inside):
    uid = ok(inside.item(create_request())).unique_identifier
    ok(inside.item(DestroyRequest(unique_identifier=uid)))
    assert inside.puts[-1].record.wrapped is None
    assert state_of(inside, uid) == State.DESTROYED
    assert inside.item(GetRequest(unique_identifier=uid)).reason == ResultReason.ITEM_NOT_FOUND


def test_dates_move_the_state_and_limit_the_use(inside):
    later = 1 << 33
    uid = ok(registered(inside, more=(attribute("Deactivation Date", 2),))).unique_identifier
    assert state_of(inside, uid) == State.DEACTIVATED
    encrypt = EncryptRequest(unique_identifier=uid, data=b"x", cryptographic_parameters=GCM)
    assert inside.item(encrypt).reason == ResultReason.PERMISSION_DENIED
    uid = ok(registered(inside, more=(attribute("Protect Stop Date", 2),))).unique_identifier
    encrypt = EncryptRequest(unique_identifier=uid, data=b"x", cryptographic_parameters=GCM)
    assert inside.item(encrypt).reason == ResultReason.PERMISSION_DENIED
    uid = ok(registered(inside, more=(attribute("Process Start Date", later),))).unique_identifier
    decrypt = DecryptRequest(
        unique_identifier=uid, data=bytes(16), iv_counter_nonce=bytes(12), cryptographic_parameters=GCM
    )
    assert inside.item(decrypt).reason == ResultReason.PERMISSION_DENIED


# --- making ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "attributes",
    [
        [attribute("Cryptographic Algorithm", CryptographicAlgorithm.AES)],
        [
            attribute("Cryptographic Algorithm", CryptographicAlgorithm.RC4),
            attribute("Cryptographic Length", 128),
            attribute("Cryptographic Usage Mask", BOTH),
        ],
        [
            attribute("Cryptographic Algorithm", CryptographicAlgorithm.AES),
            attribute("Cryptographic Length", 129),
            attribute("Cryptographic Usage Mask", BOTH),
        ],
        [
            attribute("Cryptographic Algorithm", CryptographicAlgorithm.AES),
            attribute("Cryptographic Length", 256),
        ],
        [*create_request().template_attribute.attribute, attribute("State", State.ACTIVE)],
        [*create_request().template_attribute.attribute, attribute("Cryptographic Length", 256)],
        [
            *create_request().template_attribute.attribute,
            custom_attribute("y-own", ItemType.TEXT_STRING, "of the server"),
        ],
    ],
)
def test_a_template_that_does_not_fit_makes_nothing(inside, attributes):
    template = TemplateAttribute(attribute=tuple(attributes))
    item = inside.item(CreateRequest(object_type=ObjectType.SYMMETRIC_KEY, template_attribute=template))
    assert item.reason == ResultReason.INVALID_FIELD
    assert not inside.puts


def test_a_created_key_has_the_digest_of_what_get_hands_out(inside):
    uid = inside.new_key(bits=192)
    asked = GetAttributesRequest(unique_identifier=uid, attribute_name=("Digest", "Cryptographic Length"))
    digest, length = ok(inside.item(asked)).attribute
    block = ok(inside.item(GetRequest(unique_identifier=uid))).symmetric_key.key_block
    assert digest.attribute_value.digest_value == hashlib.sha256(block.key_value.key_material).digest()
    assert (length.attribute_value, block.cryptographic_length, len(block.key_value.key_material)) == (192, 192, 24)


def test_the_stored_record_holds_nothing_of_the_key(inside):
    material = bytes(range(100, 132))
    ok(registered(inside, material))
    record = inside.puts[-1].record
    assert material not in record.wrapped + record.attributes
    assert len(record.wrapped) == 12 + 32 + 16


@pytest.mark.parametrize(
    ("form", "asked"),
    [
        (KeyFormatType.RAW, KeyFormatType.RAW),
        (KeyFormatType.RAW, KeyFormatType.TRANSPARENT_SYMMETRIC_KEY),
        (KeyFormatType.TRANSPARENT_SYMMETRIC_KEY, None),
        (KeyFormatType.TRANSPARENT_SYMMETRIC_KEY, KeyFormatType.RAW),
    ],
)
def test_a_registered_key_comes_back_in_the_format_asked_for(inside, form, asked):
    uid = ok(registered(inside, form=form)).unique_identifier
    block = ok(inside.item(GetRequest(unique_identifier=uid, key_format_type=asked))).symmetric_key.key_block
    material = block.key_value.key_material
    assert block.key_format_type == (asked or form)
    assert (material.key if isinstance(material, TransparentKey) else material) == bytes(range(16))


def test_a_key_block_that_contradicts_itself_is_refused(inside):
    assert registered(inside, cryptographic_length=256).reason == ResultReason.INVALID_FIELD
    more = (attribute("Cryptographic Algorithm", CryptographicAlgorithm.BLOWFISH),)
    assert registered(inside, more=more).reason == ResultReason.INVALID_FIELD
    assert not inside.puts


def test_secret_data_and_opaque_objects_come_back_as_they_were(inside):
    block = KeyBlock(key_format_type=KeyFormatType.RAW, key_value=KeyValue(key_material=b"pass phrase"))
    usage = TemplateAttribute(attribute=(attribute("Cryptographic Usage Mask", 0),))
    secret = RegisterRequest(
        object_type=ObjectType.SECRET_DATA,
        template_attribute=usage,
        secret_data=SecretData(secret_data_type=SecretDataType.SEED, key_block=block),
    )
    got = ok(inside.item(GetRequest(unique_identifier=ok(inside.item(secret)).unique_identifier))).secret_data
    assert (got.secret_data_type, got.key_block.key_value.key_material) == (SecretDataType.SEED, b"pass phrase")
    blob = OpaqueObject(opaque_data_type=0x80000001, opaque_data_value=bytes(5000))
    opaque = RegisterRequest(
        object_type=ObjectType.OPAQUE_OBJECT, template_attribute=TemplateAttribute(), opaque_object=blob
    )
    uid = ok(inside.item(opaque)).unique_identifier
    assert ok(inside.item(GetRequest(unique_identifier=uid))).opaque_object == blob
    assert inside.item(ActivateRequest(unique_identifier=uid)).reason == ResultReason.ILLEGAL_OPERATION
    ok(inside.item(DestroyRequest(unique_identifier=uid)))


@pytest.mark.parametrize(("unit", "total", "uses"), [(UsageLimitsUnit.BYTE, 40, 2), (UsageLimitsUnit.OBJECT, 3, 3)])
def test_usage_limits_are_charged_before_anything_is_encrypted(inside, unit, total, uses):
    limits = UsageLimits(usage_limits_total=total, usage_limits_unit=unit)
    uid = ok(registered(inside, more=(attribute("Usage Limits", limits),))).unique_identifier
    encrypt = EncryptRequest(unique_identifier=uid, data=bytes(16), cryptographic_parameters=GCM)
    for _ in range(uses):
        ok(inside.item(encrypt))
    assert inside.item(encrypt).reason == ResultReason.PERMISSION_DENIED
    left = total - (16 * uses if unit is UsageLimitsUnit.BYTE else uses)
    found = ok(inside.item(GetAttributesRequest(unique_identifier=uid, attribute_name=("Usage Limits",))))
    assert found.attribute[0].attribute_value.usage_limits_count == left


def test_a_use_that_fails_costs_nothing_of_the_limit(inside):
    limits = UsageLimits(usage_limits_total=1, usage_limits_unit=UsageLimitsUnit.OBJECT)
    uid = ok(registered(inside, more=(attribute("Usage Limits", limits),))).unique_identifier
    wrong = EncryptRequest(unique_identifier=uid, data=b"x", iv_counter_nonce=b"", cryptographic_parameters=GCM)
    assert inside.item(wrong).reason == ResultReason.INVALID_FIELD
    ok(inside.item(EncryptRequest(unique_identifier=uid, data=b"x", cryptographic_parameters=GCM)))


# --- handing out ----------------------------------------------------------------------------------------------------


def test_each_get_is_reported(inside):
    uid = inside.new_key()
    ok(inside.item(GetRequest(unique_identifier=uid)))
    (entry,) = inside.handed.read()[1]
    assert (entry.tenant, entry.registration, entry.workload, entry.object_id, entry.wrapped) == (
        "acme", "pay", "p", uid, False
    )  # fmt: skip


@pytest.mark.parametrize("policy", ["never", "wrapped-only"])
def test_the_hand_out_policy_forbids_a_plain_get(tmp_path, policy):
    inside = InProcess(tmp_path, hand_out=policy)
    uid = inside.new_key()
    assert inside.item(GetRequest(unique_identifier=uid)).reason == ResultReason.PERMISSION_DENIED
    assert not inside.handed.read()[1]
    inside.end()


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [("Sensitive", True, ResultReason.SENSITIVE), ("Extractable", False, ResultReason.NOT_EXTRACTABLE)],
)
def test_a_sensitive_or_unextractable_object_does_not_leave(inside, name, value, reason):
    uid = ok(inside.item(create_request(more=(attribute(name, value),)))).unique_identifier
    assert inside.item(GetRequest(unique_identifier=uid)).reason == reason
    assert not inside.handed.read()[1]


# --- attributes -----------------------------------------------------------------------------------------------------


def test_attributes_newer_than_the_asker_are_left_out(inside):
    uid = inside.new_key(name="n")
    new = ok(inside.item(GetAttributeListRequest(unique_identifier=uid))).attribute_name
    old = ok(inside.item(GetAttributeListRequest(unique_identifier=uid), version=KMIP_1_0)).attribute_name
    assert {"Sensitive", "Original Creation Date", "State", "Name"} <= set(new)
    assert set(new) - set(old) == {
        "Fresh", "Original Creation Date", "Sensitive", "Always Sensitive", "Extractable", "Never Extractable",
        "Random Number Generator",
    }  # fmt: skip
    answer = ok(inside.item(GetAttributesRequest(unique_identifier=uid), version=KMIP_1_0))
    assert {a.attribute_name for a in answer.attribute} == set(old)


def test_several_instances_are_numbered_by_the_server(inside):
    more = tuple(attribute("Object Group", g) for g in ("a", "b", "c"))
    uid = ok(inside.item(create_request(more=more))).unique_identifier
    asked = GetAttributesRequest(unique_identifier=uid, attribute_name=("Object Group",))
    found = ok(inside.item(asked)).attribute
    assert [(a.attribute_index, a.attribute_value) for a in found] == [(None, "a"), (1, "b"), (2, "c")]


def test_locate_finds_by_any_attribute_and_only_whole_matches(inside):
    own = custom_attribute("x-owner", ItemType.TEXT_STRING, "me")
    first = ok(inside.item(create_request(name="first", bits=128, more=(own,)))).unique_identifier
    second = inside.new_key(name="second")
    ok(registered(inside))
    name = attribute("Name", Name(name_value="first", name_type=NameType.UNINTERPRETED_TEXT_STRING))
    uri = attribute("Name", Name(name_value="first", name_type=NameType.URI))
    bits = attribute("Cryptographic Length", 256)
    for wanted, found in (
        ((name,), {first}),
        ((uri,), set()),
        ((name, bits), set()),
        ((bits,), {second}),
        ((own,), {first}),
        ((attribute("Unique Identifier", second),), {second}),
        ((attribute("State", State.PRE_ACTIVE),), {first}),
        ((attribute("Object Type", ObjectType.SECRET_DATA),), set()),
        ((attribute("Cryptographic Usage Mask", int(CryptographicUsageMask.ENCRYPT)), name), {first}),
        ((attribute("Initial Date", 1), attribute("Initial Date", 2)), set()),
        ((attribute("Initial Date", 1), attribute("Initial Date", 1 << 40), name), {first}),
    ):
        assert set(ok(inside.item(LocateRequest(attribute=wanted))).unique_identifier) == found, wanted


def test_locate_by_group_custom_attribute_and_state_finds_what_reading_all_would(inside):
    """The index narrows, and hides nothing: what changes is found by its new value and not by its old one."""
    soon = inside.bench.wall_s() + 1000
    ages = {"young": (), "due": (attribute("Activation Date", int(soon)),)}
    uids = {
        (group, owner, age): ok(
            inside.item(
                create_request(
                    more=(
                        attribute("Object Group", group), custom_attribute("x-owner", ItemType.TEXT_STRING, owner),
                        custom_attribute("x-size", ItemType.INTEGER, 7), *dates,
                    )
                )
            )
        ).unique_identifier
        for group in ("red", "blue") for owner in ("me", "you") for age, dates in ages.items()
    }  # fmt: skip
    gone = uids["blue", "you", "young"]
    ok(inside.item(DestroyRequest(unique_identifier=gone)))

    def located(*asked):
        found = ok(inside.item(LocateRequest(attribute=asked))).unique_identifier
        inside.bench.objects.pages, narrow = (lambda *who, **_: narrow(*who, **NO_INDEX)), inside.bench.objects.pages
        read = []

        def counted(*who, **by):
            for page in narrow(*who, **by):
                read.extend(page)
                yield page

        assert set(ok(inside.item(LocateRequest(attribute=asked))).unique_identifier) == set(found)
        inside.bench.objects.pages = counted
        ok(inside.item(LocateRequest(attribute=asked)))
        assert len(read) < 8 or "x-size" in {a.attribute_name for a in asked}  # not all of them
        inside.bench.objects.pages = narrow
        return {key for key, uid in uids.items() if uid in found}

    red = attribute("Object Group", "red")
    assert located(red) == {k for k in uids if k[0] == "red"}
    assert located(custom_attribute("x-owner", ItemType.TEXT_STRING, "me"), red) == {
        k for k in uids if k[:2] == ("red", "me")
    }
    assert len(located(custom_attribute("x-size", ItemType.INTEGER, 7))) == 7
    assert located(attribute("State", State.DESTROYED)) == {("blue", "you", "young")}
    assert located(attribute("State", State.ACTIVE)) == set()
    inside.bench.wall_s = lambda: soon + 1
    assert located(attribute("State", State.ACTIVE)) == {k for k in uids if k[2] == "due"}  # no record has changed
    changed = uids["red", "me", "young"]
    green = attribute("Object Group", "green")
    ok(inside.item(ModifyAttributeRequest(unique_identifier=changed, attribute=green)))
    assert located(green) == {("red", "me", "young")}
    assert ("red", "me", "young") not in located(red)


NO_INDEX = {"object_type": None, "uid": None, "term": None, "state": None}


def test_locate_counts_all_and_shows_a_page(inside):
    uids = {ok(inside.item(create_request())).unique_identifier for _ in range(5)}
    pages = [ok(inside.item(LocateRequest(maximum_items=2, offset_items=n))) for n in (0, 2, 4, 6)]
    assert [p.located_items for p in pages] == [5] * 4
    assert [u for p in pages for u in p.unique_identifier] == sorted(
        {u for p in pages for u in p.unique_identifier},
        key=[u for p in pages for u in p.unique_identifier].index,
    )
    assert {u for p in pages for u in p.unique_identifier} == uids


def test_discover_versions_answers_what_both_speak(inside):
    future = ProtocolVersion(protocol_version_major=2, protocol_version_minor=0)
    answer = ok(inside.item(DiscoverVersionsRequest(protocol_version=(KMIP_1_2, future))))
    assert answer.protocol_version == (KMIP_1_2,)
    assert len(ok(inside.item(DiscoverVersionsRequest())).protocol_version) == 5


# --- ciphers --------------------------------------------------------------------------------------------------------

AES, CBC, ECB = CryptographicAlgorithm.AES, BlockCipherMode.CBC, BlockCipherMode.ECB
# NIST SP 800-38A, F.2.1 and F.1.1 (first block), and the GCM specification's test case 4
NIST_KEY = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
NIST_BLOCK = bytes.fromhex("6bc1bee22e409f96e93d7e117393172a")


@pytest.mark.parametrize(
    ("mode", "iv", "out"),
    [
        (CBC, bytes(range(16)), "7649abac8119b246cee98e9b12e9197d"),
        (ECB, None, "3ad77bb40d7a3660a89ecaf32466ef97"),
    ],
)
def test_the_modes_give_the_standards_own_vectors(inside, mode, iv, out):
    uid = ok(registered(inside, NIST_KEY)).unique_identifier
    parameters = CryptographicParameters(block_cipher_mode=mode)
    both = {"unique_identifier": uid, "cryptographic_parameters": parameters, "iv_counter_nonce": iv}
    done = ok(inside.item(EncryptRequest(data=NIST_BLOCK, **both)))
    assert done.data.hex() == out
    assert ok(inside.item(DecryptRequest(data=done.data, **both))).data == NIST_BLOCK


def test_gcm_gives_its_specifications_vector_with_whole_and_short_tags(inside):
    uid = ok(registered(inside, bytes.fromhex("feffe9928665731c6d6a8f9467308308"))).unique_identifier
    plain = bytes.fromhex(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
        "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
    )
    aad = bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
    iv = bytes.fromhex("cafebabefacedbaddecaf888")
    for length in (16, 12):
        parameters = CryptographicParameters(block_cipher_mode=BlockCipherMode.GCM, tag_length=length)
        both = {
            "unique_identifier": uid,
            "cryptographic_parameters": parameters,
            "iv_counter_nonce": iv,
            "authenticated_encryption_additional_data": aad,
        }
        done = ok(inside.item(EncryptRequest(data=plain, **both)))
        assert done.authenticated_encryption_tag.hex() == "5bc94fbc3221a5db94fae95ae7121a47"[: 2 * length]
        assert done.data.hex().startswith("42831ec2217774244b7221b784d0d49c")
        assert done.iv_counter_nonce is None
        tag = done.authenticated_encryption_tag
        back = ok(inside.item(DecryptRequest(data=done.data, authenticated_encryption_tag=tag, **both)))
        assert back.data == plain
        wrong = bytes([tag[0] ^ 1]) + tag[1:]
        item = inside.item(DecryptRequest(data=done.data, authenticated_encryption_tag=wrong, **both))
        assert item.reason == ResultReason.CRYPTOGRAPHIC_FAILURE


@pytest.mark.parametrize(
    ("parameters", "more", "reason"),
    [
        (None, {}, ResultReason.INVALID_FIELD),
        (CryptographicParameters(block_cipher_mode=BlockCipherMode.CCM), {}, ResultReason.INVALID_FIELD),
        (CryptographicParameters(padding_method=PaddingMethod.PKCS5), {}, ResultReason.INVALID_FIELD),
        (
            CryptographicParameters(block_cipher_mode=CBC, cryptographic_algorithm=CryptographicAlgorithm.CAMELLIA),
            {},
            ResultReason.INVALID_FIELD,
        ),
        (CryptographicParameters(block_cipher_mode=CBC), {"iv_counter_nonce": b"short"}, ResultReason.INVALID_FIELD),
        (CryptographicParameters(block_cipher_mode=CBC), {}, ResultReason.CRYPTOGRAPHIC_FAILURE),
        (GCM, {"data": None}, ResultReason.INVALID_MESSAGE),
        (GCM, {"iv_counter_nonce": b""}, ResultReason.INVALID_FIELD),
        (GCM, {"correlation_value": b"nobody's"}, ResultReason.INVALID_FIELD),
        (
            CryptographicParameters(block_cipher_mode=BlockCipherMode.GCM, tag_length=1),
            {},
            ResultReason.GENERAL_FAILURE,
        ),
    ],
)
def test_what_does_not_fit_the_cipher_is_refused_with_its_reason(inside, parameters, more, reason):
    uid = inside.new_key()
    request = EncryptRequest(unique_identifier=uid, cryptographic_parameters=parameters, **{"data": b"abc", **more})
    assert inside.item(request).reason == reason


def test_a_decryption_without_an_iv_is_an_invalid_message(inside):
    uid = inside.new_key()
    for parameters in (GCM, CryptographicParameters(block_cipher_mode=CBC)):
        request = DecryptRequest(unique_identifier=uid, data=bytes(16), cryptographic_parameters=parameters)
        assert inside.item(request).reason == ResultReason.INVALID_MESSAGE


def test_without_parameters_the_objects_own_hold(inside):
    own = attribute("Cryptographic Parameters", CryptographicParameters(block_cipher_mode=ECB))
    uid = ok(registered(inside, NIST_KEY, more=(own,))).unique_identifier
    done = ok(inside.item(EncryptRequest(unique_identifier=uid, data=NIST_BLOCK)))
    assert done.data.hex() == "3ad77bb40d7a3660a89ecaf32466ef97"


def test_a_use_that_the_mask_does_not_allow_is_denied(inside):
    uid = inside.new_key(usage=int(CryptographicUsageMask.DECRYPT))
    request = EncryptRequest(unique_identifier=uid, data=b"x", cryptographic_parameters=GCM)
    assert inside.item(request).reason == ResultReason.PERMISSION_DENIED


@pytest.mark.parametrize("uid", ["", "UPPER", "a.b", "x" * 64, "../..", "no-such"])
def test_an_identifier_that_is_none_is_no_object(inside, uid):
    assert inside.item(GetRequest(unique_identifier=uid)).reason == ResultReason.ITEM_NOT_FOUND
