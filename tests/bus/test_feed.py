"""Reading a stream under several filters."""

from __future__ import annotations

import pytest

from openkcm.bus.feed import covering, matches


@pytest.mark.parametrize(
    ("patterns", "one"),
    [
        (("kcm.decree.eu.*.critical.>", "kcm.decree.global._.critical.>"), "kcm.decree.*.*.critical.>"),
        (("a.b",), "a.b"),
        (("a.b", "a.b.c"), "a.>"),
        (("a.b.>", "a.b"), "a.>"),
        (("a.>", "a.b.c"), "a.>"),
        (("a.b", "c.b"), "*.b"),
    ],
)
def test_one_pattern_covers_what_each_filter_names(patterns: tuple[str, ...], one: str) -> None:
    assert covering(patterns) == one
    for pattern in patterns:
        assert matches(one, pattern.replace("*", "x").replace(">", "y.z"))
