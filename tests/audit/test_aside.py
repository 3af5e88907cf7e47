"""A replay in a process of its own gives the same tables, whoever has read the events before."""

from __future__ import annotations

import msgspec

from audit.evidence import life, lines
from audit.sealed_ledger import ROOT
from openkcm.audit import aside as asides
from openkcm.audit import replay as replays
from openkcm.audit.examine import examine
from openkcm.audit.replay import Replay, compare, folded
from openkcm.contract import merkle

LEDGER, _ = life()


def test_a_replay_aside_of_what_was_verified_gives_the_tables_of_one_that_reads_all_itself(monkeypatch):
    monkeypatch.setattr(replays, "ALONE", 0)
    stored = lines(LEDGER)
    with Replay(ROOT.public_key) as aside:
        examine(stored, ROOT.public_key, see=[lambda *_: None], fold=aside.take)
        told = aside.tables()
    assert len(told["event_routine"]) + len(told["event_critical"]) == len(stored)
    assert told["ledger_epoch"]
    assert compare(told, folded(stored, ROOT.public_key)) == []


def test_what_is_sent_in_one_go_and_what_is_left_at_the_end_are_all_folded(monkeypatch):
    monkeypatch.setattr(replays, "ALONE", 0)
    monkeypatch.setattr(asides, "TOGETHER", 3)
    stored = lines(LEDGER)
    assert len(stored) % 3
    with Replay(ROOT.public_key) as aside:
        for message in stored:
            aside.take([message], {message.sequence})
        told = aside.tables()
    assert compare(told, folded(stored, ROOT.public_key)) == []


def test_what_is_known_of_an_event_is_what_is_folded_and_the_lanes_are_counted_all_the_same(monkeypatch):
    monkeypatch.setattr(replays, "ALONE", 0)
    stored = lines(LEDGER)
    leaves = [merkle.ledger_leaf(1, m.sequence, m.subject, m.body) for m in stored]
    events: list = []
    examine(stored, ROOT.public_key, hear=[lambda event, _body: events.append(event)])
    at = next(n for n, x in enumerate(events) if type(x.decree).__name__ == "SystemRegistered")
    replace = msgspec.structs.replace
    other = replace(events[at], decree=replace(events[at].decree, system="another"))
    for put, tables in (
        (other, {"registered_system"}),
        (replace(events[at], envelope=replace(events[at].envelope, counter=99)), {"rejected", "event_routine"}),
    ):
        with Replay(ROOT.public_key) as aside:
            aside.take(stored, {m.sequence for m in stored}, leaves, [*events[:at], put, *events[at + 1 :]])
            told = aside.tables()
        assert {one.table for one in compare(told, folded(stored, ROOT.public_key))} >= tables
