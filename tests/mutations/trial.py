"""Runs mutations, each in a forked process of its own: `python -m mutations.trial [GUARD ...]` prints a line of JSON each.

The parent imports what others wrote and nothing of OpenKCM; a child puts the changed source in the way of the import.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import io
import json
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from mutations.table import MUTATIONS, Mutation

ROOT = Path(__file__).parents[2]
WORKERS = 2


class NotApplied(Exception):
    """The source does not hold what the mutation wants to change, exactly once."""


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads one module from changed source."""

    def __init__(self, mutation: Mutation) -> None:
        self.name = mutation.module
        self.path = ROOT / "src" / (mutation.module.replace(".", "/") + ".py")
        source = self.path.read_text()
        if source.count(mutation.old) != 1:
            raise NotApplied(f"{mutation.old!r} is {source.count(mutation.old)} times in {self.path.name}")
        self.source = source.replace(mutation.old, mutation.new)

    def find_spec(self, name: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if name != self.name:
            return None
        return importlib.util.spec_from_loader(name, self, origin=str(self.path))

    def exec_module(self, module: ModuleType) -> None:
        module.__file__ = str(self.path)
        exec(compile(self.source, str(self.path), "exec"), module.__dict__)


def caught(mutation: Mutation) -> str:
    """Return what was noticed, or nothing."""
    kind, _, rest = mutation.caught_by.partition(":")
    return {"world": _world, "sim": _simulation, "test": _test, "skip": lambda _: "skipped"}[kind](rest)


def _world(name: str) -> str:
    from examined import worlds
    from simulation.clockwork import cheap_seals

    with cheap_seals():
        found = getattr(worlds, name)().search()
    return found.bad or ""


def _simulation(what: str) -> str:
    from simulation.world import run

    features, _, seeds = what.partition(":")
    for seed in range(int(seeds)):
        problems = run(seed, [f for f in features.split("+") if f]).problems
        if problems:
            return f"seed {seed}: {problems[0]}"
    return ""


def _test(node: str) -> str:
    import pytest

    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        status = pytest.main(["-q", "-x", "-p", "no:cacheprovider", "--no-header", str(ROOT / node)])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(told.getvalue()[-2000:])
    return "" if status == pytest.ExitCode.OK else node.rpartition("::")[2]


def _child(mutation: Mutation, out: int) -> None:
    answer = {"guard": mutation.guard, "caught_by": mutation.caught_by, "caught": "", "error": ""}
    try:
        sys.meta_path.insert(0, Finder(mutation))
        logging.disable(logging.CRITICAL)
        answer["caught"] = caught(mutation)
    except BaseException as bad:
        answer["error"] = "".join(traceback.format_exception(bad)[-3:])  # a trial that breaks has noticed nothing
    os.write(out, json.dumps(answer).encode() + b"\n")
    os._exit(0)


def main(names: Sequence[str]) -> None:
    """Try the named guards, or all."""
    import msgspec  # noqa: F401 -- imported once, for all children

    left = [m for m in MUTATIONS if not names or m.guard in names]
    running: set[int] = set()
    while left or running:
        while left and len(running) < WORKERS:
            mutation = left.pop(0)
            pid = os.fork()
            if pid == 0:
                _child(mutation, 1)
            running.add(pid)
        pid, _ = os.wait()
        running.discard(pid)


if __name__ == "__main__":
    main(sys.argv[1:])
