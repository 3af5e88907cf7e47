"""Who asks: an OIDC token proves identity, and nothing else; roles stand in the ledger. Fails closed.

A token counts when (1) its algorithm is allowed and its key is the issuer's; (2) the signature holds; (3) issuer,
audience and times are right; (4) its subject fits the ledger's grammar. When the issuer is silent, no keys are guessed.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import secrets
import ssl
import time
import urllib.parse
from typing import Any, Final

import httpx
import msgspec
from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from openkcm.contract.ids import PersonId
from openkcm.governance.configuration import Oidc
from openkcm.governance.errors import Unauthenticated

__all__ = ["Identity", "Issuer", "Login", "Sessions"]

log = logging.getLogger(__name__)
ALGORITHMS: Final = ("ES256", "RS256", "EdDSA", "Ed25519")
LEEWAY_S: Final = 30
REFRESH_S: Final = 5.0  # an unknown key makes us ask the issuer, not oftener than this
KEYS_LIVE_S: Final = 600.0
MAX_TOKEN_BYTES: Final = 8192
SESSION_S: Final = 8 * 3600
LOGIN_S: Final = 300
MAX_SESSIONS: Final = 10_000
_PERSON: Final = msgspec.json.Decoder(PersonId)


class Identity(msgspec.Struct, frozen=True):
    """Who a token is of, and until when (UTC, seconds)."""

    issuer: str
    subject: str
    expires_s: int


class Issuer:
    """The one identity provider that is trusted here."""

    def __init__(self, oidc: Oidc) -> None:
        self._oidc = oidc
        verify: ssl.SSLContext | bool = ssl.create_default_context(cafile=oidc.ca) if oidc.ca else True
        self._client = httpx.AsyncClient(verify=verify, trust_env=False, timeout=5.0, follow_redirects=False)
        self._keys: KeySet | None = None
        self._kids: frozenset[str] = frozenset()
        self._asked_at = float("-inf")
        self._lock = asyncio.Lock()
        self._metadata: dict[str, Any] = {}

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def identify(self, token: str, *, nonce: str | None = None) -> Identity:
        """Return whose token it is.

        Raises:
            Unauthenticated: It is none of our issuer's, not for us, or past its time. The message does not repeat it.
        """
        if len(token) > MAX_TOKEN_BYTES:
            raise Unauthenticated("the token is too long")
        try:
            header = jws.extract_compact(token.encode()).headers()
        except (JoseError, ValueError, UnicodeError) as bad:
            raise Unauthenticated("not a signed token") from bad
        if header.get("alg") not in ALGORITHMS:  # (1)
            raise Unauthenticated("the token's algorithm is not accepted")
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
            subject = _PERSON.decode(msgspec.json.encode(decoded.claims["sub"]))  # (4)
        except (JoseError, ValueError, TypeError, KeyError, msgspec.MsgspecError) as bad:
            raise Unauthenticated(f"the token does not hold: {type(bad).__name__}") from bad
        if nonce is not None and decoded.claims.get("nonce") != nonce:
            raise Unauthenticated("the token answers another login")
        return Identity(self._oidc.issuer, subject, int(decoded.claims["exp"]))

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
            raise Unauthenticated("the token is of a key the identity provider does not have")
        return self._keys

    async def _refresh(self) -> None:
        self._asked_at = time.monotonic()
        try:
            uri = self._oidc.jwks_uri or str((await self.metadata())["jwks_uri"])
            found = (await self._get(uri)).get("keys", [])
            public = [k for k in found if isinstance(k, dict) and k.get("kty") in {"EC", "RSA", "OKP"} and k.get("kid")]
            self._keys = KeySet.import_key_set({"keys": public})
            self._kids = frozenset(str(k["kid"]) for k in public)
        except (Unauthenticated, KeyError, ValueError, TypeError, JoseError) as bad:
            log.warning("the identity provider's keys were not renewed: %s", bad)

    async def _get(self, url: str) -> dict[str, Any]:
        try:
            response = await self._client.get(url)
            response.raise_for_status()
            return msgspec.json.decode(response.content, type=dict[str, Any])
        except (httpx.HTTPError, msgspec.MsgspecError) as away:
            raise Unauthenticated(f"the identity provider does not answer: {type(away).__name__}") from away


class Login(msgspec.Struct, frozen=True):
    """A login under way in one browser."""

    state: str
    nonce: str
    verifier: str
    redirect_uri: str
    until_s: float


class Sessions:
    """Who is logged in to the pages. Kept here and forgotten with the process; the cookie is a random number."""

    def __init__(self) -> None:
        self._sessions: dict[str, Identity] = {}
        self._logins: dict[str, Login] = {}

    def open(self, identity: Identity) -> str:
        """Return the cookie of a new session."""
        now = time.time()
        self._sessions = {c: i for c, i in list(self._sessions.items())[-MAX_SESSIONS:] if i.expires_s > now}
        cookie = secrets.token_urlsafe(32)
        expires = min(identity.expires_s, int(now) + SESSION_S)
        self._sessions[_hashed(cookie)] = msgspec.structs.replace(identity, expires_s=expires)
        return cookie

    def find(self, cookie: str) -> Identity | None:
        """Return who holds a cookie."""
        identity = self._sessions.get(_hashed(cookie))
        return identity if identity is not None and identity.expires_s > time.time() else None

    def end(self, cookie: str) -> None:
        """Forget a session."""
        self._sessions.pop(_hashed(cookie), None)

    def begin(self, redirect_uri: str) -> Login:
        """Return a new login (RFC 7636: the verifier stays here)."""
        now = time.monotonic()
        self._logins = {s: x for s, x in list(self._logins.items())[-MAX_SESSIONS:] if x.until_s > now}
        tokens = [secrets.token_urlsafe(32) for _ in range(3)]
        login = Login(tokens[0], tokens[1], tokens[2], redirect_uri, now + LOGIN_S)
        self._logins[login.state] = login
        return login

    def take(self, state: str) -> Login | None:
        """Return a login once."""
        login = self._logins.pop(state, None)
        return login if login is not None and login.until_s > time.monotonic() else None


def authorize_url(endpoint: str, client_id: str, login: Login) -> str:
    """Return where the browser goes to log in."""
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
    return f"{endpoint}?{urllib.parse.urlencode(query)}"


def _hashed(cookie: str) -> str:
    return hashlib.sha256(cookie.encode()).hexdigest()
