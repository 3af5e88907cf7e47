"""Who is signed in to the pages: kept in the CMK's own tables, so that a restart signs nobody out. Proves no identity.

The cookie is a random number that only the browser has; the table holds its hash. A request that changes something also
shows the page's token, which is made of the cookie: a page of somebody else's can send the cookie but not know it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from typing import Final

import msgspec

from openkcm.projector import Reader, Writer

__all__ = ["COOKIE", "Login", "Session", "Sessions", "csrf_of"]

#: The cookie of a signed-in browser.
COOKIE: Final = "openkcm_session"
SESSION_S: Final = 3600
LOGIN_S: Final = 300
MAX_LOGINS: Final = 10_000
CSRF_DOMAIN: Final = b"openkcm/csrf/1"


class Login(msgspec.Struct, frozen=True):
    """A login under way in one browser. `onward`: the page it was begun from."""

    state: str
    nonce: str
    verifier: str
    redirect_uri: str
    onward: str
    until_s: float


class Session(msgspec.Struct, frozen=True):
    """A person in one browser. Times are UTC in seconds."""

    issuer: str
    person: str
    auth_time_s: int
    expires_s: int


def csrf_of(cookie: str) -> str:
    """Return the token that a session's own pages send along."""
    return hmac.new(cookie.encode(), CSRF_DOMAIN, hashlib.sha256).hexdigest()


class Sessions:
    """All browsers. Logins under way are kept in memory: they take a minute."""

    def __init__(self, reader: Reader, writer: Writer) -> None:
        self._reader = reader
        self._writer = writer
        self._logins: dict[str, Login] = {}

    def open(self, session: Session) -> str:
        """Return the cookie of a new session."""
        now, cookie = int(time.time()), secrets.token_urlsafe(32)
        expires_s = min(session.expires_s, now + SESSION_S)
        row: dict[str, str | int] = {
            "cookie": _hashed(cookie), "issuer": session.issuer, "person": session.person,
            "auth_time_s": session.auth_time_s, "begun_s": now, "expires_s": expires_s,
        }  # fmt: skip
        self._writer.apply([("session", row)])
        return cookie

    def find(self, cookie: str) -> Session | None:
        """Return who holds a cookie."""
        query = "SELECT issuer, person, auth_time_s, expires_s FROM session WHERE cookie = ? AND expires_s > ?"
        rows = self._reader.rows(query, (_hashed(cookie), int(time.time()))) if cookie else []
        return Session(*rows[0]) if rows else None

    def end(self, cookie: str) -> None:
        """Forget one session."""
        self._writer.apply([("session_ended", {"cookie": _hashed(cookie)})])

    def end_all(self, issuer: str, person: str) -> None:
        """Sign a person out everywhere."""
        self._writer.apply([("sessions_ended", {"issuer": issuer, "person": person})])

    def begin(self, redirect_uri: str, onward: str) -> Login:
        """Return a new login (RFC 7636: the verifier stays here)."""
        now = time.monotonic()
        self._logins = {s: x for s, x in list(self._logins.items())[-MAX_LOGINS:] if x.until_s > now}
        tokens = [secrets.token_urlsafe(32) for _ in range(3)]
        login = Login(tokens[0], tokens[1], tokens[2], redirect_uri, onward, now + LOGIN_S)
        self._logins[login.state] = login
        return login

    def take(self, state: str) -> Login | None:
        """Return a login once."""
        login = self._logins.pop(state, None)
        return login if login is not None and login.until_s > time.monotonic() else None


def _hashed(cookie: str) -> str:
    return hashlib.sha256(cookie.encode()).hexdigest()
