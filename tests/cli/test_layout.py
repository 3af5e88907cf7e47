"""The state directory: everything the processes read, nothing that others may read, the same keys at a second start."""

import json
import socket
import stat

import pytest

from openkcm.bus.access import Access
from openkcm.cli.layout import ACCOUNTS, Layout, toml
from openkcm.contract.fleet import parse_region
from openkcm.execution.configuration import load


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    made = Layout(tmp_path_factory.mktemp("stack") / "state", port_base=21000, nodes_per_region=2)
    made.write()
    return made


def files(layout):
    return {path: path.read_bytes() for path in layout.state.rglob("*") if path.is_file()}


def test_nobody_else_can_read_anything(layout):
    assert layout.state.stat().st_mode & 0o077 == 0
    loose = [path for path in files(layout) if path.stat().st_mode & 0o077]
    assert loose == []
    assert all(stat.S_IMODE(p.stat().st_mode) == 0o600 for p in layout.state.glob("**/*.seed"))


def test_a_second_start_keeps_every_key(layout):
    before = files(layout)
    Layout(layout.state, port_base=21000, nodes_per_region=2).write()
    after = files(layout)
    assert before == after


def test_each_node_finds_its_configuration_and_the_pinned_trust_root(layout):
    ports = set()
    for node, region in layout.nodes:
        configuration, of_region, trust = load(layout.configuration(node))
        assert (configuration.node, configuration.region, of_region.region) == (node, region, region)
        assert trust == layout.trust_root.public_key
        ports |= {configuration.kmip.port, configuration.metrics.port}
    assert len(layout.nodes) == 4
    assert len(ports) == 8


def test_the_first_node_listens_where_kmip_belongs(tmp_path):
    layout = Layout(tmp_path / "state")
    assert layout.ports.kmip(0) == 5696


def test_no_port_is_used_twice(layout):
    used = [layout.ports.portal, layout.ports.idp, layout.ports.ministack]
    used += [p for s in layout.server_ports.values() for p in (s.client, s.monitor, s.leaf) if p]
    used += [f(i) for i in range(24) for f in (layout.ports.kmip, layout.ports.metrics)]
    assert len(used) == len(set(used))


def test_workers_hold_no_credential_of_the_bus(layout):
    for node, _ in layout.nodes:
        configuration = json.loads(layout.configuration(node).read_text())
        assert configuration["kmip"]["key"] != configuration["nats"]["key"]


def test_the_cmk_is_told_how_to_reach_the_hub_and_nothing_secret(layout):
    told = json.loads(layout.configuration("cmk").read_text())
    assert Access(**told["nats"]).inbox == "_INBOX.cmk"
    text = layout.configuration("cmk").read_bytes()
    seeds = [path.read_bytes() for path in layout.state.rglob("*.seed")]
    assert not [seed for seed in seeds if seed in text]


def test_every_account_has_an_opaque_subject_of_its_own(layout):
    subjects = layout.subjects()
    assert set(subjects) == set(ACCOUNTS)
    assert len(set(subjects.values())) == len(ACCOUNTS)
    assert not [name for name, subject in subjects.items() if name.split("/")[0] in subject]


def test_more_nodes_than_ports_are_refused(tmp_path):
    with pytest.raises(ValueError, match="room for 24"):
        Layout(tmp_path / "state", nodes_per_region=13)


def test_toml_is_read_back_as_it_was(layout):
    for region in layout.regions:
        written = (layout.state / "nodes-regions" / region.region / "node.toml").read_bytes()
        assert parse_region(written) == region
    odd = {"a": 'quote " and \\ and \u00fc', "b": None, "c": {"x.y": [1, 2], "z": {"deep": True}}}
    import tomllib

    assert tomllib.loads(toml(odd)) == {"a": odd["a"], "c": odd["c"]}


def test_a_port_that_is_taken_is_named_with_what_it_is_for(layout):
    with socket.socket() as other:
        other.bind(("127.0.0.1", layout.ports.kmip(1)))
        other.listen()
        assert layout.taken_ports() == [f"{layout.ports.kmip(1)} (KMIP eu-frankfurt-2)"]
