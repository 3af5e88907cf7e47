"""MiniStack with a request log in CloudTrail's form: `python -m openkcm.cli.kms_trail FILE`. For local stacks only.

What a customer's own KMS writes into its trail: when, who, which call, under which encryption context, refused or not.
Never a plaintext or a ciphertext.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

__all__ = ["main", "trailed"]

TARGET: Final = b"x-amz-target"
SERVICE: Final = "TrentService."
GOOD: Final = 400

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


def trailed(app: App, file: Path) -> App:
    """Return the application with every KMS request written to `file`, a JSON record a line, before it is answered."""

    async def recording(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        headers = dict(scope.get("headers") or [])
        target = headers.get(TARGET, b"").decode()
        if scope["type"] != "http" or not target.startswith(SERVICE):
            await app(scope, receive, send)
            return
        asked, answered, status = bytearray(), bytearray(), 0

        async def hear() -> Message:
            message = await receive()
            asked.extend(message.get("body", b""))
            return message

        async def tell(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                answered.extend(message.get("body", b""))
                if not message.get("more_body"):
                    _write(file, target.removeprefix(SERVICE), headers, bytes(asked), status, bytes(answered))
            await send(message)

        await app(scope, hear, tell)

    return recording


def _write(file: Path, verb: str, headers: dict[bytes, bytes], asked: bytes, status: int, answered: bytes) -> None:
    body = json.loads(asked or b"{}")
    credential = headers.get(b"authorization", b"").decode().partition("Credential=")[2].partition("/")[0]
    record: dict[str, Any] = {
        "eventTime": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "eventSource": "kms.amazonaws.com",
        "eventName": verb,
        "userIdentity": {"accessKeyId": credential},
        "requestParameters": {"keyId": body.get("KeyId"), "encryptionContext": body.get("EncryptionContext")},
    }
    if status >= GOOD:
        record["errorCode"] = str(json.loads(answered or b"{}").get("__type", status)).rpartition("#")[2]
    with file.open("a", encoding="utf-8") as trail:
        trail.write(json.dumps(record) + "\n")


def main() -> None:
    """Serve as MiniStack does."""
    from ministack import app as ministack

    file = Path(sys.argv.pop(1))
    ministack.app = trailed(ministack.app, file)
    ministack.main()


if __name__ == "__main__":
    main()
