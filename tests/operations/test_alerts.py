"""The alert rules: each fires when it should, is quiet otherwise, speaks of figures that exist, and has a page."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import promtool as tool
from openkcm.contract import metrics
from openkcm.contract.resources import ROOT
from promtool import promtool

__all__ = ["promtool"]
DOCS = ROOT / "docs" / "operations"
RULES = (DOCS / "alerts.yml").read_text()
CASES = Path(__file__).with_name("alerts_test.yml")
ALERTS = re.findall(r"alert: OpenKCM(\w+)", RULES)


def test_each_alert_fires_when_it_should_and_only_then(promtool, tmp_path):
    shutil.copy(DOCS / "alerts.yml", tmp_path)
    shutil.copy(CASES, tmp_path)
    tool.run(promtool, "check", "rules", "alerts.yml", cwd=tmp_path)
    tool.run(promtool, "test", "rules", CASES.name, cwd=tmp_path)


def test_each_alert_has_a_firing_and_a_quiet_case():
    cases = re.findall(r"name: (\w+) (quiet|firing)", CASES.read_text())
    assert sorted(cases) == sorted((alert, kind) for alert in ALERTS for kind in ("quiet", "firing"))


def test_each_alert_has_a_page_and_each_page_an_alert():
    pages = {page.stem for page in (DOCS / "runbook").glob("*.md")}
    assert pages == set(ALERTS)
    for alert in ALERTS:
        assert f"runbook: docs/operations/runbook/{alert}.md" in RULES
        assert f"`OpenKCM{alert}`" in (DOCS / "runbook" / f"{alert}.md").read_text()


def test_rules_speak_of_figures_that_are_shown():
    named = set(re.findall(r"openkcm_\w+", RULES))
    assert named <= metrics.CATALOGUE.keys()


def test_the_page_of_figures_is_the_catalogue():
    assert (DOCS / "metrics.md").read_text() == metrics.manual()
