"""Regions and nodes come and go on a running stack: nothing that stays is restarted, and no tenant loses its home."""

from __future__ import annotations

import base64
import os
import signal
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import pytest
from kmip.core import enums
from kmip.pie.exceptions import KmipOperationFailure

from kmip_client import PykmipClient, connected_as
from openkcm.cli import background, endpoints, load, pki
from openkcm.cli.customer import customer_of
from openkcm.cli.onboarding import onboard
from openkcm.client import Problem
from openkcm.contract.seal import Signer
from running_stack import Stack, until

NEW = "ap-tokyo"
PARAMETERS = {
    "cryptographic_algorithm": enums.CryptographicAlgorithm.AES,
    "block_cipher_mode": enums.BlockCipherMode.CBC,
    "padding_method": enums.PaddingMethod.PKCS5,
}
USES = [enums.CryptographicUsageMask.ENCRYPT, enums.CryptographicUsageMask.DECRYPT]


class Corp:
    """A tenant whose only region is the new one, with one workload."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        layout = background.saved_layout(stack.state)
        people = [
            {
                "person": layout.subjects()[name],
                "roles": ["tenant-admin", "key-admin", "kill-switch", "approver"],
                "approval_key": base64.b64encode(Signer(layout.approval_key(name).read_bytes()).public_key).decode(),
            }
            for name in ("acme/admin", "acme/approver")
        ]
        with stack.portal("provider/operator") as operator:
            operator.post("/tenants", {"id": "corp", "regions": [NEW], "people": people})
        root = customer_of(layout, "corp", NEW).make()
        self.path = f"/tenants/corp/regions/{NEW}"
        self.ca = stack.state / "pki" / "ca.pem"
        self.cert, self.key = pki.authority(stack.state).issue_workload("corp", "app")
        with stack.portal("acme/admin") as admin:
            until(lambda: admin.get(self.path))
            for order in (
                lambda: admin.put(f"{self.path}/root-key", {"provider": root.provider, "ref": root.ref}),
                lambda: admin.post(f"{self.path}/systems", {"system": "app"}),
                lambda: admin.post(
                    f"{self.path}/workloads", {"workload": "app", "system": "app", "certificate": self.cert.read_text()}
                ),
            ):
                admin.wait_in_sync(self.path, "routine", order()["generation"])

    def client(self, node: int) -> PykmipClient:
        at = self.stack.node(NEW, node).kmip
        return connected_as(at.host, at.port, self.cert, self.key, self.ca)

    def encrypt(self, node: int) -> tuple[str, bytes, bytes]:
        with self.client(node) as client:
            uid = client.create(enums.CryptographicAlgorithm.AES, 256, cryptographic_usage_mask=USES)
            client.activate(uid)
            return (uid, *client.encrypt(b"sixteen byte msg", uid, PARAMETERS))

    def decrypt(self, node: int, uid: str, ciphertext: bytes, iv: bytes) -> bytes:
        with self.client(node) as client:
            return client.decrypt(ciphertext, uid, PARAMETERS, iv)

    def critical(self) -> dict:
        with self.stack.portal("acme/admin") as admin:
            return admin.get(f"{self.path}/sync")["critical"]


class Load:
    """Constant use of a key in another region; `failed` says what went wrong."""

    def __init__(self, stack: Stack) -> None:
        self.failed: list[str] = []
        self.done = 0
        self._stop = threading.Event()
        with stack.kmip("acme/payments", "eu-frankfurt") as client:
            self._uid = client.create(enums.CryptographicAlgorithm.AES, 256, cryptographic_usage_mask=USES)
            client.activate(self._uid)
        self._thread = threading.Thread(target=self._run, args=(stack,))

    def _run(self, stack: Stack) -> None:
        with stack.kmip("acme/payments", "eu-frankfurt") as client:
            while not self._stop.wait(0.02):
                try:
                    client.encrypt(b"sixteen byte msg", self._uid, PARAMETERS)
                    self.done += 1
                except Exception as bad:
                    self.failed.append(repr(bad))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    running = Stack(tmp_path_factory.mktemp("fleet") / "state")
    running.up()
    yield running
    running.down()


def under_way(stack: Stack, region: str):
    """Constant KMIP load on a region's first node by a client that looks whether its connection was ended."""
    kmip, workload = stack.node(region).kmip, stack.endpoints.workloads["acme/payments"]
    uid = until(lambda: load.make_key(kmip, workload))
    return load.Load(load.Task(kmip=kmip, workload=workload, uid=uid, connections=4, rate=100, patience_s=60))


def pids(stack: Stack) -> dict[str, int]:
    e = stack.endpoints
    servers = {name: server.pid for name, server in e.nats.items()}
    return servers | {n.name: n.custodian_pid for n in e.nodes} | {"cmk": e.cmk.pid}


def test_a_regions_nodes_are_replaced_under_load_without_a_failed_operation(stack):
    before = pids(stack)
    with under_way(stack, "eu-frankfurt") as running:
        time.sleep(1)
        assert "eu-frankfurt-1 was taken over" in change(stack, "region", "restart", "eu-frankfurt")
        time.sleep(1)
        records = running.end()
    assert [r for r in records if r.outcome != "served"] == []
    assert records
    now = pids(stack)
    assert {name for name in before if before[name] != now[name]} == {"eu-frankfurt-1"}


def test_servers_and_processes_change_their_certificates_and_their_ca_under_load_and_nothing_is_lost(stack, tmp_path):
    before, pki_dir = pids(stack), stack.state / "pki"
    shown = {name: served(at) for name, at in stack.endpoints.nats.items()}
    old_ca = (pki_dir / "ca.pem").read_text()
    with under_way(stack, "eu-frankfurt") as running:
        said = change(stack, "certificates", "renew", "--new-ca")
        records = running.end()
    assert [r for r in records if r.outcome != "served"] == []
    assert records
    assert "a new CA is trusted" in said
    assert all(served(at) != shown[name] for name, at in stack.endpoints.nats.items())
    now = pids(stack)
    assert {name for name in before if before[name] != now[name]} == {n.name for n in stack.endpoints.nodes}
    assert "still of the earlier CA: acme-archive, acme-payments, bolt-orders" in refused(
        stack, "certificates", "retire-ca"
    )
    for name in ("hub", "eu-frankfurt"):  # whoever connects from now on does so by what the files say now
        stack.kill(stack.endpoints.nats[name].pid)
    with stack.portal("acme/admin") as admin:
        until(lambda: admin.patch("/tenants/acme/regions/eu-frankfurt/configuration", {"labels": {"ca": "2"}}))
        path = "/tenants/acme/regions/eu-frankfurt/sync"
        until(lambda: admin.get(path)["routine"]["status"] == "InSync", 20, "a decree through renewed servers")
    old = {name: (pki_dir / "workloads" / f"acme-payments.{name}").read_bytes() for name in ("pem", "key")}
    for certificate in (pki_dir / "workloads").glob("*.pem"):
        certificate.unlink()
    assert len(list(onboard(background.saved_layout(stack.state), stack.endpoints))) == 5, "each is enrolled anew"
    assert old_ca in (pki_dir / "ca.pem").read_text()
    assert "trusted no more" in change(stack, "certificates", "retire-ca")
    assert old_ca not in (pki_dir / "ca.pem").read_text()
    kmip = stack.node("eu-frankfurt").kmip
    assert load.make_key(kmip, stack.endpoints.workloads["acme/payments"])
    for name, content in old.items():
        (tmp_path / name).write_bytes(content)
    stranger = endpoints.Workload(cert=f"{tmp_path}/pem", key=f"{tmp_path}/key", ca=f"{pki_dir}/ca.pem")
    assert load.make_key(kmip, stranger) is None
    assert stack.openkcm("audit", "verify", "--state", str(stack.state)).returncode == 0


def served(at: endpoints.Nats) -> str:
    """The certificate that a NATS server shows, in PEM."""
    url = urlsplit(at.url)
    raw = socket.create_connection((url.hostname, url.port), timeout=5)
    raw.recv(4096)  # it speaks first, in the clear
    lax = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    lax.check_hostname, lax.verify_mode = False, ssl.CERT_NONE
    with lax.wrap_socket(raw) as tls:
        return ssl.DER_cert_to_PEM_cert(tls.getpeercert(binary_form=True))


def change(stack: Stack, *command: str) -> str:
    done = stack.openkcm(*command, "--state", str(stack.state))
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(stack: Stack, *command: str) -> str:
    before = pids(stack)
    done = stack.openkcm(*command, "--state", str(stack.state))
    assert done.returncode == 1, done.stdout
    assert pids(stack) == before
    return done.stderr


@pytest.fixture(scope="module")
def corp(stack):
    """The region is added under load elsewhere, then a tenant comes aboard in it."""
    before = pids(stack)
    with Load(stack) as load:
        change(stack, "region", "add", NEW, "--residency", "JP")
    assert load.failed == []
    assert load.done
    after = pids(stack)
    assert {name: after[name] for name in before} == before, "something that was there was restarted"
    assert after.keys() - before.keys() == {NEW, f"{NEW}-1"}
    return Corp(stack)


def test_a_region_added_to_a_running_stack_serves_a_tenant_of_its_own(stack, corp):
    sealed = corp.encrypt(1)
    assert corp.decrypt(1, *sealed) == b"sixteen byte msg"
    assert stack.openkcm("streams", "diff", "--state", str(stack.state)).stdout.strip() == "all as declared"
    assert stack.openkcm("audit", "verify", "--state", str(stack.state)).returncode == 0


def test_the_others_go_on_hearing_of_revocations_after_the_change(stack, corp):
    answer = stack.revoke("bolt", "us-virginia")
    with stack.portal("bolt/admin") as admin:
        path = "/tenants/bolt/regions/us-virginia/sync"
        until(lambda: admin.get(path)["critical"]["status"] == "Revoked", 10)
    assert answer["revocations"][0]["recorded"] == "ledger"


def test_an_enrolled_node_shares_the_vault_and_a_removed_one_that_is_dark_still_counts(stack, corp):
    sealed = corp.encrypt(1)
    change(stack, "node", "enrol", f"{NEW}-2", "--region", NEW)
    assert until(lambda: corp.decrypt(2, *sealed)) == b"sixteen byte msg"
    dark = stack.node(NEW, 2)
    for pid in (dark.custodian_pid, *dark.worker_pids):
        os.kill(pid, signal.SIGSTOP)
    change(stack, "node", "remove", f"{NEW}-2")
    assert not Path(f"/proc/{dark.custodian_pid}").exists()
    with stack.portal("acme/admin") as admin:
        admin.post("/tenants/corp/revocations", {"regions": [NEW], "reason": "test"})
    until(lambda: corp.critical()["acked"] == 1)
    time.sleep(1)
    said = corp.critical()
    assert (said["status"], said["waiting_for"]) == ("Revoking", [f"{NEW}-2"])
    with pytest.raises(KmipOperationFailure, match="access revoked"):
        corp.decrypt(1, *sealed)
    assert "never enrolled again" in refused(stack, "node", "enrol", f"{NEW}-2", "--region", NEW)


def test_the_last_node_and_the_region_of_a_tenant_are_not_removed(stack, corp):
    assert "the last node" in refused(stack, "node", "remove", f"{NEW}-1")
    assert "region drain" in refused(stack, "region", "remove", NEW)
    assert "tenants still there: 1" in change(stack, "region", "drain", NEW)
    assert "corp (Revoked, its last region)" in refused(stack, "region", "remove", NEW)
    people = [
        {"person": f"p{n}", "roles": ["approver"], "approval_key": base64.b64encode(os.urandom(32)).decode()}
        for n in range(2)
    ]
    with stack.portal("provider/operator") as operator, pytest.raises(Problem, match="being drained"):
        operator.post("/tenants", {"id": "late", "regions": [NEW], "people": people})


def test_an_empty_drained_region_goes_and_nobody_else_notices(stack, corp):
    change(stack, "region", "add", "sa-recife", "--residency", "BR")
    change(stack, "region", "drain", "sa-recife")
    before = pids(stack)
    with Load(stack) as load:
        change(stack, "region", "remove", "sa-recife")
    assert load.failed == []
    after = pids(stack)
    assert before.keys() - after.keys() == {"sa-recife", "sa-recife-1"}
    assert {name: before[name] for name in after} == after
    assert stack.openkcm("streams", "diff", "--state", str(stack.state)).stdout.strip() == "all as declared"


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (("region", "add", "EU West", "--residency", "DE"), "is not a token"),
        (("region", "add", "hub", "--residency", "DE"), "the bus uses that name"),
        (("region", "add", "us-virginia", "--residency", "US"), "already"),
        (("node", "enrol", "us-virginia-1", "--region", "us-virginia"), "already"),
        (("node", "enrol", "mars-1", "--region", "mars"), "no region mars"),
        (("node", "remove", "mars-1"), "no node mars-1"),
    ],
)
def test_a_change_that_makes_no_sense_changes_nothing(stack, corp, command, why):
    fleet = sorted(str(p) for p in (stack.state / "regions").rglob("*"))
    assert why in refused(stack, *command)
    assert sorted(str(p) for p in (stack.state / "regions").rglob("*")) == fleet
