"""Digests of a region's vault, as its nodes say them."""

from __future__ import annotations

from msgspec.structs import replace

from golden.examples import REPORTS
from openkcm.contract.reports import HealthCheck, VaultMark
from openkcm.governance.vaults import Vaults

ONE, TWO = "1" * 64, "2" * 64
(CHECK,) = [report for report in REPORTS if isinstance(report, HealthCheck)]
NODES = ["eu-1", "eu-2", "eu-3"]


def says(vaults: Vaults, node: str, cursor: int, digest: str, region: str = "eu") -> None:
    vaults.heard(replace(CHECK, node=node, region=region, vault=VaultMark(cursor=cursor, digest=digest)))


def differ(vaults: Vaults) -> dict[str, list[str]]:
    return {node: found for node in NODES if (found := vaults.differs(node, NODES))}


def test_two_who_say_otherwise_at_one_place_are_both_named_until_they_agree():
    vaults = Vaults()
    says(vaults, "eu-1", 7, ONE)
    says(vaults, "eu-2", 7, TWO)
    says(vaults, "eu-3", 7, ONE)
    assert differ(vaults) == {"eu-1": ["eu-2"], "eu-2": ["eu-1", "eu-3"], "eu-3": ["eu-2"]}
    assert vaults.differs("eu-2", ["eu-1", "eu-2"]) == ["eu-1"]  # a removed node is no witness
    says(vaults, "eu-1", 8, TWO)  # another place says nothing of the difference
    assert differ(vaults)["eu-2"] == ["eu-1", "eu-3"]
    says(vaults, "eu-2", 8, TWO)
    says(vaults, "eu-3", 8, TWO)
    assert differ(vaults) == {}


def test_other_places_other_regions_and_what_was_said_before_are_not_compared():
    vaults = Vaults()
    says(vaults, "eu-1", 7, ONE)
    says(vaults, "eu-1", 9, TWO)
    says(vaults, "eu-2", 7, TWO)  # eu-1 has gone on since: what it had read then may be erased by now
    says(vaults, "us-1", 9, ONE, region="us")
    says(vaults, "eu-3", 9, "")
    vaults.heard(replace(CHECK, node="eu-3", region="eu", vault=None))
    assert differ(vaults) == {}
