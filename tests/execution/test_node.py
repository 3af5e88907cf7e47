"""A whole node against a real hub and leaf: what it acknowledges, what it does after kill -9, what it believes."""

from __future__ import annotations

import asyncio
import socket

import pytest

from node_bench import Governor, RunningNode, new_key_file, onboarding, opening
from openkcm.bus import lanes
from openkcm.bus.messages import Stored
from openkcm.bus.vault import Vault
from openkcm.contract import decrees as d
from openkcm.contract import envelope as env
from openkcm.contract import reports
from openkcm.execution.keyring import FenceRecord
from openkcm.execution.safe import Safe
from openkcm.execution.voice import Voice
from orbital_fixture import running_orbital
from press import Press, seed


@pytest.fixture
def orbital_alone(tmp_path):
    with running_orbital(tmp_path / "stack") as running:
        yield running


@pytest.fixture
async def stack(orbital_alone, tmp_path):
    press = Press()
    node = RunningNode(orbital_alone, press, tmp_path / "node")
    new_key_file(node.key_file)
    async with Governor(orbital_alone, press) as governor:
        for e in opening(press):
            await governor.append(e)
        node.start()
        await node.wait_ready()
        yield governor, node
        node.stop()


async def onboard(governor, node, tenant="acme", lease_s=60):
    await governor.until(lambda: governor.health and governor.health.cursor[1] >= 1 and not governor.health.residences)
    await asyncio.sleep(0.6)  # two more beats: a node that was just born serves nobody yet
    for e in onboarding(governor.press, tenant, node.key_file, lease_s=lease_s):
        await governor.append(e)
    return await governor.until(lambda: governor.acked(tenant, "routine", 5, "active"))


async def test_an_onboarded_residence_is_acknowledged_active_with_its_keys_in_the_vault(stack):
    governor, node = stack
    ack = await onboard(governor, node)
    assert ack.failure is None


async def test_a_revocation_is_acknowledged_and_survives_kill_9(stack):
    governor, node = stack
    await onboard(governor, node)
    revoked = governor.press.residence("acme", d.AccessRevoked(reason="test"))
    await governor.append(revoked)
    ack = await governor.until(lambda: governor.acked("acme", "critical", 1, "revoked"))
    assert ack.obeyed == (revoked.id,)
    node.kill()
    governor.health = None
    node.start()
    await node.wait_ready()
    await governor.until(lambda: governor.health and governor.health.residences)
    assert [m.state for m in governor.health.residences] == ["revoked"]
    await governor.append(governor.press.restore("acme", revoked))
    await governor.until(lambda: governor.acked("acme", "routine", 6, "active"))


async def test_a_lost_disk_is_read_again_from_the_beginning_and_not_from_the_servers_ack_floor(stack):
    governor, node = stack
    await onboard(governor, node)
    await governor.append(governor.press.residence("acme", d.AccessRevoked(reason="test")))
    await governor.until(lambda: governor.acked("acme", "critical", 1, "revoked"))
    node.kill()
    for file in node.folder.glob("node.sqlite*"):
        file.unlink()
    governor.health = None
    node.start()
    await node.wait_ready()
    await governor.until(lambda: governor.health and governor.health.residences)
    await governor.until(lambda: [m.state for m in governor.health.residences] == ["revoked"])


async def test_an_unseal_reads_the_fence_record_and_refuses_what_the_ledger_copy_does_not_know(stack, tmp_path):
    """The vault remembers a revocation that this node's mirror has lost (another node obeyed it)."""
    governor, node = stack
    await onboard(governor, node)
    node.kill()
    connection = await governor.orbital.connect("eu-frankfurt-1")
    voice = Voice("eu-frankfurt-1", "eu-frankfurt", seed("eu-frankfurt-1"))
    safe = Safe(Vault(connection, "eu-frankfurt"), voice, "eu-frankfurt")
    where = safe.subject("acme", "fence", "acme")
    record = FenceRecord(tenant="acme", revocations={1: (7, "00000000-0000-4000-8000-000000000007")})
    await safe.put(where, record, expect=(str(where), 0), epoch=1)
    await connection.close()
    node.start()
    await node.wait_ready()
    await governor.append(governor.press.residence("acme", d.AccessSuspended(reason="test")))
    ack = await governor.until(lambda: (a := governor.acked("acme", "routine", 6)) and a.failure and a)
    assert ack.failure == "Fenced"


async def test_the_customers_key_taken_away_locks_the_node_and_its_return_opens_it(stack):
    governor, node = stack
    await onboard(governor, node)
    gone = node.key_file.with_suffix(".away")
    node.key_file.rename(gone)
    await governor.until(lambda: governor.acked("acme", "routine", 5, "locked"))
    gone.rename(node.key_file)
    await governor.until(lambda: governor.acked("acme", "routine", 5, "active"))


async def test_a_new_version_of_the_customers_key_is_noticed_and_l2_rewrapped(stack):
    governor, node = stack
    await onboard(governor, node)
    new_key_file(node.key_file, versions=2)
    done = await governor.until(lambda: [r for r in governor.seen if type(r).__name__ == "RotationComplete"])
    assert (done[0].level, done[0].root_version) == ("L1", "v2")


async def test_without_governance_the_lease_runs_out_and_with_it_again_it_is_renewed(stack):
    governor, node = stack
    await onboard(governor, node, lease_s=30)
    await governor.until(lambda: governor.health.residences)
    left = governor.health.residences[0].lease_left_s
    governor.beating = False
    await asyncio.sleep(4.5)
    assert governor.health.residences[0].lease_left_s < left
    governor.beating = True
    await governor.until(lambda: governor.health.residences[0].lease_left_s >= 27)


async def test_a_revocation_heard_on_lane0_alone_is_obeyed_before_any_mirror_has_it(stack):
    governor, node = stack
    await onboard(governor, node)
    revoked = governor.press.residence("acme", d.AccessRevoked(reason="test"))
    heard = Stored(10**6, revoked.subject, env.encode(revoked), revoked.id)
    await lanes.repeat(governor.connection, heard, tag=revoked.tag)
    ack = await governor.until(lambda: governor.acked("acme", "critical", 1, "revoked"))
    assert ack.obeyed == (revoked.id,)
    assert (await governor.ledger.last(revoked.subject)) is None


async def test_l3_and_l2_are_rotated_on_order_and_a_restart_unseals_what_came_of_it(stack):
    governor, node = stack
    await onboard(governor, node)
    for n, (level, registration) in enumerate((("L3", "reg-acme-payments"), ("L2", None), ("L2", None))):
        order = d.RotationOrdered(level=level, registration=registration, rotation=f"rotation-{n:04d}")
        await governor.append(governor.press.residence("acme", order))
        ack = await governor.until(lambda n=n: governor.acked("acme", "routine", 6 + n))
        assert ack.failure is None
    done = await governor.until(
        lambda: (d := [r for r in governor.seen if isinstance(r, reports.RotationComplete)])[2:] and d
    )
    assert [(r.level, r.version, r.rotation) for r in done] == [
        ("L3", 2, "rotation-0000"), ("L2", 2, "rotation-0001"), ("L2", 3, "rotation-0002"),
    ]  # fmt: skip
    node.kill()
    governor.health = None
    node.start()
    await node.wait_ready()
    await governor.append(governor.press.residence("acme", d.AccessSuspended(reason="test")))
    ack = await governor.until(lambda: governor.acked("acme", "routine", 9, "suspended"))
    assert ack.failure is None


async def test_a_node_whose_kmip_port_is_taken_is_not_ready_and_says_why(orbital_alone, tmp_path):
    press = Press()
    node = RunningNode(orbital_alone, press, tmp_path / "node")
    async with Governor(orbital_alone, press) as governor:
        for e in opening(press):
            await governor.append(e)
        with socket.create_server(("127.0.0.1", node.port)):
            node.start()
            await governor.until(lambda: "cannot listen on" in node.tail())
            assert not node.ready_file.exists()
        await node.wait_ready()
    assert node.stop() == 0
