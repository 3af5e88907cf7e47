"""Trees on a running stack: nodes cosign what they computed; a fork signed with governance's own key freezes a region."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import time
from pathlib import Path

import msgspec
from kmip.core import enums

from openkcm.bus.checkpoints import Checkpoints
from openkcm.bus.connection import connect
from openkcm.bus.errors import Conflict
from openkcm.cli import background, orbital
from openkcm.contract import checkpoint as cp
from openkcm.contract import envelope as env
from openkcm.contract.published import CHECKPOINT_TAG, open_published, seal_published
from openkcm.contract.seal import Signer
from running_stack import Stack, stack, until

__all__ = ["stack"]
EU, US = "eu-frankfurt", "us-virginia"
OPERATOR = "provider/operator"
WITNESS = "auditor.example/w1"


def trees(stack: Stack) -> dict[str, dict]:
    with stack.portal(OPERATOR) as portal:
        return {t["tree"]: t for t in portal.get("/checkpoints")["value"]}


def alarms(stack: Stack, region: str) -> list[str]:
    with stack.portal(OPERATOR) as portal:
        fleet = portal.get("/fleet")["value"]
    return [a for r in fleet if r["region"] == region for node in r["nodes"] for a in node.get("alarms", ())]


def sync(stack: Stack, region: str) -> dict:
    with stack.portal("acme/admin") as portal:
        return portal.get(f"/tenants/acme/regions/{region}/sync")


def forge(stack: Stack, tree: str) -> tuple[str, str]:
    """Publish another history's checkpoint, as whoever holds governance's key and user could."""
    layout = background.saved_layout(stack.state)
    signer = Signer((stack.state / "cmk" / "signing.seed").read_bytes())
    name = cp.ledger_name(layout.trust_root.public_key)

    async def publish() -> tuple[str, str]:
        connection = await connect(orbital.access(layout.state, "cmk", layout.ports.hub), name="cmk")
        try:
            while True:
                last = await Checkpoints(connection).last(tree)
                known = open_published(last.subject, last.body, {signer.key_id: signer.public_key}, name)
                false = msgspec.structs.replace(known.checkpoint, root=bytes(32))
                e = seal_published(
                    false, signer, counter=known.counter + 1, epoch=1, at_ms=known.at_ms + 1, time_source="forger"
                )
                with contextlib.suppress(Conflict):  # the notary was faster: after that one then
                    await Checkpoints(connection).append(
                        tree, env.encode(e), id=e.id, tag=CHECKPOINT_TAG, expected_last=last.sequence
                    )
                    return str(known.checkpoint), str(false)
        finally:
            await connection.close()

    return asyncio.run(publish())


def witness(stack: Stack, home: Path) -> subprocess.CompletedProcess[str]:
    (home / "token").write_text(stack.endpoints.people["acme/auditor"].token)
    return stack.openkcm(
        "witness", "run", "--key", str(home / "w.key"), "--name", WITNESS, "--url", stack.endpoints.cmk.url,
        "--token", str(home / "token"), "--trust-root", (stack.state / "trust" / "root.pub").read_text().strip(),
        "--history", str(home / "history.ndjson"),
    )  # fmt: skip


def witnessed(stack: Stack, home: Path) -> tuple[str, Path]:
    key = stack.openkcm("witness", "key", "--key", str(home / "w.key"), "--name", WITNESS)
    done = witness(stack, home)
    assert done.returncode == 0, done.stderr
    return key.stdout.strip(), home / "history.ndjson"


def test_a_node_of_each_region_cosigns_and_a_signed_fork_freezes_its_region_alone(stack: Stack, tmp_path: Path) -> None:
    def cosigned() -> bool:
        found = trees(stack)
        return all(any(w["kind"] == "node" for w in found[region]["witnesses"]) for region in (EU, US))

    until(cosigned, 70, "a node of each region cosigns")
    for region in (EU, US):
        tree = trees(stack)[region]
        (line,) = [w for w in tree["witnesses"] if w["kind"] == "node"]
        assert line["name"].endswith(f"/{region}-1")
        cp.verify(cp.parse_note(line["note"]), cp.read_verifier(line["verifier"]))
        assert line["fork"] is None
    verifier, history = witnessed(stack, tmp_path)
    good = stack.openkcm("audit", "verify", "--state", str(stack.state), "--json", "--witness", verifier,
                         "--witness-history", str(history))  # fmt: skip
    assert good.returncode == 0, good.stdout + good.stderr
    found = json.loads(good.stdout)
    assert found["not_cosigned"] == []
    by_tree = {t["tree"]: {c["name"] for c in t["cosigners"]} for t in found["trees"]}
    assert WITNESS in by_tree["global"]
    assert any(name.endswith(f"/{EU}-1") for name in by_tree[EU])
    assert all(t["signed"] == t["size"] for t in found["trees"])
    unknown = str(cp.verifier_key("nobody.example", bytes(32), witness=True))
    silent = stack.openkcm("audit", "verify", "--state", str(stack.state), "--witness", unknown)
    assert silent.returncode == 2
    assert f"{EU} is not cosigned by nobody.example" in silent.stdout.replace("\n", " ")

    true, false = forge(stack, EU)
    bad = stack.openkcm("audit", "verify", "--state", str(stack.state), "--json")
    assert bad.returncode == 1
    assert false in json.loads(bad.stdout)["why"]
    assert witness(stack, tmp_path).returncode == 1, "the witness refuses the fork"
    assert witness(stack, tmp_path).returncode == 1, "and does not forget it"
    told = until(lambda: [a for a in alarms(stack, EU) if a.startswith("forked ledger")], 10, "the node sees the fork")
    assert false in told[0]
    assert true.split(" root ")[1].split(" ")[0] in told[0], "both checkpoints are named"
    assert until(lambda: trees(stack)[EU]["fork"], 5)["signed"] == false
    assert not any(a.startswith("forked ledger") for a in alarms(stack, US))

    with stack.portal("acme/admin") as portal:  # what would enable waits in that region, and in no other
        for region in (EU, US):
            portal.post(f"/tenants/acme/regions/{region}/systems", {"system": "late"})
    until(lambda: sync(stack, US)["routine"]["status"] == "InSync", 10)
    time.sleep(0.5)
    assert sync(stack, EU)["routine"]["status"] != "InSync"
    with stack.kmip("acme/payments", EU) as client:  # what was served goes on
        client.create(enums.CryptographicAlgorithm.AES, 256)
    stack.revoke("acme", EU)
    until(lambda: sync(stack, EU)["critical"]["status"] == "Revoked", 10, "a revocation is obeyed")

    before = stack.node(EU).custodian_pid  # and it outlives a kill
    stack.kill(before)
    until(lambda: stack.node(EU).custodian_pid != before)
    until(lambda: [a for a in alarms(stack, EU) if a.startswith("forked ledger")], 20)
    assert sync(stack, EU)["routine"]["status"] != "InSync"
    assert trees(stack)[EU]["checkpoint"]["root"] == "A" * 43 + "=", "the notary signs nothing after it"
