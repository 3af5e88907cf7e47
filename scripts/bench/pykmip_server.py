"""PyKMIP's own server, as its package starts it, for comparison: `pykmip_server.py FOLDER PORT CERT KEY CLIENT_CA`.

It logs errors only and keeps its objects in a SQLite file of the folder; TLS 1.2 is the newest that it offers.
"""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")  # it asks for old names of newer libraries

from kmip.services.server import KmipServer  # noqa: E402


def main(folder: Path, port: int, cert: str, key: str, client_ca: str) -> None:
    """Serve until terminated."""
    policies = folder / "policies"
    policies.mkdir(exist_ok=True)
    server = KmipServer(
        hostname="127.0.0.1",
        port=port,
        certificate_path=cert,
        key_path=key,
        ca_path=client_ca,
        auth_suite="TLS1.2",
        config_path=None,
        log_path=str(folder / "server.log"),
        policy_path=str(policies),
        enable_tls_client_auth=True,
        logging_level=logging.ERROR,
        database_path=str(folder / "pykmip.sqlite"),
    )
    with server:
        server.serve()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:6])
