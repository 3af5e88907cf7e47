"""Every order of every move of some small worlds around the production step function."""

from __future__ import annotations

import pytest

from examined import worlds
from simulation.clockwork import cheap_seals


@pytest.mark.parametrize("kind", worlds.ALL)
def test_no_order_of_events_breaks_a_small_world(kind):
    with cheap_seals():
        found = kind().search()
    assert found.bad is None, found
    assert found.states > 50, "the world does nothing"


def test_a_head_read_before_the_nonce_came_in_would_break_the_lease():
    with cheap_seals():
        found = worlds.Lease(fresh=False, sends=(0, 3)).search()
    assert found.bad is not None
    assert found.bad.startswith("S9")
