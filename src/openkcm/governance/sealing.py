"""Which of its keys a CMK seals with, and how it changes over. Reads seeds; announces and retires nothing.

A rotation lays the next seed beside the present one; the trust root announces it, and later retires the present one.
What a CMK does follows from these files and the ledger alone, so a restart at any point goes on where it was:

1. the next key seals as soon as the trust root has announced it, the present one until then;
2. before it seals, the nodes that are heard have read the announcement: to others its beats are a stranger's;
3. what was sealed under an earlier key is answered or given up, and the hub has taken all that was sent before:
   only then this CMK says that it is done. What is retired earlier than that could come in behind its retirement.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING, Final

from openkcm.bus.errors import BusError
from openkcm.contract.seal import Signer

if TYPE_CHECKING:  # the service runs `follow`
    from openkcm.governance.service import Cmk

__all__ = ["follow", "next_of", "signer_of"]

log = logging.getLogger(__name__)
LOOK_S: Final = 0.05
NODES_S: Final = 10.0  # a node that is dark must not keep a key in use that may be stolen
HEARD_S: Final = 10.0


def next_of(seed: Path) -> Path:
    """Return where the next seed lies during a rotation: beside the present one."""
    return seed.with_name(f"{seed.name}.next")


def signer_of(seed: Path, in_force: Container[str]) -> Signer:
    """Return the next key if it is in force, else the present one.

    Raises:
        OSError, ValueError: There is no present seed, or it is none.
    """
    try:
        upcoming = Signer(next_of(seed).read_bytes())  # first: when it takes the other's place, that one is it
        if upcoming.key_id in in_force:
            return upcoming
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as bad:
        log.error("the next sealing key cannot be used: %s: %s", next_of(seed), bad)  # noqa: TRY400 -- as below
    return Signer(seed.read_bytes())


async def follow(cmk: Cmk) -> None:
    """Change over each time the ledger says something of sealing keys, for ever."""
    while True:
        await cmk.keys_changed.wait()
        cmk.keys_changed.clear()
        try:
            signer = signer_of(Path(cmk.configuration.signing_seed), cmk.projection.signing_keys)  # (1)
        except (OSError, ValueError) as bad:
            log.error("the sealing key stays as it is: %s", bad)  # noqa: TRY400 -- its own words say enough
            continue
        if signer.key_id != cmk.signer.key_id:
            await _nodes_know(cmk, signer.key_id)  # (2)
            cmk.seal_with(signer)
            log.warning("this CMK seals with %s from now on", signer.key_id)
        await _settled(cmk)  # (3)


async def _nodes_know(cmk: Cmk, key: str) -> None:
    announced = cmk.views.reader.rows("SELECT sequence FROM signing_key WHERE key = ?", (key,))[0][0]
    deadline = time.monotonic() + NODES_S
    enrolled = [node for region in cmk.regions for node in cmk.views.enrolled(region)]
    while time.monotonic() < deadline and any(  # noqa: ASYNC110 -- a HealthCheck has no event for it
        cmk.watch.silent_for_s(node) < HEARD_S and cmk.watch.health[node].check.cursor[1] < announced
        for node in enrolled if node in cmk.watch.health
    ):  # fmt: skip
        await asyncio.sleep(LOOK_S)


async def _settled(cmk: Cmk) -> None:
    while cmk.registry.under_way - {cmk.signer.key_id}:  # noqa: ASYNC110 -- they end within seconds, once a rotation
        await asyncio.sleep(LOOK_S)
    while True:
        try:
            await cmk.connection.flush()
            break
        except BusError as away:
            log.info("not yet known whether the hub has taken everything: %s", away)
            await asyncio.sleep(1.0)
    cmk.settled_key = cmk.signer.key_id
