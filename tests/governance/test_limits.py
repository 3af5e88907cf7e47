"""Budgets: a bucket refills by its rate, one subject's flood is its own, and the kill switch has a bucket apart."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from openkcm.governance.errors import TooMany
from openkcm.governance.portal.limits import BUDGETS, Limits
from openkcm.governance.portal.routes.pages import PAGES


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def spent(limits: Limits, whose: str, name: str, kind: str) -> int:
    count = 0
    while count < 10_000:
        try:
            limits.spend(whose, name, kind)  # type: ignore[arg-type]
        except TooMany:
            return count
        count += 1
    return count


def test_a_bucket_holds_its_burst_and_refills_by_its_rate() -> None:
    clock = Clock()
    limits = Limits(clock)
    budget = BUDGETS["subject", "write"]
    assert spent(limits, "subject", "anna", "write") == budget.burst
    clock.now += 1.0
    assert spent(limits, "subject", "anna", "write") == budget.rate
    clock.now += 3600.0
    assert spent(limits, "subject", "anna", "write") == budget.burst


def test_one_subjects_flood_uses_up_nobody_elses_and_no_revocation() -> None:
    limits = Limits(Clock())
    spent(limits, "subject", "mallory", "read")
    spent(limits, "subject", "mallory", "write")
    assert spent(limits, "subject", "anna", "write") == BUDGETS["subject", "write"].burst
    assert spent(limits, "subject", "mallory", "revoke") == BUDGETS["subject", "revoke"].burst
    assert ("tenant", "revoke") not in BUDGETS  # a tenant's crowd cannot use the switch's budget up


def test_the_vendored_files_are_the_released_ones_byte_for_byte() -> None:
    listed = re.findall(
        r"\| (\S+) \| \S+ \| \S+ \| [^|]+ \| ([0-9a-f]{64}) \|", (PAGES / "vendor" / "VENDOR.md").read_text()
    )
    assert [name for name, _ in listed] == ["htmx.min.js", "pico.min.css"]
    for name, digest in listed:
        assert hashlib.sha256((PAGES / "vendor" / name).read_bytes()).hexdigest() == digest, name


@pytest.mark.parametrize("word", ["decree", "residence", "lane", "Decree", "Residence"])
def test_pages_speak_of_events_tenant_regions_and_priority(word: str) -> None:
    for page in PAGES.rglob("*.html"):
        shown = re.sub(r"\{[{%#].*?[}%#]\}", "", page.read_text(), flags=re.DOTALL)
        assert not re.search(rf"\b{word}s?\b", re.sub(r"<[^>]*>", " ", shown)), page
    assert Path(PAGES).is_dir()
