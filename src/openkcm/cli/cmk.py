"""The process of governance: reads cmk.json, serves, says when it is ready. Decides nothing.

The notary runs beside it on a connection of its own: governance may not know of it, and serves whether it works or not.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from openkcm import telemetry
from openkcm.audit.notary import Notary
from openkcm.bus.checkpoints import Checkpoints
from openkcm.bus.connection import connect
from openkcm.bus.errors import BusError
from openkcm.bus.ledger import Ledger
from openkcm.bus.spool import SpoolDamaged
from openkcm.contract import logs
from openkcm.contract.seal import Signer
from openkcm.contract.tasks import end_tasks
from openkcm.governance.configuration import Configuration, ConfigurationError, read_configuration
from openkcm.governance.portal.server import run as serve
from openkcm.governance.sealing import signer_of
from openkcm.projector import ProjectorError, Reader, open_reader
from openkcm.projector.trees import keys_in_force

__all__ = ["run"]

log = logging.getLogger(__name__)
NOTARY_AGAIN_S: Final = 5.0


def run(config_path: Path, ready_path: Path | None = None) -> None:
    """Serve until SIGTERM.

    Raises:
        SystemExit: It cannot start (status 2, with the reason), or its work ended (status 1).
    """
    logs.start("cmk")

    def ready(url: str) -> None:
        logging.getLogger(__name__).info("the portal is at %s", url)
        if ready_path is not None:
            aside = ready_path.with_suffix(".tmp")
            aside.write_bytes(msgspec.json.encode({"pid": os.getpid(), "url": url}))
            aside.replace(ready_path)

    try:
        configuration = read_configuration(config_path)
        telemetry.start("openkcm-cmk", {"service.instance.id": uuid.uuid4().hex})
        uvloop.run(_with_notary(configuration, ready))
    except (ConfigurationError, BusError, ProjectorError, SpoolDamaged, OSError) as bad:
        print(f"openkcm cmk: {bad}", file=sys.stderr)
        raise SystemExit(2) from bad
    finally:
        telemetry.stop()


def _signer(seed: Path, reader: Reader) -> Signer:
    return signer_of(seed, keys_in_force(reader))


async def _with_notary(configuration: Configuration, ready: Callable[[str], None]) -> None:
    serves = asyncio.Event()

    def announce(url: str) -> None:
        ready(url)
        serves.set()

    notary = asyncio.create_task(_notary(configuration, serves))
    try:
        await serve(configuration, announce)
    finally:
        await end_tasks([notary])


async def _notary(configuration: Configuration, serves: asyncio.Event) -> None:
    """Publish checkpoints of the read model's trees, for ever."""
    await serves.wait()
    seed = Path(configuration.signing_seed)
    while True:
        try:
            connection = await connect(configuration.nats, name="notary")
            reader = open_reader(Path(configuration.registry))
            try:
                await Notary(
                    Ledger(connection), Checkpoints(connection), reader,
                    partial(_signer, seed, reader), configuration.trust_root,
                ).run()  # fmt: skip
            finally:
                reader.close()
                await connection.close()
        except Exception:  # whatever ends a notary must not end the kill switch
            log.exception("the notary stopped; it starts again in %s s", NOTARY_AGAIN_S)
        await asyncio.sleep(NOTARY_AGAIN_S)
