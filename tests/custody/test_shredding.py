"""A destroyed residence: what is erased from the vault's and the node's disks, and what a report says of it."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from custody.residence_bench import REGION, Thief, destruction, onboard, serving_node
from execution.kmip_client import Failed
from openkcm.contract import reports
from openkcm.execution.keyring import L2Record, L3Record, RingRecord
from openkcm.execution.records import ObjectRecord


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
        assert (gone.vault["l2"], gone.vault["l3"], gone.vault["object"]) == (1, 1, 5)
        assert gone.rows >= 5
        assert gone.log_truncated
        assert on_disk([leaf, node.folder], {n: s for n, s in sealed.items() if "acme" in n}) == set()
        assert ("VAULT", "bolt l4") in on_disk([leaf], sealed)
        client = await acme.client(node)
        with pytest.raises(Failed, match="access revoked"):
            await client.encrypt(uids[0], b"x")
        await client.close()
        client = await bolt.client(node)
        assert await client.decrypt(other, await client.encrypt(other, b"x")) == b"x"
        await client.close()
