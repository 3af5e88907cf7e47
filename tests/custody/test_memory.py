"""Keys are where no scanner can read while they serve, and nowhere after the acknowledgement of a revocation."""

from __future__ import annotations

import os
import shutil

import pytest

from custody.memory_rounds import MemoryRounds, Search
from custody.residence_bench import serving_node

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="scanning another process needs root"),
    pytest.mark.skipif(shutil.which("gcore") is None, reason="dumps are made by gcore (Debian package gdb)"),
]


@pytest.mark.parametrize("workers", [1, 4])
async def test_root_finds_no_key_while_it_serves_and_none_anywhere_after_the_ack(tmp_path, workers):
    async with serving_node(tmp_path, workers=workers) as (governor, node), Search() as search:
        rounds = MemoryRounds(governor, node, search)
        await rounds.play("acme")
        assert rounds.operations > 50
