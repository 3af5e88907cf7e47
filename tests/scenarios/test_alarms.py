"""A stack in trouble, as its operator sees it: the figures that it really shows make the right alerts fire."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest

from openkcm.contract.resources import ROOT
from promtool import promtool
from running_stack import Stack, stack, until

__all__ = ["promtool", "stack"]
EU, US = "eu-frankfurt", "us-virginia"
ALERTS = ROOT / "docs" / "operations" / "alerts.yml"
CERTIFICATES = {
    "openkcm_cmk_certificate_seconds": {"nats", "nats-ca", "nats-server"},
    "openkcm_node_certificate_seconds": {"nats", "nats-ca", "nats-server", "kmip", "kmip-ca"},
}
#: Counters stand still in a picture of one moment; what only shows in their growth is left to the rules' own tests.
PICTURE = """rule_files: [alerts.yml]
evaluation_interval: 15s
tests:
  - interval: 15s
    input_series:
{series}
    promql_expr_test:
      - expr: count by (alertname) (ALERTS{{alertstate="firing"}})
        eval_time: 6m
        exp_samples: []
"""


def scraped(stack: Stack) -> list[tuple[str, str]]:
    """Return (series, value) of every process of the stack that answers."""
    e = stack.endpoints
    token = {"Authorization": f"Bearer {e.people['provider/operator'].token}"}
    targets = [(urllib.request.Request(f"{e.cmk.url}/metrics", headers=token), "cmk")]
    targets += [(urllib.request.Request(node.metrics), node.name) for node in e.nodes]
    found = []
    for request, instance in targets:
        try:
            text = urllib.request.urlopen(request, timeout=2).read().decode()
        except OSError:
            continue
        for line in text.splitlines():
            if not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                labels = name[name.index("{") + 1 : -1] + "," if "{" in name else ""
                found.append((f'{name.partition("{")[0]}{{{labels}instance="{instance}"}}', value))
    return found


def firing(promtool: str, stack: Stack, folder: Path) -> set[str]:
    """Return the alerts that fire when what the stack shows now stays so for six minutes."""
    shutil.copy(ALERTS, folder)
    series = "\n".join(
        f"      - series: '{name}'\n        values: '{value}x40'" for name, value in scraped(stack) if value != "+Inf"
    )
    (folder / "picture.yml").write_text(PICTURE.format(series=series))
    command = [promtool, "test", "rules", "picture.yml"]
    said = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return set(re.findall(r'alertname=\\?"OpenKCM(\w+)', said.stdout + said.stderr))


def status(stack: Stack) -> tuple[int, str]:
    done = stack.openkcm("orbital", "status", "--state", str(stack.state))
    return done.returncode, done.stdout


def test_a_stack_in_good_order_raises_no_alarm(stack, promtool, tmp_path):
    until(lambda: status(stack)[0] == 0)
    assert firing(promtool, stack, tmp_path) == set()
    text = " ".join(series for series, _ in scraped(stack))
    for shown, names in CERTIFICATES.items():
        assert set(re.findall(rf'{shown}{{certificate="([a-z-]+)"', text)) == names


def test_a_hung_node_a_revocation_it_does_not_obey_and_a_root_taken_away_each_raise_theirs(stack, promtool, tmp_path):
    hung = stack.node(US).custodian_pid
    os.kill(hung, signal.SIGSTOP)
    key = Path(stack.endpoints.roots[f"acme/{EU}"].ref)
    key.rename(key.with_suffix(".away"))
    stack.revoke("bolt", US)
    try:
        expected = {"RevocationNotObeyed", "NodeSilent", "RootRefused"}
        until(lambda: expected <= firing(promtool, stack, tmp_path), 40, "the alerts fire")
        assert firing(promtool, stack, tmp_path) - {"NodeLagging"} == expected
        code, said = status(stack)
        assert code == 1
        assert "us-virginia-1 is silent" in said
    finally:
        os.kill(hung, signal.SIGCONT)
        key.with_suffix(".away").rename(key)
    until(lambda: firing(promtool, stack, tmp_path) == set(), 40, "all alerts end")


def test_figures_are_for_the_operator_alone(stack):
    e = stack.endpoints
    for headers, status_ in (({}, 401), ({"Authorization": f"Bearer {e.people['acme/admin'].token}"}, 403)):
        with pytest.raises(urllib.request.HTTPError) as no:
            urllib.request.urlopen(urllib.request.Request(f"{e.cmk.url}/metrics", headers=headers))
        assert no.value.code == status_
        assert json.loads(no.value.read())["status"] == status_
