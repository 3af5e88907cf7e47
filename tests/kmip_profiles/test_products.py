"""Sequences that products are publicly known to send, in the version they send them, against a real worker.

Looked up: PyKMIP's issue 459 (a storage array in KMIP 1.0), the sources of Percona's pg_tde and of the kmippp library, an
account of Synology DSM 7.2 in Cosmian's KMS, the operations that HPE's Ezmeral names. The others (vCenter, Veeam, Ceph,
FortiGate, VAST) are general knowledge of what they do. All are rebuilt, none recorded: a field test's captures belong here.
"""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.serialization import load_der_public_key

from execution.custodian_double import CustodianDouble
from execution.kmip_client import BOTH, Failed, attribute
from openkcm.kmip import KMIP_1_0, KMIP_1_1, KMIP_1_2, KMIP_1_4, RequestHeader, custom_attribute
from openkcm.kmip import enums as e
from openkcm.kmip.objects import KeyBlock, KeyValue, OpaqueObject, SecretData, SymmetricKey, TemplateAttribute
from openkcm.kmip.payloads.attributes import AddAttributeRequest, ModifyAttributeRequest
from openkcm.kmip.payloads.cryptography import DecryptRequest
from openkcm.kmip.payloads.derivation import ReKeyRequest
from openkcm.kmip.payloads.keypairs import CreateKeyPairRequest
from openkcm.kmip.payloads.lifecycle import ActivateRequest, DestroyRequest, RevokeRequest
from openkcm.kmip.payloads.objects import CreateRequest, RegisterRequest
from openkcm.kmip.payloads.retrieval import GetAttributesRequest, GetRequest, LocateRequest
from openkcm.kmip.payloads.server import DiscoverVersionsRequest, QueryRequest
from openkcm.kmip.structures import (
    Authentication,
    Credential,
    CredentialValue,
    CryptographicParameters,
    Name,
    RevocationReason,
)
from openkcm.kmip.ttlv import ItemType

UNSPECIFIED = RevocationReason(revocation_reason_code=e.RevocationReasonCode.UNSPECIFIED)
OAEP = CryptographicParameters(padding_method=e.PaddingMethod.OAEP, hashing_algorithm=e.HashingAlgorithm.SHA_256)


@pytest.fixture
async def client(tmp_path):
    async with CustodianDouble(tmp_path) as custodian:
        custodian.system("acme", "product")
        connected = await custodian.client(custodian.enrol("acme", "product", "product"))
        yield connected
        await connected.close()


def name(text):
    return attribute("Name", Name(name_value=text, name_type=e.NameType.UNINTERPRETED_TEXT_STRING))


def x(key, text):
    return custom_attribute(f"x-{key}", ItemType.TEXT_STRING, text)


def aes(*more, bits=256, mask=BOTH):
    return TemplateAttribute(attribute=(
        attribute("Cryptographic Algorithm", e.CryptographicAlgorithm.AES), attribute("Cryptographic Length", bits),
        attribute("Cryptographic Usage Mask", mask), *more,
    ))  # fmt: skip


def raw_key(material):
    return SymmetricKey(key_block=KeyBlock(
        key_format_type=e.KeyFormatType.RAW, key_value=KeyValue(key_material=material),
        cryptographic_algorithm=e.CryptographicAlgorithm.AES, cryptographic_length=8 * len(material),
    ))  # fmt: skip


async def test_vcenter_makes_marks_and_fetches_a_key_in_1_1(client):
    query = (e.QueryFunction.QUERY_OPERATIONS, e.QueryFunction.QUERY_OBJECTS, e.QueryFunction.QUERY_SERVER_INFORMATION)
    known = await client.call(QueryRequest(query_function=query), KMIP_1_1)
    assert {e.Operation.CREATE, e.Operation.GET, e.Operation.ADD_ATTRIBUTE} <= set(known.operation)
    assert e.Operation.ENCRYPT not in known.operation  # it came with 1.2
    made = await client.call(CreateRequest(object_type=e.ObjectType.SYMMETRIC_KEY, template_attribute=aes()), KMIP_1_1)
    uid = made.unique_identifier
    for mark in (x("Product", "VMware vSphere"), x("Component", "Cryptographic Services"), x("Identifier", "vm-42")):
        await client.call(AddAttributeRequest(unique_identifier=uid, attribute=mark), KMIP_1_1)
    await client.call(ActivateRequest(unique_identifier=uid), KMIP_1_1)
    got = await client.call(GetRequest(unique_identifier=uid), KMIP_1_1)
    assert len(got.symmetric_key.key_block.key_value.key_material) == 32
    asked = GetAttributesRequest(unique_identifier=uid, attribute_name=("State", "x-Identifier"))
    state, identifier = (await client.call(asked, KMIP_1_1)).attribute
    assert (state.attribute_value, identifier.attribute_value.value) == (e.State.ACTIVE, "vm-42")


async def test_veeam_wraps_to_a_public_key_and_has_the_server_decrypt(client):
    masks = {"private": e.CryptographicUsageMask.DECRYPT, "public": e.CryptographicUsageMask.ENCRYPT}
    own = {
        f"{side}_key_template_attribute": TemplateAttribute(
            attribute=(name(f"veeam-{side}"), attribute("Cryptographic Usage Mask", int(mask)))
        )
        for side, mask in masks.items()
    }
    rsa = TemplateAttribute(attribute=(
        attribute("Cryptographic Algorithm", e.CryptographicAlgorithm.RSA), attribute("Cryptographic Length", 2048),
    ))  # fmt: skip
    pair = await client.call(CreateKeyPairRequest(common_template_attribute=rsa, **own))
    private, public = pair.private_key_unique_identifier, pair.public_key_unique_identifier
    for uid in (private, public):
        await client.call(ActivateRequest(unique_identifier=uid))
    got = await client.call(GetRequest(unique_identifier=public, key_format_type=e.KeyFormatType.X_509))
    key = load_der_public_key(got.public_key.key_block.key_value.key_material)
    sealed = key.encrypt(b"session key", padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None))
    asked = DecryptRequest(unique_identifier=private, cryptographic_parameters=OAEP, data=sealed)
    assert (await client.call(asked)).data == b"session key"


async def test_a_storage_array_asks_four_things_in_one_batch_of_1_0(client):
    marks = (x("ResourceID", "san01 351538/351539"), x("SystemID", "351538"))
    block = KeyBlock(key_format_type=e.KeyFormatType.OPAQUE, key_value=KeyValue(key_material=b"authority key"))
    secret = RegisterRequest(
        object_type=e.ObjectType.SECRET_DATA, template_attribute=TemplateAttribute(attribute=marks),
        secret_data=SecretData(secret_data_type=e.SecretDataType.PASSWORD, key_block=block),
    )  # fmt: skip
    uid = (await client.call(secret, KMIP_1_0)).unique_identifier
    login = CredentialValue(username="array", password="unused")
    header = RequestHeader(
        protocol_version=KMIP_1_0, batch_count=4, batch_order_option=True,
        authentication=Authentication(
            credential=(Credential(credential_type=e.CredentialType.USERNAME_AND_PASSWORD, credential_value=login),)
        ),
    )  # fmt: skip
    namespaces = e.QueryFunction.QUERY_APPLICATION_NAMESPACES
    items = await client.batch(
        QueryRequest(query_function=(e.QueryFunction.QUERY_OPERATIONS, namespaces)), LocateRequest(attribute=marks),
        GetRequest(key_format_type=e.KeyFormatType.OPAQUE),
        GetAttributesRequest(attribute_name=("Unique Identifier", "Object Type", "Initial Date", "State")),
        header=header,
    )  # fmt: skip
    assert [i.status for i in items] == [e.ResultStatus.SUCCESS] * 4
    assert items[1].payload.unique_identifier == (uid,)
    assert items[2].payload.secret_data.key_block.key_value.key_material == b"authority key"
    assert len(items[3].payload.attribute) == 4


async def test_pg_tde_registers_and_finds_by_name(client):
    register = RegisterRequest(
        object_type=e.ObjectType.SYMMETRIC_KEY, template_attribute=aes(name("principal-key-1"), bits=128),
        symmetric_key=raw_key(bytes(range(16))),
    )  # fmt: skip
    uid = (await client.call(register, KMIP_1_4)).unique_identifier
    by_name = LocateRequest(
        maximum_items=16, attribute=(name("principal-key-1"), attribute("Object Type", e.ObjectType.SYMMETRIC_KEY))
    )
    assert (await client.call(by_name, KMIP_1_4)).unique_identifier == (uid,)
    got = await client.call(GetRequest(unique_identifier=uid), KMIP_1_4)
    assert got.symmetric_key.key_block.key_value.key_material == bytes(range(16))
    assert (await client.call(LocateRequest(attribute=(name("nobody's"),)), KMIP_1_4)).unique_identifier == ()


async def test_mysql_keeps_its_keys_in_a_group_and_reads_their_names(client):
    group = attribute("Object Group", "mysql-keyring")
    uids = set()
    for n in range(3):
        create = CreateRequest(
            object_type=e.ObjectType.SYMMETRIC_KEY, template_attribute=aes(name(f"INNODBKey-{n}"), group)
        )
        uids.add((await client.call(create, KMIP_1_4)).unique_identifier)
    await client.new_key(name="somebody else's")
    found = (await client.call(LocateRequest(attribute=(group,)), KMIP_1_4)).unique_identifier
    assert set(found) == uids
    names = set()
    for uid in found:
        await client.call(ActivateRequest(unique_identifier=uid))
        (it,) = (await client.call(GetAttributesRequest(unique_identifier=uid, attribute_name=("Name",)))).attribute
        names.add(it.attribute_value.name_value)
        await client.call(RevokeRequest(unique_identifier=uid, revocation_reason=UNSPECIFIED))
        await client.call(DestroyRequest(unique_identifier=uid))
    assert names == {f"INNODBKey-{n}" for n in range(3)}
    assert (await client.call(LocateRequest(attribute=(group,)))).unique_identifier == ()


async def test_ceph_makes_finds_and_fetches_by_name_in_1_2(client):
    create = CreateRequest(object_type=e.ObjectType.SYMMETRIC_KEY, template_attribute=aes(name("rgw-key")))
    uid = (await client.call(create, KMIP_1_2)).unique_identifier
    assert (await client.call(LocateRequest(attribute=(name("rgw-key"),)), KMIP_1_2)).unique_identifier == (uid,)
    got = await client.call(GetRequest(unique_identifier=uid), KMIP_1_2)
    assert len(got.symmetric_key.key_block.key_value.key_material) == 32


async def test_synology_registers_with_a_policy_name_and_renames(client):
    register = RegisterRequest(
        object_type=e.ObjectType.SECRET_DATA,
        template_attribute=TemplateAttribute(attribute=(
            name("volume1"), attribute("Operation Policy Name", "default"), attribute("Cryptographic Usage Mask", BOTH),
        )),
        secret_data=SecretData(
            secret_data_type=e.SecretDataType.PASSWORD,
            key_block=KeyBlock(key_format_type=e.KeyFormatType.RAW, key_value=KeyValue(key_material=b"vault passphrase")),
        ),
    )  # fmt: skip
    uid = (await client.call(register, KMIP_1_2)).unique_identifier
    (located,) = (await client.call(LocateRequest(attribute=(name("volume1"),)), KMIP_1_2)).unique_identifier
    assert located == uid
    policy = GetAttributesRequest(unique_identifier=uid, attribute_name=("Operation Policy Name",))
    assert (await client.call(policy, KMIP_1_2)).attribute[0].attribute_value == "default"
    await client.call(ModifyAttributeRequest(unique_identifier=uid, attribute=name("volume1-old")), KMIP_1_2)
    assert (await client.call(LocateRequest(attribute=(name("volume1"),)), KMIP_1_2)).unique_identifier == ()
    await client.call(DestroyRequest(unique_identifier=uid), KMIP_1_2)


async def test_fortigate_and_others_keep_what_only_they_can_read(client):
    opaque = RegisterRequest(
        object_type=e.ObjectType.OPAQUE_OBJECT, template_attribute=TemplateAttribute(attribute=(name("fgt-config"),)),
        opaque_object=OpaqueObject(opaque_data_type=0x80000001, opaque_data_value=bytes(2000)),
    )  # fmt: skip
    await client.call(opaque, KMIP_1_2)
    _, got = await client.batch(LocateRequest(attribute=(name("fgt-config"),)), GetRequest(), version=KMIP_1_2)
    assert got.payload.opaque_object.opaque_data_value == bytes(2000)


async def test_hpe_and_vast_ping_make_rotate_and_end_keys(client):
    assert (await client.call(DiscoverVersionsRequest(), KMIP_1_1)).protocol_version[0] == KMIP_1_4
    old = await client.new_key(name="master", version=KMIP_1_2)
    new = (await client.call(ReKeyRequest(unique_identifier=old), KMIP_1_2)).unique_identifier
    assert (await client.call(LocateRequest(attribute=(name("master"),)), KMIP_1_2)).unique_identifier == (new,)
    with pytest.raises(Failed, match=new):
        await client.call(ReKeyRequest(unique_identifier=old), KMIP_1_2)
    await client.call(RevokeRequest(unique_identifier=old, revocation_reason=UNSPECIFIED), KMIP_1_2)
    await client.call(DestroyRequest(unique_identifier=old), KMIP_1_2)
    assert (
        len(
            (
                await client.call(GetRequest(unique_identifier=new), KMIP_1_2)
            ).symmetric_key.key_block.key_value.key_material
        )
        == 32
    )
