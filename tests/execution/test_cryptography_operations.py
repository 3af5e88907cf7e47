"""What operations compute, against the standards' own vectors and an independent library; streams against the whole."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives import hashes, keywrap
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_der_public_key

from execution.every_request import EC, HASH, wrapped_under
from execution.in_process import InProcess, ok
from execution.kmip_client import BOTH, GCM, attribute, create_request
from openkcm.execution.operations.wrapping import wrap_key, wrap_key_padded
from openkcm.kmip import enums as e
from openkcm.kmip.enums import ResultReason
from openkcm.kmip.generate import read_contents
from openkcm.kmip.objects import KeyBlock, KeyValue, PrivateKey, SymmetricKey, TemplateAttribute
from openkcm.kmip.payloads import cryptography as c
from openkcm.kmip.payloads import digests as d
from openkcm.kmip.payloads import signatures as s
from openkcm.kmip.payloads.derivation import DerivationParameters, DeriveKeyRequest
from openkcm.kmip.payloads.keypairs import CreateKeyPairRequest
from openkcm.kmip.payloads.objects import CreateRequest, RegisterRequest
from openkcm.kmip.payloads.retrieval import GetRequest
from openkcm.kmip.structures import CryptographicParameters as Parameters

H = bytes.fromhex
WRAP, DERIVE = int(e.CryptographicUsageMask.WRAP_KEY), int(e.CryptographicUsageMask.DERIVE_KEY)
MACS = int(e.CryptographicUsageMask.MAC_GENERATE | e.CryptographicUsageMask.MAC_VERIFY)
CBC = Parameters(block_cipher_mode=e.BlockCipherMode.CBC, padding_method=e.PaddingMethod.PKCS5)


def registered(inside, material, mask, algorithm=e.CryptographicAlgorithm.AES, bits=None):
    block = KeyBlock(
        key_format_type=e.KeyFormatType.RAW, key_value=KeyValue(key_material=material),
        cryptographic_algorithm=algorithm, cryptographic_length=bits or 8 * len(material),
    )  # fmt: skip
    template = TemplateAttribute(
        attribute=(attribute("Cryptographic Usage Mask", mask), attribute("Activation Date", 1))
    )
    request = RegisterRequest(
        object_type=e.ObjectType.SYMMETRIC_KEY, template_attribute=template, symmetric_key=SymmetricKey(key_block=block)
    )
    return ok(inside.item(request)).unique_identifier


@pytest.mark.parametrize(
    ("kek", "key", "wrapped"),
    [  # RFC 3394, sections 4.1 and 4.6
        ("000102030405060708090A0B0C0D0E0F", "00112233445566778899AABBCCDDEEFF",
         "1FA68B0A8112B447AEF34BD8FB5A7B829D3E862371D2CFE5"),
        ("000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F",
         "00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F",
         "28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21"),
    ],
)  # fmt: skip
def test_keys_are_wrapped_by_rfc_3394(kek, key, wrapped):
    assert wrap_key(H(kek), H(key)) == H(wrapped)


@pytest.mark.parametrize(
    ("key", "wrapped"),
    [  # RFC 5649, section 6
        (
            "c37b7e6492584340bed12207808941155068f738",
            "138bdeaa9b8fa7fc61f97742e72248ee5ae6ae5360d1ae6a5f54f373fa543b6a",
        ),
        ("466f7250617369", "afbeb0f07dfbf5419200f2ccb50bb24f"),
    ],
)
def test_keys_are_wrapped_with_padding_by_rfc_5649(key, wrapped):
    assert wrap_key_padded(H("5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8"), H(key)) == H(wrapped)


def test_wrapping_agrees_with_an_independent_library_at_every_length():
    kek = bytes(range(32))
    for size in range(1, 80):
        plain = bytes(range(size))
        assert wrap_key_padded(kek, plain) == keywrap.aes_key_wrap_with_padding(kek, plain)
        if size % 8 == 0 and size >= 16:
            assert wrap_key(kek, plain) == keywrap.aes_key_wrap(kek, plain)


@pytest.mark.parametrize("mode", ["NIST_KEY_WRAP", "AES_KEY_WRAP_PADDING", "GCM"])
@pytest.mark.parametrize("encoding", [e.EncodingOption.NO_ENCODING, e.EncodingOption.TTLV_ENCODING, None])
@pytest.mark.parametrize("policy", ["allowed", "wrapped-only", "never"])
def test_a_wrapped_get_gives_the_key_to_who_has_the_wrapping_key(tmp_path, mode, encoding, policy):
    inside = InProcess(tmp_path, hand_out=policy)
    kek, key = bytes(range(32)), bytes(range(100, 132))
    kek_id, uid = registered(inside, kek, WRAP), registered(inside, key, BOTH)
    parameters = Parameters(block_cipher_mode=e.BlockCipherMode[mode])
    information = type(wrapped_under(kek_id).encryption_key_information)(
        unique_identifier=kek_id, cryptographic_parameters=parameters
    )
    specification = type(wrapped_under(kek_id))(
        wrapping_method=e.WrappingMethod.ENCRYPT, encryption_key_information=information, encoding_option=encoding
    )
    plain = inside.item(GetRequest(unique_identifier=uid))
    item = inside.item(GetRequest(unique_identifier=uid, key_wrapping_specification=specification))
    assert (plain.reason is None) == (policy == "allowed")
    if policy == "never":
        assert item.reason == ResultReason.PERMISSION_DENIED
        inside.end()
        return
    block = ok(item).symmetric_key.key_block
    value = block.key_value.key_material if encoding == e.EncodingOption.NO_ENCODING else block.key_value
    open_ = {
        "NIST_KEY_WRAP": lambda: keywrap.aes_key_unwrap(kek, value),
        "AES_KEY_WRAP_PADDING": lambda: keywrap.aes_key_unwrap_with_padding(kek, value),
        "GCM": lambda: AESGCM(kek).decrypt(block.key_wrapping_data.iv_counter_nonce, value, None),
    }[mode]()
    if encoding != e.EncodingOption.NO_ENCODING:  # a Key Value structure, tag 420045
        assert open_[:4] == H("42004501")
        open_ = read_contents(KeyValue, open_[8:], 4).key_material
    assert open_ == key
    assert not any(inside.scratch)  # neither key is left behind
    inside.end()


def test_only_an_active_key_that_may_wrap_wraps(inside):
    uid = registered(inside, bytes(32), BOTH)
    resting = ok(inside.item(create_request(usage=WRAP))).unique_identifier
    for kek, reason in ((uid, ResultReason.PERMISSION_DENIED), (resting, ResultReason.PERMISSION_DENIED)):
        asked = GetRequest(unique_identifier=uid, key_wrapping_specification=wrapped_under(kek))
        assert inside.item(asked).reason == reason


@pytest.mark.parametrize("parameters", [GCM, CBC, Parameters(block_cipher_mode=e.BlockCipherMode.CTR)])
@pytest.mark.parametrize("cuts", [(1, 2, 3), (16, 16), (0, 47), (5, 0, 31)])
def test_a_stream_gives_what_the_whole_gives(inside, parameters, cuts):
    uid, data = registered(inside, bytes(range(16)), BOTH), bytes(range(50))
    iv = bytes(12 if parameters is GCM else 16)
    more = {"unique_identifier": uid, "cryptographic_parameters": parameters}
    whole = ok(inside.item(c.EncryptRequest(**more, data=data, iv_counter_nonce=iv)))
    sealed, last = stream(inside, c.EncryptRequest, more, data, cuts, {"iv_counter_nonce": iv}, {})
    assert sealed == whole.data
    assert last.authenticated_encryption_tag == whole.authenticated_encryption_tag
    tag = {"authenticated_encryption_tag": whole.authenticated_encryption_tag}
    opened, _ = stream(inside, c.DecryptRequest, more, sealed, cuts, {"iv_counter_nonce": iv}, tag)
    assert opened == data
    assert not inside.bench.streams
    assert not any(inside.scratch)


def stream(inside, request, more, data, cuts, first, final):
    out, value, at = b"", None, 0
    for n, size in enumerate(cuts):
        options = {"init_indicator": True, **first} if n == 0 else {"correlation_value": value}
        payload = ok(inside.item(request(**more, data=data[at : at + size], **options)))
        out, value, at = out + payload.data, payload.correlation_value, at + size
        assert value
    last = ok(inside.item(request(**more, data=data[at:], correlation_value=value, final_indicator=True, **final)))
    return out + last.data, last


def test_a_gcm_stream_gives_no_plaintext_before_its_tag_is_seen(inside):
    uid = registered(inside, bytes(16), BOTH)
    more = {"unique_identifier": uid, "cryptographic_parameters": GCM}
    sealed = ok(inside.item(c.EncryptRequest(**more, data=bytes(64))))
    first = ok(
        inside.item(
            c.DecryptRequest(
                **more, data=sealed.data[:48], iv_counter_nonce=sealed.iv_counter_nonce, init_indicator=True
            )
        )
    )
    assert first.data == b""
    last = c.DecryptRequest(
        **more, data=sealed.data[48:], correlation_value=first.correlation_value, final_indicator=True,
        authenticated_encryption_tag=bytes(16),
    )  # fmt: skip
    assert inside.item(last).reason == ResultReason.CRYPTOGRAPHIC_FAILURE


def test_streams_are_bounded_in_length_and_number(inside, monkeypatch):
    from openkcm.execution.operations import streams

    monkeypatch.setattr(streams, "MOST_STREAM_BYTES", 100)
    monkeypatch.setattr(streams, "MOST_STREAMS", 3)
    begin = d.HashRequest(cryptographic_parameters=HASH, data=bytes(60), init_indicator=True)
    values = [ok(inside.item(begin)).correlation_value for _ in range(5)]
    assert len(inside.bench.streams) == 3
    goes_on = {"cryptographic_parameters": HASH, "correlation_value": values[-1]}
    assert inside.item(d.HashRequest(**goes_on, data=bytes(41))).reason == ResultReason.INVALID_FIELD
    done = ok(inside.item(d.HashRequest(**goes_on, data=bytes(40), final_indicator=True)))
    assert done.data == hashlib.sha256(bytes(100)).digest()
    forgotten = d.HashRequest(cryptographic_parameters=HASH, data=b"", correlation_value=values[0])
    assert inside.item(forgotten).reason == ResultReason.INVALID_FIELD


def test_cmac_and_hmac_are_what_their_standards_say(inside):
    uid = registered(inside, H("2b7e151628aed2a6abf7158809cf4f3c"), MACS)  # RFC 4493, section 4
    cmac = Parameters(block_cipher_mode=e.BlockCipherMode.CMAC)
    code = ok(
        inside.item(
            d.MACRequest(
                unique_identifier=uid, cryptographic_parameters=cmac, data=H("6bc1bee22e409f96e93d7e117393172a")
            )
        )
    )
    assert code.mac_data == H("070a16b46b4d4144f79bdd9dd04a287c")
    sha = Parameters(cryptographic_algorithm=e.CryptographicAlgorithm.HMAC_SHA512)
    code = ok(inside.item(d.MACRequest(unique_identifier=uid, cryptographic_parameters=sha, data=b"x")))
    assert code.mac_data == hmac.digest(H("2b7e151628aed2a6abf7158809cf4f3c"), b"x", "sha512")
    for given, verdict in ((code.mac_data, e.ValidityIndicator.VALID), (bytes(64), e.ValidityIndicator.INVALID)):
        asked = d.MACVerifyRequest(unique_identifier=uid, cryptographic_parameters=sha, data=b"x", mac_data=given)
        assert ok(inside.item(asked)).validity_indicator == verdict


def test_an_ec_pair_signs_verifies_and_agrees_on_a_secret(inside):
    mask = int(e.CryptographicUsageMask.SIGN | e.CryptographicUsageMask.VERIFY) | DERIVE
    template = TemplateAttribute(
        attribute=(*EC.attribute[:2], attribute("Cryptographic Usage Mask", mask), attribute("Activation Date", 1))
    )
    pair = ok(inside.item(CreateKeyPairRequest(common_template_attribute=template)))
    private, public = pair.private_key_unique_identifier, pair.public_key_unique_identifier
    data, how = b"signed", {"cryptographic_parameters": HASH}
    signature = ok(inside.item(s.SignRequest(unique_identifier=private, data=data, **how))).signature_data
    got = ok(inside.item(GetRequest(unique_identifier=public))).public_key.key_block.key_value.key_material
    theirs = load_der_public_key(got)
    theirs.verify(signature, data, ec.ECDSA(hashes.SHA256()))
    digest = hashlib.sha256(data).digest()
    again = ok(inside.item(s.SignRequest(unique_identifier=private, digested_data=digest, **how))).signature_data
    for what, verdict in ((again, e.ValidityIndicator.VALID), (signature[:-1], e.ValidityIndicator.INVALID)):
        asked = s.SignatureVerifyRequest(unique_identifier=public, data=data, signature_data=what, **how)
        assert ok(inside.item(asked)).validity_indicator == verdict
    derive = DeriveKeyRequest(
        object_type=e.ObjectType.SECRET_DATA, unique_identifier=(private, public),
        derivation_method=e.DerivationMethod.ASYMMETRIC_KEY, derivation_parameters=DerivationParameters(),
        template_attribute=TemplateAttribute(attribute=(attribute("Cryptographic Length", 256),)),
    )  # fmt: skip
    secret = ok(inside.item(GetRequest(unique_identifier=ok(inside.item(derive)).unique_identifier)))
    mine = load_der_private_key(
        ok(inside.item(GetRequest(unique_identifier=private))).private_key.key_block.key_value.key_material, None
    )
    assert secret.secret_data.key_block.key_value.key_material == mine.exchange(ec.ECDH(), theirs)


def test_a_private_key_leaves_in_every_format_it_may(inside):
    pair = ok(inside.item(CreateKeyPairRequest(common_template_attribute=EC)))
    uid = pair.private_key_unique_identifier
    first = ok(inside.item(GetRequest(unique_identifier=uid))).private_key.key_block.key_value.key_material
    numbers = load_der_private_key(first, None).private_numbers()
    pkcs8 = ok(inside.item(GetRequest(unique_identifier=uid, key_format_type=e.KeyFormatType.PKCS_8)))
    assert load_der_private_key(pkcs8.private_key.key_block.key_value.key_material, None).private_numbers() == numbers
    form = e.KeyFormatType.TRANSPARENT_EC_PRIVATE_KEY
    shown = ok(inside.item(GetRequest(unique_identifier=uid, key_format_type=form))).private_key.key_block
    assert shown.key_value.key_material.d == numbers.private_value
    template = TemplateAttribute(attribute=(attribute("Cryptographic Usage Mask", 1),))
    back = RegisterRequest(
        object_type=e.ObjectType.PRIVATE_KEY, template_attribute=template, private_key=PrivateKey(key_block=shown)
    )
    again = ok(
        inside.item(
            GetRequest(
                unique_identifier=ok(inside.item(back)).unique_identifier,
                key_format_type=e.KeyFormatType.EC_PRIVATE_KEY,
            )
        )
    )
    assert load_der_private_key(again.private_key.key_block.key_value.key_material, None).private_numbers() == numbers
    wrong = inside.item(GetRequest(unique_identifier=uid, key_format_type=e.KeyFormatType.PKCS_1))
    assert wrong.reason == ResultReason.KEY_FORMAT_TYPE_NOT_SUPPORTED


def test_what_a_client_wrapped_is_given_back_and_used_for_nothing(inside):
    block = ok(inside.item(GetRequest(
        unique_identifier=registered(inside, bytes(32), BOTH),
        key_wrapping_specification=wrapped_under(registered(inside, bytes(16), WRAP)),
    ))).symmetric_key.key_block  # fmt: skip
    template = TemplateAttribute(
        attribute=(attribute("Cryptographic Usage Mask", BOTH), attribute("Activation Date", 1))
    )
    asked = RegisterRequest(
        object_type=e.ObjectType.SYMMETRIC_KEY, template_attribute=template, symmetric_key=SymmetricKey(key_block=block)
    )
    uid = ok(inside.item(asked)).unique_identifier
    assert ok(inside.item(GetRequest(unique_identifier=uid))).symmetric_key.key_block == block
    encrypt = c.EncryptRequest(unique_identifier=uid, data=b"x", cryptographic_parameters=GCM)
    assert inside.item(encrypt).reason == ResultReason.INVALID_FIELD


def test_a_triple_des_key_has_odd_parity_in_every_byte(inside):
    template = TemplateAttribute(attribute=(
        attribute("Cryptographic Algorithm", e.CryptographicAlgorithm.TRIPLE_DES),
        attribute("Cryptographic Length", 168), attribute("Cryptographic Usage Mask", BOTH),
    ))  # fmt: skip
    made = ok(inside.item(CreateRequest(object_type=e.ObjectType.SYMMETRIC_KEY, template_attribute=template)))
    got = ok(inside.item(GetRequest(unique_identifier=made.unique_identifier))).symmetric_key.key_block
    key = got.key_value.key_material
    assert len(key) == 24
    assert all(byte.bit_count() % 2 for byte in key)


def test_pkcs1_signatures_verify_elsewhere(inside):
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = rsa.generate_private_key(65537, 2048)
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    block = KeyBlock(key_format_type=e.KeyFormatType.PKCS_8, key_value=KeyValue(key_material=der))
    template = TemplateAttribute(attribute=(attribute("Cryptographic Usage Mask", 1), attribute("Activation Date", 1)))
    asked = RegisterRequest(
        object_type=e.ObjectType.PRIVATE_KEY, template_attribute=template, private_key=PrivateKey(key_block=block)
    )
    uid = ok(inside.item(asked)).unique_identifier
    how = Parameters(digital_signature_algorithm=e.DigitalSignatureAlgorithm.SHA_384_WITH_RSA_ENCRYPTION_PKCS1_V1_5)
    signature = ok(
        inside.item(s.SignRequest(unique_identifier=uid, data=b"x", cryptographic_parameters=how))
    ).signature_data
    key.public_key().verify(signature, b"x", padding.PKCS1v15(), hashes.SHA384())
    assert not any(inside.scratch)
