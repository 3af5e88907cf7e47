"""A small KMIP client over TLS for tests: our own codec's client half, and raw bytes where a test wants to misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import ssl

from openkcm.kmip import KMIP_1_4, MAX_MESSAGE_BYTES, Attribute, decode_response, encode_request, message_length
from openkcm.kmip.enums import (
    BlockCipherMode,
    CryptographicAlgorithm,
    CryptographicUsageMask,
    NameType,
    ObjectType,
    ResultStatus,
)
from openkcm.kmip.framing import RESPONSE
from openkcm.kmip.objects import TemplateAttribute
from openkcm.kmip.payloads.cryptography import DecryptRequest, EncryptRequest
from openkcm.kmip.payloads.lifecycle import ActivateRequest
from openkcm.kmip.payloads.objects import CreateRequest
from openkcm.kmip.structures import CryptographicParameters, Name

BOTH = int(CryptographicUsageMask.ENCRYPT | CryptographicUsageMask.DECRYPT)
GCM = CryptographicParameters(
    block_cipher_mode=BlockCipherMode.GCM, cryptographic_algorithm=CryptographicAlgorithm.AES, tag_length=16
)


def client_context(certificate, key, ca, *, version=None):
    context = ssl.create_default_context(cafile=str(ca))
    context.check_hostname = False
    if certificate is not None:
        context.load_cert_chain(str(certificate), str(key))
    if version is not None:
        context.maximum_version = version
    return context


class Failed(Exception):
    """A batch item that did not succeed."""

    def __init__(self, item):
        super().__init__(f"{item.reason!r}: {item.message}")
        self.reason, self.message = item.reason, item.message


class KmipClient:
    """One connection."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, port, context, **options):
        return cls(*await asyncio.open_connection("127.0.0.1", port, ssl=context, limit=1 << 24, **options))

    async def raw(self, data: bytes) -> bytes:
        self.writer.write(data)
        await self.writer.drain()
        return await self.message()

    async def message(self) -> bytes:
        head = await self.reader.readexactly(8)
        size = message_length(head, limit=MAX_MESSAGE_BYTES + 1024, expected=RESPONSE)
        return head + await self.reader.readexactly(size - 8)

    async def batch(self, *payloads, version=KMIP_1_4, header=None):
        return decode_response(await self.raw(encode_request(*payloads, version=version, header=header))).items

    async def call(self, payload, version=KMIP_1_4):
        (item,) = await self.batch(payload, version=version)
        if item.status != ResultStatus.SUCCESS:
            raise Failed(item)
        return item.payload

    async def new_key(self, *, bits=256, name=None, active=True, usage=BOTH, more=(), version=KMIP_1_4) -> str:
        made = await self.call(create_request(bits=bits, name=name, usage=usage, more=more), version)
        if active:
            await self.call(ActivateRequest(unique_identifier=made.unique_identifier), version)
        return made.unique_identifier

    async def encrypt(self, uid, data, **more):
        more.setdefault("cryptographic_parameters", GCM)
        return await self.call(EncryptRequest(unique_identifier=uid, data=data, **more))

    async def decrypt(self, uid, done, **more):
        more.setdefault("cryptographic_parameters", GCM)
        more.setdefault("iv_counter_nonce", done.iv_counter_nonce)
        request = DecryptRequest(
            unique_identifier=uid,
            data=done.data,
            authenticated_encryption_tag=done.authenticated_encryption_tag,
            **more,
        )
        return (await self.call(request)).data

    async def close(self):
        self.writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await self.writer.wait_closed()


def attribute(name, value):
    return Attribute(attribute_name=name, attribute_value=value)


def create_request(*, bits=256, name=None, usage=BOTH, more=()):
    attributes = [
        attribute("Cryptographic Algorithm", CryptographicAlgorithm.AES),
        attribute("Cryptographic Length", bits),
        attribute("Cryptographic Usage Mask", usage),
        *more,
    ]
    if name is not None:
        value = Name(name_value=name, name_type=NameType.UNINTERPRETED_TEXT_STRING)
        attributes.append(attribute("Name", value))
    return CreateRequest(
        object_type=ObjectType.SYMMETRIC_KEY, template_attribute=TemplateAttribute(attribute=tuple(attributes))
    )
