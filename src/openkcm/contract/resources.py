"""Where the files that ship beside the code lie: streams, projections, nodes, nats.conf. Names paths; opens none."""

from __future__ import annotations

from pathlib import Path
from typing import Final

__all__ = ["ROOT"]

_PACKAGE: Final = Path(__file__).resolve().parent.parent
_SHIPPED: Final = _PACKAGE / "_data"
#: In a wheel the files lie inside the package; in a checkout they lie at its root.
ROOT: Final = _SHIPPED if _SHIPPED.is_dir() else _PACKAGE.parent.parent
