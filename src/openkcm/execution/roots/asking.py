"""What the backends share: asking until the deadline, and binding what is wrapped to what it is for. No SDK here.

A provider's word is never enough: what goes to it is the KEK with a digest of KEK and context, so that an answer which
is not what was wrapped is known as such, also where the provider can bind no context.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar

from openkcm.contract.decrees import RootReference
from openkcm.contract.errors import NameError_
from openkcm.contract.rootnames import RootName, check_place, parse_root
from openkcm.contract.seal import canonical
from openkcm.execution.roots.base import KEK_BYTES, RootError, RootSettings

__all__ = [
    "FRAME_BYTES", "ask", "context_bytes", "credential_of", "endpoint_of", "framed", "named", "secret_file", "unframed",
    "within",
]  # fmt: skip

_T = TypeVar("_T")
CHECK_BYTES: Final = 16
FRAME_BYTES: Final = KEK_BYTES + CHECK_BYTES
FIRST_BACKOFF_S: Final = 0.05
MAX_BACKOFF_S: Final = 0.5
MAX_SECRET_FILE_BYTES: Final = 65536
_RETRIED: Final = frozenset({"Throttled", "Unreachable"})
_CHECK_DOMAIN: Final = "openkcm/kek/1"
_CONTEXT_DOMAIN: Final = "openkcm/root-context/1"


def ask(call: Callable[[float], _T], deadline_s: float) -> _T:
    """Call until it answers or refuses, again after what may pass (throttled, unreachable), within the deadline.

    Args:
        call: Given the seconds that are left for it; raises RootError.

    Raises:
        RootError: The last refusal.
    """
    until = time.monotonic() + deadline_s
    backoff_s = FIRST_BACKOFF_S
    while True:
        began = time.monotonic()
        try:
            return call(max(until - began, 0.001))
        except RootError as no:
            # Full jitter: many nodes lose the same endpoint at the same moment. A try that cannot end is not begun.
            wait_s = random.uniform(0, backoff_s)  # noqa: S311 -- spreads load, guards nothing
            took_s = time.monotonic() - began
            if no.code not in _RETRIED or time.monotonic() + wait_s + took_s >= until:
                raise
        time.sleep(wait_s)
        backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)


def within(call: Callable[[], _T], seconds: float, what: str) -> _T:
    """Call a library that knows no deadline, in a thread that is left alone when it is late.

    Raises:
        RootError: Late (Unreachable), or what `call` raised.
    """
    answer: list[_T] = []
    error: list[BaseException] = []

    def run() -> None:
        try:
            answer.append(call())
        except BaseException as bad:  # carried over to the caller
            error.append(bad)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if error:
        raise error[0]
    if not answer:
        raise RootError("Unreachable", f"{what} did not answer within {seconds:.1f} s")
    return answer[0]


def framed(secret: bytes, context: Mapping[str, str]) -> bytes:
    """Return what is given to a root to wrap: the KEK and a digest of it and its context, 48 bytes.

    Raises:
        RootError: Not 32 bytes (Misconfigured).
    """
    if len(secret) != KEK_BYTES:
        raise RootError("Misconfigured", f"{len(secret)} bytes to wrap; a KEK has {KEK_BYTES}")
    return secret + _check(secret, context)


def unframed(plain: bytes, context: Mapping[str, str]) -> bytes:
    """Return the KEK of a frame.

    Raises:
        RootError: Never framed under this context (WrongContext).
    """
    secret = plain[:KEK_BYTES]
    if len(plain) != FRAME_BYTES or not hmac.compare_digest(plain[KEK_BYTES:], _check(secret, context)):
        raise RootError("WrongContext", "it unwraps to something that was never wrapped for this residence")
    return secret


def context_bytes(context: Mapping[str, str]) -> bytes:
    """Return a context as one canonical string, for providers that take additional data as bytes."""
    return canonical(_CONTEXT_DOMAIN, *_parts(context))


def named(reference: RootReference, settings: RootSettings) -> RootName:
    """Return what a reference names, once it lies where node.toml allows.

    Raises:
        RootError: Misconfigured.
    """
    try:
        name = parse_root(reference)
        check_place(name, settings.policy, settings.regions)
    except NameError_ as bad:
        raise RootError("Misconfigured", str(bad)) from bad
    return name


def credential_of(reference: RootReference, settings: RootSettings, known: frozenset[str]) -> Mapping[str, str]:
    """Return the node's own settings for a reference's credential; without one it is the one named as the provider.

    Raises:
        RootError: There is none of that name, or it has a setting nobody knows (Misconfigured).
    """
    name = reference.credential or reference.provider
    credential = settings.policy.credentials.get(name)
    if credential is None:
        raise RootError("Misconfigured", f"node.toml has no credential {name[:64]!r}: roots.credentials")
    own = {setting: value for setting, value in credential.items() if setting != "tenants"}  # `open_root` has seen it
    if unknown := own.keys() - known:
        raise RootError("Misconfigured", f"roots.credentials.{name}: unknown {', '.join(sorted(unknown))}")
    told = {setting: value for setting, value in own.items() if isinstance(value, str)}
    if lists := own.keys() - told.keys():
        raise RootError("Misconfigured", f"roots.credentials.{name}: {', '.join(sorted(lists))} must be one text")
    return told


def endpoint_of(settings: RootSettings, *names: str) -> str:
    """Return the first endpoint that node.toml has of these names.

    Raises:
        RootError: It has none (Misconfigured).
    """
    for name in names:
        if name in settings.policy.endpoints:
            return settings.policy.endpoints[name]
    raise RootError("Misconfigured", f"node.toml names no endpoint {' or '.join(names)}: roots.endpoints")


def secret_file(credential: Mapping[str, str], setting: str) -> bytes:
    """Return the content of a file that a credential names, without the newline at its end.

    Raises:
        RootError: Not named (Misconfigured), not there, not readable, or open to others (CredentialRejected: it is our
            own, and no word of the customer's).
    """
    if setting not in credential:
        raise RootError("Misconfigured", f"this credential needs {setting!r}: roots.credentials")
    path = Path(credential[setting])
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise RootError("CredentialRejected", f"{path} is open to others; make it 0600")
            raw = file.read(MAX_SECRET_FILE_BYTES + 1)
    except OSError as bad:
        raise RootError("CredentialRejected", f"{path}: {bad.strerror}") from bad
    if not raw.strip() or len(raw) > MAX_SECRET_FILE_BYTES:
        raise RootError("CredentialRejected", f"{path} is empty, or over {MAX_SECRET_FILE_BYTES} bytes")
    return raw.rstrip(b"\r\n")


def _check(secret: bytes, context: Mapping[str, str]) -> bytes:
    return hashlib.sha256(canonical(_CHECK_DOMAIN, secret, *_parts(context))).digest()[:CHECK_BYTES]


def _parts(context: Mapping[str, str]) -> list[str]:
    return [part for name in sorted(context) for part in (name, context[name])]
