"""A destroyed residence: what is erased from the vault's and the node's disks, and what a report says of it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from custody.residence_bench import REGION, Thief, destruction, onboard, serving_node
from execution.kmip_client import Failed, attribute
from openkcm.bus.vault import Vault
from openkcm.contract import reports
from openkcm.contract.subjects import parse_vault
from openkcm.execution.keyring import L2Record, L3Record, RingRecord
from openkcm.execution.records import ObjectRecord
from openkcm.kmip.payloads.attributes import AddAttributeRequest
from openkcm.kmip.payloads.lifecycle import DestroyRequest
from openkcm.kmip.payloads.retrieval import GetAttributesRequest


def on_disk(folders: list[Path], needles: dict[str, bytes]) -> set[tuple[str, str]]:
    """(folder, needle) of what lies in a file there, raw or as the base64 that records are written in."""
    found = set()
    for folder in folders:
        for file in (f for f in folder.rglob("*") if f.is_file() and f.suffix != ".log"):
            content = file.read_bytes()
            found |= {
                (folder.name, name)
                for name, needle in needles.items()
                if needle in content or base64.b64encode(needle)[4:-4] in content
            }
    return found


@contextlib.asynccontextmanager
async def vault_of(governor) -> AsyncIterator[Vault]:
    connection = await governor.orbital.connect(f"{REGION}-1")
    yield Vault(connection, REGION)
    await connection.close()


async def changed(client, uid: str, count: int, first: int = 0) -> None:
    """Give an object so many more attributes, each by an update of its own."""
    for n in range(first, first + count):
        await client.call(AddAttributeRequest(unique_identifier=uid, attribute=attribute("Object Group", f"g-{n}")))


async def test_a_destroyed_object_is_nowhere_on_the_vaults_disk_however_often_it_was_changed(tmp_path):
    async with serving_node(tmp_path) as (governor, node):
        acme = await onboard(governor, node, "acme")
        client = await acme.client(node)
        uid = await client.new_key(active=False)
        other = await client.new_key(active=False)
        async with Thief(governor, node) as thief:
            kept = {name: (await thief.record("acme", "object", u, ObjectRecord)).wrapped
                    for name, u in (("gone", uid), ("other", other))}  # fmt: skip
        leaf = next(p for p in (tmp_path / "stack").rglob("VAULT") if REGION in str(p))
        place = f"kcm.vault.{REGION}.acme.object.{uid}"
        async with vault_of(governor) as vault:
            await changed(client, uid, 10)
            assert len(await vault.revisions(place)) > 1  # else the test would prove nothing
            assert ("VAULT", "gone") in on_disk([leaf], kept)
            await client.call(DestroyRequest(unique_identifier=uid))
            assert on_disk([leaf], kept) == {("VAULT", "other")}
            assert len(await vault.revisions(place)) == 1
        await client.close()


async def test_a_custodian_killed_between_update_and_erasing_leaves_nothing_for_good_and_a_new_node_reads_all(tmp_path):
    async with serving_node(tmp_path) as (governor, node):
        acme = await onboard(governor, node, "acme")
        client = await acme.client(node)
        uids = [await client.new_key(active=False) for _ in range(3)]
        async with vault_of(governor) as vault:
            for uid in uids:
                await changed(client, uid, 3)
            newest = {uid: (await vault.get(f"kcm.vault.{REGION}.acme.object.{uid}")).sequence for uid in uids}
            node.kill()
            assert await vault.superseded() > 0
            for file in node.folder.glob("node.sqlite*"):
                file.unlink()  # the next one has all revisions from the feed
            node.start()
            await node.wait_ready()
            async with asyncio.timeout(60):
                while await vault.superseded():  # noqa: ASYNC110 -- the eraser's pace
                    await asyncio.sleep(0.2)
            for uid, sequence in newest.items():
                assert await vault.revisions(f"kcm.vault.{REGION}.acme.object.{uid}") == [sequence]
        client = await acme.client(node)
        for uid in uids:
            found = await client.call(GetAttributesRequest(unique_identifier=uid, attribute_name=("Object Group",)))
            assert [a.attribute_value for a in found.attribute] == ["g-0", "g-1", "g-2"]
        await client.close()


async def test_a_destroyed_residence_is_erased_from_vault_and_node_and_another_one_is_not(tmp_path):
    async with serving_node(tmp_path) as (governor, node):
        acme, bolt = await onboard(governor, node, "acme"), await onboard(governor, node, "bolt")
        uids = [await acme.new_key(node) for _ in range(5)]
        other = await bolt.new_key(node)
        sealed = {}
        async with Thief(governor, node) as thief:
            for tenant, uid in (("acme", uids[0]), ("bolt", other)):
                ring = await thief.record(tenant, "ring", tenant, RingRecord)
                l2 = await thief.record(tenant, "l2", ring.l2[1], L2Record)
                l3 = await thief.record(tenant, "l3", ring.l3[f"reg-{tenant}-payments"][1], L3Record)
                kept = await thief.record(tenant, "object", uid, ObjectRecord)
                sealed |= {f"{tenant} l2": l2.sealed, f"{tenant} l3": l3.sealed, f"{tenant} l4": kept.wrapped}
        leaf = next(p for p in (tmp_path / "stack").rglob("VAULT") if REGION in str(p))
        before = on_disk([leaf, node.folder], sealed)  # the control: it is found where it lies
        assert before >= {("VAULT", name) for name in sealed} | {("node", "acme l4"), ("node", "bolt l4")}

        await governor.append(destruction(governor.press, "acme"))
        ack = await governor.until(lambda: governor.acked("acme", "critical", 1, "destroyed"))
        assert ack.failure is None
        (gone,) = await governor.until(lambda: [r for r in governor.seen if isinstance(r, reports.ResidenceShredded)])
        assert gone.tenant == "acme"
        assert (gone.vault["l2"], gone.vault["l3"]) == (1, 1)
        assert gone.vault["object"] >= 5  # and what Activate superseded
        assert gone.rows >= 5
        assert gone.log_truncated
        mine = {n: s for n, s in sealed.items() if "acme" in n}
        assert on_disk([leaf, node.folder], mine) <= {("VAULT", "acme l4")}  # until its file is compacted
        assert ("VAULT", "bolt l4") in on_disk([leaf], sealed)
        async with vault_of(governor) as vault:
            assert {parse_vault(stored.subject).kind async for stored in vault.walk("acme")} == {"ring", "fence"}
        client = await acme.client(node)
        with pytest.raises(Failed, match="access revoked"):
            await client.encrypt(uids[0], b"x")
        await client.close()
        client = await bolt.client(node)
        assert await client.decrypt(other, await client.encrypt(other, b"x")) == b"x"
        await client.close()
