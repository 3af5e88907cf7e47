"""`openkcm vault verify | backup | restore` on a real region: what is lost, planted, ended."""

from __future__ import annotations

import json

from custody.residence_bench import REGION, Thief, onboard, settled
from custody.test_admin import openkcm
from custody.test_shredding import destruction
from node_bench import Governor, RunningNode, opening
from openkcm.bus.vault import Vault
from openkcm.contract import reports
from openkcm.execution.keyring import RingRecord
from openkcm.execution.safe import Safe
from openkcm.execution.voice import Voice
from orbital_fixture import running_orbital
from press import Press, seed


async def test_a_lost_record_is_named_alarmed_and_brought_back_and_what_ended_is_not(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENKCM_VAULT_CHECK_S", "0.5")
    press = Press()
    with running_orbital(tmp_path / "stack") as orbital:
        node = RunningNode(orbital, press, tmp_path / "node")
        config, file = node.folder / "node.json", tmp_path / "backup"
        async with Governor(orbital, press) as governor:
            for e in opening(press):
                await governor.append(e)
            node.start()
            try:
                await node.wait_ready()
                await settled(governor)
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

                connection = await orbital.connect(f"{REGION}-1")
                stranger = Safe(Vault(connection, REGION), Voice(f"{REGION}-1", REGION, seed("stranger")), REGION)
                place = stranger.subject("bolt", "l3", "f" * 32)
                await stranger.put(place, ring, expect=(str(place), 0), epoch=1)
                code, said = await openkcm("vault", "verify", "--config", config)
                assert code == 1
                assert f"refused: {place}" in said
                await Vault(connection, REGION).erase(
                    str(place), (await Vault(connection, REGION).get(str(place))).sequence
                )
                await connection.close()

                await governor.append(destruction(press, "acme"))
                await governor.until(lambda: [r for r in governor.seen if isinstance(r, reports.ResidenceShredded)])
                code, said = await openkcm("vault", "restore", "--config", config, file)
                assert code == 0, said
                assert said.startswith("0 written")
                assert said.count("ended: ") == 5
                file.write_text(file.read_text().replace("acme", "acne"))
                code, said = await openkcm("vault", "restore", "--config", config, file)
                assert code == 1
                assert "digest" in said
            finally:
                node.stop()
