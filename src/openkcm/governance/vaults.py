"""Whether the nodes of a region read the same vault: their digests at the same place. Pure; sees digests only.

A node's HealthCheck says how far it has read its region's vault, and one digest over all that the records say. Two who
have read to the same place and say otherwise: one of them was shown another vault, or its own copy was altered. Which
one it is, governance cannot know; it names both, until they are seen to agree at another place.
"""

from __future__ import annotations

import logging

from openkcm.contract.reports import HealthCheck, VaultMark

__all__ = ["Vaults"]

log = logging.getLogger(__name__)


class Vaults:
    """One CMK's comparison of what nodes say of their vaults."""

    def __init__(self) -> None:
        self._said: dict[str, dict[str, VaultMark]] = {}  # region -> node -> what it said last
        self._differ: set[frozenset[str]] = set()

    def heard(self, check: HealthCheck) -> None:
        """Compare a HealthCheck's vault with what the other nodes of the region said last, where at the same place.

        Not with what they said before: records are erased once a later one has made them needless, and who reads the
        vault from its start never sees them.
        """
        mine = check.vault
        if mine is None or not mine.digest:
            return
        said = self._said.setdefault(check.region, {})
        said[check.node] = mine
        for other, theirs in said.items():
            pair = frozenset({check.node, other})
            if theirs.cursor != mine.cursor:
                continue
            if theirs.digest == mine.digest:
                self._differ.discard(pair)
            elif pair not in self._differ:
                self._differ.add(pair)
                log.error("%s and %s read another vault up to %d", check.node, other, mine.cursor)

    def differs(self, node: str, enrolled: list[str]) -> list[str]:
        """Return the enrolled nodes that said otherwise of the vault than this one, in their order."""
        return [other for other in enrolled if frozenset({node, other}) in self._differ]
