"""Signing in from a terminal: authorization code flow with PKCE, the answer caught on loopback (RFC 8252, RFC 7636)."""

from __future__ import annotations

import base64
import hashlib
import http.server
import secrets
import threading
import urllib.parse
from collections.abc import Callable
from typing import Any, Final, Self

import httpx

from openkcm.client.transport import Problem

__all__ = ["sign_in"]

WAIT_S: Final = 180.0


def sign_in(issuer: str, client_id: str, show: Callable[[str], None], *, account: str | None = None) -> str:
    """Return a fresh token.

    Args:
        show: Opens the address in the person's browser.
        account: Of the one-command stack's own provider, which asks for no password: nobody is asked.

    Raises:
        Problem: The provider, or the person, said no or nothing.
    """
    with httpx.Client(trust_env=False, timeout=10, follow_redirects=False) as client:
        try:
            metadata = client.get(f"{issuer}/.well-known/openid-configuration").raise_for_status().json()
            return _flow(client, metadata, client_id, show, account)
        except (httpx.HTTPError, ValueError, KeyError) as bad:
            raise Problem(0, "sign-in-failed", f"{issuer}: {bad or type(bad).__name__}") from bad


def _flow(
    client: httpx.Client, metadata: dict[str, Any], client_id: str, show: Callable[[str], None], account: str | None
) -> str:
    verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(24)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    with _Catcher() as caught:
        query = {
            "response_type": "code", "client_id": client_id, "scope": "openid", "redirect_uri": caught.url,
            "state": state, "code_challenge": challenge, "code_challenge_method": "S256", "prompt": "login",
            **({"account": account} if account is not None else {}),
        }  # fmt: skip
        address = f"{metadata['authorization_endpoint']}?{urllib.parse.urlencode(query)}"
        if account is None:
            show(address)
            answer = caught.wait()
        else:
            location = client.get(address).headers["location"]
            answer = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(location).query))
    if answer.get("state") != state or "code" not in answer:
        raise Problem(0, "sign-in-failed", "the answer is none to this sign-in")
    form = {
        "grant_type": "authorization_code", "code": answer["code"], "redirect_uri": caught.url,
        "client_id": client_id, "code_verifier": verifier,
    }  # fmt: skip
    return str(client.post(metadata["token_endpoint"], data=form).raise_for_status().json()["id_token"])


class _Catcher:
    """A page on loopback that takes one answer."""

    def __init__(self) -> None:
        self.answer: dict[str, str] = {}
        self._came = threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
                outer._came.set()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain")
                self.end_headers()
                self.wfile.write(b"Signed in. You can close this page.\n")

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/callback"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def wait(self) -> dict[str, str]:
        if not self._came.wait(WAIT_S):
            raise Problem(0, "sign-in-failed", "nobody signed in")
        return self.answer
