"""MongoDB's own KMIP client (libmongocrypt, in C) against a real worker: data keys made and used, no database needed.

Plain: it registers secret data in KMIP 1.0, activates and gets it. Delegated: it has a key created and calls Encrypt and
Decrypt in KMIP 1.2, so the key never leaves the node.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct

import pytest
from pymongocrypt.options import MongoCryptOptions
from pymongocrypt.synchronous.explicit_encrypter import ExplicitEncrypter
from pymongocrypt.synchronous.state_machine import MongoCryptCallback

from execution.custodian_double import CustodianDouble

DETERMINISTIC = "AEAD_AES_256_CBC_HMAC_SHA_512-Deterministic"


def bson(document):
    """Enough of BSON for a client's options: documents, texts, Booleans (bsonspec.org)."""
    body = b""
    for name, value in document.items():
        key = name.encode() + b"\0"
        match value:
            case bool():
                body += b"\x08" + key + bytes([value])
            case str():
                raw = value.encode() + b"\0"
                body += b"\x02" + key + struct.pack("<i", len(raw)) + raw
            case dict():
                body += b"\x03" + key + bson(value)
    return struct.pack("<i", len(body) + 5) + body + b"\0"


class Application(MongoCryptCallback):
    """What a driver does for libmongocrypt. Keeps data keys in a list; counts requests to the KMS."""

    def __init__(self, context, endpoint):
        self.context, self.endpoint, self.keys, self.requests = context, endpoint, [], 0

    def kms_request(self, kms):
        host, port = kms.endpoint.split(":")
        assert f"{host}:{port}" == self.endpoint
        self.requests += 1
        with socket.create_connection((host, int(port)), 20) as raw, self.context.wrap_socket(raw) as tls:
            tls.sendall(kms.message)
            while kms.bytes_needed > 0:
                data = tls.recv(kms.bytes_needed)
                assert data, "the server hung up"
                kms.feed(data)

    def insert_data_key(self, data_key):
        self.keys.append(bytes(data_key))
        return data_key

    def fetch_keys(self, _filter):
        yield from self.keys

    def collection_info(self, *_):
        raise NotImplementedError

    mark_command = collection_info

    def bson_encode(self, doc):
        return bson(doc)

    def close(self):
        pass


def key_id(data_key):
    """The `_id` of a data key document: its first field, binary of subtype 4."""
    at = data_key.index(b"\x05_id\0") + 5
    assert data_key[at : at + 5] == struct.pack("<iB", 16, 4)
    return data_key[at + 5 : at + 21]


@pytest.mark.parametrize(("master_key", "requests"), [({}, 3), ({"delegated": True}, 3)], ids=["plain", "delegated"])
async def test_mongodbs_client_makes_and_uses_data_keys(tmp_path, master_key, requests):
    async with CustodianDouble(tmp_path) as custodian:
        custodian.system("acme", "mongo")
        context = custodian.context(custodian.enrol("acme", "mongo", "mongo"))
        assert isinstance(context, ssl.SSLContext)
        await asyncio.to_thread(use, context, f"127.0.0.1:{custodian.port}", master_key, requests)
        handed = len(custodian.handed)
    assert handed == (0 if master_key else 3)  # to wrap the data key, to unwrap it for each client; delegated: never


def use(context, endpoint, master_key, requests):
    providers = {"kmip": {"endpoint": endpoint}}
    application = Application(context, endpoint)
    encrypter = ExplicitEncrypter(application, MongoCryptOptions(providers))
    value = bson({"v": "4111-1111-1111-1111"})
    data_key = encrypter.create_data_key("kmip", master_key, None)
    assert application.requests == requests
    sealed = encrypter.encrypt(value, DETERMINISTIC, key_id=key_id(bytes(data_key)))
    assert b"4111" not in sealed
    fresh = ExplicitEncrypter(application, MongoCryptOptions(providers))  # nothing cached
    assert bytes(fresh.decrypt(sealed)) == value
    encrypter.close()
    fresh.close()
