"""The demo's seven steps, one function each, and their table at the foot. Each raises `NotSo` at the first doubt."""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from openkcm.audit import replay
from openkcm.audit.account import Account
from openkcm.audit.examine import examine
from openkcm.cli import rogue, sources
from openkcm.cli.customer import customer_of
from openkcm.cli.demo_revoke import revoke
from openkcm.cli.layout import TENANTS
from openkcm.cli.onboarding import onboard
from openkcm.cli.stage import Stage, b64
from openkcm.contract import api
from openkcm.contract import decrees as d
from openkcm.contract.statements import Lift, Signature, Statement, restore_statement

__all__ = ["STEPS"]

ACME: Final = "acme"
REGIONS: Final = TENANTS[ACME].regions
PLAINTEXT: Final = b"the invoice of customer 4711, which nobody else may read"


def come_aboard(stage: Stage) -> None:
    """1: tenants, L1, systems, certificates; each change is obeyed in well under a second."""
    slowest, changes = 0.0, 0
    for change in onboard(stage.layout, stage.endpoints):
        stage.say(f"{change.residence}: {change.what}: obeyed after {change.sync_ms:.0f} ms")
        slowest, changes = max(slowest, change.sync_ms), changes + 1
    if changes:
        stage.fact(f"{changes} changes answered 202 and were InSync once every node's SyncAck was there")
    else:
        stage.fact("the tenants were aboard already")
    for region in REGIONS:
        admin = stage.portal("acme/admin")
        order = admin.configure(ACME, region, {"labels": {"run": stage.run}})
        at_ns = admin.last.at_ns
        admin.in_sync(ACME, region, order.generation or 0)
        took_ms = (time.clock_gettime_ns(time.CLOCK_BOOTTIME) - at_ns) / 1e6
        stage.figure(f"202 to SyncAck, {region} (ms)", took_ms)
        slowest = max(slowest, took_ms)
        state = admin.region(ACME, region).state
        stage.must(state == "Active", f"{ACME} in {region} is {state}, not Active")
    stage.figure("slowest change, 202 to SyncAck (ms)", slowest)
    stage.must(slowest < 1000, f"a change took {slowest:.0f} ms to be obeyed; well under a second was promised")


def encrypt(stage: Stage) -> None:
    """2: an independent client uses keys; other tenants and strangers do not."""
    payments, iv = stage.workload("acme/payments"), os.urandom(16)
    name = stage.own_name("invoices")
    kept: dict[str, dict[str, str]] = {}
    for region in REGIONS:
        node, start = stage.node(region), time.monotonic()
        stage.say(f"{region}: create, activate, encrypt, decrypt, locate, get")
        uid = stage.ok(stage.kmip.ask(payments, node, "create", name=name), "create")
        stage.ok(stage.kmip.ask(payments, node, "activate", uid=uid), "activate")
        sealed = stage.ok(
            stage.kmip.ask(payments, node, "encrypt", uid=uid, data=b64(PLAINTEXT), iv=b64(iv)), "encrypt"
        )
        stage.must(PLAINTEXT not in base64.b64decode(sealed), "the ciphertext shows the plaintext")
        kept[region] = {"uid": uid, "data": sealed, "iv": b64(iv)}
        stage.kept["ciphertexts"] = kept
        opened = stage.ok(stage.decrypts(region), "decrypt")
        stage.must(base64.b64decode(opened) == PLAINTEXT, "decrypting gave something else")
        found = stage.ok(stage.kmip.ask(payments, node, "locate", name=name), "locate")
        stage.must(found == [uid], f"locate found {found}, not {uid}")
        key = stage.ok(stage.kmip.ask(payments, node, "get", uid=uid), "get")
        stage.must(key == {"algorithm": "AES", "bits": 256, "bytes": 32}, f"get gave {key}")
        stage.figure(f"six operations by PyKMIP, {region} (ms)", (time.monotonic() - start) * 1e3)
    stage.fact("PyKMIP created, activated, encrypted, decrypted, located and got an AES-256 key in both regions")
    here, uid = stage.node("us-virginia"), kept["us-virginia"]["uid"]
    bolt = stage.workload("bolt/orders")
    found = stage.ok(stage.kmip.ask(bolt, here, "locate", name=name), "bolt's locate")
    stage.must(found == [], f"bolt's certificate found {found}")
    refused = stage.kmip.ask(bolt, here, "get", uid=uid)
    stage.must(refused.get("refused") == "ITEM_NOT_FOUND", f"bolt's get of acme's key: {dict(refused)}")
    stage.fact("bolt's certificate finds nothing of acme's; acme's key by its id: ITEM_NOT_FOUND")
    refused = stage.kmip.ask(stage.stranger(), here, "locate", name=name)
    stage.must("ok" not in refused, "a certificate of nobody was served")
    stage.fact(f"a certificate of nobody: {refused.get('refused') or 'connection refused'}")


def rotate(stage: Stage) -> None:
    """3: the customer rotates L1; nodes notice and rewrap; not one read fails meanwhile."""
    admin = stage.portal("acme/admin")
    for region in REGIONS:

        def wrapped_by(region: str = region) -> dict[str, str | None]:
            versions = admin.root_key(ACME, region).key_versions
            return {v.node: v.root_version for v in versions if v.level == "L1"}

        before = wrapped_by()
        with stage.load(region, stage.kept["ciphertexts"][region]["uid"]) as load:
            time.sleep(0.3)  # some load before
            start = time.monotonic()
            what = customer_of(stage.layout, ACME, region).rotate()
            stage.say(f"{region}: the customer {what}; waiting for RotationComplete")
            after = stage.wait(partial(_other_than, before, wrapped_by), "RotationComplete of L1")
            stage.figure(f"L1 rotated to RotationComplete, {region} (ms)", (time.monotonic() - start) * 1e3)
            time.sleep(0.3)  # and some after
            records = load.end()
        bad = [r for r in records if r.outcome != "served"]
        stage.must(not bad, f"{len(bad)} of {len(records)} operations failed while L1 was rotated: {bad[:3]}")
        stage.must(records, "no load ran")
        stage.figure(f"operations under rotation, {region} (failed: 0)", len(records))
        stage.fact(f"{region}: the customer {what}; L2 is now wrapped by {sorted(map(str, set(after.values())))}")
        stage.must(base64.b64decode(stage.ok(stage.decrypts(region), "decrypt")) == PLAINTEXT, "old data is lost")


def _other_than(
    before: dict[str, str | None], ask: Callable[[], dict[str, str | None]]
) -> dict[str, str | None] | None:
    now = ask()
    return now if now != before else None


def _decrypted(stage: Stage, region: str) -> Any:
    return stage.decrypts(region).get("ok")


def _has_state(stage: Stage, region: str, state: str) -> bool:
    return bool(stage.portal("acme/admin").region(ACME, region).state == state)


def restore(stage: Stage) -> None:
    """5: the provider alone cannot lift the revocation; two of the tenant's own people can."""
    admin, approver = stage.portal("acme/admin"), stage.portal("acme/approver")
    subjects = stage.layout.subjects()
    stage.kept["rogue"] = []
    for region in REGIONS:
        words = admin.prepare(ACME, "RestoreAccess", region)
        lifts = _lifts(words)
        for signers in (("acme/admin",), ()):
            stage.say(f"{region}: a restore with {len(signers)} signatures, sealed by governance's own key")
            _rogue_restore(stage, region, lifts, signers)
            refused = stage.decrypts(region)
            stage.must("refused" in refused, f"{region}: a restore by {len(signers)} people let a client in: {refused}")
        stage.fact(f"{region}: nodes refused a restore by one person, and one by nobody")
        stage.say(f"{region}: acme/admin asks, acme/approver signs")
        admin.propose(ACME, "RestoreAccess", region, words, stage.signer("acme/admin"))
        refused = stage.decrypts(region)
        stage.must("refused" in refused, f"{region}: asking alone let a client in: {refused}")
        approver.grant(ACME, words.approval, stage.signer("acme/approver"), words)
        opened = stage.wait(partial(_decrypted, stage, region), f"{region}: decrypting again")
        took_ms = (time.clock_gettime_ns(time.CLOCK_BOOTTIME) - approver.last.at_ns) / 1e6
        stage.figure(f"second signature to decrypting again, {region} (ms)", took_ms)
        stage.must(base64.b64decode(opened) == PLAINTEXT, "the old ciphertext gave something else")
        stage.wait(partial(_has_state, stage, region, "Active"), f"{region}: the portal says Active again")
    stage.fact(
        f"the old ciphertext decrypts again; {subjects['acme/admin'][:8]} asked, {subjects['acme/approver'][:8]} signed"
    )


def _lifts(words: api.Words) -> tuple[Lift, ...]:
    found = []
    for name, value in words.statement["arguments"]:
        if name == "lift":
            epoch, fence, event = value.split(":")
            found.append(Lift(epoch=int(epoch), fence=int(fence), event=event))
    return tuple(found)


def _rogue_restore(stage: Stage, region: str, lifts: tuple[Lift, ...], signers: tuple[str, ...]) -> None:
    """Append a restore past governance's rules, and wait until every node of the region has judged it."""
    admin, approval = stage.portal("acme/admin"), f"rogue-{os.urandom(4).hex()}"
    approvers = admin.region(ACME, region).approvers
    assert approvers is not None
    version = approvers.version
    words: Statement = restore_statement(ACME, region, approval, lifts, version)
    subjects = stage.layout.subjects()
    signatures = tuple(
        Signature(person=subjects[who], signature=stage.signer(who).sign(words.signed_bytes())) for who in signers
    )
    decree = d.AccessRestored(lifts=lifts, approval=approval, approvers_version=version, signatures=signatures)
    (appended,) = rogue.append(stage.layout, region, ACME, [decree])
    stage.kept["rogue"].append(appended.event)
    stage.wait(
        lambda: (now := admin.sync(ACME, region)).routine.counter >= appended.counter
        and now.routine.status != "Pending",
        f"{region}: the nodes judged event {appended.counter}",
    )  # fmt: skip
    # a node says every two seconds what it does; that it does not serve is asked of the node itself, right after
    stage.wait(
        lambda: {node.state for node in admin.sync(ACME, region).nodes} == {"revoked"},
        f"{region}: nodes say that they are revoked after a rogue restore",
    )
    stage.must(admin.region(ACME, region).state == "Revoked", f"{region}: the portal believed a rogue restore")


def cut(stage: Stage) -> None:
    """6: the customer cuts L1 in its own KMS, without asking anybody; the node locks itself, and opens again."""
    admin = stage.portal("acme/admin")
    region = REGIONS[0]
    owner = customer_of(stage.layout, ACME, region)

    def states() -> set[str | None]:
        return {n.state for n in admin.sync(ACME, region).nodes}

    start = time.monotonic()
    what = owner.take_away()
    try:
        stage.say(f"{region}: the customer {what}")
        refused = stage.wait(lambda: (r := stage.decrypts(region)).get("refused") and r, "the node locks itself")
        stage.figure("L1 cut to refusal (ms)", (time.monotonic() - start) * 1e3)
        stage.wait(lambda: states() == {"locked"}, f"the portal says locked, not {states()}")
        observed = {r.state for r in admin.root_key(ACME, region).states}
        stage.fact(
            f"{region}: the customer {what}; the node: {refused['refused']}, {refused['message']}; reported {observed}"
        )
    finally:
        start, back = time.monotonic(), owner.give_back()
    stage.say(f"{region}: the customer {back}")
    opened = stage.wait(partial(_decrypted, stage, region), "decrypting again")
    stage.figure("L1 back to decrypting again (ms)", (time.monotonic() - start) * 1e3)
    stage.must(base64.b64decode(opened) == PLAINTEXT, "the old ciphertext gave something else")
    stage.wait(lambda: states() == {"active"}, "the portal says active again")
    stage.fact(f"{region}: the customer {back}; the node opened again by itself")


def audit(stage: Stage) -> None:
    """7: the ledger holds; who ordered, who obeyed, how late; governance's tables are the ledger's."""
    root = sources.trust_root(stage.layout.state)
    cursor, tables = replay.tables_of(stage.registry)
    messages = asyncio.run(sources.read_mirror(stage.layout.state, at_least=cursor))
    stage.say(f"{len(messages)} events: seals, counters, gaps, approvals, acks")
    start = time.monotonic()
    account = Account()
    whole = examine(messages, root, hear=[account.take])
    stage.figure("events verified", whole.events)
    stage.figure("verified in (ms)", (time.monotonic() - start) * 1e3)
    found = {finding.event for finding in whole.findings}
    stage.must(set(stage.kept["rogue"]) <= found, "the auditor overlooked a restore that nobody signed")
    other = [f for f in whole.findings if f.tag != "AccessRestored.1"]
    stage.must(not other, f"events without authority: {other}")
    stage.fact(f"intact, epoch {whole.epoch}, up to {whole.sequence}; {len(found)} rogue restores named, none obeyed")
    differences = replay.compare(replay.folded([m for m in messages if m.sequence <= cursor], root), tables)
    stage.must(not differences, f"governance's tables are not the ledger's: {differences}")
    stage.fact(f"replayed up to {cursor}: equal to governance's tables row for row")
    for order in account.orders(whole.findings):
        if order.event in stage.kept["revocations"]:
            stage.must(order.outcome == "acked", f"revocation {order.event} is not confirmed by acks: {order.outcome}")
            obeyed = ", ".join(f"{word.node} after {word.after_ms} ms" for word in order.obeyed)
            stage.fact(f"{order.region}: ordered by {order.by[:8]}, obeyed by {obeyed}")


STEPS: Final[tuple[tuple[str, Callable[[Stage], Any]], ...]] = (
    ("Tenants come aboard", come_aboard),
    ("An independent client encrypts", encrypt),
    ("The customer rotates its root key", rotate),
    ("The kill switch under load and backlog", revoke),
    ("Only two of the tenant's own people restore", restore),
    ("The customer cuts its root key", cut),
    ("The auditor replays and verifies", audit),
)
