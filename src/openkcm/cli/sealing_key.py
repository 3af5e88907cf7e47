"""`openkcm ledger rotate-key`: another sealing key for governance, on a running one-command stack. Restarts nothing.

The two decrees of a rotation, and what must be true between them:

1. the next seed is made beside the present one; a rotation that was broken off has one already, and goes on with it;
2. the trust root announces its public key: from here on both keys seal;
3. the CMK says that it seals with the next one, and that nothing under another can still come in;
4. the trust root retires every other key: what comes in under one of them is refused from here on;
5. the next seed takes the present one's place.

Broken off anywhere, by anything, it leaves a ledger that verifies and a CMK that serves; the same command goes on.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from openkcm.bus.errors import BusError
from openkcm.cli import background, ceremony, endpoints
from openkcm.cli.layout import Layout
from openkcm.cli.onboarding import portal_of
from openkcm.cli.reconcile import with_trust
from openkcm.client import Problem
from openkcm.governance.sealing import next_of

__all__ = ["rotate"]

FAILED: Final = 1
CHANGE_OVER_S: Final = 60.0
LOOK_S: Final = 0.1


def rotate(state: Path) -> int:
    """Rotate the key, say each step when it is done, and return the exit status."""
    try:
        for line in _steps(background.saved_layout(state)):
            print(line, flush=True)
    except (BusError, OSError, ValueError, msgspec.MsgspecError) as bad:
        print(f"not done: {bad}\nwhat was done stays; the same command goes on from there", file=sys.stderr)
        return FAILED
    return 0


def _steps(layout: Layout) -> Iterator[str]:
    if background.running(layout.state) is None:
        raise ValueError(f"no stack runs on {layout.state}")
    upcoming = next_of(layout.signing_seed)
    signer = layout.signer(upcoming)  # (1)
    root, public = layout.trust_root, signer.public_key
    yield from with_trust(layout, lambda ledger: ceremony.announce_key(ledger, root, public))  # (2)
    _wait_until_sealing(layout, signer.key_id)  # (3)
    yield f"the CMK seals with {signer.key_id}"
    yield from with_trust(layout, lambda ledger: ceremony.retire_other_keys(ledger, root, public))  # (4)
    upcoming.replace(layout.signing_seed)  # (5)


def _wait_until_sealing(layout: Layout, key: str) -> None:
    deadline = time.monotonic() + CHANGE_OVER_S
    with portal_of(endpoints.load(layout.state), "provider/operator") as portal:
        while True:
            said: object = None
            try:
                said = portal.get("/fleet")["ledger"]
            except (Problem, OSError) as away:  # it may be on its way back
                said = away
            if isinstance(said, dict) and said["sealing_key_settled"] and said["sealing_key"] == key:
                return
            if time.monotonic() > deadline:
                raise ValueError(f"the CMK does not seal with {key} after {CHANGE_OVER_S:.0f} s: {said}")
            time.sleep(LOOK_S)
