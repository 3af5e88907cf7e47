"""kill -9 of each part of a running stack: what goes on, what comes back, and what never answers again."""

from __future__ import annotations

import asyncio
import time
import uuid
from pathlib import Path

import msgspec
import pytest
from kmip.core import enums
from kmip.pie.exceptions import KmipOperationFailure

from faults.approve import lift
from faults.kinds import held_back
from openkcm.bus.connection import connect
from openkcm.bus.errors import BusError
from openkcm.bus.ledger import Ledger
from openkcm.cli import mirrors, orbital
from openkcm.cli.layout import Layout
from openkcm.contract import envelope as env
from openkcm.contract.subjects import residence_aggregate
from running_stack import Stack, stack, until

__all__ = ["stack"]
EU, US = "eu-frankfurt", "us-virginia"
PARAMETERS = {
    "cryptographic_algorithm": enums.CryptographicAlgorithm.AES,
    "block_cipher_mode": enums.BlockCipherMode.CBC,
    "padding_method": enums.PaddingMethod.PKCS5,
}


class Key:
    """A key of acme's payments in one region, and a ciphertext under it."""

    def __init__(self, stack: Stack, region: str) -> None:
        self.stack, self.region = stack, region
        with stack.kmip("acme/payments", region) as client:
            self.uid = client.create(
                enums.CryptographicAlgorithm.AES,
                256,
                cryptographic_usage_mask=[enums.CryptographicUsageMask.ENCRYPT, enums.CryptographicUsageMask.DECRYPT],
            )
            client.activate(self.uid)
            self.ciphertext, self.iv = client.encrypt(b"sixteen byte msg", self.uid, PARAMETERS)

    def works(self) -> bool:
        with self.stack.kmip("acme/payments", self.region) as client:
            return client.decrypt(self.ciphertext, self.uid, PARAMETERS, self.iv) == b"sixteen byte msg"

    def refused(self) -> str:
        with self.stack.kmip("acme/payments", self.region) as client, pytest.raises(KmipOperationFailure) as no:
            client.decrypt(self.ciphertext, self.uid, PARAMETERS, self.iv)
        return str(no.value)


@pytest.fixture(scope="module")
def keys(stack):
    return {region: until(lambda r=region: Key(stack, r), why=f"a key in {region}") for region in (EU, US)}


def test_a_killed_worker_is_replaced(stack, keys):
    before = stack.node(EU).worker_pids
    stack.kill(before[0])
    until(lambda: stack.node(EU).worker_pids and before[0] not in stack.node(EU).worker_pids)
    assert until(keys[EU].works)


def test_a_killed_custodian_takes_its_workers_along_and_the_node_returns_with_its_keys_unsealed_again(stack, keys):
    before = stack.node(EU)
    stack.kill(before.custodian_pid)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in before.worker_pids), 5)
    until(lambda: stack.node(EU).custodian_pid != before.custodian_pid)
    assert until(keys[EU].works)


def test_mirrors_with_a_damaged_block_are_made_whole_by_themselves_and_a_node_without_memory_reads_them(stack, keys):
    assert stack.revoke("acme", US).status == 202
    until(lambda: lift(stack, "acme", US) is None, 40, "two people lift it")
    assert until(keys[US].works)
    time.sleep(2)  # what the mirrors acknowledged, the hub never sends again by itself
    server, node = stack.endpoints.nats[US], stack.node(US)
    with held_back(stack, US):
        stack.kill(node.custodian_pid)
        Path(node.sqlite).unlink()
        for block in Path(server.store).rglob("streams/LEDGER*/msgs/*.blk"):
            content = bytearray(block.read_bytes())
            content[len(content) // 2] ^= 1
            block.write_bytes(content)
    until(lambda: whole(stack, US), 30, "the mirrors hold all that the hub has")
    assert until(keys[US].works, 20, "the node has read all of it")
    assert stack.revoke("acme", US).status == 202
    assert "access revoked" in until(keys[US].refused, 10)
    until(lambda: lift(stack, "acme", US) is None, 40, "two people lift it")
    assert until(keys[US].works)


def whole(stack: Stack, region: str) -> bool:
    """Whether each mirror of the region can give as many messages as the hub has for it."""
    try:
        counts = asyncio.run(mirrors.compare(Layout(stack.state, port_base=stack.base), [region]))
    except BusError:  # the region's server is on its way
        return False
    return all(count.mirror == count.hub for count in counts)


def test_kmip_goes_on_without_hub_and_cmk_and_a_revocation_right_after_their_return_is_obeyed(stack, keys):
    e = stack.endpoints
    old = (e.nats["hub"].pid, e.cmk.pid)
    for pid in old:
        stack.kill(pid)
    until_back = time.monotonic() + 1.5
    while time.monotonic() < until_back:
        assert keys[EU].works()
    until(lambda: stack.endpoints.nats["hub"].pid != old[0] and stack.endpoints.cmk.pid != old[1])
    answer = until(lambda: stack.revoke("acme", EU), why="the CMK takes a revocation")
    assert answer.status == 202
    assert "access revoked" in until(keys[EU].refused, 10)
    assert keys[US].works()


def test_one_revoked_before_answers_nothing_but_refusals_from_the_first_connection_after_kill_9_on(stack, keys):
    before = stack.node(EU)
    stack.kill(before.custodian_pid)
    until(lambda: stack.node(EU).custodian_pid != before.custodian_pid)
    for _ in range(20):
        try:
            assert "access revoked" in keys[EU].refused()
        except OSError:  # not listening yet
            time.sleep(0.1)


async def poison(layout: Layout, tenant: str, region: str) -> None:
    """Append a well-sealed routine decree of a version that nobody knows, as a newer governance might."""
    connection = await connect(orbital.access(layout.state, "cmk", layout.ports.hub), name="newer")
    ledger, subject = Ledger(connection), residence_aggregate(region, tenant)
    last = await ledger.last(str(subject))
    assert last is not None
    known = env.decode(last.body)
    newer = msgspec.structs.replace(
        known, id=str(uuid.uuid4()), tag="TenantConfigurationUpdated.9", counter=known.counter + 1,
        data=msgspec.Raw(b'{"of":"the future"}'), key=layout.governance_signer.key_id,
    )  # fmt: skip
    sealed = env.seal_envelope(newer, layout.governance_signer)
    await ledger.append(
        str(subject), env.encode(sealed), id=sealed.id, tag=sealed.tag, expected_last=last.sequence, timeout_s=10
    )
    await connection.close()


def test_a_decree_that_nobody_can_read_freezes_its_own_residence_and_holds_up_no_revocation(stack, keys):
    asyncio.run(poison(Layout(stack.state, port_base=stack.base), "bolt", US))
    with stack.portal("bolt/admin") as portal:
        sync = f"/tenants/bolt/regions/{US}/sync"
        until(lambda: portal.get(sync)["routine"]["status"] == "Pending", 20, "the node cannot take it")
        assert until(keys[US].works), "another tenant of the region is served"
        stack.revoke("bolt", US)
        until(lambda: portal.get(sync)["critical"]["status"] == "Revoked", 20, "the revocation passes it by")
        assert portal.get(sync)["routine"]["status"] == "Pending"
