"""A real worker process over real TLS, told by a test custodian: serving, refusing, and the kill switch."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import sys
from pathlib import Path

import msgspec
import pytest

from execution.custodian_double import CustodianDouble
from execution.every_request import UNNAMED, requests
from execution.kmip_client import BOTH, GCM, Failed, KmipClient, create_request
from openkcm.execution import control
from openkcm.execution.arena import Gate
from openkcm.execution.clock import boottime_ns
from openkcm.execution.operations import OPERATIONS
from openkcm.kmip import KMIP_1_2, KMIP_1_4, RequestHeader, decode_response, encode_request
from openkcm.kmip.enums import (
    BatchErrorContinuationOption,
    BlockCipherMode,
    CryptographicUsageMask,
    PaddingMethod,
    QueryFunction,
    ResultReason,
    ResultStatus,
    State,
)
from openkcm.kmip.enums import Operation as Code
from openkcm.kmip.payloads.cryptography import DecryptRequest, EncryptRequest
from openkcm.kmip.payloads.lifecycle import ActivateRequest, DestroyRequest
from openkcm.kmip.payloads.retrieval import (
    GetAttributesRequest,
    LocateRequest,
)
from openkcm.kmip.payloads.server import QueryRequest
from openkcm.kmip.structures import CryptographicParameters


@pytest.fixture
async def custodian(tmp_path):
    async with CustodianDouble(tmp_path) as double:
        double.system("acme", "pay")
        yield double


@pytest.fixture
async def client(custodian):
    client = await custodian.client(custodian.enrol("acme", "pay", "payments"))
    yield client
    await client.close()


async def test_a_created_key_encrypts_and_decrypts(client):
    uid = await client.new_key()
    done = await client.encrypt(uid, b"attack at dawn", authenticated_encryption_additional_data=b"x")
    assert done.data != b"attack at dawn"
    assert len(done.iv_counter_nonce) == 12
    assert len(done.authenticated_encryption_tag) == 16
    assert await client.decrypt(uid, done, authenticated_encryption_additional_data=b"x") == b"attack at dawn"


async def test_cbc_ciphertext_of_one_version_is_read_by_another(client):
    uid = await client.new_key(bits=128)
    parameters = CryptographicParameters(
        block_cipher_mode=BlockCipherMode.CBC, padding_method=PaddingMethod.PKCS5, random_iv=True
    )
    done = await client.encrypt(uid, b"seventeen bytes!!", cryptographic_parameters=parameters)
    assert len(done.iv_counter_nonce) == 16
    assert len(done.data) == 32
    assert await client.decrypt(uid, done, cryptographic_parameters=parameters) == b"seventeen bytes!!"


async def test_before_1_4_the_tag_is_the_end_of_the_data_and_nothing_is_lost(client):
    uid = await client.new_key()
    request = EncryptRequest(unique_identifier=uid, data=b"attack", cryptographic_parameters=GCM)
    done = await client.call(request, KMIP_1_2)
    assert done.authenticated_encryption_tag is None
    assert len(done.data) == len(b"attack") + 16
    back = DecryptRequest(
        unique_identifier=uid, data=done.data, iv_counter_nonce=done.iv_counter_nonce, cryptographic_parameters=GCM
    )
    assert (await client.call(back, KMIP_1_2)).data == b"attack"


# --- identity -----------------------------------------------------------------------------------------------------


async def test_a_certificate_that_is_not_enrolled_is_told_so_and_the_connection_ends(custodian):
    stranger = await custodian.client(custodian.pki.issue_workload("nobody", "x"))
    items = await stranger.batch(QueryRequest(), create_request())
    assert {i.reason for i in items} == {ResultReason.AUTHENTICATION_NOT_SUCCESSFUL}
    assert items[0].message == "certificate is not enrolled"
    assert await stranger.reader.read() == b""
    assert not custodian.vault
    await stranger.close()


async def test_without_a_certificate_there_is_no_connection(custodian, client):
    with pytest.raises((ssl.SSLError, OSError, asyncio.IncompleteReadError)):  # noqa: PT012 -- TLS 1.3 refuses at the first read
        bare = await custodian.client(None)
        await bare.call(QueryRequest())


async def test_tls_1_2_has_only_forward_secrecy_and_aead(custodian):
    files = custodian.enrol("acme", "pay", "old")
    context = custodian.context(files, version=ssl.TLSVersion.TLSv1_2)
    await (await custodian.client(files)).close()
    client = await KmipClient.connect(custodian.port, context)
    name = client.writer.get_extra_info("cipher")[0]
    assert name.startswith("ECDHE")
    assert "GCM" in name or "CHACHA20" in name
    await client.call(QueryRequest())
    await client.close()
    context.set_ciphers("AES256-GCM-SHA384")
    with pytest.raises((ssl.SSLError, OSError)):
        await KmipClient.connect(custodian.port, context)


async def test_a_workload_removed_is_refused_and_its_session_cut(custodian, client):
    uid = await client.new_key()
    custodian.arena.close_workloads([custodian.words["acme-payments"]])
    with pytest.raises(Failed, match="access revoked"):
        await client.encrypt(uid, b"x")
    custodian.crew.tell(control.Cut("acme-payments"))
    with contextlib.suppress(ConnectionResetError):
        assert await client.reader.read() == b""


# --- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", ResultReason.INVALID_MESSAGE),
        (bytes.fromhex("42007801") + (9 << 20).to_bytes(4, "big"), ResultReason.INVALID_MESSAGE),
        (bytes.fromhex("4200780100000008") + bytes(8), ResultReason.INVALID_MESSAGE),
        (bytes.fromhex("420078010000000742007701"), ResultReason.INVALID_MESSAGE),
    ],
    ids=["http", "oversize", "no header", "odd length"],
)
async def test_what_is_no_message_is_answered_and_the_connection_ends(client, data, reason):
    (item,) = decode_response(await client.raw(data)).items
    assert item.reason == reason
    assert await client.reader.read() == b""


async def test_a_message_too_large_for_a_stranger_is_refused_on_its_announcement(custodian, client):
    stranger = await custodian.client(custodian.pki.issue_workload("nobody", "x"))
    (item,) = decode_response(await stranger.raw(bytes.fromhex("42007801") + (2 << 20).to_bytes(4, "big"))).items
    assert item.reason == ResultReason.INVALID_MESSAGE
    await stranger.close()


async def test_an_unknown_operation_fails_alone(client):
    raw = encode_request(QueryRequest(), QueryRequest(), header=header(2, BatchErrorContinuationOption.CONTINUE))
    at = raw.index(bytes.fromhex("42005C0500000004") + int(Code.QUERY).to_bytes(4, "big"))
    raw = raw[: at + 8] + int(Code.CERTIFY).to_bytes(4, "big") + raw[at + 12 :]
    first, second = decode_response(await client.raw(raw)).items
    assert first.reason == ResultReason.OPERATION_NOT_SUPPORTED
    assert second.status == ResultStatus.SUCCESS


async def test_a_message_in_many_pieces_is_one_message(client):
    uid = await client.new_key()
    raw = encode_request(EncryptRequest(unique_identifier=uid, data=bytes(100_000), cryptographic_parameters=GCM))
    for i in range(0, 200, 7):
        client.writer.write(raw[i : i + 7])
        await client.writer.drain()
        await asyncio.sleep(0)
    (item,) = decode_response(await client.raw(raw[203:])).items
    assert len(item.payload.data) == 100_000


async def test_pipelined_requests_are_answered_in_their_order(client):
    uid = await client.new_key()
    for n in range(50):
        client.writer.write(
            encode_request(EncryptRequest(unique_identifier=uid, data=bytes(n + 1), cryptographic_parameters=GCM))
        )
    sizes = [len(decode_response(await client.message()).items[0].payload.data) for _ in range(50)]
    assert sizes == list(range(1, 51))


# --- batches ------------------------------------------------------------------------------------------------------


def header(count, option=None, most=None):
    return RequestHeader(
        protocol_version=KMIP_1_4,
        maximum_response_size=most,
        batch_error_continuation_option=option,
        batch_count=count,
    )


async def test_the_placeholder_names_what_the_batch_made_and_ends_with_the_message(client):
    made, active, done = await client.batch(
        create_request(), ActivateRequest(), EncryptRequest(data=b"x", cryptographic_parameters=GCM)
    )
    assert {made.status, active.status, done.status} == {ResultStatus.SUCCESS}
    assert done.payload.unique_identifier == made.payload.unique_identifier
    (lost,) = await client.batch(ActivateRequest())
    assert lost.reason == ResultReason.ITEM_NOT_FOUND


@pytest.mark.parametrize(
    ("option", "answers"),
    [(None, 1), (BatchErrorContinuationOption.STOP, 1), (BatchErrorContinuationOption.CONTINUE, 2)],
)
async def test_a_batch_stops_at_the_first_failure_unless_told_to_continue(client, option, answers):
    wrong = DestroyRequest(unique_identifier="no-such-object")
    items = await client.batch(wrong, QueryRequest(), header=header(2, option))
    assert len(items) == answers


async def test_a_batch_with_undo_stops_at_the_first_failure_and_says_of_each_item_what_became_of_it(custodian, client):
    undo = header(3, BatchErrorContinuationOption.UNDO)
    wrong = DestroyRequest(unique_identifier="no-such-object")
    made, failed = await client.batch(create_request(), wrong, create_request(), header=undo)
    assert (made.status, failed.status) == (ResultStatus.SUCCESS, ResultStatus.OPERATION_FAILED)
    assert len(custodian.vault) == 1


async def test_a_change_whose_answer_may_not_fit_is_refused_before_it_happens(custodian, client):
    (item,) = await client.batch(create_request(), header=header(1, most=200))
    assert item.reason == ResultReason.RESPONSE_TOO_LARGE
    assert not custodian.vault
    query = QueryRequest(query_function=(QueryFunction.QUERY_OPERATIONS, QueryFunction.QUERY_OBJECTS))
    (item,) = await client.batch(query, header=header(1, most=256))
    assert item.reason == ResultReason.RESPONSE_TOO_LARGE


async def test_query_lists_exactly_what_is_served(client):
    answer = await client.call(QueryRequest(query_function=(QueryFunction.QUERY_OPERATIONS,)))
    assert set(answer.operation) == set(OPERATIONS)


# --- the kill switch ----------------------------------------------------------------------------------------------


async def load(client, uid, results):
    """Encrypt without pause until refused."""
    while True:
        try:
            results.append(await client.encrypt(uid, b"x" * 1024))
        except Failed as refused:
            return refused


async def test_after_close_and_drain_nothing_succeeds_and_what_was_served_is_right(custodian, client):
    uid = await client.new_key()
    files = custodian.pki.issue_workload("acme", "payments")
    clients = [await custodian.client(files) for _ in range(4)]
    results = [[] for _ in clients]
    loads = [asyncio.ensure_future(load(c, uid, r)) for c, r in zip(clients, results, strict=True)]
    while min(map(len, results)) < 20:  # noqa: ASYNC110 -- another process counts
        await asyncio.sleep(0)
    custodian.close("acme")
    served = custodian.counts()["operations"]
    refused = await asyncio.gather(*loads)
    assert {(r.reason, r.message) for r in refused} == {(ResultReason.PERMISSION_DENIED, "access revoked")}
    assert custodian.counts()["operations"] == served
    for c in clients:
        await c.close()


@pytest.mark.parametrize(
    ("gate", "reason", "message"),
    [
        (Gate.REVOKED, ResultReason.PERMISSION_DENIED, "access revoked"),
        (Gate.LOCKED, ResultReason.PERMISSION_DENIED, "locked: the customer's root key refuses"),
    ],
)
async def test_a_closed_residence_answers_every_operation_with_its_refusal(custodian, client, gate, reason, message):
    uid = await client.new_key()
    custodian.close("acme", gate)
    for request in requests(uid).values():
        with pytest.raises(Failed) as refused:
            await client.call(request)
        assert (refused.value.reason, refused.value.message) == (reason, message), request


async def test_a_residence_opened_again_reads_its_old_ciphertext(custodian, client):
    uid = await client.new_key()
    done = await client.encrypt(uid, b"old")
    slot = custodian.slots["acme", "pay"][1]
    key = bytes(custodian.arena._key(slot))
    custodian.close("acme")
    with pytest.raises(Failed, match="access revoked"):
        await client.decrypt(uid, done)
    custodian.arena.slot_view(slot)[:] = key
    custodian.arena.set_gate(slot, Gate.OPEN)
    del custodian.states["acme"]
    custodian.crew.tell(custodian.keys("acme", "pay"))
    assert await client.decrypt(uid, done) == b"old"


async def test_suspended_encrypts_nothing_new_and_goes_on_reading(custodian, client):
    uid = await client.new_key()
    done = await client.encrypt(uid, b"x")
    custodian.arena.close_gates([custodian.slots["acme", "pay"][1]], Gate.SUSPENDED)
    with pytest.raises(Failed, match="suspended"):
        await client.encrypt(uid, b"x")
    with pytest.raises(Failed, match="suspended"):
        await client.new_key()
    assert await client.decrypt(uid, done) == b"x"


async def test_past_the_lease_nothing_is_served(custodian, client):
    uid = await client.new_key()
    custodian.arena.set_lease(custodian.slots["acme", "pay"][1], boottime_ns())
    with pytest.raises(Failed) as refused:
        await client.encrypt(uid, b"x")
    assert refused.value.reason == ResultReason.GENERAL_FAILURE


async def test_with_a_stale_custodian_nothing_is_served(custodian, client):
    uid = await client.new_key()
    custodian.arena.set_alive(boottime_ns())
    with pytest.raises(Failed) as refused:
        await client.encrypt(uid, b"x")
    assert refused.value.reason == ResultReason.GENERAL_FAILURE


async def test_an_object_made_while_the_gate_closes_is_not_answered_with_success(custodian, client):
    async def closing(_):
        custodian.before_put = None
        custodian.close("acme")

    custodian.before_put = closing
    with pytest.raises(Failed, match="access revoked"):
        await client.new_key(active=False)


async def test_answers_that_waited_in_a_batch_are_taken_back_when_the_gate_changed(custodian, client):
    uid = await client.new_key()

    async def closing(_):
        custodian.before_put = None
        custodian.close("acme")

    custodian.before_put = closing
    encrypt = EncryptRequest(unique_identifier=uid, data=b"x", cryptographic_parameters=GCM)
    items = await client.batch(encrypt, create_request())
    assert [i.message for i in items] == ["access revoked"] * 2
    assert items[0].payload is None


async def test_a_slow_clients_queued_answers_are_dropped_when_the_gate_changed(custodian):
    files = custodian.enrol("acme", "pay", "slow")
    quick = await custodian.client(files)
    uid = await quick.new_key()
    raw = encode_request(EncryptRequest(unique_identifier=uid, data=bytes(1 << 20), cryptographic_parameters=GCM))
    sock = socket.create_connection(("127.0.0.1", custodian.port))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 18)  # under one segment of the loopback it would crawl
    slow = await asyncio.to_thread(custodian.context(files).wrap_socket, sock)
    slow.setblocking(False)
    unsent = memoryview(raw * 16)
    made = -1
    while made != custodian.counts()["operations"]:  # until no more is taken: an answer of ours waits in the worker
        made = custodian.counts()["operations"]
        for _ in range(20):
            with contextlib.suppress(ssl.SSLWantWriteError):
                unsent = unsent[slow.send(unsent) :]
            await asyncio.sleep(0.01)
    assert made > 1
    custodian.close("acme")
    slow.setblocking(True)
    got = await asyncio.to_thread(read_all, slow)
    counts = custodian.counts()
    assert counts["outputs_dropped"] == 1
    assert counts["operations"] == made
    assert got < (made - 1) * (1 << 20)  # the first operation was Create's and Activate's; the last one never came
    slow.close()
    await quick.close()


def read_all(sock):
    got = 0
    with contextlib.suppress(OSError):
        while n := len(sock.recv(65536)):
            got += n
    return got


async def test_a_stopped_worker_inside_an_operation_is_killed_by_the_drain_and_replaced(custodian, client):
    uid = await client.new_key()
    (pid,) = custodian.crew.pids
    task = asyncio.ensure_future(load(client, uid, []))
    while True:
        os.kill(pid, signal.SIGSTOP)
        while state_of(pid) not in "Tt":  # noqa: ASYNC110 -- as above
            await asyncio.sleep(0)
        if custodian.crew.board.counter(0) & 1:
            break
        os.kill(pid, signal.SIGCONT)
        await asyncio.sleep(0.002)
    custodian.close("acme")
    assert custodian.crew.pids != [pid]
    with pytest.raises((OSError, asyncio.IncompleteReadError)):
        await task


async def test_a_worker_dies_with_its_custodian(tmp_path):
    script = tmp_path / "custodian.py"
    script.write_text(
        "import asyncio, sys\nfrom pathlib import Path\nfrom execution.custodian_double import CustodianDouble\n"
        "async def main():\n"
        f"    async with CustodianDouble(Path({str(tmp_path)!r})) as c:\n"
        "        print(c.crew.pids[0], flush=True)\n        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    tests = Path(__file__).parents[1]
    child = await asyncio.create_subprocess_exec(
        sys.executable, str(script), stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(tests)}
    )
    pid = int(await child.stdout.readline())
    child.kill()
    await child.wait()
    while state_of(pid) != "Z":  # noqa: ASYNC110 -- as above
        await asyncio.sleep(0.01)


def state_of(pid):
    """One letter, as in ps; Z for what is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "Z"


# --- keys and objects ---------------------------------------------------------------------------------------------


async def test_an_object_only_the_vault_has_is_read_through(custodian, client):
    uid = await client.new_key()
    (found,) = custodian.vault.values()
    custodian.database.apply([])
    other = msgspec.structs.replace(found[1], uid="only-in-the-vault", wrapped=None, l3_version=0)
    custodian.store("acme", other)
    asked = GetAttributesRequest(unique_identifier="only-in-the-vault", attribute_name=("State",))
    assert (await client.call(asked)).attribute[0].attribute_value == State.ACTIVE
    assert uid != "only-in-the-vault"


async def test_a_change_of_the_record_elsewhere_is_seen_by_the_next_operation(custodian, client):
    uid = await client.new_key()
    await client.encrypt(uid, b"x")
    _, record = custodian.vault["acme", uid]
    custodian.store("acme", msgspec.structs.replace(record, state=State.COMPROMISED))
    await custodian.keep("acme", *custodian.vault["acme", uid])
    with pytest.raises(Failed, match="compromised"):
        await client.encrypt(uid, b"x")


async def test_an_update_that_somebody_else_was_first_with_is_tried_once_more(custodian, client):
    uid = await client.new_key(active=False)

    async def first(_):
        custodian.before_put = None
        custodian.store("acme", custodian.vault["acme", uid][1])
        await custodian.keep("acme", *custodian.vault["acme", uid])

    custodian.before_put = first
    await client.call(ActivateRequest(unique_identifier=uid))
    assert custodian.vault["acme", uid][1].state == State.ACTIVE


async def test_after_a_rotation_old_objects_decrypt_and_new_ones_use_the_new_version(custodian, client):
    old = await client.new_key()
    done = await client.encrypt(old, b"old")
    custodian.system("acme", "pay", version=2)
    new = await client.new_key()
    assert custodian.vault["acme", new][1].l3_version == 2
    assert await client.decrypt(old, done) == b"old"
    await client.encrypt(old, b"still")
    custodian.arena.close_gates([custodian.slots["acme", "pay"][1]], Gate.LOCKED)
    with pytest.raises(Failed, match="emergency rotation"):
        await client.decrypt(old, done)
    await client.encrypt(new, b"x")


async def test_a_record_swapped_for_another_does_not_unwrap(custodian, client):
    first, second = await client.new_key(), await client.new_key()
    wrapped = custodian.vault["acme", second][1].wrapped
    custodian.store("acme", msgspec.structs.replace(custodian.vault["acme", first][1], wrapped=wrapped))
    await custodian.keep("acme", *custodian.vault["acme", first])
    with pytest.raises(Failed, match="does not unwrap"):
        await client.encrypt(first, b"x")


async def test_a_wider_usage_mask_in_the_record_does_not_unwrap(custodian, client):
    uid = await client.new_key(usage=int(CryptographicUsageMask.DECRYPT))
    record = custodian.vault["acme", uid][1]
    custodian.store("acme", msgspec.structs.replace(record, usage_mask=BOTH))
    await custodian.keep("acme", *custodian.vault["acme", uid])
    with pytest.raises(Failed, match="does not unwrap"):
        await client.encrypt(uid, b"x")


async def test_anothers_object_is_no_object_in_any_operation(custodian, client):
    uid = await client.new_key()
    custodian.system("acme", "archive")
    custodian.system("bolt", "orders")
    for tenant, system in (("acme", "archive"), ("bolt", "orders")):
        other = await custodian.client(custodian.enrol(tenant, system, system))
        for code, request in requests(uid).items():
            if code in UNNAMED:
                continue
            with pytest.raises(Failed) as refused:
                await other.call(request)
            assert refused.value.reason == ResultReason.ITEM_NOT_FOUND, (tenant, request)
        assert (await other.call(LocateRequest())).unique_identifier == ()
        await other.close()
