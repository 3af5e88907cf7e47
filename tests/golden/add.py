"""Writes the golden files that are missing (`just golden`). Never touches one that exists; read the diff it makes."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from golden import examples  # noqa: E402 -- tests/ is no package of the product; its path is put in just above


def add() -> list[str]:
    """Write what is missing and return the names."""
    added = []
    for name, raw in examples.every().items():
        path = HERE / name
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(raw)
            added.append(name)
    return added


if __name__ == "__main__":
    for name in add():
        print(f"added tests/golden/{name}")
