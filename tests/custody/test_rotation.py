"""L1, L2 and L3 rotated on two nodes under load and kill -9; the emergency verb; what is left of older versions."""

from __future__ import annotations

import asyncio

from custody.rotation_rounds import pair, rounds
from openkcm.contract import decrees as d
from openkcm.contract import reports


async def test_two_nodes_rotate_under_load_and_kill_9_without_a_failed_read(tmp_path):
    async with pair(tmp_path) as both:
        await rounds(both, 2, seed=1)
        progress = [r for r in both.governor.seen if isinstance(r, reports.RotationProgressed)]
        assert any(r.destroyed for r in progress)


async def test_an_emergency_refuses_the_old_version_at_once_and_reads_come_back_rewrapped(tmp_path):
    async with pair(tmp_path) as both:
        both.load.refusals_expected = True
        order = d.EmergencyRotationOrdered(level="L3", registration=both.residence.registration, below=2)
        await both.governor.append(both.governor.press.residence("acme", order))
        await both.governor.until(lambda: both.governor.acked("acme", "critical", 1, "active"))
        await both.clean(l2=1, l3=2, root=1)
        await asyncio.sleep(0.3)  # what was under way is answered
        both.load.refusals_expected = False
        good = both.load.good
        await asyncio.sleep(0.5)
        assert both.load.failed == []
        assert both.load.good > good
        order = d.EmergencyRotationOrdered(level="L2", below=2)
        both.load.refusals_expected = True
        await both.governor.append(both.governor.press.residence("acme", order))
        await both.clean(l2=2, l3=2, root=1)
        await asyncio.sleep(0.3)
        both.load.refusals_expected = False
        await asyncio.sleep(0.5)
        assert both.load.failed == []
