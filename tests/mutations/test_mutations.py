"""Each guard of the kill switch is removed in turn, and somebody notices: the table says who."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mutations.table import MUTATIONS

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def trials() -> dict[str, dict[str, str]]:
    done = subprocess.run(
        [sys.executable, "-m", "mutations.trial"], cwd=TESTS, capture_output=True, text=True, check=True, timeout=900
    )
    return {answer["guard"]: answer for answer in map(json.loads, done.stdout.splitlines())}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.guard.replace(" ", "-"))
def test_a_removed_guard_is_noticed(mutation, trials):
    answer = trials[mutation.guard]
    assert not answer["error"], answer["error"]
    assert answer["caught"], f"without the guard {mutation.guard!r}, {mutation.caught_by} saw nothing"


def test_every_guard_is_named_once():
    assert len({m.guard for m in MUTATIONS}) == len(MUTATIONS)
