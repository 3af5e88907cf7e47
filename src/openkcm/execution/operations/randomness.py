"""RNG Retrieve and RNG Seed. Source: KMIP 1.4, sections 4.35 and 4.36."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from openkcm.execution import x931
from openkcm.execution.operations.call import Call
from openkcm.execution.operations.outcome import OperationFailed
from openkcm.kmip.enums import ResultReason
from openkcm.kmip.payloads.digests import (
    RNGRetrieveRequest,
    RNGRetrieveResponse,
    RNGSeedRequest,
    RNGSeedResponse,
)

__all__ = ["MOST_RANDOM_BYTES", "rng_retrieve", "rng_seed"]

MOST_RANDOM_BYTES: Final = 1 << 16
_POOL: Final = Path("/dev/urandom")


def rng_retrieve(call: Call, asked: RNGRetrieveRequest) -> RNGRetrieveResponse:
    """Return random bytes of the generator that makes keys."""
    if not 0 < asked.data_length <= MOST_RANDOM_BYTES:
        raise OperationFailed(ResultReason.INVALID_FIELD, f"1 to {MOST_RANDOM_BYTES} bytes can be asked for")
    call.reserve(asked.data_length)
    into = bytearray(asked.data_length)
    if call.bench.rng == "ansi-x9.31":
        x931.fill(memoryview(into), memoryview(bytearray(x931.WORK_BYTES)))
    else:
        x931.kernel(memoryview(into))
    return RNGRetrieveResponse(data=bytes(into))


def rng_seed(call: Call, asked: RNGSeedRequest) -> RNGSeedResponse:
    """Mix the client's bytes into the kernel's pool; they count for no entropy there, so they can do no harm."""
    most = call.bench.rng_seed_bytes
    if most < 0:
        raise OperationFailed(ResultReason.PERMISSION_DENIED, "clients seed no generator here")
    seed = asked.data[:most]
    if not seed:
        return RNGSeedResponse(data_length=0)
    with _POOL.open("wb", buffering=0) as pool:
        taken = pool.write(seed) or 0
    return RNGSeedResponse(data_length=taken)
