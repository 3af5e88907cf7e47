"""`openkcm witness`: an auditor's or customer's own witness, outside. Asks the API, lets `audit.witness` judge, posts.

Its key and its history are its operator's; neither ever leaves. Needs the extra `audit` only.
"""

from __future__ import annotations

import base64
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from openkcm.audit.verify import AuditError
from openkcm.audit.witness import Fork, History, NotGenuine, TrustEvents, Witness
from openkcm.client import Portal, Problem
from openkcm.contract import checkpoint as cp
from openkcm.contract import logs
from openkcm.contract.errors import ContractError
from openkcm.contract.seal import Signer

__all__ = ["Options", "history_of", "new_key", "run"]

log = logging.getLogger("openkcm.witness")
FORKED: Final = 1
NOT_DONE: Final = 2
SEVERITY: Final = (0, NOT_DONE, FORKED)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The command line. `every_s` None: once."""

    url: str
    token: Path
    key: Path
    name: str
    history: Path
    trust_root: str
    ca: str | None = None
    every_s: float | None = None
    as_json: bool = False


def new_key(key: Path, name: str) -> int:
    """Make a witness's key if there is none; print its verifier key, which others pin."""
    if not key.exists():
        descriptor = os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.urandom(32))
            file.flush()
            os.fsync(file.fileno())
    print(cp.verifier_key(name, Signer(key.read_bytes()).public_key, witness=True))
    return 0


def run(options: Options) -> int:
    """Witness once or for ever; return the exit status: 1 after a fork, 2 when something could not be done."""
    logs.start("witness")
    try:
        signer, root = Signer(options.key.read_bytes()), base64.b64decode(options.trust_root, validate=True)
        history = History(options.history)
        while True:
            status = _once(options, signer, root, history)
            if options.every_s is None:
                return status
            time.sleep(options.every_s)
    except (AuditError, ContractError, OSError, ValueError) as bad:
        print(f"openkcm witness: {bad}", file=sys.stderr)
        return NOT_DONE


def _once(options: Options, signer: Signer, root: bytes, history: History) -> int:
    with Portal(options.url, options.token.read_text().strip(), ca=options.ca) as portal:

        def prove(tree: str, epoch: int, old: int, new: int) -> Sequence[bytes]:
            answer = portal.get(f"/checkpoints/{tree}/consistency", epoch=epoch, old=old, new=new)
            return [base64.b64decode(part) for part in answer["proof"]]

        witness = Witness(options.name, signer, root, history, prove=prove, now_s=lambda: int(time.time()))
        worst, seen = 0, []
        try:
            shown = portal.get("/checkpoints")
            trust = TrustEvents(root, [base64.b64decode(e["body"]) for e in portal.get("/trust")["value"]])
        except (Problem, AuditError, KeyError, ValueError) as bad:
            log.error("nothing to witness: %s", bad)  # noqa: TRY400 -- its own words say enough
            return NOT_DONE
        for tree in (t for t in shown["value"] if t["checkpoint"] is not None):
            status, words = _tree(witness, portal, tree["checkpoint"]["note"], tree["tree"], trust)
            worst = max(status, worst, key=SEVERITY.index)
            seen.append({"tree": tree["tree"], "status": words})
    if options.as_json:
        print(msgspec.json.encode({"witness": str(witness.verifier), "trees": seen}).decode(), flush=True)
    return worst


def _tree(witness: Witness, portal: Portal, text: str, tree: str, trust: TrustEvents) -> tuple[int, str]:
    try:
        signed = witness.see(text, trust)
        if signed is None:
            return 0, "signed before"
        portal.post(f"/checkpoints/{tree}/cosignatures", {"verifier": str(witness.verifier), "note": str(signed)})
    except Fork as fork:
        log.error("FORK: %s", fork)  # noqa: TRY400
        return FORKED, f"fork: {fork}"
    except (NotGenuine, Problem, ValueError) as bad:
        log.error("%s: not cosigned or not handed over: %s", tree, bad)  # noqa: TRY400
        return NOT_DONE, str(bad)
    point = signed.checkpoint()
    log.info("cosigned %s", point)
    return 0, f"cosigned {point}"


def history_of(path: Path, verifier: cp.Verifier) -> list[tuple[cp.Verifier, cp.Note]]:
    """Return what a witness signed, from its own history, for a verification.

    Raises:
        AuditError: The file is damaged.
        OSError: There is none.
    """
    path.stat()
    return [(verifier, cp.parse_note(entry.note)) for entry in History(path).entries if entry.fork is None]
