"""Tokens that try tricks: with the key's name, with keys of their own in the header, with another issuer's key. All are
refused, nothing is fetched for them, and the refusal is in the ledger.
"""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from joserfc import jws
from joserfc.jwk import ECKey, OctKey, RSAKey

from governance_stack import OPERATOR, Idp, Stack, issuer
from openkcm.governance.configuration import Oidc
from openkcm.governance.portal import auth

TWICE = b'{"alg":"ES256","kid":"k1","alg":"none"}'
REGISTRY = jws.JWSRegistry(algorithms=["ES256", "RS256", "HS256"])


@pytest.fixture
def enemy() -> Iterator[tuple[str, list[str]]]:
    """A server that would give keys to whoever asks; says who did."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()
    thread.join()


def made(idp: Idp, key: Any, header: dict[str, Any], **claims: Any) -> str:
    now = int(time.time())
    body = {
        "iss": idp.issuer,
        "aud": "openkcm",
        "sub": OPERATOR,
        "iat": now,
        "exp": now + 600,
        "auth_time": now,
        **claims,
    }
    head = {"alg": "ES256", **header}
    signed = f"{part(head)}.{part(body)}"  # by hand: a library refuses to make most of these
    return f"{signed}.{part(REGISTRY.get_alg(head['alg']).sign(signed.encode(), key))}"


def part(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


async def test_no_trick_with_names_or_keys_makes_a_token_and_each_refusal_is_in_the_ledger(
    stack: Stack, enemy: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "REFRESH_S", 0.0)  # the issuer may be asked for each of them
    url, asked = enemy
    mine = ECKey.import_key({**ECKey.generate_key("P-256").as_dict(private=True), "kid": "k1", "use": "sig"})
    rsa = RSAKey.generate_key(2048)
    public = mine.as_dict(private=False)
    idp, good = stack.idp, stack.idp.key
    published = json.dumps(good.as_dict(private=False)).encode()
    kids: list[Any] = [
        "../../../../dev/null", "/proc/self/environ", "file:///etc/passwd", "k1' OR '1'='1", "k1; DROP TABLE session",
        "k1\x00", "K1", "k1 ", "", "unknown", "k" * 2000, f"{url}/jwks", "http://169.254.169.254/", 1, None, True, ["k1"],
        {"kid": "k1"},
    ]  # fmt: skip
    tokens = {
        f"kid {kid!r}"[:40]: made(idp, good, {"kid": kid}) for kid in kids if not isinstance(kid, str) or kid != "k1"
    }
    tokens |= {
        "no kid": made(idp, good, {}),
        "own key under the issuer's kid": made(idp, mine, {"kid": "k1"}),
        "jwk": made(idp, mine, {"kid": "k1", "jwk": public}),
        "jwk alone": made(idp, mine, {"jwk": public}),
        "jku": made(idp, mine, {"kid": "k1", "jku": f"{url}/jwks"}),
        "x5u": made(idp, mine, {"kid": "k1", "x5u": f"{url}/x"}),
        "x5c": made(idp, mine, {"kid": "k1", "x5c": [base64.b64encode(b"no certificate").decode()]}),
        "crit": made(idp, good, {"kid": "k1", "crit": ["exp"], "exp": 1}),
        "b64": f"{part({'alg': 'ES256', 'kid': 'k1', 'b64': False, 'crit': ['b64']})}.e30.{part(b'0' * 64)}",
        "another algorithm": made(idp, rsa, {"alg": "RS256", "kid": "k1"}),
        "the public key as a secret": made(idp, OctKey.import_key(published), {"alg": "HS256", "kid": "k1"}),
        "alg twice": ".".join((part(TWICE), part({"sub": OPERATOR}), "")),
        "none": f"{part({'alg': 'none', 'kid': 'k1'})}.{made(idp, good, {'kid': 'k1'}).split('.')[1]}.",
        "None": f"{part({'alg': 'nOnE', 'kid': 'k1'})}.{made(idp, good, {'kid': 'k1'}).split('.')[1]}.",
        "no signature": made(idp, good, {"kid": "k1"}).rpartition(".")[0] + ".",
        "another's signature": made(idp, good, {"kid": "k1"}).rpartition(".")[0] + "." + made(idp, mine, {}).rpartition(".")[2],
        "issuer with a slash": made(idp, good, {"kid": "k1"}, iss=idp.issuer + "/"),
        "issuers": made(idp, good, {"kid": "k1"}, iss=[idp.issuer]),
        "audiences of others": made(idp, good, {"kid": "k1"}, aud=["a", "b"]),
        "not yet": made(idp, good, {"kid": "k1"}, nbf=int(time.time()) + 3600),
        "subject in parts": made(idp, good, {"kid": "k1"}, sub=[OPERATOR]),
        "JSON of a JWS": json.dumps({"payload": "e30", "signatures": []}),
    }  # fmt: skip
    with issuer() as other:  # another issuer's own token, and one that it made out in ours' name
        other.key = ECKey.import_key({**other.key.as_dict(private=True), "kid": "k-other"})
        tokens["another issuer's"] = made(other, other.key, {"kid": "k-other"})
        tokens["another issuer's key"] = made(other, other.key, {"kid": "k-other"}, iss=idp.issuer)
        tokens["another issuer's key under our kid"] = made(other, other.key, {"kid": "k1"}, iss=idp.issuer)
        last = await stack.last()
        for why, token in tokens.items():
            for method, path in (("GET", "/tenants"), ("POST", "/tenants/acme/revocations")):
                answer = await stack.ask(None, method, path, token=token)
                assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), (why, answer.text)
                assert token[:40] not in answer.text
    assert asked == []  # no key was fetched from where a token said
    assert (await stack.ask(None, "GET", "/tenants", token=made(idp, good, {"kid": "k1"}))).status_code == 200

    async def written() -> set[tuple[str, str]]:
        events = (await stack.must(OPERATOR, "GET", "/ledger", after=last))["value"]
        return {(e["data"]["action"], e["data"]["reason"]) for e in events if e["tag"] == "AccessDenied.2"}

    assert await stack.until(written) <= {("ReadTenant", "unauthenticated"), ("RevokeAccess", "unauthenticated")}
    await asyncio.sleep(0)


async def test_the_first_caller_waits_for_no_keys_and_an_issuer_that_came_later_is_asked_again(idp: Idp) -> None:
    asked: list[str] = []

    class Watched(auth.Issuer):
        async def _get(self, url: str) -> dict[str, Any]:
            asked.append(url)
            if len(asked) == 1:
                raise auth.Unauthenticated("not up yet")
            return await super()._get(url)

    watched = Watched(Oidc(idp.issuer, "openkcm"))
    await watched.prepare()
    assert (await watched.identify(idp.token("anna"))).subject == "anna"  # at once, though one attempt was just now
    assert len(asked) == 3
    await watched.close()
    early = auth.Issuer(Oidc(idp.issuer, "openkcm"))
    await early.prepare()
    early._get = None  # type: ignore[method-assign,assignment]  # whoever asked now would fail
    assert (await early.identify(idp.token("anna"))).subject == "anna"
    await early.close()
