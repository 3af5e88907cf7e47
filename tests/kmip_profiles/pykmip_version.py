"""A pytest plugin for PyKMIP's own suite: its clients speak the version that PYKMIP_VERSION names. Changes no test."""

from __future__ import annotations

import os

from kmip.core.enums import KMIPVersion
from kmip.services.kmip_client import KMIPProxy

_wanted = os.environ.get("PYKMIP_VERSION")
_original = KMIPProxy.__init__


def _init(self, *args, **kwargs):
    _original(self, *args, **kwargs)
    self.kmip_version = KMIPVersion[_wanted]


if _wanted:
    KMIPProxy.__init__ = _init
