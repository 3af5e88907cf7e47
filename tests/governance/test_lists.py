"""Lists: each reads its own order out of an index, and no row is twice on its pages, or on none, while others come."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from openkcm.contract import resources
from openkcm.governance import lists
from openkcm.governance.errors import Invalid
from openkcm.governance.views import Views
from openkcm.projector import Writer, open_writer

LISTS = {name: found for name in lists.__all__ if isinstance(found := getattr(lists, name), lists.Listing)}
#: One row a tree: the table is as long as there are regions.
SMALL = {"TREES"}


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    made = open_writer(tmp_path / "r.sqlite", resources.ROOT / "projections" / "cmk", synchronous="OFF")
    yield made
    made.close()


def approval(writer: Writer, name: str, at_ms: int, state: str = "Requested", tenant: str = "acme") -> None:
    values = (tenant, name, "GrantRole", None, "[]", "{}", "anna", 0, 9, state, None, None, at_ms)
    marks = ", ".join(msgspec.json.encode(v).decode().replace('"', "'") for v in values)
    writer.make([f"INSERT INTO approval VALUES ({marks})"])


@pytest.mark.parametrize("name", sorted(set(LISTS) - SMALL))
def test_a_page_is_read_out_of_an_index_in_its_order(writer: Writer, name: str) -> None:
    asked: list[str] = []

    class Explained(Views):
        def __init__(self) -> None:
            self.reader = self  # type: ignore[assignment]

        def records(self, sql: str, given: dict[str, object]) -> list[dict[str, object]]:
            asked.extend(row[3] for row in writer.rows(f"EXPLAIN QUERY PLAN {sql}", given))  # type: ignore[arg-type]
            return []

    after = base64.urlsafe_b64encode(msgspec.json.encode(["0"] * len(LISTS[name].key))).decode()
    Explained().rows(LISTS[name], "acme", "eu", top=50, after=after, many=["acme"])
    whole = [step for step in asked if re.match(r"SCAN (?!json_each|\(subquery)", step) or "ORDER BY" in step]
    assert not whole, asked


def test_pages_go_on_where_they_ended_whatever_comes_meanwhile(writer: Writer) -> None:
    views = Views(writer)
    for n in range(7):
        approval(writer, f"a-{n}", n // 2)  # several at one time
    approval(writer, "another-tenants", 3, tenant="bolt")
    seen, after = [], None
    while True:
        page = views.page(lists.APPROVALS, "acme", top=3, after=after)
        seen += [row["approval"] for row in page.rows]
        approval(writer, f"new-{len(seen)}", 100 + len(seen))
        if (after := page.after) is None:
            break
    assert seen == [f"a-{n}" for n in reversed(range(7))]
    assert page.count == 7 + 2


def test_a_filter_holds_for_the_count_and_a_field_that_is_none_is_refused(writer: Writer) -> None:
    views = Views(writer)
    for n in range(4):
        approval(writer, f"a-{n}", n, "Requested" if n % 2 else "Executed")
    page = views.page(lists.APPROVALS, "acme", top=1, wanted=[("state", "Executed"), ("command", "GrantRole")])
    assert ([row["approval"] for row in page.rows], page.count, page.after is None) == (["a-2"], 2, False)
    assert [r["approval"] for r in views.rows(lists.APPROVALS, "acme", wanted=[("at_ms", "3")])] == ["a-3"]
    assert [r["approval"] for r in views.rows(lists.APPROVALS, "acme", wanted=[("fence_seen", "0")])] == [
        "a-3", "a-2", "a-1", "a-0",
    ]  # fmt: skip
    for field in ("statement", "nonsense", "1 = 1 OR state"):
        with pytest.raises(Invalid, match="to filter by"):
            views.rows(lists.APPROVALS, "acme", wanted=[(field, "x")])


@pytest.mark.parametrize("after", ["", "x", "é", "W10", "WzFd", "WyJhIiwgMSwgMl0", "e30", "W251bGwsIG51bGxd",
                                   "Wzk5OTk5OTk5OTk5OTk5OTk5OTk5LCAiYSJd"])  # fmt: skip
def test_a_cursor_that_is_not_of_this_list_is_refused(writer: Writer, after: str) -> None:
    with pytest.raises(Invalid, match=r"\$after"):
        Views(writer).page(lists.APPROVALS, "acme", top=3, after=after)
