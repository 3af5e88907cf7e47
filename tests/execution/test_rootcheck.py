"""`openkcm root check` against every provider: a good root passes all steps, each refusal says who must act and how."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from msgspec.structs import replace

from execution.root_customers import PARTNERS, customer_of
from openkcm.cli.layout import Layout, toml
from openkcm.contract.fleet import RegionConfiguration
from openkcm.contract.reports import RootState
from openkcm.execution.rootcheck import _ADVICE, _GENERAL, advice, check
from openkcm.execution.roots import open_root
from openkcm.execution.roots.base import ACTIONS, RootSettings, make_canary
from openkcm.execution.unseal_helper import answer
from openkcm.execution.unseal_process import Request, Watch
from openkcm.execution.unseal_watch import _Probe
from simulators.softhsm import module_path

pytestmark = pytest.mark.filterwarnings("ignore:ssl.PROTOCOL_TLSv1_2 is deprecated")
STEPS = ["node.toml allows it", "describe", "wrap", "unwrap", "another residence is refused", "probe"]
#: What a customer does -> what the check says then. The suite has all others.
DEEDS = {
    "disable": "KeyDisabled",
    "forbid": "AccessDenied",
    "bad_credential": "CredentialRejected",
    "delete": "KeyNotFound",
}


@pytest.fixture(params=["file", *PARTNERS])
def customer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == "pkcs11" and module_path() is None:
        pytest.skip("needs the Debian package softhsm2")
    with customer_of(request.param, tmp_path) as one:
        yield one


def region(settings: RootSettings) -> RegionConfiguration:
    return RegionConfiguration(
        region="eu-frankfurt", residency=("DE",), nodes=("eu-frankfurt-1",), roots=settings.policy,
        root_regions=settings.regions,
    )  # fmt: skip


def test_a_good_root_passes_and_each_refusal_names_who_must_act(customer: Any) -> None:
    steps = check(customer.reference, region(customer.settings), "acme")
    assert [(step.name, step.code) for step in steps] == [(name, "ok") for name in STEPS]
    deed = next(name for name in DEEDS if hasattr(customer, name))
    settings = getattr(customer, deed)() or customer.settings
    last = check(customer.reference, region(settings), "acme")[-1]
    hidden = last.code == "KeyNotFound" and deed == "forbid"
    assert last.code == DEEDS[deed] or hidden
    assert (last.who, last.fix) == advice(customer.reference.provider, last.code)
    assert last.action == ACTIONS[last.code]  # type: ignore[index]


@pytest.mark.parametrize("provider", PARTNERS)
def test_a_credential_that_serves_others_is_refused_before_the_kms_is_asked(provider: str, tmp_path: Path) -> None:
    if provider == "pkcs11" and module_path() is None:
        pytest.skip("needs the Debian package softhsm2")
    with customer_of(provider, tmp_path) as customer:
        policy = customer.settings.policy
        mine = {**policy.credentials[provider], "tenants": ("acme", "initech")}
        bound = replace(customer.settings, policy=replace(policy, credentials={provider: mine}))
        assert check(customer.reference, region(bound), "acme")[-1].code == "ok"
        away = replace(
            bound, policy=replace(bound.policy, endpoints=dict.fromkeys(policy.endpoints, "https://[::1]:1"))
        )
        (step,) = check(customer.reference, region(away), "globex")
        assert (step.name, step.code, step.who) == (STEPS[0], "Misconfigured", "operator")
        assert "does not serve globex" in step.detail


@pytest.mark.parametrize("tenants", ["acme", ("acme",)])
def test_helpers_ask_no_root_with_a_credential_that_serves_others(tenants: Any, tmp_path: Path) -> None:
    with customer_of("file", tmp_path) as customer:
        policy = replace(customer.settings.policy, credentials={"file": {"tenants": tenants}})
        settings = replace(customer.settings, policy=policy)
        for tenant, code in (("acme", "Misconfigured" if tenants == "acme" else "ok"), ("globex", "Misconfigured")):
            context = {"openkcm-tenant": tenant}
            said, key = answer(Request(n=1, op="wrap", root=customer.reference, settings=settings, context=context))
            assert (said.code, key is None) == (code, code != "ok")
            canary = make_canary(open_root(customer.reference, customer.settings), bytes(32), context)
            watch = Watch(n=1, root=customer.reference, settings=settings, context=context, canary=canary, interval_s=1)
            assert _Probe(watch).ask().code == code


def test_there_is_advice_for_every_refusal() -> None:
    assert set(_GENERAL) == set(get_args(RootState)) - {"ok"}
    assert {code for _, code in _ADVICE} <= set(_GENERAL)


def test_the_command_prints_it_and_its_status_says_so(tmp_path: Path) -> None:
    with customer_of("file", tmp_path) as customer:
        layout = Layout(tmp_path / "state")
        layout.write()
        node = layout.nodes[0][0]
        config = layout.configuration(node)
        told = json.loads(config.read_bytes())
        Path(told["region_config"]).write_text(
            toml(msgspec.to_builtins(msgspec.structs.replace(layout.regions[0], roots=customer.settings.policy)))
        )
        command = [sys.executable, "-m", "openkcm.cli.main", "root", "check", "file", customer.reference.ref,
                   "--config", str(config)]  # fmt: skip
        done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert [step["code"] for step in json.loads(done.stdout)["steps"]] == ["ok"] * len(STEPS)
        customer.delete()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "customer must act" in done.stdout
        assert "locks the residence" in done.stdout
