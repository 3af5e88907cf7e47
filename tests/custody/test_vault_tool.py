"""`openkcm vault verify | backup | restore` on a real region: what is lost, planted, ended."""

from __future__ import annotations

import asyncio
import json

import pytest

from custody.residence_bench import REGION, Thief, destruction, onboard, serving_node
from custody.test_admin import openkcm
from execution.kmip_client import Failed
from openkcm.bus.vault import Vault
from openkcm.contract import decrees as d
from openkcm.contract import reports
from openkcm.execution.keyring import RingRecord
from openkcm.execution.safe import Safe
from openkcm.execution.voice import Voice
from openkcm.kmip.enums import RevocationReasonCode
from openkcm.kmip.payloads.lifecycle import RevokeRequest
from openkcm.kmip.structures import RevocationReason
from press import seed


async def test_a_lost_record_is_named_alarmed_and_brought_back_and_what_ended_is_not(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENKCM_VAULT_CHECK_S", "0.5")
    async with serving_node(tmp_path) as (governor, node):
        config, file = node.folder / "node.json", tmp_path / "backup"
        acme, bolt = await onboard(governor, node, "acme"), await onboard(governor, node, "bolt")
        for residence in (acme, acme, bolt):
            await residence.new_key(node)
        code, said = await openkcm("vault", "verify", "--config", config, "--json")
        before = json.loads(said)
        assert code == 0
        assert before["records"] == {"ring": 2, "l2": 2, "l3": 2, "object": 3}
        code, said = await openkcm("vault", "backup", "--config", config, file)
        assert code == 0, said
        assert file.stat().st_mode & 0o777 == 0o600

        async with Thief(governor, node) as thief:
            ring = await thief.record("acme", "ring", "acme", RingRecord)
            where = f"kcm.vault.{REGION}.acme.l3.{ring.l3[acme.registration][1]}"
            await thief._vault.erase(where, (await thief._vault.get(where)).sequence)
        code, said = await openkcm("vault", "verify", "--config", config)
        assert code == 1
        assert f"lost: acme: l3/{ring.l3[acme.registration][1]}" in said
        await governor.until(lambda: "acme:vault-record-lost" in governor.health.alarms)
        code, said = await openkcm("vault", "restore", "--config", config, file)
        assert code == 0, said
        assert said.startswith("1 written")
        code, said = await openkcm("vault", "verify", "--config", config, "--json")
        assert code == 0
        assert json.loads(said)["digest"] == before["digest"]

        connection = await governor.orbital.connect(f"{REGION}-1")
        stranger = Safe(Vault(connection, REGION), Voice(f"{REGION}-1", REGION, seed("stranger")), REGION)
        place = stranger.subject("bolt", "l3", "f" * 32)
        await stranger.put(place, ring, expect=(str(place), 0), epoch=1)
        code, said = await openkcm("vault", "verify", "--config", config)
        assert code == 1
        assert f"refused: {place}" in said
        await Vault(connection, REGION).erase(str(place), (await Vault(connection, REGION).get(str(place))).sequence)
        await connection.close()

        await governor.append(destruction(governor.press, "acme"))
        await governor.until(lambda: [r for r in governor.seen if isinstance(r, reports.ResidenceShredded)])
        code, said = await openkcm("vault", "restore", "--config", config, file)
        assert code == 0, said
        assert said.startswith("0 written")
        assert said.count("ended: ") == 4  # the ring is there: a tombstone, newer than the backup's
        file.write_text(file.read_text().replace("acme", "acne"))
        code, said = await openkcm("vault", "restore", "--config", config, file)
        assert code == 1
        assert "digest" in said


async def test_a_replayed_record_is_refused_and_a_lost_vault_comes_back_from_a_nodes_own_copy(tmp_path):
    async with serving_node(tmp_path) as (governor, node):
        config = node.folder / "node.json"
        acme = await onboard(governor, node, "acme")
        connection = await governor.orbital.connect(f"{REGION}-1")
        vault = Vault(connection, REGION)
        client = await acme.client(node)
        kept, gone = await client.new_key(), await client.new_key()
        sealed = await client.encrypt(kept, b"kept")
        place = f"kcm.vault.{REGION}.acme.object.{gone}"
        older = await vault.get(place)
        await client.call(RevokeRequest(unique_identifier=gone, revocation_reason=RevocationReason(
            revocation_reason_code=RevocationReasonCode.KEY_COMPROMISE)))  # fmt: skip
        newest = await vault.get(place)
        await vault.put(place, older.body, id="replayed", expect=(place, newest.sequence))
        await governor.until(lambda: "acme:vault-record-refused" in governor.health.alarms)
        with pytest.raises(Failed, match="compromised"):
            await client.encrypt(gone, b"x")
        code, said = await openkcm("vault", "verify", "--config", config)
        assert code == 1
        assert f"refused: {place}" in said
        assert "a replay" in said
        await vault.erase(place, (await vault.get(place)).sequence)

        # A ring as it was before a rotation: its keys could be opened again, were it believed.
        ring = f"kcm.vault.{REGION}.acme.ring.acme"
        before = await vault.get(ring)
        await governor.append(governor.press.residence("acme", d.RotationOrdered(
            level="L3", registration=acme.registration, rotation="rotation-1")))  # fmt: skip
        await governor.until(lambda: [r for r in governor.seen if getattr(r, "destroyed", False)])
        now = await vault.get(ring)
        await vault.put(ring, before.body, id="replayed-ring", expect=(ring, now.sequence))
        code, said = await openkcm("vault", "verify", "--config", config)
        assert code == 1
        assert f"refused: {ring}" in said
        assert await client.decrypt(kept, await client.encrypt(kept, b"x")) == b"x"  # it has the keys, and no doubt
        await vault.erase(ring, (await vault.get(ring)).sequence)

        async def read_all() -> dict:
            _, said = await openkcm("vault", "verify", "--config", config, "--json")
            return json.loads(said)

        for _ in range(40):  # the feed, and the next HealthCheck
            whole = await read_all()
            if whole["digest"] == governor.health.vault.digest:
                break
            await asyncio.sleep(0.5)
        assert whole["digest"] == governor.health.vault.digest
        assert not whole["lost"]
        assert not whole["refused"]
        async for stored in vault.walk():
            await vault.erase(stored.subject, stored.sequence)
        code, said = await openkcm("vault", "verify", "--config", config)
        assert code == 1
        assert f"lost: acme: object/{kept}" in said
        assert "lost: acme: ring/acme" in said
        code, said = await openkcm("vault", "restore", "--config", config, "--own")
        assert code == 0, said
        assert said.startswith("5 written")
        assert (await read_all())["digest"] == whole["digest"]
        await client.close()
        node.kill()
        node.start()
        await node.wait_ready()
        await governor.until(lambda: governor.acks["acme", "routine"].failure is None)
        client = await acme.client(node)
        assert await client.decrypt(kept, sealed) == b"kept"
        with pytest.raises(Failed, match="compromised"):
            await client.encrypt(gone, b"x")
        await client.close()
        await connection.close()
