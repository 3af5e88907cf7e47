"""Two nodes of one region, the same objects: the vault decides, one wins, and what one node was told holds on the other."""

from __future__ import annotations

import asyncio
import time

import pytest

from execution.kmip_client import GCM, Failed, KmipClient, attribute, client_context
from openkcm.kmip.enums import LinkType, ResultReason, RevocationReasonCode, State, UsageLimitsUnit
from openkcm.kmip.payloads.cryptography import DecryptRequest, EncryptRequest
from openkcm.kmip.payloads.derivation import ReKeyRequest
from openkcm.kmip.payloads.lifecycle import ActivateRequest, DestroyRequest, RevokeRequest
from openkcm.kmip.payloads.retrieval import GetAttributesRequest, LocateRequest
from openkcm.kmip.structures import Link, RevocationReason, UsageLimits
from running_stack import Stack

EU = "eu-frankfurt"
ROUNDS = 5
pytestmark = pytest.mark.timeout(300)  # the first one starts a stack of four nodes
COMPROMISED = RevocationReason(revocation_reason_code=RevocationReasonCode.KEY_COMPROMISE)


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory):
    running = Stack(tmp_path_factory.mktemp("two") / "state", "--nodes-per-region", "2")
    running.up()
    try:
        yield running
    finally:
        running.down()


@pytest.fixture
async def nodes(two_nodes):
    who = two_nodes.endpoints.workloads["acme/payments"]
    context = client_context(who.cert, who.key, who.ca)
    clients = [await KmipClient.connect(two_nodes.node(EU, n).kmip.port, context) for n in (1, 2)]
    yield clients
    for client in clients:
        await client.close()


async def both(nodes, request):
    """Send the same request to both nodes at once; return the answers and the refusals."""
    got = await asyncio.gather(*(node.call(request) for node in nodes), return_exceptions=True)
    done = [x for x in got if not isinstance(x, Exception)]
    refused = [x for x in got if isinstance(x, Failed)]
    assert len(done) + len(refused) == len(nodes), got
    return done, refused


async def value(node, uid, name):
    asked = GetAttributesRequest(unique_identifier=uid, attribute_name=(name,))
    return [a.attribute_value for a in (await node.call(asked)).attribute]


async def until(what, timeout_s=30):
    deadline = time.monotonic() + timeout_s
    while not (found := await what()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)
    return found


async def test_what_one_node_made_the_other_one_has(nodes):
    one, two = nodes
    uid = await one.new_key(name="made-on-one")
    sealed = await one.encrypt(uid, b"hello")
    assert await two.decrypt(uid, sealed) == b"hello"
    name = (attribute("Unique Identifier", uid),)
    await until(lambda: located(two, name, uid))


async def located(node, attributes, uid):
    return (await node.call(LocateRequest(attribute=attributes))).unique_identifier == (uid,)


async def test_of_two_who_re_key_at_once_one_wins_and_the_other_is_told_who(nodes):
    for _ in range(ROUNDS):
        old = await nodes[0].new_key(name="key")
        encrypt = EncryptRequest(unique_identifier=old, data=b"x", cryptographic_parameters=GCM)
        await until(lambda encrypt=encrypt: allowed(nodes[1], encrypt))  # the activation has arrived
        done, refused = await both(nodes, ReKeyRequest(unique_identifier=old))
        assert len(done) == len(refused) == 1
        new = done[0].unique_identifier
        assert refused[0].reason in {ResultReason.ILLEGAL_OPERATION, ResultReason.GENERAL_FAILURE}, refused
        link = Link(link_type=LinkType.REPLACEMENT_OBJECT, linked_object_identifier=new)
        assert await until(lambda old=old: value(nodes[1], old, "Link")) == [link]
        with pytest.raises(Failed, match=new):  # and who asks again is told
            await nodes[0].call(ReKeyRequest(unique_identifier=old))
        back = attribute("Link", Link(link_type=LinkType.REPLACED_OBJECT, linked_object_identifier=old))
        for node in nodes:  # the loser's key is no more
            await until(lambda node=node, back=back, new=new: located(node, (back,), new))


async def test_of_two_who_destroy_at_once_one_wins_and_nothing_is_left(nodes):
    for _ in range(ROUNDS):
        uid = await nodes[0].new_key(active=False)
        await value(nodes[1], uid, "State")
        done, refused = await both(nodes, DestroyRequest(unique_identifier=uid))
        assert len(done) == len(refused) == 1
        assert refused[0].reason == ResultReason.ITEM_NOT_FOUND


async def test_a_revocation_and_a_destruction_on_one_node_hold_on_the_other(nodes):
    one, two = nodes
    took = []
    for _ in range(ROUNDS):
        uid = await one.new_key()
        encrypt = EncryptRequest(unique_identifier=uid, data=b"x", cryptographic_parameters=GCM)
        await until(lambda encrypt=encrypt: allowed(two, encrypt))  # the activation has arrived
        sealed = await two.encrypt(uid, b"x")
        await one.call(RevokeRequest(unique_identifier=uid, revocation_reason=COMPROMISED))
        with pytest.raises(Failed, match="compromised"):
            await one.call(encrypt)
        began = time.monotonic()
        await until(lambda uid=uid, encrypt=encrypt: refused(two, encrypt))
        took.append(time.monotonic() - began)
        await one.call(DestroyRequest(unique_identifier=uid))
        decrypt = DecryptRequest(
            unique_identifier=uid, data=sealed.data, iv_counter_nonce=sealed.iv_counter_nonce,
            authenticated_encryption_tag=sealed.authenticated_encryption_tag, cryptographic_parameters=GCM,
        )  # fmt: skip
        await until(lambda decrypt=decrypt: refused(two, decrypt))
        assert await value(two, uid, "State") == [State.DESTROYED_COMPROMISED]
    print(
        f"a revocation answered by one node held on the other after {sorted(took)[ROUNDS // 2] * 1e3:.1f} ms (median)"
    )


async def allowed(node, request):
    return not await refused(node, request)


async def refused(node, request):
    try:
        await node.call(request)
    except Failed:
        return True
    return False


async def test_two_nodes_never_spend_the_same_unit_of_a_limit(nodes):
    total = 12
    limits = UsageLimits(usage_limits_total=total, usage_limits_unit=UsageLimitsUnit.OBJECT)
    uid = await nodes[0].new_key(more=(attribute("Usage Limits", limits),))
    encrypt = EncryptRequest(unique_identifier=uid, data=b"x", cryptographic_parameters=GCM)
    spent = 0
    for _ in range(3 * total):
        done, failed = await both(nodes, encrypt)
        spent += len(done)
        assert all(f.reason in {ResultReason.PERMISSION_DENIED, ResultReason.GENERAL_FAILURE} for f in failed)
        if failed and not done and all(f.reason == ResultReason.PERMISSION_DENIED for f in failed):
            break
    assert spent == total


async def test_of_two_who_activate_at_once_nobody_overwrites_the_other(nodes):
    for _ in range(ROUNDS):
        uid = await nodes[0].new_key(active=False)
        await value(nodes[1], uid, "State")
        done, refused = await both(nodes, ActivateRequest(unique_identifier=uid))
        assert len(done) == len(refused) == 1
        assert refused[0].reason == ResultReason.PERMISSION_DENIED
