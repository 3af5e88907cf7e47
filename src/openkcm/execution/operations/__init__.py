"""The table of operations: what a client can ask for, on one screen. What is not here is OperationNotSupported."""

from __future__ import annotations

import inspect
from typing import Final

from openkcm.execution.operations import ciphers, lifecycle, locate, making, retrieval, server
from openkcm.execution.operations.call import ALL, KEYLESS, READS, WRITES, Operation
from openkcm.kmip.enums import CryptographicUsageMask, State
from openkcm.kmip.enums import Operation as Code
from openkcm.kmip.payloads import PAYLOADS

__all__ = ["OPERATIONS"]

_NO_USE: Final = 0
_ENCRYPT, _DECRYPT = int(CryptographicUsageMask.ENCRYPT), int(CryptographicUsageMask.DECRYPT)
_PRE, _ACTIVE = frozenset({State.PRE_ACTIVE}), frozenset({State.ACTIVE})
_READABLE = frozenset({State.ACTIVE, State.DEACTIVATED, State.COMPROMISED})  # compromised is read-only, as NIST says
_THERE = ALL - retrieval.GONE
_IDLE = _THERE - _ACTIVE

# fmt: off
_TABLE: Final = (
    # operation                needed use  object's states  gate    handler
    (Code.DISCOVER_VERSIONS,   _NO_USE,    ALL,             KEYLESS, server.discover_versions),
    (Code.QUERY,               _NO_USE,    ALL,             KEYLESS, server.query),
    (Code.CREATE,              _NO_USE,    ALL,             WRITES,  making.create),
    (Code.REGISTER,            _NO_USE,    ALL,             WRITES,  making.register),
    (Code.LOCATE,              _NO_USE,    ALL,             READS,   locate.locate),
    (Code.GET,                 _NO_USE,    _THERE,          READS,   retrieval.get),
    (Code.GET_ATTRIBUTES,      _NO_USE,    ALL,             READS,   retrieval.get_attributes),
    (Code.GET_ATTRIBUTE_LIST,  _NO_USE,    ALL,             READS,   retrieval.get_attribute_list),
    (Code.ACTIVATE,            _NO_USE,    _PRE,            WRITES,  lifecycle.activate),
    (Code.REVOKE,              _NO_USE,    ALL,             WRITES,  lifecycle.revoke),
    (Code.DESTROY,             _NO_USE,    _IDLE,           WRITES,  lifecycle.destroy),
    (Code.ENCRYPT,             _ENCRYPT,   _ACTIVE,         WRITES,  ciphers.encrypt),
    (Code.DECRYPT,             _DECRYPT,   _READABLE,       READS,   ciphers.decrypt),
)
# fmt: on
OPERATIONS: Final[dict[int, Operation]] = {
    code: Operation(
        request=PAYLOADS[code].request,
        response=PAYLOADS[code].response,
        usage=usage,
        states=states,
        gates=gates,
        handler=handler,
        steps=inspect.isgeneratorfunction(handler),
    )
    for code, usage, states, gates, handler in _TABLE
}  # fmt: skip
