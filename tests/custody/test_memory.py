"""Keys are where no scanner can read while they serve, and nowhere after the acknowledgement of a revocation."""

from __future__ import annotations

import os
import shutil

import pytest

from custody.memory_rounds import MemoryRounds, Search
from custody.residence_bench import settled
from node_bench import Governor, RunningNode, opening
from orbital_fixture import running_orbital
from press import Press

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="scanning another process needs root"),
    pytest.mark.skipif(shutil.which("gcore") is None, reason="dumps are made by gcore (Debian package gdb)"),
]


@pytest.mark.parametrize("workers", [1, 4])
async def test_root_finds_no_key_while_it_serves_and_none_anywhere_after_the_ack(tmp_path, workers):
    press = Press()
    with running_orbital(tmp_path / "stack") as orbital:
        node = RunningNode(orbital, press, tmp_path / "node", workers=workers)
        async with Governor(orbital, press) as governor, Search() as search:
            for e in opening(press):
                await governor.append(e)
            node.start()
            try:
                await node.wait_ready()
                await settled(governor)
                rounds = MemoryRounds(governor, node, search)
                await rounds.play("acme")
                assert rounds.operations > 50
            finally:
                node.stop()
