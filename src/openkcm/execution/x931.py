"""ANSI X9.31's generator, A.2.4 with AES-256: for profiles that ask for it by name. Off unless a region says so.

NIST allows it no more (SP 800-131A): what it made before can be recomputed by who knows its key, its state and the
moments. Here key and state are drawn anew from the kernel for each key that is made, and every "moment" is 16 bytes of
the kernel as well: each block of output is the kernel's randomness under AES, and nothing of it stays. It is never
weaker than the kernel's generator, and never better. Source: ANSI X9.31-1998 A.2.4; NIST, "Random Number Generator
Based on ANSI X9.31 Appendix A.2.4 Using the 3-Key Triple DES and AES Algorithms" (2005).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

__all__ = ["WORK_BYTES", "fill", "kernel", "rsa_key"]

BLOCK: Final = 16
WORK_BYTES: Final = 128  # of locked memory beside what is filled; the caller wipes it
EXPONENT: Final = 65537
ROUNDS: Final = 40  # of Miller-Rabin: an error below 2^-80 even for numbers that somebody chose
SIEVE: Final = 10_000


def kernel(into: memoryview) -> None:
    """Fill from the kernel's generator, in place."""
    source = os.open("/dev/urandom", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.readv(source, [into]) != into.nbytes:
            raise OSError("the kernel gave too little randomness")
    finally:
        os.close(source)


def fill(into: memoryview, work: memoryview, source: Callable[[memoryview], None] = kernel) -> None:
    """Fill `into`; everything in between lies in `work` (WORK_BYTES) and stays there for the caller to wipe.

    For each block: I = E(moment); R = E(I ^ V), the output; V = E(R ^ I).

    Args:
        source: Gives key and state (48 bytes), then a moment (16 bytes) a block.
    """
    key, v, t = work[:32], work[32:48], work[48:64]
    i, r = work[64:96], work[96:128]  # update_into asks for room of a block and one less
    source(work[:48])
    cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305 -- the generator is made of single blocks
    for start in range(0, into.nbytes, BLOCK):
        source(t)
        cipher.update_into(t, i)
        _xor(t, i, v)
        cipher.update_into(t, r)
        some = min(BLOCK, into.nbytes - start)
        into[start : start + some] = r[:some]
        _xor(t, r, i)
        cipher.update_into(t, r)
        v[:] = r[:BLOCK]


def _xor(into: memoryview, one: memoryview, other: memoryview) -> None:
    """Byte by byte, in place: nothing of it becomes an object of its own."""
    for n in range(BLOCK):
        into[n] = one[n] ^ other[n]


# --- key pairs: in a child of their own, whose memory goes with it ----------------------------------------------------


def rsa_key(bits: int) -> rsa.RSAPrivateKey:
    """Make an RSA key whose primes come from this generator (FIPS 186-4, B.3.3: random, probably prime).

    OpenSSL, which makes key pairs otherwise, draws from its own generator and from no other.
    """
    half = bits // 2
    while True:
        p, q = _prime(half), _prime(half)
        if abs(p - q) > 1 << (half - 100) and (p * q).bit_length() == bits:
            break
    p, q = max(p, q), min(p, q)
    d = pow(EXPONENT, -1, math.lcm(p - 1, q - 1))
    numbers = rsa.RSAPrivateNumbers(
        p, q, d, rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q),
        rsa.RSAPublicNumbers(EXPONENT, p * q),
    )  # fmt: skip
    return numbers.private_key()  # which checks that they fit


def _drawn(bits: int) -> int:
    into = memoryview(bytearray(bits // 8))
    fill(into, memoryview(bytearray(WORK_BYTES)))
    return int.from_bytes(into, "big")


def _prime(bits: int) -> int:
    small = [n for n in range(3, SIEVE, 2) if all(n % d for d in range(3, math.isqrt(n) + 1, 2))]
    product = math.prod(small)
    while True:
        n = _drawn(bits) | 3 << (bits - 2) | 1
        if math.gcd(n, product) == 1 and math.gcd(n - 1, EXPONENT) == 1 and _is_probably_prime(n, bits):
            return n


def _is_probably_prime(n: int, bits: int) -> bool:
    """Miller-Rabin (FIPS 186-4, C.3.1)."""
    twos = (n - 1 & 1 - n).bit_length() - 1
    odd = n - 1 >> twos
    for _ in range(ROUNDS):
        x = pow(_drawn(bits) % (n - 3) + 2, odd, n)
        if x in {1, n - 1}:
            continue
        for _ in range(twos - 1):
            x = x * x % n
            if x == n - 1:
                break
        else:
            return False
    return True
