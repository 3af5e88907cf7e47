"""Checkpoints, proofs and cosignatures over the API, on a real hub; verified with the treaty's pure functions alone."""

from __future__ import annotations

import base64
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest

from governance_ledger import CMK, TRUST
from governance_stack import NODE_KEYS, OPERATOR, Idp, Stack, running_cmk
from openkcm.audit.notary import Notary
from openkcm.bus.checkpoints import Checkpoints
from openkcm.contract import checkpoint as cp
from openkcm.contract import merkle, reports
from openkcm.contract.seal import Signer
from openkcm.governance import trees
from orbital_fixture import EU, EU_NODE, Orbital

WITNESS = Signer(b"w" * 32)
KEY = cp.verifier_key("auditor.example/w1", WITNESS.public_key, witness=True)


async def noted(stack: Stack) -> None:
    cmk = stack.cmk
    await cmk.projected((await cmk.ledger.info()).last)
    notary = Notary(cmk.ledger, Checkpoints(cmk.connection), cmk.views.reader, lambda: CMK, TRUST.public_key)
    await notary.round()
    assert notary.forks == {}


async def tree_of(stack: Stack, who: str, tree: str = EU) -> dict[str, Any]:
    return next(t for t in (await stack.must(who, "GET", "/checkpoints"))["value"] if t["tree"] == tree)


def raw(text: str) -> bytes:
    return base64.b64decode(text)


async def test_an_event_is_proved_to_be_under_a_signed_root_and_the_root_to_grow(stack: Stack) -> None:
    tenant = await stack.tenant()
    await noted(stack)
    auditor = f"{tenant}-auditor"
    before = (await tree_of(stack, auditor))["checkpoint"]
    note = cp.parse_note(before["note"])
    cp.verify(note, cp.verifier_key(before["origin"], CMK.public_key))
    assert cp.read_verifier(before["verifier"]).public_key == CMK.public_key
    point = note.checkpoint()
    events = (await stack.must(auditor, "GET", "/ledger", tenant=tenant))["value"]
    mine = [e for e in events if e["subject"].startswith(f"kcm.decree.{EU}.")]
    assert len(mine) >= 3
    for event in mine:
        query = {"sequence": event["sequence"], "size": point.size}
        shown = await stack.must(auditor, "GET", f"/checkpoints/{EU}/inclusion", **query)
        leaf = merkle.ledger_leaf(1, event["sequence"], event["subject"], raw(event["body"]))
        proof = [raw(part) for part in shown["proof"]]
        merkle.verify_inclusion(leaf, shown["index"], point.size, proof, point.root)
    await stack.tenant()
    await noted(stack)
    after = cp.parse_note((await tree_of(stack, auditor))["checkpoint"]["note"]).checkpoint()
    assert after.size > point.size
    query = {"epoch": 1, "old": point.size, "new": after.size}
    shown = await stack.must(auditor, "GET", f"/checkpoints/{EU}/consistency", **query)
    proof = [raw(part) for part in shown["proof"]]
    merkle.verify_consistency(point.size, after.size, point.root, after.root, proof)


async def test_an_outside_witness_and_a_node_are_shown_with_what_they_signed(stack: Stack) -> None:
    tenant = await stack.tenant()
    await noted(stack)
    auditor = f"{tenant}-auditor"
    text = (await tree_of(stack, auditor))["checkpoint"]["note"]
    note = cp.parse_note(text)
    line = cp.cosign(note.text, KEY.name, WITNESS, 1_700_000_000)
    body = {"verifier": str(KEY), "note": str(note.with_lines([line]))}
    answer = await stack.ask(auditor, "POST", f"/checkpoints/{EU}/cosignatures", body)
    assert answer.status_code == 201
    async with stack.node() as node:
        own = cp.verifier_key(f"{stack.cmk.trees.ledger}/{EU_NODE}", NODE_KEYS[EU_NODE].public_key, witness=True)
        signed = cp.Note(note.text, (cp.cosign(note.text, own.name, NODE_KEYS[EU_NODE], 1_700_000_001),))
        await node.say(None, reports.CheckpointCosigned(verifier=str(own), note=str(signed)))

        async def both() -> list[dict[str, Any]] | None:
            witnesses = (await tree_of(stack, auditor))["witnesses"]
            return witnesses if len(witnesses) == 2 else None

        witnesses = await stack.until(both)
    assert [(w["kind"], w["name"], w["at_s"], w["newest"]) for w in witnesses] == [
        ("node", own.name, 1_700_000_001, True),
        ("witness", KEY.name, 1_700_000_000, True),
    ]
    newest = note.with_lines([cp.parse_note(w["note"]).lines[0] for w in witnesses])
    for key in (KEY, own):
        cp.verify(newest, key)
    await stack.tenant()
    await noted(stack)
    late = (await tree_of(stack, auditor))["witnesses"]
    assert [w["newest"] for w in late] == [False, False], "an absent cosignature shows"


async def test_a_flood_of_witnesses_does_not_hide_those_who_are_there(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = await stack.tenant()
    await noted(stack)
    auditor = f"{tenant}-auditor"
    note = cp.parse_note((await tree_of(stack, auditor))["checkpoint"]["note"])
    monkeypatch.setattr(trees, "MOST_WITNESSES", len(await stack.cmk.trees._checkpoints.cosigned(EU)) + 1)

    def body(n: int) -> dict[str, str]:
        signer = Signer(bytes([n]) * 32)
        key = cp.verifier_key(f"w{n}.example", signer.public_key, witness=True)
        return {"verifier": str(key), "note": str(cp.Note(note.text, (cp.cosign(note.text, key.name, signer, 1),)))}

    path = f"/checkpoints/{EU}/cosignatures"
    assert [(await stack.ask(auditor, "POST", path, body(n))).status_code for n in (7, 8, 7)] == [201, 409, 201]


async def test_what_is_no_cosignature_is_refused_and_a_fork_is_named(stack: Stack) -> None:
    tenant = await stack.tenant()
    await noted(stack)
    auditor, admin = f"{tenant}-auditor", f"{tenant}-admin"
    note = cp.parse_note((await tree_of(stack, auditor))["checkpoint"]["note"])
    path = f"/checkpoints/{EU}/cosignatures"

    def signed(text: str, *, by: Signer = WITNESS, key: cp.Verifier = KEY) -> dict[str, str]:
        return {"verifier": str(key), "note": str(cp.Note(text, (cp.cosign(text, KEY.name, by, 1),)))}

    point = note.checkpoint()
    forked = msgspec.structs.replace(point, root=bytes(32)).text()
    foreign = msgspec.structs.replace(point, origin="openkcm-other/eu-frankfurt/1").text()
    for who, body, status in (
        (admin, signed(note.text), 403),
        (None, signed(note.text), 401),
        (auditor, {"verifier": str(KEY), "note": str(note)}, 422),
        (auditor, signed(note.text, by=Signer(b"x" * 32)), 422),
        (auditor, signed(note.text, key=cp.verifier_key(KEY.name, WITNESS.public_key)), 422),
        (auditor, signed(foreign), 422),
        (auditor, {"verifier": "x", "note": "y"}, 422),
        (auditor, signed(forked), 409),
    ):
        answer = await stack.ask(who, "POST", path, body)
        assert answer.status_code == status, answer.text
    assert bytes(32).hex()[:16] in answer.json()["detail"]
    assert point.root.hex()[:16] in answer.json()["detail"]
    for tree, query in (
        ("us-virginia", {"sequence": 1}),
        (EU, {"sequence": 10_000_000}),
        ("no-such-tree", {"sequence": 3}),
    ):
        assert (await stack.ask(auditor, "GET", f"/checkpoints/{tree}/inclusion", **query)).status_code == 404
    wrong = {"epoch": 1, "old": 1, "new": 10_000_000}
    assert (await stack.ask(auditor, "GET", f"/checkpoints/{EU}/consistency", **wrong)).status_code == 422
    assert (await stack.ask(auditor, "GET", f"/checkpoints/{EU}/consistency")).status_code == 422
    assert (await stack.ask(OPERATOR, "GET", "/checkpoints")).status_code == 200


async def test_a_read_model_whose_trees_are_not_what_was_signed_is_made_anew(
    orbital: Orbital, idp: Idp, tmp_path: Path
) -> None:
    home = tmp_path / "cmk"
    async with running_cmk(orbital, idp, home) as stack:
        await stack.tenant()
        await noted(stack)
    file, aside = home / "registry.sqlite", home / "registry.false.sqlite"
    async with running_cmk(orbital, idp, home):
        assert not aside.exists(), "what was signed is gone on with"
    database = sqlite3.connect(file)
    database.execute("UPDATE tile SET hashes = zeroblob(length(hashes)) WHERE tree = ? AND level = 0", (EU,))
    database.commit()
    database.close()
    async with running_cmk(orbital, idp, home) as stack:
        assert aside.exists()
        tree = await tree_of(stack, OPERATOR)
        assert tree["fork"] is None
        assert tree["checkpoint"]["size"] <= tree["size"]


async def test_a_read_model_of_an_older_version_is_made_anew(orbital: Orbital, idp: Idp, tmp_path: Path) -> None:
    home = tmp_path / "cmk"
    async with running_cmk(orbital, idp, home) as stack:
        await stack.tenant()
    database = sqlite3.connect(home / "registry.sqlite")
    database.execute("DROP TABLE critical_head")
    database.execute("PRAGMA user_version = 6")
    database.commit()
    database.close()
    async with running_cmk(orbital, idp, home) as stack:
        assert (home / "registry.older.sqlite").exists()
        assert stack.cmk.projection.cursor == (await stack.cmk.ledger.info()).last
