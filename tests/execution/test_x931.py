"""The generator for old profiles gives what NIST's published example says, and makes keys when a region asks for it."""

from __future__ import annotations

import itertools

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from execution.in_process import InProcess
from execution.kmip_client import create_request
from openkcm.execution import x931
from openkcm.kmip.enums import RNGAlgorithm
from openkcm.kmip.payloads.digests import RNGRetrieveRequest
from openkcm.kmip.payloads.retrieval import GetAttributesRequest

#: The variable seed test of NIST's RNGVS for AES-256: key, DT, V, R.
KEY = "6d14066cb6d8212d828dfaf27a03b79f0cc73ecd76ebeeb521058c4f317a80bb"
MOMENT, SEED, OUTPUT = "da3a41ec1da3b0d5f2a94e34748e9e88", "80" + "00" * 15, "35c7efa7784d29bc827999fbd0b33b72"


def told(*parts):
    """A source that gives these, one after another."""
    given = iter(parts)

    def source(into):
        into[:] = bytes.fromhex(next(given))

    return source


def filled(size, source):
    into = memoryview(bytearray(size))
    x931.fill(into, memoryview(bytearray(x931.WORK_BYTES)), source)
    return bytes(into)


def xor(one, other):
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


def test_the_known_answer():
    assert filled(16, told(KEY + SEED, MOMENT)).hex() == OUTPUT


def test_a_block_goes_on_from_the_one_before_and_the_last_may_be_short():
    cipher = Cipher(algorithms.AES(bytes.fromhex(KEY)), modes.ECB()).encryptor()
    later, first = "00112233445566778899aabbccddeeff", bytes.fromhex(OUTPUT)
    state = cipher.update(xor(first, cipher.update(bytes.fromhex(MOMENT))))
    second = cipher.update(xor(cipher.update(bytes.fromhex(later)), state))
    assert filled(24, told(KEY + SEED, MOMENT, later)) == first + second[:8]


def test_nothing_repeats_though_nothing_is_kept():
    assert len({filled(32, x931.kernel) for _ in range(100)}) == 100


def test_the_kernel_gives_each_block_its_moment():
    sizes = []
    filled(40, lambda into: (sizes.append(into.nbytes), x931.kernel(into)))
    assert sizes == [48, 16, 16, 16]


def test_a_key_pair_of_it_is_a_key_pair():
    key = x931.rsa_key(2048)
    assert key.key_size == 2048
    assert key.private_numbers().p.bit_length() == 1024


def test_primes_are_told_from_composites():
    assert x931._is_probably_prime((1 << 521) - 1, 520)
    assert not x931._is_probably_prime(((1 << 521) - 1) * ((1 << 127) - 1), 640)
    assert not x931._is_probably_prime(3215031751, 24)  # a strong pseudoprime to the bases 2, 3, 5 and 7


@pytest.mark.parametrize(
    ("rng", "named"), [("kernel", RNGAlgorithm.UNSPECIFIED), ("ansi-x9.31", RNGAlgorithm.ANSI_X9_31)]
)
def test_the_attribute_names_the_generator_that_made_the_key(tmp_path, monkeypatch, rng, named):
    inside, used, fill = InProcess(tmp_path), [], x931.fill
    inside.bench.rng = rng
    monkeypatch.setattr(x931, "fill", lambda into, work: (used.append(into.nbytes), fill(into, work)))
    made = [inside.item(create_request(bits=bits)).payload.unique_identifier for bits in (256, 192)]
    for uid in made:
        asked = GetAttributesRequest(unique_identifier=uid, attribute_name=("Random Number Generator",))
        (found,) = inside.item(asked).payload.attribute
        assert found.attribute_value.rng_algorithm == named
    assert len(inside.item(RNGRetrieveRequest(data_length=100)).payload.data) == 100
    assert used == ([32, 24, 100] if rng == "ansi-x9.31" else [])
    assert not any(itertools.chain(inside.scratch))  # nothing of key and state stays in the scratch page
    inside.end()
