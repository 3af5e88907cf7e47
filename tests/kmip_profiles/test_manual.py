"""docs/kmip.md says what is served."""

from __future__ import annotations

from kmip_profiles.manual import PAGE, page


def test_the_tables_of_the_manual_are_current():
    assert PAGE.read_text() == page(), "run `just manual`"
