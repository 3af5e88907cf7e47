"""The running servers permit what the table says, and nothing else."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import urllib.request
import uuid
from pathlib import Path

import msgspec
import nats.errors
import pytest
from nats.aio.client import Client

from openkcm.bus.connection import Connection, connect
from openkcm.bus.errors import BusError, Refused, Unavailable
from openkcm.bus.feed import matches
from openkcm.bus.lanes import held
from openkcm.bus.ledger import Ledger
from openkcm.bus.messages import Message
from openkcm.bus.permissions import (
    ACCOUNT_OF,
    RULES,
    account_of_region,
    allowed,
    hub_includes,
    users_of_hub,
    users_of_leaf,
)
from openkcm.bus.publish import api
from openkcm.bus.users import new_seed, public_key
from openkcm.bus.vault import Vault
from openkcm.cli import orbital as servers
from openkcm.cli import pki
from openkcm.cli.orbital import _binary
from orbital_fixture import EU, EU_NODE, US_NODE, Orbital, shipped_regions

EU_RECORD = f"kcm.decree.{EU}.acme.routine.residence.acme"


def roles_of(user: str, region: str) -> tuple[str, str, str]:
    """(role, region, node) of a user."""
    if user in ACCOUNT_OF:
        return user, "", ""
    staff = {f"{region}-{what}": f"{{region}}-{what}" for what in ("admin", "auditor")}
    return (staff[user], region, "") if user in staff else ("{node}", region, user)


def concrete(subject: str) -> str:
    return subject.replace("*", "x").replace(">", "x.y")


def every_subject() -> list[tuple[str, str]]:
    """Each verb and subject that anybody is allowed anywhere, as one that can be sent, and some that nobody is."""
    found = {
        (rule.verb, concrete(rule.subject.replace("{region}", region).replace("{node}", f"{region}-{number}")))
        for rule in RULES
        for region in ("eu-frankfurt", "us-virginia")
        for number in (1, 2)
    }
    for nobodys in (
        "kcm.upstream.eu-frankfurt",
        "kcm.mirror.eu-frankfurt",
        "$SYS.REQ.SERVER.PING",
        "kcm.x",
        "_INBOX.x",
    ):
        found |= {("publish", nobodys), ("subscribe", nobodys)}
    return sorted(found)


def users(orbital: Orbital) -> list[tuple[str, str]]:
    hub = [(user, "") for user in users_of_hub(orbital.regions) if not user.startswith("leaf-")]
    return hub + [(user, region.region) for region in orbital.regions for user in users_of_leaf(region)]


async def test_every_user_can_publish_and_subscribe_what_the_table_says_and_nothing_else(orbital: Orbital) -> None:
    for user, home in users(orbital):
        role, region, node = roles_of(user, home)
        connection = await orbital.connect(user)
        for verb, subject in every_subject():
            says = any(matches(pattern, subject) for pattern in allowed(role, verb, region=region, node=node))
            try:
                if verb == "publish":
                    await connection.publish_checked(subject, b"")
                else:
                    await (await connection.subscribe(subject, ignore))()
                did = True
            except Refused:
                did = False
            assert did is says, f"{user} {verb} {subject}"
        await connection.close()


async def ignore(_: object) -> None: ...


async def test_a_region_reads_nothing_of_another_and_makes_no_consumer_and_reports_for_nobody_else(
    orbital: Orbital,
) -> None:
    cmk, node = await orbital.connect("cmk"), await orbital.connect(US_NODE)
    await Ledger(cmk).append(EU_RECORD, b"eu only", id=str(uuid.uuid4()), tag="X.1", expected_last=None)
    for subject, body in (
        ("$JS.API.CONSUMER.CREATE.LEDGER.mine", b'{"stream_name":"LEDGER","config":{"filter_subject":"kcm.>"}}'),
        ("$JS.API.CONSUMER.DURABLE.CREATE.LEDGER.mine", b"{}"),
        ("$JS.API.CONSUMER.RESET.LEDGER.eu-frankfurt-1-routine", b'{"seq":1}'),
        ("$JS.API.CONSUMER.RESET.LEDGER.us-virginia-2-routine", b'{"seq":1}'),
        ("$JS.API.CONSUMER.RESET.REPORTS-OUT.hub-us-virginia", b'{"seq":1}'),
        ("$JS.ledger.API.CONSUMER.RESET.LEDGER.mirror-us-virginia", b'{"seq":1}'),
        ("$JS.ledger.API.CONSUMER.RESET.LEDGER.mirror-eu-frankfurt", b'{"seq":1}'),
        ("$JS.ledger.API.STREAM.INFO.LEDGER", b""),
        ("$JS.hub.API.STREAM.INFO.LEDGER", b""),
        ("$JS.eu-frankfurt.API.STREAM.INFO.LEDGER", b""),
        ("$JS.ledger.API.STREAM.MSG.GET.LEDGER", b'{"seq":1}'),
        ("$JS.eu-frankfurt.API.STREAM.MSG.GET.LEDGER", b'{"seq":1}'),
        ("$JS.API.DIRECT.GET.LEDGER", b'{"seq":1}'),
        ("$JS.API.STREAM.PURGE.VAULT", b""),
        ("kcm.vault.eu-frankfurt.acme.key.1", b"x"),
        ("kcm.report.eu-frankfurt.eu-frankfurt-1.acme.sync-ack", b"x"),
        ("kcm.report.us-virginia.us-virginia-2.acme.sync-ack", b"x"),
        (EU_RECORD, b"x"),
    ):
        with pytest.raises(Refused):
            await node.request(subject, body)
    for subject in ("kcm.lane0.eu-frankfurt.>", "kcm.beat.eu-frankfurt", "kcm.>", ">", "_INBOX.>", "kcm.vault.>"):
        with pytest.raises(Refused):
            await node.subscribe(subject, ignore)
    assert await held(node, "LEDGER", EU_RECORD) == []  # its own mirror, by subject: the hub never sent that
    admin = await orbital.connect("us-virginia-admin")
    info = await api(admin, "$JS.API.STREAM.INFO.LEDGER", {"subjects_filter": ">"})
    assert not [s for s in info["state"].get("subjects") or {} if EU in s]
    for connection in (cmk, node, admin):
        await connection.close()


async def test_a_reply_subject_makes_no_server_write_into_the_ledger(orbital: Orbital) -> None:
    cmk, node = await orbital.connect("cmk"), await orbital.connect(EU_NODE)
    before = await Ledger(cmk).info()
    heard: list[bytes] = []

    async def hear(message: object) -> None:
        heard.append(message.body)

    await cmk.subscribe("kcm.report.*.*._.health-check", hear)
    await cmk.subscribe("kcm.report.*.*.*.sync-ack", hear)
    target = f"kcm.decree.{EU}.acme.critical.residence.acme"
    control = b"NATS/1.0 100 FlowControl Request\r\nNats-Consumer-Stalled: " + target.encode()
    for subject, body in (
        ("$JS.API.STREAM.INFO.LEDGER", b""),
        (f"$JS.API.CONSUMER.RESET.LEDGER.{EU_NODE}-routine", b'{"seq":1}'),
        (f"$JS.API.CONSUMER.MSG.NEXT.LEDGER.{EU_NODE}-routine", b'{"batch":1,"no_wait":true}'),
        (f"kcm.report.{EU}.{EU_NODE}.acme.sync-ack", b"x"),
        (f"kcm.report.{EU}.{EU_NODE}._.health-check", b"x"),
        (f"kcm.report.{EU}.{EU_NODE}._.health-check", control),
        (f"kcm.vault.{EU}.acme.key.1", b"x"),
        ("$JS.API.STREAM.MSG.GET.VAULT", b'{"seq":1}'),
        ("$JS.API.STREAM.MSG.GET.LEDGER", b'{"seq":1}'),
        ("$JS.API.STREAM.MSG.GET.LEDGER-CRITICAL", b'{"seq":1}'),
    ):
        for reply in (target, f"kcm.upstream.{EU}", f"$JS.ledger.API.CONSUMER.RESET.LEDGER.mirror-{EU}"):
            await node.publish(subject, body, reply=reply)
    await node.flush()
    # Behind all of it on the same path: one honest health check that the hub has heard.
    while b"last" not in heard:
        await node.publish(f"kcm.report.{EU}.{EU_NODE}._.health-check", b"last")
        await cmk.flush()
    assert await Ledger(cmk).info() == before
    await cmk.close()
    await node.close()


async def test_a_leafs_key_opens_no_client_connection_and_a_client_needs_a_certificate(orbital: Orbital) -> None:
    with pytest.raises((Refused, Unavailable)):
        await connect_as(orbital, f"leaf-{EU}")
    with pytest.raises((Refused, Unavailable)):
        await connect_as(orbital, US_NODE, server=EU)
    bare = ssl.create_default_context(cafile=orbital.access("cmk").ca)
    with pytest.raises((OSError, nats.errors.Error, TimeoutError)):
        await Client().connect(
            orbital.access("cmk").url, tls=bare, nkeys_seed=orbital.access("cmk").nkey, allow_reconnect=False
        )


async def connect_as(orbital: Orbital, user: str, server: str = "hub") -> Connection:

    return await connect(servers.access(orbital.state_dir, user, orbital.ports[server]), name=user, timeout_s=1.5)


def test_every_running_server_syncs_always_listens_on_loopback_and_verifies_clients(orbital: Orbital) -> None:
    for name, ports in orbital.ports.items():
        with urllib.request.urlopen(f"http://127.0.0.1:{ports.monitor}/varz") as answer:
            varz = json.load(answer)
        assert varz["jetstream"]["config"]["sync_always"] is True, name
        assert varz["jetstream"]["config"]["domain"] == name
        assert varz["host"] == varz["http_host"] == "127.0.0.1"
        assert varz["auth_required"]
        assert varz["tls_required"]
        assert varz["tls_verify"]
        assert varz["leaf"].get("host", "127.0.0.1") == "127.0.0.1"


def test_the_shipped_configurations_parse_with_their_includes(orbital: Orbital) -> None:
    for name in orbital.ports:
        directory = orbital.state_dir / "nats" / name
        configuration = "nats.conf" if name == "hub" else "leaf.conf"
        done = subprocess.run([_binary(), "-t", "-c", configuration], cwd=directory, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr


def test_a_region_with_one_of_the_buss_own_names_is_refused() -> None:
    for name in ("hub", "ledger", "reports", "audit", "global", "critical-x"):
        with pytest.raises(ValueError, match="cannot be called"):
            account_of_region(name)


def test_no_account_crossing_leads_into_the_ledger_but_health_and_acknowledgements() -> None:
    regions = shipped_regions()
    text = hub_includes(regions, dict.fromkeys(users_of_hub(regions), "U"))["ledger.conf"]
    imports = text[text.index("imports:") :]
    streams = [line for line in imports.splitlines() if "{ stream:" in line]
    heard = [
        f"kcm.report.{region.region}.{what}" for region in regions for what in ("*._.health-check", "*.*.sync-ack")
    ]
    assert sorted(line.split('subject: "')[1].split('"')[0] for line in streams) == sorted([*heard, "kcm.reported.>"])


async def test_a_connection_with_unreadable_files_or_nobody_there_says_so(orbital: Orbital) -> None:

    good = orbital.access("cmk")
    with pytest.raises(BusError, match="access files"):
        await connect(msgspec.structs.replace(good, nkey="/nowhere"), name="x")
    with pytest.raises(Unavailable):
        await connect(msgspec.structs.replace(good, url="tls://127.0.0.1:1"), name="x", timeout_s=0.5)


async def test_whoever_runs_the_hub_neither_hears_a_regions_vault_nor_runs_its_streams(tmp_path: Path) -> None:
    regions = shipped_regions()
    rogue = Orbital(tmp_path, regions)
    servers.lay_out(tmp_path, regions, rogue.ports)
    seed = new_seed()
    pki.write_private(tmp_path / "nats" / "users" / "rogue.nk", seed)
    accounts = tmp_path / "nats" / "hub" / "regions.conf"
    text = accounts.read_text()
    accounts.write_text(text.replace("users: [", f'users: [ {{ nkey: "{public_key(seed)}" }}', 1))
    try:
        for name in rogue.ports:
            rogue.start(name)
        await servers.apply_streams(tmp_path, regions, rogue.ports)
        hub, node, cmk = [await rogue.connect(user) for user in ("rogue", EU_NODE, "cmk")]
        heard: list[str] = []

        async def hear(message: Message) -> None:
            heard.append(message.subject)

        await hub.subscribe("kcm.>", hear)
        vault, subject = Vault(node, EU), f"kcm.vault.{EU}.acme.key.1"
        at = await vault.put(subject, b"sealed", id=str(uuid.uuid4()), expect=(subject, 0))
        async with asyncio.timeout(20):
            while not any("health-check" in one for one in heard):  # behind the record, on the same path
                await node.publish_checked(f"kcm.report.{EU}.{EU_NODE}._.health-check", b"x")
        assert not [one for one in heard if "vault" in one]
        for what, body in (
            ("STREAM.INFO.VAULT", b""),
            ("STREAM.MSG.GET.VAULT", b'{"seq":1}'),
            ("STREAM.MSG.DELETE.VAULT", b'{"seq":1}'),
            ("STREAM.DELETE.VAULT", b""),
            ("CONSUMER.CREATE.VAULT.x", b'{"stream_name":"VAULT","config":{"ack_policy":"none"}}'),
            (f"CONSUMER.RESET.LEDGER.{EU_NODE}-routine", b'{"seq":1}'),
            (f"CONSUMER.PAUSE.LEDGER-CRITICAL.{EU_NODE}-critical", b'{"pause_until":"2099-01-01T00:00:00Z"}'),
        ):
            with pytest.raises(Unavailable):
                await hub.request(f"$JS.{EU}.API.{what}", body, timeout_s=0.3)
        await hub.publish_checked(subject, b"forged")
        assert (await vault.get(subject)).sequence == at
        for connection in (hub, node, cmk):
            await connection.close()
    finally:
        rogue.stop()
