"""Encrypt and Decrypt are counted by key and workload: what was answered, and nothing else."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from execution.kmip_client import GCM
from openkcm.bus.errors import Unavailable
from openkcm.contract import reports, resources
from openkcm.contract.seal import Signer
from openkcm.execution import bench, control
from openkcm.execution.counting import Counting
from openkcm.execution.outbox import Outbox
from openkcm.execution.voice import Voice
from openkcm.kmip.payloads.cryptography import DecryptRequest, EncryptRequest
from openkcm.projector import open_writer
from openkcm.projector.database import StorageFailed


def encrypt(uid, **more):
    return EncryptRequest(unique_identifier=uid, **{"data": b"x", "cryptographic_parameters": GCM, **more})


def used(inside):
    inside.bench.hand_over_uses()
    return [message for message in inside.told if isinstance(message, control.Used)]


def test_what_is_answered_is_counted_and_what_fails_is_not(inside):
    uid, idle = inside.new_key(), inside.new_key()
    for _ in range(3):
        done = inside.item(encrypt(uid)).payload
    opened = DecryptRequest(
        unique_identifier=uid, data=done.data, iv_counter_nonce=done.iv_counter_nonce,
        authenticated_encryption_tag=done.authenticated_encryption_tag, cryptographic_parameters=GCM,
    )  # fmt: skip
    assert inside.item(opened).payload.data == b"x"
    assert inside.item(encrypt(uid, iv_counter_nonce=b"")).payload is None
    assert inside.item(encrypt("no-such-key")).payload is None
    inside.items(encrypt(uid), encrypt(None))  # a batch: the second by the placeholder
    assert used(inside) == [control.Used("acme", "pay", "p", {uid: (5, 1)})]
    assert used(inside) == [control.Used("acme", "pay", "p", {uid: (5, 1)})]  # told once
    assert idle not in used(inside)[0].counts


def test_a_revoked_key_counts_nothing_more(inside):
    uid = inside.new_key()
    inside.item(encrypt(uid))
    inside.close()
    assert inside.item(encrypt(uid)).payload is None
    assert used(inside)[0].counts == {uid: (1, 0)}


def test_many_keys_are_handed_over_before_they_are_too_many(inside, monkeypatch):
    monkeypatch.setattr(bench, "MOST_KEYS", 2)
    uids = [inside.new_key() for _ in range(5)]
    for uid in uids:
        inside.item(encrypt(uid))
    told = used(inside)
    assert [len(u.counts) for u in told] == [2, 2, 1]
    assert {uid for u in told for uid in u.counts} == set(uids)


async def test_counts_add_up_over_workers_and_wait_for_the_bus(tmp_path):
    sent, away = [], [True]

    async def send(e):
        if away[0]:
            raise Unavailable("no bus")
        sent.append(reports.read(e.tag, e.data))

    clock = [1000.0]
    voice, disk = Voice("eu-frankfurt-1", "eu-frankfurt", Signer(bytes(32))), ThreadPoolExecutor(1)
    path, schema = tmp_path / "node.sqlite", resources.ROOT / "projections" / "node"

    def started(database):
        outbox = Outbox(database, disk, lambda tenant, r: voice.report(tenant, r, epoch=1), send)
        return outbox, Counting(outbox, lambda: clock[0])

    _, counting = started(open_writer(path, schema))
    counting.add(control.Used("acme", "pay", "p", {"k1": (2, 1), "k2": (1, 0)}))
    counting.add(control.Used("acme", "pay", "p", {"k1": (3, 0)}))
    counting.add(control.Used("acme", "pay", "q", {"k1": (0, 7)}))
    clock[0] = 4600.0
    await counting.flush()
    assert not sent
    outbox, counting = started(open_writer(path, schema))  # the custodian was killed meanwhile
    away[0] = False
    await outbox.send()
    (first,) = sent
    assert (first.tenant, first.number, first.since_ms, first.until_ms) == ("acme", 1, 1_000_000, 4_600_000)
    assert {(u.object_id, u.workload, u.encrypted, u.decrypted) for u in first.used} == {
        ("k1", "p", 5, 1), ("k2", "p", 1, 0), ("k1", "q", 0, 7),
    }  # fmt: skip
    counting.add(control.Used("acme", "pay", "p", {"k1": (1, -5)}))  # a worker that lies cannot take away
    await counting.flush()
    await counting.flush()
    assert len(sent) == 2
    second = sent[1]
    assert (second.series, second.number) == (first.series, 2)
    assert [(u.object_id, u.encrypted, u.decrypted) for u in second.used] == [("k1", 1, 0)]


async def test_what_the_disk_does_not_take_is_reported_the_next_time(tmp_path, monkeypatch):
    sent, voice = [], Voice("eu-frankfurt-1", "eu-frankfurt", Signer(bytes(32)))

    async def send(e):
        sent.append(reports.read(e.tag, e.data))

    def full(_):
        raise StorageFailed("disk full")

    database = open_writer(tmp_path / "node.sqlite", resources.ROOT / "projections" / "node")
    outbox = Outbox(database, ThreadPoolExecutor(1), lambda tenant, r: voice.report(tenant, r, epoch=1), send)
    counting = Counting(outbox)
    counting.add(control.Used("acme", "pay", "p", {"k1": (2, 1)}))
    with monkeypatch.context() as patch:
        patch.setattr(database, "apply", full)
        await counting.flush()
    counting.add(control.Used("acme", "pay", "p", {"k1": (1, 1)}))
    await counting.flush()
    assert [(r.number, u.encrypted, u.decrypted) for r in sent for u in r.used] == [(1, 3, 2)]
