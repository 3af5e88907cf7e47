"""Subjects: parsed and printed are the same, and nothing else passes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openkcm.contract import reports, subjects
from openkcm.contract.errors import NameError_
from openkcm.contract.ids import check_token, event_id

token = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)


@given(token, token, st.sampled_from(["critical", "routine"]), token, token)
def test_a_decrees_subject_comes_back_from_its_text_and_from_lane0(region, tenant, lane, kind, id_):
    subject = subjects.DecreeSubject(region, tenant, lane, kind, id_)
    assert subjects.parse_decree(str(subject)) == subject
    assert subjects.decree_of_lane0(subject.lane0) == subject


@pytest.mark.parametrize("lane", ["critical", "urgent"])
def test_lane0_names_no_lane_but_the_routine_one(lane):
    with pytest.raises(NameError_):
        subjects.decree_of_lane0(f"kcm.lane0.eu.acme.{lane}.residence.acme")


@pytest.mark.parametrize(
    "bad",
    [
        "kcm.decree.eu.acme.urgent.residence.acme",
        "kcm.decree.eu.acme.critical.residence",
        "kcm.decree.eu.ac me.critical.residence.acme",
        "kcm.decree.eu.acme.critical.residence.acme.more",
        "kcm.decree.eu.*.critical.residence.acme",
        "kcm.decree.eu.>.critical.residence.acme",
        "kcm.decree.EU.acme.critical.residence.acme",
        "kcm.report.eu.n1.acme.sync-ack",
        "",
    ],
)
def test_anything_else_is_refused(bad):
    with pytest.raises(NameError_):
        subjects.parse_decree(bad)


@pytest.mark.parametrize("bad", ["", "-a", "a-", "a.b", "a*", "a" * 64, "ä", "a\n", "_"])
def test_a_token_is_lower_case_letters_digits_and_inner_hyphens(bad):
    with pytest.raises(NameError_):
        check_token(bad, "tenant")


def test_report_tokens_are_their_class_names():
    tokens = {subjects.report_token(r.__name__) for r in reports.REPORTS.values()}
    assert {"sync-ack", "health-check", "rotation-complete"} <= tokens
    assert len(tokens) == len(reports.REPORTS)


def test_an_event_id_depends_on_every_part_and_on_nothing_else():
    parts = ["acme", "p-ann", "RevokeAccess", "key-1", "kcm.decree.x"]
    ids = {event_id(*parts)} | {event_id(*(p if j != i else p + "x" for j, p in enumerate(parts))) for i in range(5)}
    assert len(ids) == 6
    assert event_id(*parts) == event_id(*parts)
