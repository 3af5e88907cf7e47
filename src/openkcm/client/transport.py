"""Requests to the API with one person's token: JSON in and out. Repeats one only after a fresh sign-in it asks for."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Final, Self

import httpx
import msgspec

__all__ = ["Answer", "Portal", "Problem", "SyncTimeout"]

API: Final = "/cmk/v1"
LOOK_S: Final = 0.01
#: Rows of a list in one answer.
PAGE: Final = 250
SYNC_S: Final = 20.0


class Problem(Exception):
    """An answer that is no success: application/problem+json, or nothing understandable."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(f"{status} {code}: {detail}")
        self.status = status
        self.code = code
        self.detail = detail


class SyncTimeout(Exception):
    """The nodes did not acknowledge in time."""


class Answer(dict[str, Any]):
    """A JSON answer. `asked_ns` and `at_ns`: when it was asked and here, in CLOCK_BOOTTIME as nodes count.

    `onward`: what to ask for the next part of a list, None at its end.
    """

    status: int
    asked_ns: int
    at_ns: int
    etag: str | None
    onward: str | None


class Portal:
    """The API with one person's token.

    Args:
        url: Of the CMK; `ca`: PEM file, None for plain HTTP on loopback.
        renew: Signs in again and returns a fresh token, when the API asks for somebody who was there just now.

    Attributes:
        last: The last answer, with its times.
    """

    last: Answer

    def __init__(
        self, url: str, token: str, *, ca: str | None = None, timeout_s: float = 15.0,
        renew: Callable[[], str] | None = None,
    ) -> None:  # fmt: skip
        self._renew = renew
        self._client = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {token}", "Accept": "application/json"},
            verify=ca if ca is not None else True,
            timeout=timeout_s,
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def get(self, path: str, **query: str | int) -> Answer:
        """Read.

        Raises:
            Problem: The API says no.
        """
        return self._ask("GET", path, params=query)

    def post(self, path: str, body: object, **query: str | int) -> Answer:
        """Order something; the answer 202 says it is recorded.

        Raises:
            Problem: The API says no; nothing was recorded.
        """
        return self._ask("POST", path, body=body, params=query)

    def put(self, path: str, body: object) -> Answer:
        """As `post`.

        Raises:
            Problem: The API says no.
        """
        return self._ask("PUT", path, body=body)

    def patch(self, path: str, body: object) -> Answer:
        """As `post`, with a merge-patch.

        Raises:
            Problem: The API says no.
        """
        return self._ask("PATCH", path, body=body, content_type="application/merge-patch+json")

    def ask(self, method: str, path: str, body: object = None, query: dict[str, str | int] | None = None) -> Answer:
        """Ask anything else of the API.

        Raises:
            Problem: The API says no.
        """
        return self._ask(method, path, body=body, params=query)

    def listed(self, path: str, query: dict[str, str | int] | None = None) -> Answer:
        """Read a list to its end, page by page.

        Raises:
            Problem: The API says no.
        """
        answer = self._ask("GET", path, params={"$top": PAGE, **(query or {})})
        while answer.onward is not None:
            page = self._ask("GET", answer.onward)
            answer["value"] += page["value"]
            answer.onward = page.onward
        return answer

    def lines(self, path: str, **query: str | int) -> Iterator[bytes]:
        """Yield the lines of an answer that is none of JSON's: an export, a stream of events.

        Raises:
            Problem: The API says no.
        """
        headers = {"Accept": "*/*"}
        with self._client.stream("GET", API + path, params=query, headers=headers, timeout=None) as response:
            if response.status_code >= httpx.codes.BAD_REQUEST:
                response.read()
                raise Problem(response.status_code, "", f"GET {path}: {response.text[:500]}")
            for line in response.iter_lines():
                yield line.encode()

    def delete(self, path: str) -> Answer:
        """As `post`.

        Raises:
            Problem: The API says no.
        """
        return self._ask("DELETE", path)

    def wait_in_sync(self, path: str, lane: str, counter: int, *, timeout_s: float = SYNC_S) -> Answer:
        """Return the residence's sync once every node has acknowledged `counter` on `lane`.

        Raises:
            SyncTimeout: Not within `timeout_s`; the message has the last answer.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            answer = self.get(f"{path}/sync")
            of_lane = answer[lane]
            if of_lane["counter"] >= counter and of_lane["status"] in {"InSync", "Revoked"}:
                return answer
            if of_lane["status"] == "Failed":
                raise SyncTimeout(f"{path}: {lane} {counter} failed: {dict(answer)}")
            if time.monotonic() > deadline:
                raise SyncTimeout(f"{path}: {lane} {counter} is not in sync after {timeout_s} s: {dict(answer)}")
            time.sleep(LOOK_S)

    def _ask(
        self, method: str, path: str, *, body: object = None, params: dict[str, str | int] | None = None,
        content_type: str = "application/json",
    ) -> Answer:  # fmt: skip
        headers = {} if method == "GET" else {"Idempotency-Key": str(uuid.uuid4())}
        content = None
        if body is not None:
            content, headers["Content-Type"] = msgspec.json.encode(body), content_type
        asked_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        try:
            response = self._client.request(method, API + path, content=content, params=params or None, headers=headers)
        except httpx.HTTPError as bad:
            raise Problem(0, "unreachable", f"{method} {path}: {bad or type(bad).__name__}") from bad
        at_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        if response.status_code == httpx.codes.UNAUTHORIZED and self._renew is not None:
            fresh, self._renew = self._renew, None
            self._client.headers["Authorization"] = f"Bearer {fresh()}"
            try:
                return self._ask(method, path, body=body, params=params, content_type=content_type)
            finally:
                self._renew = fresh
        try:
            decoded = msgspec.json.decode(response.content) if response.content else {}
        except msgspec.DecodeError:
            decoded = {"detail": response.text[:500]}
        if response.status_code >= httpx.codes.BAD_REQUEST:
            detail = f"{method} {path}: {decoded.get('detail') or decoded.get('title') or decoded}"
            raise Problem(response.status_code, str(decoded.get("code", "")), detail)
        answer = Answer(decoded if isinstance(decoded, dict) else {"value": decoded})
        answer.status, answer.asked_ns, answer.at_ns = response.status_code, asked_ns, at_ns
        answer.etag = response.headers.get("ETag")
        following = response.links.get("next", {}).get("url")
        answer.onward = None if following is None else following.removeprefix(API)
        self.last = answer
        return answer
