"""streams/ against live servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from openkcm.bus import declare
from openkcm.bus.errors import Drift
from openkcm.bus.publish import api
from openkcm.cli import orbital as servers
from openkcm.contract.reports import REPORTS
from openkcm.contract.subjects import report_token
from orbital_fixture import EU, EU_NODE, Orbital, running_orbital, shipped_regions


def test_every_report_but_the_health_check_has_its_stream_and_the_use_of_keys_one_that_stays_in_the_region() -> None:
    streams = {d.stream: d.body for d in declare.declared("region", shipped_regions()[:1]) if not d.consumer}
    tags = {report_token(report.__name__) for report in REPORTS.values()} - {"health-check", "key-usage"}
    assert set(streams["REPORTS-OUT"]["subjects"]) == {f"kcm.report.{EU}.*.*.{tag}" for tag in tags}
    assert streams["USAGE"]["subjects"] == [f"kcm.report.{EU}.*.*.key-usage"]
    taken = [d.stream for d in declare.declared("region", shipped_regions()[:1]) if d.consumer]
    assert "USAGE" not in taken  # nobody sources it


def test_no_placeholder_is_left_in_what_is_sent() -> None:
    regions = shipped_regions(2)
    for part, fleet in (("ledger", regions), ("reports", regions), ("audit", regions), ("region", regions[:1])):
        found = declare.declared(part, fleet)
        assert "{region}" not in repr(found)
        assert "{node}" not in repr(found)
    assert len([d for d in declare.declared("region", regions[:1]) if d.consumer]) == 9  # hub's, and four of two nodes


async def test_processes_find_live_as_declared_with_their_own_permissions(orbital: Orbital) -> None:
    cmk, node = await orbital.connect("cmk"), await orbital.connect(EU_NODE)
    await declare.check(cmk, declare.declared("ledger", orbital.regions))
    await declare.check(
        cmk,
        [d for d in declare.declared("reports", orbital.regions) if d.consumer is None],
        prefix="$JS.reports.API",
    )
    await declare.check(node, declare.declared("region", orbital.regions[:1], node=EU_NODE))
    await cmk.close()
    await node.close()


async def test_a_drifted_or_missing_stream_or_consumer_is_named_and_only_an_update_mends_it(tmp_path: Path) -> None:
    with running_orbital(tmp_path) as orbital:
        everything = (orbital.state_dir, orbital.regions, orbital.ports)
        assert await servers.diff_streams(*everything) == []
        assert await servers.apply_streams(*everything) == []
        admin, region = await orbital.connect("ledger-admin"), await orbital.connect(f"{EU}-admin")
        ledger = next(d for d in declare.declared("ledger", orbital.regions) if str(d) == "stream LEDGER")
        assert "error" not in await api(admin, "$JS.API.STREAM.UPDATE.LEDGER", ledger.body | {"max_age": 10**15})
        vault = await api(region, "$JS.API.STREAM.INFO.VAULT")
        changed = vault["config"] | {"max_msgs_per_subject": 1}
        assert "error" not in await api(region, "$JS.API.STREAM.UPDATE.VAULT", changed)
        assert (await api(region, f"$JS.API.CONSUMER.DELETE.LEDGER.{EU_NODE}-routine"))["success"]
        consumer = (await api(admin, f"$JS.API.CONSUMER.INFO.LEDGER.mirror-{EU}"))["config"]
        wider = consumer | {"filter_subjects": ["kcm.decree.>"]}
        body = {"stream_name": "LEDGER", "config": wider}
        assert "error" not in await api(admin, f"$JS.API.CONSUMER.CREATE.LEDGER.mirror-{EU}", body)

        differences = await servers.diff_streams(*everything)
        assert len(differences) == 4
        for start in (
            "hub: stream LEDGER: max_age is 1000000000000000, declared 0",
            f"hub: consumer LEDGER/mirror-{EU}: filter_subject",
            f"{EU}: stream VAULT: max_msgs_per_subject is 1, declared -1",
            f"{EU}: consumer LEDGER/{EU_NODE}-routine is missing",
        ):
            assert any(found.startswith(start) for found in differences), (start, differences)
        node = await orbital.connect(EU_NODE)
        with pytest.raises(Drift, match="VAULT"):
            await declare.check(node, declare.declared("region", orbital.regions[:1], node=EU_NODE))
        with pytest.raises(Drift, match="max_age"):
            await servers.apply_streams(*everything)
        await servers.apply_streams(*everything, update=declare.PARTS)
        assert await servers.diff_streams(*everything) == []
        for connection in (admin, region, node):
            await connection.close()


async def test_a_stream_that_syncs_where_it_need_not_any_more_is_no_drift_and_can_be_updated(tmp_path: Path) -> None:
    with running_orbital(tmp_path) as orbital:
        everything = (orbital.state_dir, orbital.regions, orbital.ports)
        admin = await orbital.connect("audit-admin")
        body = next(d.body for d in declare.declared("audit", orbital.regions) if d.consumer is None)
        earlier = {key: value for key, value in body.items() if key != "persist_mode"}
        assert (await api(admin, "$JS.API.STREAM.DELETE.LEDGER"))["success"]
        assert "error" not in await api(admin, "$JS.API.STREAM.CREATE.LEDGER", earlier)
        assert await servers.diff_streams(*everything) == []
        assert "error" not in await api(admin, "$JS.API.STREAM.UPDATE.LEDGER", earlier | {"description": "earlier"})
        assert [found.split(" is ")[0] for found in await servers.diff_streams(*everything)] == [
            "hub: stream LEDGER: description"
        ]
        await servers.apply_streams(*everything, update=declare.PARTS)
        assert await servers.diff_streams(*everything) == []
        await admin.close()
