"""An independent KMIP client in a process of its own: PyKMIP behind JSON lines. The one place that imports `kmip`.

One request a line on standard input, one answer a line on standard output. A request names a certificate (`as`), an
operation and its arguments; bytes travel as base64. An answer is `{"ok": ...}` or `{"refused": reason, "message": ...}`
where the server said no, or `{"lost": why}` where there was no TLS connection or no answer.
"""

from __future__ import annotations

import base64
import contextlib
import json
import sys
from collections.abc import Callable
from typing import Any, Final

from kmip.core import enums
from kmip.core.attributes import Name
from kmip.core.factories.attributes import AttributeFactory
from kmip.pie.client import ProxyKmipClient
from kmip.pie.exceptions import KmipOperationFailure

__all__ = ["main"]

AES_BITS: Final = 256
PARAMETERS: Final = {
    "cryptographic_algorithm": enums.CryptographicAlgorithm.AES,
    "block_cipher_mode": enums.BlockCipherMode.CBC,  # KMIP 1.2, PyKMIP's newest with these payloads, has no GCM tag
    "padding_method": enums.PaddingMethod.PKCS5,
}


def create(client: ProxyKmipClient, name: str) -> str:
    """Make an AES-256 key that encrypts and decrypts; return its identifier."""
    usage = [enums.CryptographicUsageMask.ENCRYPT, enums.CryptographicUsageMask.DECRYPT]
    return str(client.create(enums.CryptographicAlgorithm.AES, AES_BITS, name=name, cryptographic_usage_mask=usage))


def activate(client: ProxyKmipClient, uid: str) -> None:
    """Put a key to use."""
    client.activate(uid)


def encrypt(client: ProxyKmipClient, uid: str, data: str, iv: str) -> str:
    """Encrypt base64 under a base64 IV; return base64."""
    sealed, _ = client.encrypt(
        base64.b64decode(data), uid=uid, cryptographic_parameters=PARAMETERS, iv_counter_nonce=base64.b64decode(iv)
    )
    return base64.b64encode(sealed).decode()


def decrypt(client: ProxyKmipClient, uid: str, data: str, iv: str) -> str:
    """Decrypt base64 under a base64 IV; return base64."""
    opened = client.decrypt(
        base64.b64decode(data), uid=uid, cryptographic_parameters=PARAMETERS, iv_counter_nonce=base64.b64decode(iv)
    )
    return base64.b64encode(opened).decode()


def locate(client: ProxyKmipClient, name: str) -> list[str]:
    """Return the identifiers of the objects of that name that this certificate may see."""
    value = Name.create(name, enums.NameType.UNINTERPRETED_TEXT_STRING)
    attribute = AttributeFactory().create_attribute(enums.AttributeType.NAME, value)
    return [str(uid) for uid in client.locate(attributes=[attribute])]


def get(client: ProxyKmipClient, uid: str) -> dict[str, Any]:
    """Return what Get hands out: kind, algorithm and length, not the key itself."""
    key = client.get(uid)
    return {"algorithm": key.cryptographic_algorithm.name, "bits": key.cryptographic_length, "bytes": len(key.value)}


OPERATIONS: Final[dict[str, Callable[..., Any]]] = {
    "create": create,
    "activate": activate,
    "encrypt": encrypt,
    "decrypt": decrypt,
    "locate": locate,
    "get": get,
}


class Clients:
    """One connection a certificate and node, opened when first used."""

    def __init__(self) -> None:
        self._open: dict[str, ProxyKmipClient] = {}

    def of(self, where: dict[str, Any]) -> ProxyKmipClient:
        """Return an open client."""
        name = json.dumps(where, sort_keys=True)
        if name not in self._open:
            client = ProxyKmipClient(
                hostname=where["host"], port=where["port"], cert=where["cert"], key=where["key"], ca=where["ca"],
                ssl_version="PROTOCOL_TLSv1_2", config_file="/dev/null", kmip_version=enums.KMIPVersion.KMIP_1_2,
            )  # fmt: skip
            client.open()
            self._open[name] = client
        return self._open[name]

    def drop(self, where: dict[str, Any]) -> None:
        """Forget a connection that broke."""
        client = self._open.pop(json.dumps(where, sort_keys=True), None)
        if client is not None:
            with contextlib.suppress(Exception):  # it is broken already
                client.close()


def answer(clients: Clients, request: dict[str, Any]) -> dict[str, Any]:
    """Do what one line asks."""
    where = request["as"]
    try:
        return {"ok": OPERATIONS[request["do"]](clients.of(where), **request.get("with", {}))}
    except KmipOperationFailure as no:
        return {"refused": no.reason.name, "message": no.message}
    except Exception as bad:  # PyKMIP raises many kinds when a server hangs up in the middle of an answer
        clients.drop(where)
        return {"lost": f"{type(bad).__name__}: {bad}"}


def main() -> None:
    """Answer lines until standard input ends."""
    clients = Clients()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(clients, json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
