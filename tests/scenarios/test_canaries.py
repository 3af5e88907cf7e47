"""Where keys and plaintexts are not: the test unwraps every key itself, then looks for it everywhere governance stores,
logs, answers or remembers. A control (a key left in a plain file and a plain buffer) is found every time."""

from __future__ import annotations

import base64
import ctypes
import os
import re
from pathlib import Path

import msgspec
import pytest
from kmip.core import enums

from openkcm.bus.connection import connect
from openkcm.bus.publish import api
from openkcm.cli import orbital
from openkcm.cli.layout import Layout
from openkcm.contract import envelope as env
from openkcm.execution import keyring
from openkcm.execution.keyring import L2Record, L3Record, RingRecord
from openkcm.execution.objects import context_of
from openkcm.execution.records import ObjectRecord
from openkcm.execution.roots.file import FileRoot
from orbital_fixture import run_apart
from running_stack import stack, until

__all__ = ["stack"]
EU, US = "eu-frankfurt", "us-virginia"
PLAINTEXT = b"canary plaintext 6b1f07"
STREAMS = {
    "hub": {"ledger-admin": ["LEDGER"], "reports-admin": ["REPORTS", "HEALTH"]},
    EU: {f"{EU}-admin": ["LEDGER", "LEDGER-CRITICAL", "REPORTS-OUT", "USAGE", "VAULT"]},
    US: {f"{US}-admin": ["LEDGER", "LEDGER-CRITICAL", "REPORTS-OUT", "USAGE", "VAULT"]},
}


async def _read_out(layout: Layout, server: str) -> dict[str, list[tuple[str, bytes]]]:
    """Every message of every stream of a server (blocks on disk are compressed)."""
    found = {}
    for user, streams in STREAMS[server].items():
        connection = await connect(orbital.access(layout.state, user, layout.server_ports[server]), name=user)
        for name in streams:
            info = await api(connection, f"$JS.API.STREAM.INFO.{name}")
            messages = []
            for sequence in range(info["state"]["first_seq"], info["state"]["last_seq"] + 1):
                got = await api(connection, f"$JS.API.STREAM.MSG.GET.{name}", {"seq": sequence})
                if "message" in got:
                    body = base64.b64decode(got["message"].get("data", ""))
                    messages.append((got["message"]["subject"], body))
            found[name] = messages
        await connection.close()
    return found


@pytest.fixture(scope="module")
def layout(stack) -> Layout:
    return Layout(stack.state, port_base=stack.base)


@pytest.fixture(scope="module")
def used(stack):
    """A key of acme's in eu-frankfurt, used; returns its id."""

    def make() -> str:
        with stack.kmip("acme/payments", EU) as client:
            mask = [enums.CryptographicUsageMask.ENCRYPT, enums.CryptographicUsageMask.DECRYPT]
            uid = client.create(enums.CryptographicAlgorithm.AES, 256, cryptographic_usage_mask=mask)
            client.activate(uid)
            how = {
                "cryptographic_algorithm": enums.CryptographicAlgorithm.AES,
                "block_cipher_mode": enums.BlockCipherMode.CBC,
                "padding_method": enums.PaddingMethod.PKCS5,
            }
            client.encrypt(PLAINTEXT, uid, how)
            return uid

    return until(make)


@pytest.fixture(scope="module")
def streams(layout, used):
    return {server: run_apart(_read_out(layout, server)) for server in STREAMS}


@pytest.fixture(scope="module")
def canaries(stack, layout, streams, used) -> dict[str, bytes]:
    """L1, KEK, L2, L3 and L4 of that key, unwrapped here from what the vault holds."""
    newest = {subject: env.decode(body) for subject, body in streams[EU]["VAULT"]}

    def record(kind: str, id_: str, of: type):
        return msgspec.json.decode(newest[f"kcm.vault.{EU}.acme.{kind}.{id_}"].data, type=of)

    ring = record("ring", "acme", RingRecord)
    l2 = record("l2", ring.l2[max(ring.l2)], L2Record)
    key_file = Path(l2.root.ref)
    root = FileRoot(key_file)
    context = keyring.l2_context("acme", EU, l2.version, l2.id, l2.root, ring.approvers_hash)
    kek = root.unwrap(l2.wrapped.ciphertext, l2.wrapped.root_version, context.encryption_context())
    keys = {"kek": kek, "l2": _unsealed(l2.sealed, kek, context.aad())}
    found = record("object", used, ObjectRecord)
    l3_id = ring.l3[found.registration][found.l3_version]
    l3 = record("l3", l3_id, L3Record)
    aad = keyring.l3_context("acme", EU, found.registration, l3.version, l3.id).aad()
    keys["l3"] = _unsealed(l3.sealed, keys["l2"], aad)
    keys["l4"] = _unsealed(found.wrapped, keys["l3"], context_of(EU, "acme", found))
    for n, line in enumerate(key_file.read_text().splitlines()):
        keys[f"l1-{n}"] = base64.b64decode(line.partition(":")[2])
    return keys


def _unsealed(sealed: bytes, key: bytes, aad: bytes) -> bytes:
    into = bytearray(len(sealed) - keyring.NONCE_BYTES - keyring.TAG_BYTES)
    keyring.unseal(sealed, memoryview(bytearray(key)), aad, memoryview(into))
    return bytes(into)


def shapes(secret: bytes) -> list[bytes]:
    """A key raw, in halves, in hex, in base64 in three alignments."""
    out = [secret, secret.hex().encode(), secret.hex().upper().encode()]
    if len(secret) >= 32:
        out += [secret[:16], secret[16:32]]
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + secret)
        out.append(encoded[4 : 4 * (len(secret) // 3)])
    return out


def hits(content: bytes, secrets: dict[str, bytes]) -> list[str]:
    return [name for name, secret in secrets.items() for shape in shapes(secret) if shape in content]


def memory_of(pid: int) -> list[bytes]:
    chunks = []
    process = Path(f"/proc/{pid}")
    with (process / "maps").open() as maps, (process / "mem").open("rb", 0) as memory:
        for line in maps:
            at = re.match(r"([0-9a-f]+)-([0-9a-f]+) r", line)
            if at is None or "[vvar" in line or "[vsyscall" in line:
                continue
            start, end = (int(x, 16) for x in at.groups())
            try:
                memory.seek(start)
                chunks.append(memory.read(end - start))
            except (OSError, ValueError, OverflowError):
                continue
    return chunks


def test_the_scanner_finds_a_key_that_lies_in_the_open(tmp_path):
    secret = os.urandom(32)
    (tmp_path / "leak").write_bytes(b"log line " + base64.b64encode(b"x" + secret))
    assert hits((tmp_path / "leak").read_bytes(), {"k": secret})
    kept = ctypes.create_string_buffer(secret, 32)
    assert any(secret in chunk for chunk in memory_of(os.getpid()))
    assert kept


def test_no_stream_of_hub_or_leaf_holds_a_key_or_a_plaintext(streams, canaries):
    secrets = canaries | {"plaintext": PLAINTEXT}
    found = [
        (server, name, subject, hit)
        for server, of in streams.items()
        for name, messages in of.items()
        for subject, body in messages
        for hit in hits(body, secrets)
    ]
    assert found == []


def test_no_file_of_the_stack_but_the_customers_own_holds_one(stack, canaries):
    secrets = canaries | {"plaintext": PLAINTEXT}
    owners = {stack.state / "roots"}  # the customer's key files: its KMS, not ours
    found = [
        (str(path.relative_to(stack.state)), hit)
        for path in stack.state.rglob("*")
        if path.is_file() and not owners & set(path.parents)
        for hit in hits(path.read_bytes(), secrets)
    ]
    assert found == []


def test_no_answer_of_the_api_holds_one(stack, canaries):
    with stack.portal("acme/auditor") as auditor, stack.portal("provider/operator") as operator:
        answers = [
            operator.get("/tenants"), operator.get("/fleet"), auditor.get("/tenants/acme"),
            auditor.get(f"/tenants/acme/regions/{EU}"), auditor.get(f"/tenants/acme/regions/{EU}/sync"),
            auditor.get("/ledger", tenant="acme", limit=1000),
        ]  # fmt: skip
    raw = msgspec.json.encode(answers)
    bodies = b"".join(base64.b64decode(x["body"]) for x in answers[-1]["value"])
    assert hits(raw + bodies, canaries) == []


def test_governance_remembers_none(stack, canaries):
    secrets = canaries | {"plaintext": PLAINTEXT}
    assert [hit for chunk in memory_of(stack.endpoints.cmk.pid) for hit in hits(chunk, secrets)] == []


def test_custodian_and_workers_hold_l2_l3_and_l4_in_no_memory_that_root_can_read(stack, canaries):
    node = stack.node(EU)
    secrets = {name: canaries[name] for name in ("kek", "l2", "l3", "l4")}
    found = [
        (pid, hit)
        for pid in (node.custodian_pid, *node.worker_pids)
        for chunk in memory_of(pid)
        for hit in hits(chunk, secrets)
    ]
    assert found == []


def test_a_regions_disks_hold_nothing_of_another_regions_residences(streams, stack):
    of_eu = {env.decode(b).id for s, b in streams["hub"]["LEDGER"] if s.startswith(f"kcm.decree.{EU}.")}
    assert of_eu
    for name, messages in streams[US].items():
        assert not [
            s for s, _ in messages if s.startswith((f"kcm.decree.{EU}.", f"kcm.vault.{EU}.", f"kcm.report.{EU}."))
        ], name
        assert not [e for _, b in messages if (e := env.decode(b)).id in of_eu], name
    region_ids = {
        r for s, b in streams["hub"]["LEDGER"] if s.startswith(f"kcm.decree.{EU}.")
        for r in re.findall(rb'"(?:registration|enrolment)":"([a-z0-9-]+)"', b)
    }  # fmt: skip
    assert region_ids
    assert not [r for messages in streams[US].values() for _, b in messages for r in region_ids if r in b]
