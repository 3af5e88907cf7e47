"""An issuer for each file, and a CMK on the running bus for each test that asks for one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from governance_stack import Idp, Stack, issuer, running_cmk
from orbital_fixture import Orbital


@pytest.fixture(scope="module")
def idp() -> Iterator[Idp]:
    with issuer() as running:
        yield running


@pytest_asyncio.fixture
async def stack(orbital: Orbital, idp: Idp, tmp_path: Path) -> AsyncIterator[Stack]:
    async with running_cmk(orbital, idp, tmp_path / "cmk") as running:
        yield running
