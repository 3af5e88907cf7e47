"""A worker's inside for whoever asks."""

from __future__ import annotations

import pytest

from execution.in_process import InProcess


@pytest.fixture
def inside(tmp_path):
    made = InProcess(tmp_path)
    yield made
    made.end()
