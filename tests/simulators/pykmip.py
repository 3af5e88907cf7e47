"""PyKMIP's own server, in a process of its own (`python tests/simulators/pykmip.py CONFIG`), and its administrator.

Who may use a key is a policy file that the server reads anew each second: what a customer's key manager calls a role.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from openkcm.cli.pki import Authority, authority

ALLOWED = dict.fromkeys(("GET", "GET_ATTRIBUTES", "GET_ATTRIBUTE_LIST", "LOCATE"), "ALLOW_ALL")
OWNED = dict.fromkeys((*ALLOWED, "ACTIVATE", "REVOKE", "DESTROY"), "ALLOW_OWNER")


class PyKmip:
    """One server with one administrator (the keys' owner)."""

    def __init__(self, directory: Path, port: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self.port = directory, port
        self.pki: Authority = authority(directory)
        self.policies = directory / "policies"
        self.policies.mkdir()
        self.allow()
        certificate, key = self.pki.issue("kmip-server")
        settings = {
            "hostname": "127.0.0.1", "port": self.port, "certificate_path": str(certificate), "key_path": str(key),
            "ca_path": str(self.pki.ca), "auth_suite": "TLS1.2", "config_path": None,
            "log_path": str(directory / "server.log"), "policy_path": str(self.policies),
            "database_path": str(directory / "kmip.sqlite"), "live_policies": True,
        }  # fmt: skip
        (directory / "server.json").write_text(json.dumps(settings))
        self.output = directory / "server.out"
        with self.output.open("wb") as out:
            self._server = subprocess.Popen(
                [sys.executable, __file__, str(directory / "server.json")], stdout=out, stderr=out,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        self._wait()

    def stop(self) -> None:
        self._server.send_signal(2)  # its own way to end in order, its policy watcher included
        try:
            self._server.wait(5)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()

    @property
    def pid(self) -> int:
        return self._server.pid

    def allow(self, *, policy: str = "nodes", use: bool = True) -> None:
        """Let everybody with a certificate use the keys of a policy, or only their owner."""
        rules = {**OWNED, **(ALLOWED if use else {})}
        new = self.policies / f"{policy}.new"
        new.write_text(json.dumps({policy: {"preset": {"SYMMETRIC_KEY": rules}}}))
        new.rename(self.policies / f"{policy}.json")

    @contextlib.contextmanager
    def admin(self) -> Any:
        """The owner's client."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyKMIP's own

            from kmip import enums
            from kmip_client import PykmipClient

            certificate, key = self.pki.issue_workload("customer", "admin")
            (none := self.directory / "client.conf").write_text("[client]\n")
            with PykmipClient(
                "127.0.0.1", self.port, cert=str(certificate), key=str(key), ca=str(self.pki.ca),
                ssl_version="PROTOCOL_TLSv1_2", config_file=str(none), kmip_version=enums.KMIPVersion.KMIP_1_2,
            ) as client:  # fmt: skip
                yield client

    def make_key(self, name: str, *, policy: str = "nodes", active: bool = True) -> str:
        from kmip import enums

        usage = [enums.CryptographicUsageMask.ENCRYPT, enums.CryptographicUsageMask.DECRYPT]
        with self.admin() as client:
            uid: str = client.create(
                enums.CryptographicAlgorithm.AES, 256, operation_policy_name=policy, name=name,
                cryptographic_usage_mask=usage,
            )  # fmt: skip
            if active:
                client.activate(uid)
        return uid

    def revoke(self, uid: str) -> None:
        from kmip import enums

        with self.admin() as client:
            client.revoke(enums.RevocationReasonCode.CESSATION_OF_OPERATION, uid)

    def destroy(self, uid: str) -> None:
        from kmip import enums

        with self.admin() as client:
            with contextlib.suppress(Exception):  # not active: nothing to revoke first
                client.revoke(enums.RevocationReasonCode.CESSATION_OF_OPERATION, uid)
            client.destroy(uid)

    def _wait(self) -> None:
        until = time.monotonic() + 30
        while time.monotonic() < until:
            if self._server.poll() is not None:
                break
            with contextlib.suppress(Exception):  # not up, or its policies are not read yet
                self.destroy(self.make_key("probe"))
                return
            time.sleep(0.1)
        raise RuntimeError(f"PyKMIP's server did not come up: {self.output.read_text()[-2000:]}")


def _serve(path: str) -> None:
    from kmip.services.server.server import KmipServer

    server = KmipServer(**json.loads(Path(path).read_text()))
    with server:
        server.serve()


if __name__ == "__main__":
    _serve(sys.argv[1])
