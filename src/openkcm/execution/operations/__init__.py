"""The table of operations: what a client can ask for, on one screen. What is not here is OperationNotSupported."""

from __future__ import annotations

import inspect
from typing import Final

from openkcm.execution.control import DECRYPTED, ENCRYPTED, NOT_COUNTED
from openkcm.execution.operations import (
    attributing,
    ciphers,
    derivation,
    importing,
    keypairs,
    lifecycle,
    locate,
    making,
    randomness,
    rekeying,
    retrieval,
    server,
    signing,
    usage,
)
from openkcm.execution.operations.call import ALL, GONE, KEYLESS, READS, WRITES, Operation
from openkcm.kmip.enums import CryptographicUsageMask as Use
from openkcm.kmip.enums import Operation as Code
from openkcm.kmip.enums import State
from openkcm.kmip.payloads import PAYLOADS

__all__ = ["OPERATIONS"]

_NO: Final = 0
_PRE, _ACTIVE = frozenset({State.PRE_ACTIVE}), frozenset({State.ACTIVE})
_YOUNG = _PRE | _ACTIVE  # clients derive from passwords that they never activate
_READABLE = frozenset({State.ACTIVE, State.DEACTIVATED, State.COMPROMISED})  # compromised is read-only, as NIST says
_THERE = ALL - GONE
_IDLE = _THERE - _ACTIVE

#: What an archived object still answers to: it is never out of the reach of who wants to end it.
_ARCHIVED: Final = {Code.GET_ATTRIBUTES, Code.GET_ATTRIBUTE_LIST, Code.REVOKE, Code.DESTROY, Code.RECOVER}
_COUNTED: Final = {Code.ENCRYPT: ENCRYPTED, Code.DECRYPT: DECRYPTED}

# fmt: off
_TABLE: Final = (
    # operation                 needed use         object's states  gate    handler
    (Code.DISCOVER_VERSIONS,    _NO,               ALL,             KEYLESS, server.discover_versions),
    (Code.QUERY,                _NO,               ALL,             KEYLESS, server.query),
    (Code.CREATE,               _NO,               ALL,             WRITES,  making.create),
    (Code.CREATE_KEY_PAIR,      _NO,               ALL,             WRITES,  keypairs.create_key_pair),
    (Code.REGISTER,             _NO,               ALL,             WRITES,  making.register),
    (Code.IMPORT,               _NO,               ALL,             WRITES,  importing.import_),
    (Code.RE_KEY,               _NO,               _THERE,          WRITES,  rekeying.re_key),
    (Code.RE_KEY_KEY_PAIR,      _NO,               _THERE,          WRITES,  rekeying.re_key_key_pair),
    (Code.DERIVE_KEY,           Use.DERIVE_KEY,    _YOUNG,          WRITES,  derivation.derive_key),
    (Code.LOCATE,               _NO,               ALL,             READS,   locate.locate),
    (Code.CHECK,                _NO,               _THERE,          READS,   usage.check),
    (Code.GET,                  _NO,               _THERE,          READS,   retrieval.get),
    (Code.EXPORT,               _NO,               _THERE,          READS,   retrieval.export),
    (Code.GET_ATTRIBUTES,       _NO,               ALL,             READS,   attributing.get_attributes),
    (Code.GET_ATTRIBUTE_LIST,   _NO,               ALL,             READS,   attributing.get_attribute_list),
    (Code.ADD_ATTRIBUTE,        _NO,               _THERE,          WRITES,  attributing.add_attribute),
    (Code.MODIFY_ATTRIBUTE,     _NO,               _THERE,          WRITES,  attributing.modify_attribute),
    (Code.DELETE_ATTRIBUTE,     _NO,               _THERE,          WRITES,  attributing.delete_attribute),
    (Code.OBTAIN_LEASE,         _NO,               _THERE,          READS,   usage.obtain_lease),
    (Code.GET_USAGE_ALLOCATION, _NO,               _ACTIVE,         WRITES,  usage.get_usage_allocation),
    (Code.ACTIVATE,             _NO,               _PRE,            WRITES,  lifecycle.activate),
    (Code.REVOKE,               _NO,               ALL,             WRITES,  lifecycle.revoke),
    (Code.DESTROY,              _NO,               _IDLE,           WRITES,  lifecycle.destroy),
    (Code.ARCHIVE,              _NO,               _THERE,          WRITES,  lifecycle.archive),
    (Code.RECOVER,              _NO,               _THERE,          WRITES,  lifecycle.recover),
    (Code.ENCRYPT,              Use.ENCRYPT,       _ACTIVE,         WRITES,  ciphers.encrypt),
    (Code.DECRYPT,              Use.DECRYPT,       _READABLE,       READS,   ciphers.decrypt),
    (Code.SIGN,                 Use.SIGN,          _ACTIVE,         WRITES,  signing.sign),
    (Code.SIGNATURE_VERIFY,     Use.VERIFY,        _READABLE,       READS,   signing.signature_verify),
    (Code.MAC,                  Use.MAC_GENERATE,  _ACTIVE,         WRITES,  signing.mac),
    (Code.MAC_VERIFY,           Use.MAC_VERIFY,    _READABLE,       READS,   signing.mac_verify),
    (Code.HASH,                 _NO,               ALL,             KEYLESS, signing.hash_),
    (Code.RNG_RETRIEVE,         _NO,               ALL,             KEYLESS, randomness.rng_retrieve),
    (Code.RNG_SEED,             _NO,               ALL,             KEYLESS, randomness.rng_seed),
)
# fmt: on
OPERATIONS: Final[dict[int, Operation]] = {
    code: Operation(
        request=PAYLOADS[code].request,
        response=PAYLOADS[code].response,
        usage=int(usage_bit),
        states=states,
        gates=gates,
        handler=handler,
        steps=inspect.isgeneratorfunction(handler),
        archived=code in _ARCHIVED,
        counted=_COUNTED.get(code, NOT_COUNTED),
    )
    for code, usage_bit, states, gates, handler in _TABLE
}  # fmt: skip
