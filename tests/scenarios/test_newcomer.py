"""A newcomer's whole story in Chromium: aboard on a cloud's KMS, encrypt, cut, restore with a second person's passkey, audit.

Set OPENKCM_SHOTS to a folder to keep a picture of each page.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest
from kmip.core import enums
from kmip.pie.exceptions import KmipOperationFailure
from playwright.sync_api import Browser, expect

from browser import Person, chromium
from kmip_client import connected_as
from openkcm.cli import pki
from openkcm.cli.customer import AwsCustomer
from openkcm.cli.layout import Layout
from openkcm.contract import envelope as env
from openkcm.contract import seal
from running_stack import GCM, Stack, until

REGION = "eu-frankfurt"
TENANT = "nova"
SHOTS = Path(os.environ["OPENKCM_SHOTS"]) if "OPENKCM_SHOTS" in os.environ else None
USAGE = [enums.CryptographicUsageMask.ENCRYPT, enums.CryptographicUsageMask.DECRYPT]
HERE = {"localhost", "127.0.0.1", "data"}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    running = Stack(tmp_path_factory.mktemp("newcomer") / "state", "--aws")
    running.up()
    try:
        yield running
    finally:
        running.down()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


def test_a_newcomer_comes_aboard_cuts_access_and_restores_it_with_a_second_persons_passkey(
    stack: Stack, browser: Browser, tmp_path: Path
) -> None:
    layout = Layout(stack.state, port_base=stack.base, aws=True)
    base = layout.pages_url
    operator = Person(browser, base, "provider/operator")
    anna, ben, carl = (Person(browser, base, f"newcomer/{name}") for name in ("anna", "ben", "carl"))
    everybody = (operator, anna, ben, carl)
    for person in everybody:
        person.sign_in()
    anna.shoot(SHOTS, "empty")

    # The provider names the tenant and its people, and no more.
    page = operator.go("/onboarding")
    page.get_by_label("Name").fill(TENANT)
    for label, person in (("Administrator", anna), ("Second approver", ben), ("Auditor", carl)):
        page.get_by_label(label).fill(person.subject())
    operator.accessible()
    operator.shoot(SHOTS, "new-tenant")
    page.get_by_role("button", name="Register tenant").click()
    expect(page.locator(f'[data-tenant="{TENANT}"]')).to_be_visible()

    # Each of the two makes a passkey; with the second they are the approvers, and the first one's page shows it by itself.
    wizard = f"/tenants/{TENANT}/regions/{REGION}/onboarding"
    page = anna.go(wizard)
    expect(page.get_by_text("No key yet")).to_have_count(3)
    page.get_by_role("button", name="Register my passkey").click()
    expect(page.get_by_text("Signs with a passkey")).to_have_count(1)
    ben.go(wizard).get_by_role("button", name="Register my passkey").click()
    expect(page.get_by_text("Fingerprint of the approvers")).to_be_visible()
    anna.accessible()
    anna.shoot(SHOTS, "onboarding-root-key")

    # Root key, its check from the node, lease, first system.
    aws = AwsCustomer(f"http://127.0.0.1:{layout.ports.ministack}", TENANT, layout.cloud_region(REGION))
    ref = aws.make().ref
    page.get_by_text("AWS KMS").first.click()
    page.get_by_label("Reference of the key").fill(ref)
    page.get_by_role("button", name="Link root key").click()
    expect(page.get_by_text("Wraps and unwraps")).to_be_visible(timeout=30_000)
    page.get_by_text("1 hour").click()
    page.get_by_role("button", name="Set the lease").click()
    expect(page.get_by_text("Done: recorded in the ledger.")).to_be_visible()
    page.get_by_label("First system").fill("payments")
    page.get_by_role("button", name="Go live").click()
    expect(page.get_by_text("Active")).to_be_visible()
    expect(page.get_by_text("In sync")).to_be_visible()  # Pending turns to it without a reload
    anna.shoot(SHOTS, "onboarding-live")

    # A workload, and a client that was not written by us.
    certificate, key = pki.authority(stack.state).issue_workload(TENANT, "payments")
    page = anna.go(f"/tenants/{TENANT}/regions/{REGION}/workloads")
    page.get_by_label("Name of the workload").fill("checkout")
    page.get_by_label("Client certificate").fill(certificate.read_text())
    page.get_by_role("button", name="Enrol").click()
    expect(page.get_by_role("cell", name="checkout")).to_be_visible()
    expect(page.get_by_text("In sync")).to_be_visible()
    anna.accessible()
    anna.shoot(SHOTS, "workloads")
    node = stack.node(REGION)
    client = partial(connected_as, node.kmip.host, node.kmip.port, certificate, key, stack.state / "pki" / "ca.pem")
    with client() as kmip:
        uid = kmip.create(GCM["cryptographic_algorithm"], 256, cryptographic_usage_mask=USAGE)
        kmip.activate(uid)
        secret, iv = kmip.encrypt(b"the newcomer's words", uid=uid, cryptographic_parameters=GCM)

    def decrypts() -> bool:
        with client() as kmip:
            return (
                kmip.decrypt(secret, uid=uid, cryptographic_parameters=GCM, iv_counter_nonce=iv)
                == b"the newcomer's words"
            )

    assert decrypts()

    # The switch: armed by the tenant's name; each node goes dark in front of the person who pulled it.
    anna.go(f"/tenants/{TENANT}/regions/{REGION}")
    expect(anna.page.get_by_text("Reachable")).to_be_visible()
    anna.accessible()
    anna.shoot(SHOTS, "region")
    page = anna.go(f"/tenants/{TENANT}/kill-switch")
    pull = page.get_by_role("button", name="Cut access now")
    expect(pull).to_be_disabled()
    page.get_by_label("to arm the switch").fill("nov")
    expect(pull).to_be_disabled()
    anna.accessible()
    anna.shoot(SHOTS, "kill-switch")
    page.get_by_label("to arm the switch").fill(TENANT)
    pull.click()
    expect(page.get_by_text("Dark on every node")).to_be_visible(timeout=15_000)
    expect(page.get_by_text("dark after")).to_be_visible()
    expect(page.get_by_text("Confirmed")).to_be_visible()
    anna.accessible()
    anna.shoot(SHOTS, "kill-switch-dark")
    with pytest.raises(KmipOperationFailure):
        decrypts()
    page.get_by_role("link", name="Receipt to file").click()
    expect(page.get_by_text("each node's own sealed word")).to_be_visible()
    anna.shoot(SHOTS, "receipt")

    # One person asks and signs, and alone that lifts nothing; the second one's passkey does.
    page = anna.go(f"/tenants/{TENANT}/approvals")
    page.get_by_role("button", name=f"Sign to restore {REGION}").click()
    expect(page.get_by_text("1 of 2 signed")).to_be_visible()
    with pytest.raises(KmipOperationFailure):
        decrypts()
    page = ben.go(f"/tenants/{TENANT}/approvals")
    expect(page.get_by_text("1 of 2 signed")).to_be_visible()
    ben.accessible()
    ben.shoot(SHOTS, "approvals")
    page.get_by_role("button", name="Sign with my passkey").click()
    expect(page.get_by_role("cell", name="Executed")).to_be_visible()
    until(decrypts, why="two people restored access")

    # The auditor: verified here in one click, and elsewhere from the export.
    page = carl.go(f"/tenants/{TENANT}/audit")
    page.get_by_role("button", name="Verify all events").click()
    expect(page.get_by_text("events hold: every seal, every counter.")).to_be_visible()
    carl.accessible()
    carl.shoot(SHOTS, "audit")
    with page.expect_download() as download:
        page.get_by_text("Export as NDJSON").click()
    file = tmp_path / "events.ndjson"
    download.value.save_as(file)
    lines = [msgspec.json.decode(line) for line in file.read_bytes().splitlines()]
    governance = layout.governance_signer
    keys = {s.key_id: s.public_key for s in (governance, layout.trust_root)}
    for line in lines:
        env.verify(env.decode(msgspec.convert(line["body"], bytes)), line["subject"], keys)
    assert {"AccessRevoked.1", "AccessRestored.1", "RevocationConfirmed.1"} <= {line["tag"] for line in lines}
    assert seal.key_id(governance.public_key) == governance.key_id
    exported = stack.openkcm(
        "audit", "export", str(tmp_path / "export"), "--tenant", TENANT, "--state", str(stack.state)
    )
    assert exported.returncode == 0, exported.stdout + exported.stderr
    verified = stack.openkcm("audit", "verify", "--export", str(tmp_path / "export"), "--json")
    assert verified.returncode == 0, verified.stdout + verified.stderr

    for person, path in ((operator, "/fleet"), (anna, f"/tenants/{TENANT}/people"), (anna, "/me"), (anna, "/")):
        person.go(path)
        expect(person.page.locator("#live")).to_have_text("Live")
        person.accessible()
        person.shoot(SHOTS, {"/": "overview", "/me": "account"}.get(path, path.rpartition("/")[2]))
    for look, context in (("dark", {"color_scheme": "dark"}), ("phone", {"viewport": {"width": 390, "height": 844}})):
        other = Person(browser, base, "newcomer/anna", **context)
        other.sign_in()
        other.go(f"/tenants/{TENANT}/regions/{REGION}")
        expect(other.page.locator("#live")).to_have_text("Live")
        other.accessible()
        wide = other.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{look}: {wide} px wider than the screen"
        other.shoot(SHOTS, look)
    for person in everybody:
        assert person.hosts <= HERE, person.hosts
        assert not person.complaints, (person.account, person.complaints)
