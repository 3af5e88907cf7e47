"""Objects made to be too much: compressed, wrapped in something huge, with names without end. Nothing of them is stored."""

from __future__ import annotations

import pytest

from execution.in_process import ok
from execution.kmip_client import attribute
from openkcm.kmip import enums as e
from openkcm.kmip.enums import ResultReason
from openkcm.kmip.objects import KeyBlock, KeyValue, KeyWrappingData, SymmetricKey, TemplateAttribute
from openkcm.kmip.payloads.objects import RegisterRequest
from openkcm.kmip.payloads.retrieval import GetRequest
from openkcm.kmip.structures import Name

MUCH = 600_000  # more than a record has; a message may be larger
WRAPPED = {"wrapping_method": e.WrappingMethod.ENCRYPT}


def register(block, *attributes):
    template = TemplateAttribute(attribute=(attribute("Cryptographic Usage Mask", 12), *attributes))
    return RegisterRequest(
        object_type=e.ObjectType.SYMMETRIC_KEY, template_attribute=template, symmetric_key=SymmetricKey(key_block=block)
    )


def block(material=b"k" * 32, **more):
    return KeyBlock(
        key_format_type=e.KeyFormatType.RAW, key_value=KeyValue(key_material=material),
        cryptographic_algorithm=e.CryptographicAlgorithm.AES, cryptographic_length=256, **more,
    )  # fmt: skip


def name(number):
    text = f"{number} " + "\1" * 20_000  # six bytes each in JSON
    return attribute("Name", Name(name_value=text, name_type=e.NameType.UNINTERPRETED_TEXT_STRING))


def stored(inside):
    return inside.reader.rows("SELECT count(*) FROM objects")[0][0]


@pytest.mark.parametrize("kind", e.KeyCompressionType)
def test_a_compressed_key_is_neither_taken_nor_given(inside, kind):
    item = inside.item(register(block(key_compression_type=kind)))
    assert item.reason == ResultReason.KEY_COMPRESSION_TYPE_NOT_SUPPORTED
    assert stored(inside) == 0
    asked = GetRequest(unique_identifier=inside.new_key(), key_compression_type=kind)
    assert inside.item(asked).reason == ResultReason.KEY_COMPRESSION_TYPE_NOT_SUPPORTED


@pytest.mark.parametrize(
    "bomb",
    [
        register(block(b"k" * MUCH, key_wrapping_data=KeyWrappingData(**WRAPPED))),
        register(block(key_wrapping_data=KeyWrappingData(iv_counter_nonce=bytes(MUCH), **WRAPPED))),
        register(block(key_wrapping_data=KeyWrappingData(mac_signature=bytes(MUCH), **WRAPPED))),
        register(block(), *map(name, range(5))),
    ],
    ids=["wrapped material", "nonce", "MAC", "names"],
)
def test_an_object_larger_than_the_vault_takes_is_refused_before_it_is_asked(inside, bomb):
    item = inside.item(bomb)
    assert item.reason == ResultReason.INVALID_FIELD
    assert "at most" in item.message
    assert stored(inside) == 0
    small = register(block(key_wrapping_data=KeyWrappingData(iv_counter_nonce=bytes(12), **WRAPPED)))
    ok(inside.item(small))
    assert stored(inside) == 1
