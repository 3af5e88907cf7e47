"""Operation x object x identity, from OPERATIONS: what is another system's or tenant's does not exist, by any path."""

from __future__ import annotations

import pytest
import pytest_asyncio

from execution.custodian_double import CustodianDouble
from execution.every_request import EC, OPAQUE, UNNAMED, requests, wrapped_under
from execution.kmip_client import GCM, Failed, attribute, create_request
from openkcm.execution.operations import OPERATIONS
from openkcm.kmip import Attribute
from openkcm.kmip.enums import (
    CryptographicAlgorithm,
    KeyFormatType,
    LinkType,
    NameType,
    ObjectType,
    ResultReason,
    SecretDataType,
    State,
)
from openkcm.kmip.enums import Operation as Code
from openkcm.kmip.objects import KeyBlock, KeyValue, SecretData, Template, TemplateAttribute
from openkcm.kmip.payloads.attributes import AddAttributeRequest
from openkcm.kmip.payloads.cryptography import EncryptRequest
from openkcm.kmip.payloads.keypairs import CreateKeyPairRequest, ReKeyKeyPairRequest
from openkcm.kmip.payloads.objects import CreateRequest, RegisterRequest
from openkcm.kmip.payloads.retrieval import GetAttributesRequest, GetRequest, LocateRequest
from openkcm.kmip.payloads.transfer import ImportRequest
from openkcm.kmip.structures import Link, Name

NAME = Name(name_value="the-name", name_type=NameType.UNINTERPRETED_TEXT_STRING)
MARKS = (attribute("Name", NAME), attribute("Object Group", "the-group"))
STRANGERS = [("acme", "archive"), ("bolt", "orders")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory):
    async with CustodianDouble(tmp_path_factory.mktemp("isolation")) as custodian:
        clients = {}
        for who in [("acme", "pay"), *STRANGERS]:
            custodian.system(*who)
            clients[who] = await custodian.client(custodian.enrol(*who, who[1]))
        owner = clients.pop(("acme", "pay"))
        yield custodian, owner, clients, await objects(owner)
        for client in (owner, *clients.values()):
            await client.close()


async def objects(owner):
    """One object of each kind, by kind."""
    made = {}
    made["key"] = await owner.new_key(name="the-name")
    pair = await owner.call(CreateKeyPairRequest(common_template_attribute=EC))
    made["private key"], made["public key"] = pair.private_key_unique_identifier, pair.public_key_unique_identifier
    block = KeyBlock(key_format_type=KeyFormatType.RAW, key_value=KeyValue(key_material=b"secret"))
    given = {
        "secret": (ObjectType.SECRET_DATA, {"secret_data": SecretData(secret_data_type=SecretDataType.PASSWORD, key_block=block)}),
        "opaque": (ObjectType.OPAQUE_OBJECT, OPAQUE),
        "template": (ObjectType.TEMPLATE, {"template": Template(attribute=(attribute("Contact Information", "x"),))}),
    }  # fmt: skip
    for kind, (object_type, thing) in given.items():
        asked = RegisterRequest(object_type=object_type, template_attribute=TemplateAttribute(attribute=MARKS), **thing)
        made[kind] = (await owner.call(asked)).unique_identifier
    return made


async def refused(client, request):
    with pytest.raises(Failed) as failed:
        await client.call(request)
    return failed.value.reason


@pytest.mark.parametrize("who", STRANGERS, ids=lambda who: who[0] + "/" + who[1])
@pytest.mark.parametrize("code", [c for c in OPERATIONS if c not in UNNAMED], ids=lambda c: Code(c).name)
@pytest.mark.asyncio(loop_scope="module")
async def test_by_identifier_nothing_of_another_exists_in_any_operation(house, code, who):
    custodian, _, strangers, made = house
    before = dict(custodian.vault)
    for kind, uid in made.items():
        assert await refused(strangers[who], requests(uid)[code]) == ResultReason.ITEM_NOT_FOUND, kind
    nobody = await refused(strangers[who], requests("no-such-object")[code])
    assert nobody == ResultReason.ITEM_NOT_FOUND  # and it looks the same
    assert custodian.vault == before


@pytest.mark.parametrize("who", STRANGERS, ids=lambda who: who[0] + "/" + who[1])
@pytest.mark.asyncio(loop_scope="module")
async def test_locate_finds_nothing_of_another_by_any_attribute(house, who):
    _, owner, strangers, made = house
    described = await owner.call(GetAttributesRequest(unique_identifier=made["private key"]))
    by = [*MARKS, *described.attribute, attribute("State", State.ACTIVE), attribute("Unique Identifier", made["key"])]
    for found in (*((a,) for a in by), ()):
        plain = tuple(Attribute(attribute_name=a.attribute_name, attribute_value=a.attribute_value) for a in found)
        assert (await strangers[who].call(LocateRequest(attribute=plain))).unique_identifier == ()


@pytest.mark.parametrize("who", STRANGERS, ids=lambda who: who[0] + "/" + who[1])
@pytest.mark.asyncio(loop_scope="module")
async def test_the_placeholder_never_names_anothers_object(house, who):
    _, _, strangers, made = house
    locate = LocateRequest(attribute=(attribute("Unique Identifier", made["key"]),))
    for code, request in requests(None).items():
        if code in UNNAMED or code == Code.DERIVE_KEY:
            continue
        located, answered = await strangers[who].batch(locate, request)
        assert located.payload.unique_identifier == ()
        assert answered.reason == ResultReason.ITEM_NOT_FOUND, Code(code).name


@pytest.mark.parametrize("who", STRANGERS, ids=lambda who: who[0] + "/" + who[1])
@pytest.mark.asyncio(loop_scope="module")
async def test_no_other_path_leads_to_anothers_object(house, who):
    custodian, owner, strangers, made = house
    stranger = strangers[who]
    own = await stranger.new_key()
    # a template by name
    by_name = CreateRequest(object_type=ObjectType.SYMMETRIC_KEY, template_attribute=TemplateAttribute(name=(NAME,)))
    assert await refused(stranger, by_name) == ResultReason.ITEM_NOT_FOUND
    # a wrapping key
    wrapped = GetRequest(unique_identifier=own, key_wrapping_specification=wrapped_under(made["key"]))
    assert await refused(stranger, wrapped) == ResultReason.ITEM_NOT_FOUND
    # a link
    pair = await stranger.call(CreateKeyPairRequest(common_template_attribute=EC))
    link = Link(link_type=LinkType.PUBLIC_KEY, linked_object_identifier=made["public key"])
    lonely = await registered_private_key(stranger, pair)
    await stranger.call(AddAttributeRequest(unique_identifier=lonely, attribute=attribute("Link", link)))
    assert (
        await refused(stranger, ReKeyKeyPairRequest(private_key_unique_identifier=lonely))
        == ResultReason.ITEM_NOT_FOUND
    )
    # a stream under way
    begun = await owner.call(
        EncryptRequest(unique_identifier=made["key"], data=b"x" * 16, cryptographic_parameters=GCM, init_indicator=True)
    )
    go_on = EncryptRequest(
        unique_identifier=own, data=b"y", cryptographic_parameters=GCM, correlation_value=begun.correlation_value
    )
    assert await refused(stranger, go_on) == ResultReason.INVALID_FIELD
    # its own identifier: another tenant may use the same one, another system of the same tenant may not
    same = ImportRequest(
        unique_identifier=made["opaque"], object_type=ObjectType.OPAQUE_OBJECT, replace_existing=True, **OPAQUE
    )
    owners = custodian.vault["acme", made["opaque"]]
    if who[0] == "acme":
        assert await refused(stranger, same) == ResultReason.PERMISSION_DENIED
    else:
        await stranger.call(same)
    assert custodian.vault["acme", made["opaque"]] == owners


async def registered_private_key(client, pair):
    """A private key without a link to its public key."""
    got = await client.call(GetRequest(unique_identifier=pair.private_key_unique_identifier))
    asked = RegisterRequest(
        object_type=ObjectType.PRIVATE_KEY,
        template_attribute=TemplateAttribute(attribute=(attribute("Cryptographic Usage Mask", 1),)),
        private_key=got.private_key,
    )
    return (await client.call(asked)).unique_identifier


@pytest.mark.asyncio(loop_scope="module")
async def test_the_owner_sees_all_of_it(house):
    _, owner, _, made = house
    for name in ("key", "secret", "template"):
        assert (await owner.call(GetRequest(unique_identifier=made[name]))).unique_identifier == made[name]
    created = await owner.call(
        create_request(more=(attribute("Cryptographic Algorithm", CryptographicAlgorithm.AES),)[:0])
    )
    assert created.unique_identifier
