"""The hub's disk is lost after an old backup: what was revoked stays revoked everywhere, and people are told the loss."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from kmip.core import enums
from kmip.pie.exceptions import KmipOperationFailure

from faults.approve import lift
from openkcm.cli.load import Load, Task, make_key
from openkcm.client import Portal
from running_stack import Stack, until

EU, US = "eu-frankfurt", "us-virginia"
EPOCH = 2 << 40


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    running = Stack(tmp_path_factory.mktemp("loss") / "state")
    running.up()
    try:
        yield running
    finally:
        running.down()


def status(stack: Stack, tenant: str, region: str, lane: str) -> str:
    with stack.portal(f"{tenant}/admin") as portal:
        return portal.get(f"/tenants/{tenant}/regions/{region}/sync")[lane]["status"]


def state(portal: Portal, tenant: str, region: str) -> str:
    return portal.get(f"/tenants/{tenant}/regions/{region}")["state"]


def works(stack: Stack, workload: str, region: str, number: int = 1) -> bool:
    with stack.kmip(workload, region, number) as client:
        return bool(client.create(enums.CryptographicAlgorithm.AES, 256))


def refused(stack: Stack, workload: str, region: str, number: int = 1) -> str:
    with stack.kmip(workload, region, number) as client, pytest.raises(KmipOperationFailure) as no:
        client.create(enums.CryptographicAlgorithm.AES, 256)
    return str(no.value)


def test_an_old_backup_and_the_mirrors_tails_make_a_ledger_that_forgets_no_revocation(
    stack: Stack, tmp_path: Path
) -> None:
    here, file = ("--state", str(stack.state)), str(tmp_path / "ledger.ndjson")
    stack.revoke("bolt", US)  # revoked and lifted again: the one more tenant
    until(lambda: status(stack, "bolt", US, "critical") == "Revoked", 15)
    done = stack.openkcm("ledger", "backup", file, *here)
    assert done.returncode == 0, done.stderr
    stack.revoke("acme", EU, US)
    until(lambda: all(status(stack, "acme", r, "critical") == "Revoked" for r in (EU, US)), 15)
    lift(stack, "bolt", US)
    until(lambda: works(stack, "bolt/orders", US), 20, "bolt was restored by two people")
    stack.down()

    running = stack.openkcm("up", *here, "--port-base", str(stack.base), "--stop")
    assert "no stack runs" in running.stdout
    shutil.rmtree(stack.state / "nats" / "hub" / "store")
    for file_ in (stack.state / "cmk").glob("registry.sqlite*"):  # and governance's read model with it
        file_.unlink()
    refused_start = stack.openkcm("up", *here, "--port-base", str(stack.base), "--detach")
    assert refused_start.returncode != 0
    assert "ledger restore" in refused_start.stdout + refused_start.stderr, "nothing is opened in its place"

    told = stack.openkcm("ledger", "restore", file, *here, "--dry-run")
    assert told.returncode == 0, told.stderr
    assert "nothing was changed" in told.stdout
    told = stack.openkcm("ledger", "restore", file, *here, "--json")
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)
    assert (found["epoch"], found["first_sequence"], found["done"]) == (2, EPOCH, True)
    assert found["recovered"].keys() >= {EU, US}
    assert found["lost"], "approvals of the restore lived on the hub alone: they are named as lost"
    again = stack.openkcm("ledger", "restore", file, *here)
    assert again.returncode == 1
    assert "--replace" in again.stderr

    stack.up()
    with stack.portal("acme/admin") as portal:
        assert [state(portal, "acme", r) for r in (EU, US)] == ["Revoked", "Revoked"]
    for region in (EU, US):
        assert "access revoked" in until(lambda r=region: refused(stack, "acme/payments", r), 20)
    with stack.portal("bolt/admin") as portal:
        assert until(lambda: state(portal, "bolt", US) == "Active", 10)
    assert until(lambda: works(stack, "bolt/orders", US), 20, "what two people lifted stays lifted")

    enrolled = stack.openkcm("node", "enrol", f"{US}-2", "--region", US, *here)  # one that never knew the old epoch
    assert enrolled.returncode == 0, enrolled.stdout + enrolled.stderr
    assert until(lambda: works(stack, "bolt/orders", US, 2), 20)
    assert "access revoked" in until(lambda: refused(stack, "acme/payments", US, 2), 20)

    stack.revoke("bolt", US)  # new revocations arrive, in the new epoch
    until(lambda: status(stack, "bolt", US, "critical") == "Revoked", 15, "a revocation of the new epoch is obeyed")
    for number in (1, 2):
        assert "access revoked" in refused(stack, "bolt/orders", US, number)
    lift(stack, "acme", EU)  # and a restore that names the revocation of the closed epoch
    until(lambda: works(stack, "acme/payments", EU), 20)
    assert "access revoked" in refused(stack, "acme/payments", US)
    verified = stack.openkcm("audit", "verify", *here, "--json")
    assert verified.returncode in (0, 2), verified.stdout + verified.stderr
    found = json.loads(verified.stdout)
    assert (found["intact"], found["epoch"]) == (True, 2)
    assert found["sequence"] > EPOCH
    replayed = stack.openkcm("audit", "replay", *here, "--json")
    assert json.loads(replayed.stdout)["equal"], replayed.stdout


def test_regions_serve_on_while_the_ledger_is_made_anew_under_them(stack: Stack, tmp_path: Path) -> None:
    here, file = ("--state", str(stack.state)), str(tmp_path / "ledger.ndjson")
    node, workload = stack.node(EU), stack.endpoints.workloads["acme/payments"]
    processes = {n.name: (n.custodian_pid, n.worker_pids) for n in stack.endpoints.nodes}
    for tenant, other in (("bolt", "bolt/orders"), ("acme", "acme/payments")):
        lift(stack, tenant, US)
        until(lambda other=other: works(stack, other, US), 20)
    uid = make_key(node.kmip, workload)
    assert uid is not None
    done = stack.openkcm("ledger", "backup", file, *here)
    assert done.returncode == 0, done.stderr
    stack.revoke("bolt", US)  # the backup knows nothing of it
    until(lambda: status(stack, "bolt", US, "critical") == "Revoked", 15)
    load = Load(Task(kmip=node.kmip, workload=workload, uid=uid, rate=50))
    try:
        os.kill(stack.endpoints.nats["hub"].pid, signal.SIGKILL)
        shutil.rmtree(stack.state / "nats" / "hub" / "store")  # its supervisor starts it again, on an empty disk
        late = until(lambda: stack.revoke("acme", US), 20)
        assert late["revocations"][0]["recorded"] == "spool"
        until(lambda: "governance stays stopped" in cut_off(stack, file), 40)
        assert stack.endpoints.cmk.pid == 0, "nobody writes into a ledger that was begun and is not whole"
        told = restored(stack, file, "--replace")
        assert (told["epoch"], told["first_sequence"]) == (4, 4 << 40), "what was begun is nobody's epoch"
        until(lambda: status(stack, "acme", US, "critical") == "Revoked", 30, "what waited in the spool is obeyed")
        with stack.portal("bolt/admin") as portal:
            assert state(portal, "bolt", US) == "Revoked"
        for gone in ("acme/payments", "bolt/orders"):
            assert "access revoked" in refused(stack, gone, US)
        lift(stack, "bolt", US)
        until(lambda: works(stack, "bolt/orders", US), 20)
    finally:
        records = load.end()
    assert len(records) > 100
    assert {r.outcome for r in records} == {"served"}, (
        "nobody's work was touched by a ledger that was lost and made anew"
    )
    assert {n.name: (n.custodian_pid, n.worker_pids) for n in stack.endpoints.nodes} == processes
    verified = stack.openkcm("audit", "verify", *here, "--json")
    found = json.loads(verified.stdout)
    assert (found["intact"], found["epoch"]) == (True, 4), verified.stdout + verified.stderr


def restored(stack: Stack, file: str, *more: str) -> dict:
    told = stack.openkcm("ledger", "restore", file, "--state", str(stack.state), "--json", *more)
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout)


def cut_off(stack: Stack, file: str) -> str:
    """Restore, and lose the hub before the new epoch is open; return what was said."""
    code = """
import sys
from pathlib import Path
from openkcm.bus.errors import Unavailable
from openkcm.cli import ceremony, ledger

async def away(*_):
    raise Unavailable("the hub is away")

ceremony.open_epoch = away
sys.exit(ledger.restore(Path(sys.argv[1]), Path(sys.argv[2]), replace=False, dry_run=False, as_json=False))
"""
    done = subprocess.run([sys.executable, "-c", code, stack.state, file], capture_output=True, text=True, check=False)
    return done.stderr
