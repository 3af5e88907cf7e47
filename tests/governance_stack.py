"""A CMK on a real hub, with a real issuer of tokens and nodes that only report: for tests of API and governance."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import msgspec
from joserfc import jwt
from joserfc.jwk import ECKey

from governance_ledger import ANNA, BERT, CMK, TRUST
from openkcm.bus.beat import say
from openkcm.bus.connection import Connection
from openkcm.bus.ledger import Ledger
from openkcm.bus.reports import send
from openkcm.cli.ceremony import open_ledger
from openkcm.contract import decrees as d
from openkcm.contract import reports, seal
from openkcm.contract.statements import Statement
from openkcm.execution.voice import Voice
from openkcm.governance.configuration import Configuration, Listen, Oidc
from openkcm.governance.portal.server import serving
from openkcm.governance.service import Cmk
from orbital_fixture import EU, EU_NODE, US, US_NODE, Orbital

OPERATOR = "operator-1"
NODE_KEYS = {EU_NODE: seal.Signer(b"1" * 32), US_NODE: seal.Signer(b"2" * 32)}
CERTIFICATE = Path(__file__).parent / "governance" / "workload.pem"


class Idp:
    """An issuer: discovery, keys, and tokens as wrong as a test wants them."""

    def __init__(self) -> None:
        self.key = ECKey.generate_key("P-256")
        self.key = ECKey.import_key({**self.key.as_dict(private=True), "kid": "k1", "use": "sig", "alg": "ES256"})
        idp = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                documents = {
                    "/.well-known/openid-configuration": {"issuer": idp.issuer, "jwks_uri": f"{idp.issuer}/jwks"},
                    "/jwks": {"keys": [idp.key.as_dict(private=False)]},
                }
                body = json.dumps(documents.get(self.path, {})).encode()
                self.send_response(200 if self.path in documents else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def token(
        self, subject: str, *, key: ECKey | None = None, alg: str = "ES256", kid: str = "k1", **claims: Any
    ) -> str:
        now = int(time.time())
        body = {
            "iss": self.issuer,
            "aud": "openkcm",
            "sub": subject,
            "iat": now,
            "exp": now + 600,
            "auth_time": now,
            **claims,
        }
        body = {k: v for k, v in body.items() if v is not None}
        return jwt.encode({"alg": alg, "kid": kid}, body, key or self.key, algorithms=[alg])

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextlib.contextmanager
def issuer() -> Iterator[Idp]:
    idp = Idp()
    try:
        yield idp
    finally:
        idp.close()


class Node:
    """A node's voice without the node: it obeys nothing and says what a test tells it to."""

    def __init__(self, connection: Connection, name: str, region: str) -> None:
        self.connection, self.name, self.region = connection, name, region
        self.voice = Voice(name, region, NODE_KEYS[name])

    async def say(self, tenant: str | None, report: reports.Report, *, voice: Voice | None = None) -> bytes:
        e = (voice or self.voice).report(tenant, report, epoch=1)
        body = msgspec.json.encode(e)
        await send(self.connection, e.subject, body, id=e.id, tag=e.tag)
        return body

    async def live(self, nonce: str, *, voice: Voice | None = None) -> None:
        """Say a HealthCheck, which a beat answers."""
        check = reports.HealthCheck(
            node=self.name, region=self.region, nonce=nonce, boot_id="b", sent_boottime_ns=1, ledger_epoch=1,
            cursor=(0, 0), known_tags=(), workers=1, memory="mlock", sealed_mappings=False, dropped=0,
        )  # fmt: skip
        e = (voice or self.voice).report(None, check, epoch=1)
        await say(self.connection, e.subject, msgspec.json.encode(e), id=e.id, tag=e.tag)

    async def ack(self, tenant: str, lane: str, floor: int, **more: Any) -> bytes:
        said = {"state": "active", "boot_id": "b", "lease_s": 86400, "ledger_epoch": 1, **more}
        return await self.say(tenant, reports.SyncAck(tenant=tenant, lane=lane, floor=floor, **said))  # type: ignore[arg-type]


class Stack:
    """What a test holds."""

    def __init__(self, cmk: Cmk, client: httpx.AsyncClient, idp: Idp, orbital: Orbital) -> None:
        self.cmk, self.client, self.idp, self.orbital = cmk, client, idp, orbital

    async def last(self) -> int:
        return (await self.cmk.ledger.info()).last

    async def has_read(self) -> None:
        """Return when governance's read model has all of the ledger: an answer says that it is there, not that it is read."""
        last = await self.last()

        async def read() -> bool:
            return self.cmk.telling.facts.read_to >= last

        await self.until(read)

    async def ask(
        self, who: str | None, method: str, path: str, body: Any = None, *, key: str | None = None, token: str | None = None,
        headers: dict[str, str] | None = None, **query: Any,
    ) -> httpx.Response:  # fmt: skip
        sent = dict(headers or {})
        if who is not None or token is not None:
            sent["Authorization"] = f"Bearer {token or self.idp.token(who or '')}"
        if key is not None:
            sent["Idempotency-Key"] = key
        url = path if path.startswith("/cmk") or path in {"/", "/healthz", "/readyz", "/metrics"} else f"/cmk/v1{path}"
        content = body if isinstance(body, bytes) else None if body is None else msgspec.json.encode(body)
        return await self.client.request(method, url, content=content, params=query or None, headers=sent)

    async def must(self, who: str, method: str, path: str, body: Any = None, **more: Any) -> dict[str, Any]:
        answer = await self.ask(who, method, path, body, **more)
        assert answer.status_code < 300, (answer.status_code, answer.text)
        return answer.json()

    async def tenant(self, *, regions: tuple[str, ...] = (EU,), onboarded: bool = True) -> str:
        """A tenant of the test's own, linked, with one system and one workload."""
        name = f"t-{uuid.uuid4().hex[:10]}"
        people = [
            {
                "person": f"{name}-admin",
                "roles": ["tenant-admin", "key-admin", "kill-switch"],
                "approval_key": b64(ANNA.public_key),
            },
            {"person": f"{name}-approver", "roles": ["approver"], "approval_key": b64(BERT.public_key)},
            {"person": f"{name}-auditor", "roles": ["auditor"]},
        ]
        await self.must(OPERATOR, "POST", "/tenants", {"id": name, "regions": regions, "people": people})
        for region in regions if onboarded else ():
            path = f"/tenants/{name}/regions/{region}"
            await self.must(
                f"{name}-admin", "PUT", f"{path}/root-key", {"provider": "file", "ref": f"/keys/{name}.keys"}
            )
            await self.must(f"{name}-admin", "POST", f"{path}/systems", {"system": "payments"})
        return name

    async def until(self, holds: Any, timeout_s: float = 10.0) -> Any:
        deadline = time.monotonic() + timeout_s
        while True:
            value = await holds()
            if value:
                return value
            assert time.monotonic() < deadline, "it did not come about"
            await asyncio.sleep(0.02)

    @contextlib.asynccontextmanager
    async def node(self, name: str = EU_NODE) -> AsyncIterator[Node]:
        connection = await self.orbital.connect(name)
        try:
            yield Node(connection, name, EU if name == EU_NODE else US)
        finally:
            await connection.close()


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def sign(who: seal.Signer, prepared: dict[str, Any]) -> str:
    message = base64.b64decode(prepared["signed_bytes"])
    assert msgspec.convert(prepared["statement"], Statement).signed_bytes() == message
    return b64(who.sign(message))


def configuration(orbital: Orbital, idp: Idp, home: Path, **more: Any) -> Configuration:
    home.mkdir(parents=True, exist_ok=True)
    (home / "signing.seed").write_bytes(b"c" * 32)
    regions = home / "regions"
    for region in (EU, US):
        (regions / region).mkdir(parents=True, exist_ok=True)
        text = Path(__file__).parent.parent.joinpath("nodes", region, "node.toml").read_text()
        (regions / region / "node.toml").write_text(text)
    fields: dict[str, Any] = {
        "listen": Listen("127.0.0.1", 0), "nats": orbital.access("cmk"), "signing_seed": str(home / "signing.seed"),
        "registry": str(home / "registry.sqlite"), "spool": str(home / "spool"),
        "oidc": Oidc(idp.issuer, "openkcm"), "regions": str(regions), "trust_root": TRUST.public_key,
        "operators": (OPERATOR,), **more,
    }  # fmt: skip
    return Configuration(**fields)


async def ceremony(orbital: Orbital) -> None:
    connection = await orbital.connect("trust")
    try:
        nodes = [(name, EU if name == EU_NODE else US, key.public_key) for name, key in NODE_KEYS.items()]
        await open_ledger(Ledger(connection), TRUST, CMK.public_key, nodes)
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def running_cmk(orbital: Orbital, idp: Idp, home: Path, **more: Any) -> AsyncIterator[Stack]:
    await ceremony(orbital)
    async with (
        serving(configuration(orbital, idp, home, **more)) as (cmk, url),
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=20, verify="tls" not in more) as client,
    ):
        yield Stack(cmk, client, idp, orbital)


__all__ = ["OPERATOR", "Idp", "Node", "Stack", "b64", "ceremony", "configuration", "d", "issuer", "running_cmk", "sign"]
