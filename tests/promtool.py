"""Prometheus' own promtool: the one on PATH, else unpacked from Debian's package without installing a server."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

__all__ = ["promtool", "run"]


@pytest.fixture(scope="session")
def promtool(tmp_path_factory) -> str:
    if found := shutil.which("promtool"):
        return found
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        pytest.skip("no promtool, and no apt to fetch Debian's prometheus package with")
    folder = tmp_path_factory.mktemp("promtool")
    folder.chmod(0o777)
    fetched = subprocess.run(
        ["apt-get", "download", "prometheus"], cwd=folder, capture_output=True, text=True, check=False
    )
    if fetched.returncode:
        subprocess.run(["apt-get", "update", "-q"], capture_output=True, check=False)
        fetched = subprocess.run(
            ["apt-get", "download", "prometheus"], cwd=folder, capture_output=True, text=True, check=False
        )
    packages = list(folder.glob("prometheus_*.deb"))
    if not packages:
        pytest.skip(f"promtool cannot be had: {fetched.stderr[-200:]}")
    subprocess.run(["dpkg-deb", "-x", str(packages[0]), str(folder)], check=True)
    return str(folder / "usr" / "bin" / "promtool")


def run(promtool: str, *words: str, cwd: Path) -> str:
    done = subprocess.run([promtool, *words], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
