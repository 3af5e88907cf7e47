"""Prints one seed's run, a line an event: `cd tests && python -m simulation.replay SEED [FEATURE,...] [--all]`.

Without `--all` what is heard every second is left out: nonces, beats, and operations that broke nothing.
"""

from __future__ import annotations

import json
import logging
import os
import sys

from simulation.world import run

NOISE = frozenset({"nonce", "beat", "op"})


def main() -> None:
    """Play it, print it, say what was broken."""
    if os.environ.get("PYTHONHASHSEED") != "0":  # sets are walked in the order in which the tests walk them
        os.execve(sys.executable, [sys.executable, "-m", "simulation.replay", *sys.argv[1:]],
                  {**os.environ, "PYTHONHASHSEED": "0"})  # fmt: skip
    logging.disable(logging.CRITICAL)
    arguments = [a for a in sys.argv[1:] if a != "--all"]
    features = arguments[1].split(",") if len(arguments) > 1 else None
    played = run(int(arguments[0]), features)
    for line in played.history:
        if line["kind"] in NOISE and "--all" not in sys.argv:
            continue
        rest = " ".join(f"{k}={_short(v)}" for k, v in line.items() if k not in ("t", "kind"))
        print(f"{line['t']:10.4f}  {line['kind']:9} {rest}")
    print(f"\nseed {played.seed}: {', '.join(played.features) or 'no faults'}")
    for problem in played.problems:
        print(f"  {problem}")
    raise SystemExit(1 if played.problems else 0)


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) < 60 else text[:57] + "..."


if __name__ == "__main__":
    main()
