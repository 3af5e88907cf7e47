"""The roots' contract against real clouds, HSMs and key managers: `pytest --live PROVIDER tests/live`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from contract_suites.roots import RootContract
from live.customers import CUSTOMERS, Live


@pytest.fixture
def customer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Live]:
    provider = request.config.getoption("--live")
    if provider is None:
        pytest.skip("needs --live PROVIDER, and an environment (docs/roots/README.md)")
    one = CUSTOMERS[provider](tmp_path)
    yield one
    one.close()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
class TestLiveRoot(RootContract):
    @pytest.fixture
    def customer(self, customer: Live) -> Live:
        return customer
