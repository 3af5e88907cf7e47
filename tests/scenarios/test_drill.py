"""The rehearsal of the kill switch: it says what happened, leaves it in the ledger, and fails when a node does not obey.

And what an operator sees of one revocation: the same trace in the CMK, at every node, and in their logs.
"""

from __future__ import annotations

import base64
import json
import os
import signal
from pathlib import Path

import httpx
import pytest

from openkcm.contract import envelope, trace
from openkcm.contract.trace import Trace
from otlp import Collector, collecting
from running_stack import Stack, until

EU, US = "eu-frankfurt", "us-virginia"


@pytest.fixture(scope="module")
def collector():
    with collecting() as running:
        yield running


@pytest.fixture(scope="module")
def stack(tmp_path_factory, collector):
    running = Stack(tmp_path_factory.mktemp("stack") / "state")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OPENKCM_LOG", "json")
        environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        environment.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=of-the-collector")
        environment.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60")  # longer than any test waits: nobody may wait for it
        environment.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        running.up()
    try:
        yield running
    finally:
        collector.answers.set()
        running.down()


def drill(stack: Stack, *options: str):
    return stack.openkcm("drill", "--state", str(stack.state), *options)


def test_a_drill_revokes_restores_and_leaves_its_name_in_the_ledger(stack):
    done = drill(stack, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert {node["node"] for node in said["nodes"]} == {node.name for node in stack.endpoints.nodes}
    for node in said["nodes"]:
        assert node["served_before"] > 0
        assert node["refused"] > 0
        assert node["closed_ms"] < node["refused_ms"]
    with stack.portal("canary/admin") as admin:
        events = admin.get("/ledger", tenant="canary")["value"]
        read = [envelope.decode(base64.b64decode(e["body"])) for e in events]
        assert {said["drill"]} == {json.loads(bytes(e.data))["reason"] for e in read if e.tag == "AccessRevoked.1"}
        assert sum(e.tag.startswith("RevocationConfirmed.") for e in read) == 2
        assert sum(e.tag.startswith("AccessRestored.") for e in read) == 2
        assert {home["state"] for home in admin.get("/tenants/canary/regions")["value"]} == {"Active"}
    assert stack.openkcm("audit", "verify", "--state", str(stack.state)).returncode == 0


def test_a_drill_fails_when_a_node_does_not_obey_and_the_next_one_finds_the_canary_well_again(stack):
    hung = stack.node("us-virginia").custodian_pid
    os.kill(hung, signal.SIGSTOP)
    try:
        done = drill(stack)
        assert done.returncode == 1
        assert "us-virginia" in done.stdout
    finally:
        os.kill(hung, signal.SIGCONT)
    again = drill(stack)
    assert again.returncode == 0, again.stdout + again.stderr


# --- traces -----------------------------------------------------------------------------------------------------------


def revoke(stack: Stack, traceparent: str | None) -> list[str]:
    """Revoke acme in both regions; return the events, once both are obeyed."""
    headers = {"Authorization": f"Bearer {stack.endpoints.people['acme/admin'].token}"}
    headers |= {"traceparent": traceparent} if traceparent is not None else {}
    path = f"{stack.endpoints.cmk.url}/cmk/v1/tenants/acme/revocations"
    answer = httpx.post(path, json={"reason": "trace"}, headers=headers, trust_env=False, timeout=20)
    assert answer.status_code == 202, answer.text
    with stack.portal("acme/admin") as portal:
        for region in (EU, US):
            until(
                lambda region=region: (
                    portal.get(f"/tenants/acme/regions/{region}/sync")["critical"]["status"] == "Revoked"
                )
            )
    return [one["event"] for one in answer.json()["revocations"]]


def logged(stack: Stack, process: str, trace_id: str) -> list[str]:
    lines = (stack.state / "logs" / f"{process}.log").read_text().splitlines()
    entries = [json.loads(line) for line in lines if line.startswith("{")]
    return [e["message"] for e in entries if e.get("trace_id") == trace_id]


def test_one_revocation_is_one_trace_with_the_span_of_the_cmk_and_of_each_node(stack, collector: Collector):
    caller = Trace("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", sampled=True)
    events = revoke(stack, str(caller))
    found = until(lambda: len(f := list(collector.spans(caller.trace_id))) >= 3 and f)
    [(_, _, order)] = [one for one in found if one[0] == "openkcm-cmk"]
    assert (order.name, order.parent_span_id.hex()) == ("POST /cmk/v1/tenants/{tenant}/revocations", caller.span_id)
    nodes = {instance: span for service, instance, span in found if service == "openkcm-node"}
    assert nodes.keys() == {f"{EU}-1", f"{US}-1"}
    assert len(found) == 3
    for span in nodes.values():
        assert (span.name, span.parent_span_id) == ("obey critical", order.span_id)
        said = {a.key: a.value.string_value for a in span.attributes}
        assert said["messaging.message.id"] in events
    for process in (f"{EU}-1", f"{US}-1"):
        assert any("is obeyed and acknowledged" in message for message in logged(stack, process, caller.trace_id))
    told = logged(stack, "cmk", caller.trace_id)
    assert sum("is in the ledger at" in message for message in told) == 2
    assert sum("has obeyed" in message for message in told) == 2, "the acknowledgements carry it back"


@pytest.mark.parametrize("given", [None, "00-4bf92f3577b34da6a3ce929d0e0e4737-00f067aa0ba902b7-zz"])
def test_without_a_good_header_a_revocation_begins_a_trace_of_its_own(stack, collector: Collector, given):
    event = revoke(stack, given)[0]
    logs = (stack.state / "logs" / "cmk.log").read_text().splitlines()
    [line] = [line for line in logs if event in line and "in the ledger" in line]
    own = json.loads(line)["trace_id"]
    assert trace.parse(f"00-{own}-00f067aa0ba902b7-00") is not None
    found = until(lambda: len(f := list(collector.spans(own))) >= 3 and f)
    assert [one[2].parent_span_id for one in found if one[0] == "openkcm-cmk"] == [b""]
    assert not list(collector.spans("4bf92f3577b34da6a3ce929d0e0e4737"))


def test_a_trace_that_its_caller_does_not_record_is_in_the_logs_alone(stack, collector: Collector):
    caller, recorded = Trace("a" * 32, "b" * 16), Trace("c" * 32, "d" * 16, sampled=True)
    revoke(stack, str(caller))
    until(lambda: logged(stack, "cmk", caller.trace_id))
    until(lambda: logged(stack, f"{EU}-1", caller.trace_id))
    revoke(stack, str(recorded))
    until(lambda: len(list(collector.spans(recorded.trace_id))) == 3)
    assert not list(collector.spans(caller.trace_id))


def test_a_collector_that_does_not_answer_keeps_no_revocation_waiting(stack, collector: Collector):
    collector.answers.clear()
    try:
        revoke(stack, None)
        until(lambda: collector.waiting >= 3, why="all three processes wait for the collector")
        revoke(stack, None)
    finally:
        collector.answers.set()


def test_no_span_names_a_tenant_or_a_token_and_no_worker_has_the_collectors_credential(stack, collector: Collector):
    sent = b"".join(collector.raw)
    people = stack.endpoints.people
    assert b"openkcm-node" in sent
    for unwanted in ("acme", "bolt", "canary", "of-the-collector", *(p.token[:40] for p in people.values())):
        assert unwanted.encode() not in sent, unwanted
    for node in stack.endpoints.nodes:
        for pid in node.worker_pids:
            assert b"OTEL_" not in Path(f"/proc/{pid}/environ").read_bytes()
