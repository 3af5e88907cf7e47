"""Worlds from seeds: hub, regions, nodes, CMKs, people and faults in virtual time, on the production code of both planes.

`SIM_SEEDS=100000 SIM_FIRST=0` runs more; `python -m simulation.replay SEED` (from tests/) prints one run's trace.
"""

from __future__ import annotations

import concurrent.futures
import logging
import multiprocessing
import os

import pytest

from history_checker import check
from simulation.world import FEATURES, PLAY_S, Run, run

SEEDS = int(os.environ.get("SIM_SEEDS", "500"))
FIRST = int(os.environ.get("SIM_FIRST", "0"))
PROCESSES = int(os.environ.get("SIM_PROCESSES", "2"))
CHUNK = 10


def play(seeds: range) -> list[tuple[int, tuple[str, ...], list[str]]]:
    """Those that broke something."""
    logging.disable(logging.CRITICAL)
    runs = [run(seed) for seed in seeds]
    return [(r.seed, r.features, r.problems) for r in runs if r.problems]


@pytest.mark.timeout(36000)
def test_whatever_happens_nothing_promised_is_broken_and_everything_converges_after_healing():
    chunks = [range(a, min(a + CHUNK, FIRST + SEEDS)) for a in range(FIRST, FIRST + SEEDS, CHUNK)]
    os.environ["PYTHONHASHSEED"] = "0"  # of the processes that play: sets are walked in the same order in every run
    spawn = multiprocessing.get_context("spawn")
    players = concurrent.futures.ProcessPoolExecutor(PROCESSES, spawn, os.nice, (19,))  # other tests go first
    with players as pool:
        bad = [one for found in pool.map(play, chunks) for one in found]
    assert not bad, "\n".join(
        f"seed {seed} ({', '.join(features)}):\n  " + "\n  ".join(problems[:5])
        + f"\n  trace: cd tests && python -m simulation.replay {seed}"
        for seed, features, problems in bad
    )  # fmt: skip


@pytest.fixture(scope="module")
def quiet() -> Run:
    return run(1, (), 40.0)


def test_one_seed_is_one_run(quiet):
    assert run(1, (), 40.0).history == quiet.history


def test_another_seed_is_another_run(quiet):
    assert run(2, (), 40.0).history != quiet.history


def test_an_undisturbed_world_serves_revokes_and_restores(quiet):
    assert quiet.problems == []
    runs = [quiet, *(run(seed, (), 40.0) for seed in (2, 3, 4))]
    tags = {line["tag"] for one in runs for line in one.history if line["kind"] == "decree"}
    assert {"AccessRevoked", "AccessRestored", "RevocationConfirmed"} <= tags
    assert sum(line["kind"] == "op" and line["result"] == "served" for line in quiet.history) > 20
    assert check(quiet.history) == []


def test_every_kind_of_fault_has_been_played_by_some_seed():
    import random

    played = set()
    for seed in range(FIRST, FIRST + min(SEEDS, 100)):
        rng = random.Random(seed)
        rng.choice(PLAY_S)
        played |= {f for f in FEATURES if rng.random() < 0.35}
    assert played == set(FEATURES)
