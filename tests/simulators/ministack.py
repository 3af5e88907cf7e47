"""MiniStack for tests: the very class that `openkcm up --aws` uses."""

from __future__ import annotations

from openkcm.cli.ministack import ADMIN_KEY, ADMIN_SECRET, REGION, MiniStack

__all__ = ["ADMIN_KEY", "ADMIN_SECRET", "REGION", "MiniStack"]
