"""The process of governance: reads cmk.json, serves, says when it is ready. Decides nothing."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path

import msgspec

from openkcm.bus.errors import BusError
from openkcm.bus.spool import SpoolDamaged
from openkcm.governance.configuration import ConfigurationError, read_configuration
from openkcm.governance.portal.server import run as serve
from openkcm.projector import ProjectorError

__all__ = ["run"]


def run(config_path: Path, ready_path: Path | None = None) -> None:
    """Serve until SIGTERM.

    Raises:
        SystemExit: It cannot start (status 2, with the reason), or its work ended (status 1).
    """
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)

    def ready(url: str) -> None:
        logging.getLogger(__name__).info("the portal is at %s", url)
        if ready_path is not None:
            aside = ready_path.with_suffix(".tmp")
            aside.write_bytes(msgspec.json.encode({"pid": os.getpid(), "url": url}))
            aside.replace(ready_path)

    try:
        configuration = read_configuration(config_path)
        asyncio.run(serve(configuration, ready))
    except (ConfigurationError, BusError, ProjectorError, SpoolDamaged, OSError) as bad:
        print(f"openkcm cmk: {bad}", file=sys.stderr)
        raise SystemExit(2) from bad
