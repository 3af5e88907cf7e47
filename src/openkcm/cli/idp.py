"""The one-command stack's own OpenID provider: demo accounts without passwords, on loopback. For no other use.

Authorization code flow with PKCE (S256 only), and `mint` for the tokens that `up` hands out. A token proves who
somebody is; what that person may do stands in the ledger. Sources: OpenID Connect Core 1.0, RFC 7636, RFC 9068.
"""

from __future__ import annotations

import base64
import hashlib
import html
import ipaddress
import os
import secrets
import time
import urllib.parse
from pathlib import Path
from typing import Any, Final

import msgspec
import uvicorn
from joserfc import jwt
from joserfc.jwk import ECKey
from litestar import Litestar, MediaType, Request, Response, get, post
from litestar.response import Redirect

from openkcm.cli import pki

__all__ = ["mint", "run"]

ALGORITHM: Final = "ES256"
TOKEN_S: Final = 12 * 3600
CODE_S: Final = 60
MAX_CODES: Final = 1000


class _Account(msgspec.Struct, frozen=True):
    name: str
    subject: str


class _Listen(msgspec.Struct, frozen=True):
    host: str
    port: int


class _Configuration(msgspec.Struct, frozen=True):
    """idp.json. `key`: PEM file of the signing key, made on first use."""

    issuer: str
    audience: str
    listen: _Listen
    key: str
    accounts: tuple[_Account, ...]

    def account(self, name: str) -> _Account | None:
        return next((a for a in self.accounts if a.name == name), None)


class _Code(msgspec.Struct, frozen=True):
    account: _Account
    redirect_uri: str
    challenge: str
    nonce: str | None
    until: float


def _load(path: Path) -> _Configuration:
    return msgspec.json.decode(path.read_bytes(), type=_Configuration)


def _key(configuration: _Configuration) -> ECKey:
    path = Path(configuration.key)
    if not path.exists():
        pki.write_private(path, ECKey.generate_key("P-256").as_pem(private=True))
    key = ECKey.import_key(path.read_bytes())
    return ECKey.import_key({**key.as_dict(private=True), "kid": key.thumbprint(), "use": "sig", "alg": ALGORITHM})


def _token(configuration: _Configuration, key: ECKey, account: _Account, nonce: str | None = None) -> str:
    now = int(time.time())
    claims: dict[str, Any] = {
        "iss": configuration.issuer,
        "aud": configuration.audience,
        "sub": account.subject,
        "iat": now,
        "nbf": now - 5,
        "exp": now + TOKEN_S,
        "auth_time": now,
        "jti": secrets.token_hex(16),
    }
    if nonce is not None:
        claims["nonce"] = nonce
    return jwt.encode({"alg": ALGORITHM, "kid": key.kid, "typ": "JWT"}, claims, key, algorithms=[ALGORITHM])


def mint(config_path: Path, name: str) -> str:
    """Return a token for a demo account, good for twelve hours.

    Raises:
        KeyError: No such account.
    """
    configuration = _load(config_path)
    account = configuration.account(name)
    if account is None:
        raise KeyError(name)
    return _token(configuration, _key(configuration), account)


class _Provider:
    """The pages. State is the codes that are out, for a minute each."""

    def __init__(self, configuration: _Configuration) -> None:
        self.configuration, self.key = configuration, _key(configuration)
        self.codes: dict[str, _Code] = {}

    def metadata(self) -> dict[str, Any]:
        issuer = self.configuration.issuer
        return {
            "issuer": issuer,
            "authorization_endpoint": f"{issuer}/authorize",
            "token_endpoint": f"{issuer}/token",
            "jwks_uri": f"{issuer}/jwks",
            "response_types_supported": ["code"],
            "grant_types_supported": ["authorization_code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [ALGORITHM],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["none"],
        }

    def authorize(self, query: dict[str, str]) -> Response[Any]:
        """Show the accounts; once one is picked, send the browser back with a code."""
        problem = self._problem(query)
        if problem is not None:
            return Response(problem, status_code=400, media_type=MediaType.TEXT)
        account = self.configuration.account(query.get("account", ""))
        if account is None:
            return Response(self._page(query), media_type=MediaType.HTML)
        now = time.monotonic()
        self.codes = {c: x for c, x in list(self.codes.items())[-MAX_CODES:] if x.until > now}
        code = secrets.token_urlsafe(32)
        self.codes[code] = _Code(
            account, query["redirect_uri"], query["code_challenge"], query.get("nonce"), now + CODE_S
        )
        answer = urllib.parse.urlencode({"code": code, "state": query.get("state", "")})
        return Redirect(f"{query['redirect_uri']}?{answer}")

    def exchange(self, form: dict[str, str]) -> Response[Any]:
        """Give a token for a code, once, to whoever holds the verifier."""
        code = self.codes.pop(form.get("code", ""), None)
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        good = (
            form.get("grant_type") == "authorization_code"
            and code is not None
            and code.until > time.monotonic()
            and code.redirect_uri == form.get("redirect_uri")
            and secrets.compare_digest(code.challenge, challenge)
        )
        if not good or code is None:
            return Response({"error": "invalid_grant"}, status_code=400)
        token = _token(self.configuration, self.key, code.account, code.nonce)
        body = {"access_token": token, "id_token": token, "token_type": "Bearer", "expires_in": TOKEN_S}
        return Response(body, status_code=200, headers={"Cache-Control": "no-store"})

    @staticmethod
    def _problem(query: dict[str, str]) -> str | None:
        """Return what is wrong with an authorization request. Only loopback pages are sent codes."""
        target = urllib.parse.urlsplit(query.get("redirect_uri", ""))
        try:
            local = target.hostname == "localhost" or ipaddress.ip_address(target.hostname or "").is_loopback
        except ValueError:
            local = False
        if not local:
            return "redirect_uri is not on this machine"
        if query.get("response_type") != "code":
            return "response_type is not code"
        if query.get("code_challenge_method") != "S256" or len(query.get("code_challenge", "")) != 43:
            return "PKCE with S256 is required"
        return None

    def _page(self, query: dict[str, str]) -> str:
        hidden = {k: v for k, v in query.items() if k != "account"}
        fields = "".join(
            f'<input type="hidden" name="{html.escape(k)}" value="{html.escape(v)}">' for k, v in hidden.items()
        )
        buttons = "".join(
            f'<p><button name="account" value="{html.escape(a.name)}">{html.escape(a.name)}</button></p>'
            for a in self.configuration.accounts
        )
        return (
            '<!doctype html><html lang="en"><meta charset="utf-8"><link rel="icon" href="data:,">'
            "<title>Demo accounts</title>"
            "<h1>Who are you?</h1><p>Demo accounts of this machine's one-command stack. No password: do not use this "
            f'provider for anything else.</p><form method="get" action="/authorize">{fields}{buttons}</form></html>'
        )


def _app(configuration: _Configuration) -> Litestar:
    provider = _Provider(configuration)

    @get("/.well-known/openid-configuration", sync_to_thread=False)
    def discovery() -> dict[str, Any]:
        return provider.metadata()

    @get("/jwks", sync_to_thread=False)
    def jwks() -> dict[str, Any]:
        return {"keys": [provider.key.as_dict(private=False)]}

    @get("/authorize")
    async def authorize(request: Request[Any, Any, Any]) -> Response[Any]:
        return provider.authorize(dict(request.query_params.items()))

    @post("/token")
    async def token(request: Request[Any, Any, Any]) -> Response[Any]:
        form = await request.form()
        return provider.exchange({k: str(v) for k, v in form.items()})

    @get("/healthz", sync_to_thread=False)
    def healthz() -> str:
        return "ok"

    return Litestar([discovery, jwks, authorize, token, healthz], openapi_config=None)


def run(config_path: Path, ready_path: Path | None = None) -> None:
    """Serve until SIGTERM.

    Raises:
        ValueError: The address is not loopback: whoever reaches this provider is anybody.
    """
    configuration = _load(config_path)
    host, port = configuration.listen.host, configuration.listen.port
    if not ipaddress.ip_address(host).is_loopback:
        raise ValueError(f"the demo identity provider listens on loopback only, not on {host}")

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if ready_path is not None:
                temporary = ready_path.with_suffix(".tmp")
                temporary.write_text(msgspec.json.encode({"pid": os.getpid()}).decode())
                temporary.replace(ready_path)

    Server(uvicorn.Config(_app(configuration), host=host, port=port, log_level="warning", server_header=False)).run()
