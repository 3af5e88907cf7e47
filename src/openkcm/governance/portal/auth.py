"""Who asks: an OIDC token proves identity, and nothing else; roles stand in the ledger. Fails closed.

A token counts when (1) its algorithm is allowed and its key is the issuer's; (2) the signature holds; (3) issuer,
audience and times are right; (4) its subject fits the ledger's grammar. When the issuer is silent, no keys are guessed.
A service's token is a random number made by its owner: its subject is the number's hash, so nothing of it is kept here.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import re
import ssl
import time
import urllib.parse
from collections.abc import Callable
from typing import Any, Final, Literal

import httpx
import msgspec
from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from openkcm.contract.ids import PersonId
from openkcm.governance.configuration import Oidc
from openkcm.governance.errors import BadCredential, Unauthenticated
from openkcm.governance.portal.sessions import Login

__all__ = ["SERVICE_TOKEN", "Identity", "Issuer", "authorize_url", "service_identity"]

log = logging.getLogger(__name__)
ALGORITHMS: Final = ("ES256", "RS256", "EdDSA", "Ed25519")
LEEWAY_S: Final = 30
REFRESH_S: Final = 5.0  # an unknown key makes us ask the issuer, not oftener than this
KEYS_LIVE_S: Final = 600.0
MAX_TOKEN_BYTES: Final = 8192
#: A service's token: 32 random bytes in hex behind a prefix that scanners of source code can look for.
SERVICE_TOKEN: Final = re.compile(r"okcm-[0-9a-f]{64}\Z")
SERVICE_ISSUER: Final = "urn:openkcm:service"
_PERSON: Final = msgspec.json.Decoder(PersonId)


class Identity(msgspec.Struct, frozen=True):
    """Who a token is of, until when, and when the person last proved to be there (UTC, seconds; 0: not said)."""

    issuer: str
    subject: str
    expires_s: int
    auth_time_s: int = 0
    kind: Literal["bearer", "session", "service"] = "bearer"


def service_identity(token: str) -> Identity:
    """Return who holds a service's token; whether the ledger knows that subject is another question."""
    digest = hashlib.sha256(token.encode()).hexdigest()
    return Identity(SERVICE_ISSUER, f"service-{digest}", int(time.time()) + 60, kind="service")


class Issuer:
    """The one identity provider that is trusted here."""

    def __init__(self, oidc: Oidc, *, other_keys: Callable[[], None] = lambda: None) -> None:
        """Trust it as configured; `other_keys` is called when it shows others than before."""
        self._oidc = oidc
        self._other_keys = other_keys
        verify: ssl.SSLContext | bool = ssl.create_default_context(cafile=oidc.ca) if oidc.ca else True
        self._client = httpx.AsyncClient(verify=verify, trust_env=False, timeout=5.0, follow_redirects=False)
        self._keys: KeySet | None = None
        self._kids: frozenset[str] = frozenset()
        self._public: list[dict[str, Any]] = []
        self._asked_at = float("-inf")
        self._lock = asyncio.Lock()
        self._metadata: dict[str, Any] = {}

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def prepare(self) -> None:
        """Ask for the issuer's keys before anybody comes; while it does not answer, the next caller asks again."""
        async with self._lock:
            await self._refresh()
            if self._keys is None:
                self._asked_at = float("-inf")

    async def identify(self, token: str, *, nonce: str | None = None) -> Identity:
        """Return whose token it is.

        Raises:
            BadCredential: It is none of our issuer's, not for us, or past its time. The message does not repeat it.
            Unauthenticated: The issuer's keys are not known yet.
        """
        if len(token) > MAX_TOKEN_BYTES:
            raise BadCredential("the token is too long")
        try:
            header = jws.extract_compact(token.encode()).headers()
        except (JoseError, ValueError, UnicodeError) as bad:
            raise BadCredential("not a signed token") from bad
        if header.get("alg") not in ALGORITHMS:  # (1)
            raise BadCredential("the token's algorithm is not accepted")
        keys = await self._keys_for(str(header.get("kid", "")))
        try:
            decoded = jwt.decode(token, keys, algorithms=ALGORITHMS)  # (2)
            jwt.JWTClaimsRegistry(
                leeway=LEEWAY_S,
                iss={"essential": True, "value": self._oidc.issuer},
                aud={"essential": True, "value": self._oidc.audience},
                exp={"essential": True},
                sub={"essential": True},
            ).validate(decoded.claims)  # (3)
            subject = _subject(decoded.claims["sub"])  # (4)
        except (JoseError, ValueError, TypeError, KeyError, msgspec.MsgspecError) as bad:
            raise BadCredential(f"the token does not hold: {type(bad).__name__}") from bad
        if nonce is not None and decoded.claims.get("nonce") != nonce:
            raise BadCredential("the token answers another login")
        auth_time = decoded.claims.get("auth_time", 0)
        known = isinstance(auth_time, int) and 0 < auth_time <= time.time() + LEEWAY_S
        return Identity(self._oidc.issuer, subject, int(decoded.claims["exp"]), auth_time if known else 0)

    async def metadata(self) -> dict[str, Any]:
        """Return the issuer's discovery document.

        Raises:
            Unauthenticated: It does not answer, or is another issuer's.
        """
        if not self._metadata:
            document = await self._get(f"{self._oidc.issuer}/.well-known/openid-configuration")
            if document.get("issuer") != self._oidc.issuer:
                raise Unauthenticated("the identity provider calls itself by another name")
            self._metadata = document
        return self._metadata

    async def exchange(self, form: dict[str, str]) -> str:
        """Return the id token for an authorization code.

        Raises:
            Unauthenticated: The issuer gave none.
        """
        endpoint = str((await self.metadata()).get("token_endpoint", ""))
        try:
            response = await self._client.post(endpoint, data=form)
            token = msgspec.json.decode(response.content, type=dict[str, Any]).get("id_token")
        except (httpx.HTTPError, msgspec.MsgspecError) as away:
            raise Unauthenticated("the identity provider did not exchange the code") from away
        if not isinstance(token, str):
            raise Unauthenticated("the identity provider refused the code")
        return token

    async def _keys_for(self, kid: str) -> KeySet:
        now = time.monotonic()
        stale = now - self._asked_at > KEYS_LIVE_S
        if self._keys is None or stale or kid not in self._kids:
            async with self._lock:
                if time.monotonic() - self._asked_at > REFRESH_S:
                    await self._refresh()
        if self._keys is None:
            raise Unauthenticated("the identity provider's keys are not known yet: try again")
        if kid not in self._kids:
            raise BadCredential("the token is of a key the identity provider does not have")
        return self._keys

    async def _refresh(self) -> None:
        self._asked_at = time.monotonic()
        try:
            uri = self._oidc.jwks_uri or str((await self.metadata())["jwks_uri"])
            found = (await self._get(uri)).get("keys", [])
            public = [k for k in found if isinstance(k, dict) and k.get("kty") in {"EC", "RSA", "OKP"} and k.get("kid")]
            self._keys = KeySet.import_key_set({"keys": public})
            self._kids = frozenset(str(k["kid"]) for k in public)
            if public != self._public:
                self._public = public
                self._other_keys()
        except (Unauthenticated, KeyError, ValueError, TypeError, JoseError) as bad:
            log.warning("the identity provider's keys were not renewed: %s", bad)

    async def _get(self, url: str) -> dict[str, Any]:
        try:
            response = await self._client.get(url)
            response.raise_for_status()
            return msgspec.json.decode(response.content, type=dict[str, Any])
        except (httpx.HTTPError, msgspec.MsgspecError) as away:
            raise Unauthenticated(f"the identity provider does not answer: {type(away).__name__}") from away


def authorize_url(endpoint: str, client_id: str, login: Login, *, again: bool = False) -> str:
    """Return where the browser goes to log in; `again`: the provider is to ask even if it knows the person."""
    challenge = base64.urlsafe_b64encode(hashlib.sha256(login.verifier.encode()).digest()).rstrip(b"=").decode()
    query = {
        "response_type": "code",
        "client_id": client_id,
        "scope": "openid",
        "redirect_uri": login.redirect_uri,
        "state": login.state,
        "nonce": login.nonce,
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    if again:
        query |= {"prompt": "login", "max_age": "0"}
    return f"{endpoint}?{urllib.parse.urlencode(query)}"


def _subject(claim: object) -> str:
    """Return an opaque subject. The ledger keeps it for ever, so nothing that could name a person is let in.

    Raises:
        BadCredential: It is none, a mail address for instance.
    """
    try:
        return _PERSON.decode(msgspec.json.encode(claim))
    except msgspec.MsgspecError as bad:
        raise BadCredential("the token's subject is no opaque id (letters, digits, . _ : -): a name or a mail address "
                            "has no place in a ledger") from bad  # fmt: skip
