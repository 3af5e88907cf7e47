"""A worker among enemies: slow ones at every stage, floods, bombs, wrong certificates. Somebody honest is served on.

Real worker, real TLS, tight limits. After each test the worker is the same process, has no descriptor too many, and
serves.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import errno
import hashlib
import os
import resource
import signal
import socket
import ssl
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from execution.custodian_double import CustodianDouble
from execution.kmip_client import GCM, KmipClient, client_context, create_request
from openkcm.cli.pki import authority
from openkcm.contract.fleet import Limits
from openkcm.execution import control
from openkcm.execution.session import IN_ONE_TURN, Session
from openkcm.execution.worker import Worker
from openkcm.kmip import ItemType, RequestHeader, Tag, custom_attribute, decode_response, encode_request
from openkcm.kmip import Limits as MessageLimits
from openkcm.kmip.enums import ResultReason
from openkcm.kmip.messages import KMIP_1_4
from openkcm.kmip.payloads.cryptography import EncryptRequest
from openkcm.kmip.payloads.server import QueryRequest

LIMITS = Limits(
    handshake_s=2, message_s=1, idle_s=60, connections_per_worker=40, handshakes_per_worker=8,
    message_bytes=4 << 20, unfinished_bytes=1 << 20,
)  # fmt: skip
HEAD = bytes.fromhex("42007801")


def descriptors(pid):
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.fixture
async def custodian(tmp_path, capfd):
    async with CustodianDouble(tmp_path, limits=LIMITS) as double:
        double.system("acme", "pay")
        double.files = double.enrol("acme", "pay", "p")
        honest = await double.client(double.files)
        uid = await honest.new_key()
        (pid,), before = double.crew.pids, descriptors(double.crew.pids[0])
        yield double
        done = await honest.encrypt(uid, b"still here")
        assert await honest.decrypt(uid, done) == b"still here"
        assert double.crew.pids == [pid]
        for _ in range(100):
            if descriptors(pid) <= before:
                break
            await asyncio.sleep(0.05)
        assert descriptors(pid) <= before
        assert "Traceback" not in capfd.readouterr().err  # nothing went wrong in the worker either
        await honest.close()


async def ended(reader):
    with contextlib.suppress(ConnectionResetError):
        while await asyncio.wait_for(reader.read(1 << 16), 20):
            pass


def client_hello(custodian):
    """The first bytes of a real handshake."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = custodian.context(custodian.files).wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


# --- slow ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [0, 3, 60], ids=["silent", "half a record's head", "half a hello"])
async def test_a_handshake_that_does_not_go_on_is_ended(custodian, part):
    reader, writer = await asyncio.open_connection("127.0.0.1", custodian.port)
    writer.write(client_hello(custodian)[:part])
    await ended(reader)
    writer.close()


@pytest.mark.parametrize(
    "sent",
    [
        HEAD[:3],
        HEAD + (4096).to_bytes(4, "big"),
        HEAD + (4096).to_bytes(4, "big") + bytes(500),
        b"POST /kmip HTTP/1.1\r\nContent-Le",
        b"POST /kmip HTTP/1.1\r\nContent-Type: text/xml\r\nContent-Length: 4096\r\n\r\n<RequestMessage>",
    ],
    ids=["in the head", "after the head", "in the body", "in HTTP's head", "in HTTP's body"],
)
async def test_a_message_that_does_not_go_on_is_ended(custodian, sent):
    slow = await custodian.client(custodian.files)
    slow.writer.write(sent)
    await ended(slow.reader)
    await slow.close()


async def test_bytes_that_drip_do_not_prolong_a_messages_time(custodian):
    slow = await custodian.client(custodian.files)
    over = asyncio.ensure_future(ended(slow.reader))
    slow.writer.write(HEAD + (1 << 20).to_bytes(4, "big"))
    while not over.done():
        slow.writer.write(b"\0")
        await asyncio.sleep(0.05)
    await slow.close()


async def test_a_stranger_who_says_nothing_is_ended(custodian):
    """Its certificate is of the CA, and nobody enrolled it: it gets its answer at its first message, or the end."""
    cert, key = custodian.pki.issue_workload("acme", "stranger")
    reader, writer = await asyncio.open_connection("127.0.0.1", custodian.port, ssl=custodian.context((cert, key)))
    await ended(reader)
    writer.close()


async def test_who_does_not_take_the_answers_is_ended(custodian):
    honest = await custodian.client(custodian.files)
    uid = await honest.new_key()
    (pid,) = custodian.crew.pids
    before = descriptors(pid)
    sock = socket.create_connection(("127.0.0.1", custodian.port))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    slow = await asyncio.to_thread(custodian.context(custodian.files).wrap_socket, sock)
    slow.setblocking(False)
    request = EncryptRequest(unique_identifier=uid, data=bytes(500_000), cryptographic_parameters=GCM)
    unsent = memoryview(encode_request(request) * 40)
    for _ in range(20_000):
        with contextlib.suppress(ssl.SSLWantWriteError, OSError):
            unsent = unsent[slow.send(unsent) :]
        if descriptors(pid) == before and custodian.counts()["operations"] > 2:
            break
        await asyncio.sleep(0.01)
    assert descriptors(pid) == before
    assert len(unsent)
    slow.close()
    await honest.close()


class Floor:
    """What a session needs of its worker in order to end."""

    def __init__(self):
        self.loop, self.buffer, self.unfinished, self.gone = self, bytearray(1 << 16), 0, []

    def remove_reader(self, fd):
        pass

    def remove_writer(self, fd):
        pass

    def left(self, session):
        self.gone.append(session)


async def test_what_comes_after_the_last_answer_is_read_and_thrown_away(custodian):
    """ADR 0024: `shutdown` takes the TLS object away, and `SSLSocket.read` raises from then on."""
    ours, theirs = socket.socketpair()
    cert, key = custodian.pki.issue("server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    shaking = asyncio.to_thread(context.wrap_socket, ours, server_side=True)
    client = asyncio.to_thread(custodian.context(custodian.files).wrap_socket, theirs)
    server, client = await asyncio.gather(shaking, client)
    server.setblocking(False)
    session, floor = Session.__new__(Session), Floor()
    session._socket, session._floor, session._fd, session._read = server, floor, server.fileno(), server.read
    session._partial, session.closed = bytearray(), False
    server.shutdown(socket.SHUT_WR)
    session._discard()  # nothing is there yet
    client.sendall(bytes(1000))
    session._discard()
    assert not session.closed
    client.close()
    session._discard()
    assert floor.gone == [session]


# --- many ---------------------------------------------------------------------------------------------------------


async def test_half_open_connections_make_room_for_real_ones(custodian):
    flood = [await asyncio.open_connection("127.0.0.1", custodian.port) for _ in range(100)]
    for _, writer in flood:
        writer.write(client_hello(custodian)[:40])
    good = await custodian.client(custodian.files)
    await good.call(QueryRequest())
    assert custodian.counts()["overflows"] >= 100 - LIMITS.handshakes_per_worker - 1
    for reader, writer in flood:
        await ended(reader)
        writer.close()
    await good.close()


@contextlib.contextmanager
def stopped(pid):
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_a_client_that_is_known_waits_for_no_flood_of_handshakes(custodian):
    """All hellos are there when its message comes; each is answered in a round of its own, and its message in one."""
    good, hello, order = await custodian.client(custodian.files), client_hello(custodian), []
    flood = [await asyncio.open_connection("127.0.0.1", custodian.port) for _ in range(LIMITS.handshakes_per_worker)]
    while custodian.counts()["connections"] < 2 + len(flood):  # noqa: ASYNC110 -- another process counts
        await asyncio.sleep(0.01)

    async def first(reader, name):
        await reader.readexactly(1)
        order.append(name)

    with stopped(custodian.crew.pids[0]):
        for _, writer in flood:
            writer.write(hello)
        await asyncio.sleep(0.05)
        good.writer.write(encode_request(QueryRequest()))
        await asyncio.sleep(0.05)
        waiting = [asyncio.ensure_future(first(reader, "stranger")) for reader, _ in flood]
        waiting.append(asyncio.ensure_future(first(good.reader, "good")))
        await asyncio.sleep(0)
    await asyncio.gather(*waiting)
    assert order.index("good") < len(flood) // 2
    for _, writer in flood:
        writer.close()
    await good.close()


class Stranger:
    enrolment = ""


def test_who_knocked_and_went_is_kept_no_longer():
    """Connections are accepted faster than hands are shaken: the oldest make room, and must leave nothing."""
    worker, knocking = Worker.__new__(Worker), [Stranger() for _ in range(3)]
    worker._knocking, worker._at_the_door, worker._sessions = {}, False, set()
    worker._shaking, worker._enrolments, worker._retiring = {}, {}, False
    rounds, shaken = [], []
    worker.loop = SimpleNamespace(call_soon=rounds.append)
    for n, one in enumerate(knocking):
        one.shake_hands = lambda n=n: shaken.append(n)
        worker.knocked(one)
    worker.left(knocking[1])
    assert not shaken
    while rounds:
        assert len(rounds) == 1
        before = len(shaken)
        rounds.pop()()
        assert len(shaken) - before <= 1
    assert shaken == [0, 2]
    assert not worker._knocking
    assert not worker._at_the_door


async def test_who_sends_hundreds_of_messages_at_once_takes_turns(custodian, monkeypatch):
    """In this process, where a turn can be seen."""
    served, turns = [], []
    session = Session.__new__(Session)
    session._web, session._partial, session._output = None, bytearray(), None
    session.closed = session._waiting = session._closing = False
    session._until, session._fd, session._limits = 0, 7, MessageLimits()
    session._floor = SimpleNamespace(unfinished=0, loop=SimpleNamespace(
        call_soon=turns.append, add_reader=lambda *_: None, remove_reader=lambda *_: None
    ))  # fmt: skip
    monkeypatch.setattr(Session, "_serve", lambda _, message: served.append(message))
    message = encode_request(QueryRequest())
    session._consume(message * 40)
    for most in (IN_ONE_TURN, 2 * IN_ONE_TURN, 40):
        assert len(served) == most
        if turns:
            turns.pop()()
    assert not turns
    assert not session._partial
    assert session._floor.unfinished == 0
    assert set(served) == {message}


async def test_all_unfinished_messages_together_have_a_limit(custodian):
    pieces = HEAD + (2 << 20).to_bytes(4, "big") + bytes(700_000)
    first, second = [await custodian.client(custodian.files) for _ in range(2)]
    first.writer.write(pieces)
    await first.writer.drain()
    await asyncio.sleep(0.2)
    (item,) = decode_response(await second.raw(pieces)).items
    assert item.reason == ResultReason.INVALID_MESSAGE
    assert "unfinished" in item.message
    await ended(first.reader)
    await first.close()
    await second.close()
    whole = await custodian.client(custodian.files)  # what they held is free again
    uid = await whole.new_key()
    assert len((await whole.encrypt(uid, bytes(900_000))).data) == 900_000
    await whole.close()


class NoDescriptors:
    """A listener that finds nobody a descriptor, and the loop it is registered with."""

    def __init__(self):
        self.watched = True

    def fileno(self):
        return 7

    def accept(self):
        raise OSError(errno.EMFILE, "too many open files")

    def remove_reader(self, fd):
        self.watched = fd != 7


def test_without_descriptors_the_worker_waits_and_does_not_spin():
    worker = Worker.__new__(Worker)
    worker._accepting = worker.loop = poor = NoDescriptors()
    worker._accept()
    assert not poor.watched  # until the next second


# --- bombs --------------------------------------------------------------------------------------------------------


def item(tag, kind, value):
    return tag.to_bytes(3, "big") + bytes([kind]) + len(value).to_bytes(4, "big") + value + bytes(-len(value) % 8)


def nested(depth):
    value = b""
    for _ in range(depth):
        value = item(0x540001, 1, value)
    return value


def query_with(payload):
    raw = encode_request(QueryRequest())
    at = raw.index(Tag.BATCH_ITEM.to_bytes(3, "big"))
    operation = raw[at + 8 : at + 24]
    body = raw[8:at] + item(Tag.BATCH_ITEM, 1, operation + item(Tag.REQUEST_PAYLOAD, 1, payload))
    return item(Tag.REQUEST_MESSAGE, 1, body)


def counted(count):
    return encode_request(QueryRequest(), header=RequestHeader(protocol_version=KMIP_1_4, batch_count=count))


@pytest.mark.parametrize(
    "bomb",
    [
        HEAD + bytes.fromhex("fffffff8"),
        HEAD + bytes.fromhex("7ffffff8"),
        counted(0x7FFFFFFF),
        counted(-1),
        query_with(nested(5000)),
        query_with(item(Tag.QUERY_FUNCTION, 5, bytes(4)) * 50_000),
        query_with(Tag.QUERY_FUNCTION.to_bytes(3, "big") + bytes.fromhex("05fffffff8") + bytes(8)),
        encode_request(create_request(more=[custom_attribute(f"x-{n}", ItemType.TEXT_STRING, "v") for n in range(5000)])),
        encode_request(create_request(name="n" * 70_000)),
        encode_request(*[QueryRequest()] * 65),
    ],
    ids=["4 GiB", "2 GiB", "2^31 items", "-1 items", "depth", "repeated field", "wrong length", "attributes",
         "long name", "batch"],
)  # fmt: skip
async def test_a_bomb_is_refused_and_costs_no_memory(custodian, bomb):
    (pid,) = custodian.crew.pids
    before = rss(pid)
    enemy = await custodian.client(custodian.files)
    answers = decode_response(await enemy.raw(bomb)).items
    assert all(a.reason is not None for a in answers), answers
    assert not any(isinstance(q, control.Put) for q in custodian.asked[4:])
    assert rss(pid) - before < 32 << 20
    await enemy.close()


def rss(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


# --- certificates -------------------------------------------------------------------------------------------------


def certificate(folder, ca, *, days=(-1, 1), usage=ExtendedKeyUsageOID.CLIENT_AUTH, key=None):
    """A client certificate by whichever CA key, valid between days from now."""
    own, now = ec.generate_private_key(ec.SECP256R1()), dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "acme-p")]))
        .issuer_name(ca.subject)
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + dt.timedelta(days=days[0]))
        .not_valid_after(now + dt.timedelta(days=days[1]))
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .sign(key, hashes.SHA256())
    )
    folder.mkdir(exist_ok=True)
    cert, path = folder / "c.pem", folder / "c.key"
    cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    path.write_bytes(
        own.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert, path


@pytest.mark.parametrize("fault", ["expired", "not yet valid", "foreign", "a server's"])
async def test_a_wrong_certificate_ends_the_handshake_and_nobody_is_asked(custodian, tmp_path, fault):
    home = authority(tmp_path / "elsewhere").ca if fault == "foreign" else custodian.pki.ca
    ca = x509.load_pem_x509_certificate(home.read_bytes())
    key = serialization.load_pem_private_key(home.with_suffix(".key").read_bytes(), None)
    days = {"expired": (-3, -1), "not yet valid": (1, 3)}.get(fault, (-1, 1))
    usage = ExtendedKeyUsageOID.SERVER_AUTH if fault == "a server's" else ExtendedKeyUsageOID.CLIENT_AUTH
    files = certificate(tmp_path / "bad", ca, days=days, usage=usage, key=key)
    asked, failed = len(custodian.asked), custodian.counts()["handshakes_failed"]
    with pytest.raises((ssl.SSLError, OSError, asyncio.IncompleteReadError)):  # noqa: PT012 -- TLS 1.3 refuses at the first read
        bad = await KmipClient.connect(custodian.port, client_context(*files, custodian.pki.ca))
        await bad.call(QueryRequest())
    for _ in range(100):  # the client hears it before it is counted
        if custodian.counts()["handshakes_failed"] == failed + 1:
            break
        await asyncio.sleep(0.05)
    assert custodian.counts()["handshakes_failed"] == failed + 1
    assert len(custodian.asked) == asked


async def test_a_connection_ends_with_its_certificate_and_whoever_ends_soon_is_counted(custodian, tmp_path):
    ca = x509.load_pem_x509_certificate(custodian.pki.ca.read_bytes())
    key = serialization.load_pem_private_key(custodian.pki.ca.with_suffix(".key").read_bytes(), None)
    files = certificate(tmp_path / "brief", ca, days=(-1, 3 / 86_400), key=key)
    found = hashlib.sha256(ssl.PEM_cert_to_DER_cert(files[0].read_text())).hexdigest()
    (custodian.people[found],) = custodian.people.values()
    brief = await custodian.client(files)
    uid = await brief.new_key()
    assert custodian.counts()["certificates_ending"] == 1  # and the honest one's is not
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        for served in range(1000):  # noqa: B007 -- how often it was
            await asyncio.wait_for(brief.encrypt(uid, b"in time"), 10)
            await asyncio.sleep(0.05)
    assert 1 < served < 999
    with pytest.raises((OSError, asyncio.IncompleteReadError)):
        await (await custodian.client(files)).new_key()


@pytest.mark.parametrize("arguments", [("-tls1_2",), ("-tls1_1", "-cipher", "ALL:@SECLEVEL=0")])
async def test_old_tls_and_renegotiation_lead_nowhere(custodian, arguments):
    cert, key = custodian.files
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{custodian.port}", "-CAfile", custodian.pki.ca,
               "-cert", cert, "-key", key, *arguments]  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    with contextlib.suppress(ConnectionError):  # refused and gone before it could read
        process.stdin.write(b"R\n")
        await process.stdin.drain()
    out, _ = await asyncio.wait_for(process.communicate(), 20)
    if arguments[0] == "-tls1_2":
        assert b"RENEGOTIATING" in out
        assert b"no renegotiation" in out
    else:
        assert b"Cipher is (NONE)" in out
