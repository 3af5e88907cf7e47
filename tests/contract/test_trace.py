"""W3C trace context, by its own grammar: what is not well formed begins a new trace, what is goes on unchanged."""

from __future__ import annotations

import json
import logging

import pytest

from openkcm.contract import logs, trace
from openkcm.contract.trace import Trace

ID, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    ("header", "read"),
    [
        (f"00-{ID}-{SPAN}-01", Trace(ID, SPAN, sampled=True)),
        (f"00-{ID}-{SPAN}-00", Trace(ID, SPAN)),
        (f"00-{ID}-{SPAN}-fe", Trace(ID, SPAN)),
        (f"00-{ID}-{SPAN}-03", Trace(ID, SPAN, sampled=True)),
        (f"cc-{ID}-{SPAN}-01", Trace(ID, SPAN, sampled=True)),
        (f"cc-{ID}-{SPAN}-01-what.the.future.holds", Trace(ID, SPAN, sampled=True)),
        (f"cc-{ID}-{SPAN}-01.what", None),
        (f"ff-{ID}-{SPAN}-01", None),
        (f"00-{ID}-{SPAN}-01-more", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{ID}-{'0' * 16}-01", None),
        (f"00-{ID.upper()}-{SPAN}-01", None),
        (f"00-{ID[:-1]}-{SPAN}-01", None),
        (f"00-{ID}-{SPAN}-1", None),
        (f"00-{ID}-{SPAN}-0x", None),
        (f"00-{ID}-{SPAN}", None),
        (f" 00-{ID}-{SPAN}-01", None),
        (f"00-{ID}-{SPAN}-01\n", None),
        (f"00-{ID}-{SPAN}-01, 00-{ID}-{SPAN}-01", None),
        ("", None),
    ],
)
def test_a_header_is_read_by_the_grammar_or_not_at_all(header: str, read: Trace | None) -> None:
    assert trace.parse(header) == read
    if read is not None:
        assert trace.parse(str(read)) == read


def test_a_new_trace_is_well_formed_and_another_each_time() -> None:
    one, two = trace.fresh(), trace.fresh()
    assert trace.parse(str(one)) == one
    assert one.trace_id != two.trace_id


def test_a_json_log_names_its_trace_and_only_inside_of_it() -> None:
    formatter, record = logs.Formatter("cmk", as_json=True), logging.makeLogRecord({"msg": "x"})

    def named() -> object:
        return json.loads(formatter.format(record)).get("trace_id")

    assert named() is None
    with trace.under(Trace(ID, SPAN)):
        assert named() == ID
        with trace.under(None):
            assert named() is None
        assert named() == ID
    assert named() is None
