"""An independent client, PyKMIP, against a real worker: the life of a key at 1.2 and 1.4."""

from __future__ import annotations

import asyncio
import warnings

import pytest

from execution.custodian_double import CustodianDouble

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # PyKMIP's own, not ours
    from kmip.core.attributes import Name
    from kmip.core.factories.attributes import AttributeFactory
    from kmip.pie.exceptions import KmipOperationFailure

    from kmip import enums as k
    from kmip_client import PykmipClient

pytestmark = pytest.mark.filterwarnings("ignore:ssl.PROTOCOL_TLSv1_2 is deprecated")  # PyKMIP names no newer one
VERSIONS = [k.KMIPVersion.KMIP_1_2, k.KMIPVersion.KMIP_1_4]
CBC = {"cryptographic_algorithm": k.CryptographicAlgorithm.AES, "block_cipher_mode": k.BlockCipherMode.CBC}
CBC["padding_method"] = k.PaddingMethod.PKCS5


@pytest.fixture
async def custodian(tmp_path):
    async with CustodianDouble(tmp_path) as double:
        for tenant, system in (("acme", "pay"), ("bolt", "orders")):
            double.system(tenant, system)
        yield double


def pykmip(custodian, files, version):
    (tmp := custodian.folder / "pykmip.conf").write_text("[client]\n")
    return PykmipClient(
        "127.0.0.1", custodian.port, cert=str(files[0]), key=str(files[1]), ca=str(custodian.pki.ca),
        ssl_version="PROTOCOL_TLSv1_2", config_file=str(tmp), kmip_version=version,
    )  # fmt: skip


def life(client):
    """Create, activate, encrypt, decrypt, locate, get, revoke, destroy. Return the key's identifier."""
    name = "life"
    usage = [k.CryptographicUsageMask.ENCRYPT, k.CryptographicUsageMask.DECRYPT]
    uid = client.create(k.CryptographicAlgorithm.AES, 256, name=name, cryptographic_usage_mask=usage)
    client.activate(uid)
    sealed, iv = client.encrypt(b"attack at dawn", uid, CBC, iv_counter_nonce=b"0123456789abcdef")
    assert sealed != b"attack at dawn"
    assert client.decrypt(sealed, uid, CBC, b"0123456789abcdef") == b"attack at dawn"
    sealed, iv = client.encrypt(b"attack at noon", uid, {**CBC, "random_iv": True})
    assert len(iv) == 16
    assert client.decrypt(sealed, uid, CBC, iv) == b"attack at noon"
    value = Name.create(name, k.NameType.UNINTERPRETED_TEXT_STRING)
    wanted = AttributeFactory().create_attribute(k.AttributeType.NAME, value)
    assert client.locate(attributes=[wanted]) == [uid]
    key = client.get(uid)
    assert (key.cryptographic_length, len(key.value)) == (256, 32)
    _, attributes = client.get_attributes(uid, ["State", "Cryptographic Length"])
    assert attributes[0].attribute_value.value == k.State.ACTIVE
    assert "Digest" in client.get_attribute_list(uid)
    with pytest.raises(KmipOperationFailure) as refused:
        client.destroy(uid)
    assert refused.value.reason == k.ResultReason.PERMISSION_DENIED
    client.revoke(k.RevocationReasonCode.CESSATION_OF_OPERATION, uid)
    client.destroy(uid)
    with pytest.raises(KmipOperationFailure):
        client.encrypt(b"x", uid, CBC)
    return uid


@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: v.name)
async def test_pykmip_lives_a_keys_life(custodian, version):
    files = custodian.enrol("acme", "pay", "payments")

    def run():
        with pykmip(custodian, files, version) as client:
            return life(client)

    uid = await asyncio.to_thread(run)
    other = custodian.enrol("bolt", "orders", "orders")

    def elsewhere():
        with pykmip(custodian, other, version) as client:
            assert client.locate() == []
            with pytest.raises(KmipOperationFailure) as refused:
                client.get(uid)
            assert refused.value.reason == k.ResultReason.ITEM_NOT_FOUND

    await asyncio.to_thread(elsewhere)


async def test_pykmip_with_a_strangers_certificate_is_refused(custodian):
    files = custodian.pki.issue_workload("nobody", "x")

    def run():
        with pykmip(custodian, files, k.KMIPVersion.KMIP_1_4) as client, pytest.raises(KmipOperationFailure) as refused:
            client.locate()
        assert refused.value.reason == k.ResultReason.AUTHENTICATION_NOT_SUCCESSFUL

    await asyncio.to_thread(run)
