"""Plays many seeds and says at once what breaks: `cd tests && python -m simulation.soak SEEDS [FIRST] [PROCESSES]`.

Prints a line a finding and a count now and then; Ctrl-C ends it with what was found so far. Exit status 1: something broke.
"""

from __future__ import annotations

import concurrent.futures
import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import time

from simulation.world import run

CHUNK, TELL_S = 20, 60.0


def play(seeds: range) -> tuple[int, list[tuple[int, tuple[str, ...], list[str]]]]:
    """(how many were played, those that broke something)."""
    logging.disable(logging.CRITICAL)
    runs = [run(seed) for seed in seeds]
    return len(runs), [(r.seed, r.features, r.problems) for r in runs if r.problems]


def die_with_parent() -> None:
    """Have a player end when the soak is ended, however that was."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def main() -> None:
    """Play them all."""
    count, first, processes = (
        *map(int, sys.argv[1:4]),
        *(100_000, 0, len(os.sched_getaffinity(0)))[len(sys.argv[1:4]) :],
    )
    os.environ["PYTHONHASHSEED"] = "0"  # sets are walked in the same order in every run
    ends = range(first, first + count, CHUNK)
    chunks = [range(at, min(at + CHUNK, first + count)) for at in ends]
    played = broken = 0
    begun = told = time.monotonic()
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(processes, mp_context=spawn, initializer=die_with_parent) as pool:
        try:
            for number, bad in pool.map(play, chunks):
                played, broken = played + number, broken + len(bad)
                for seed, features, problems in bad:
                    print(f"seed {seed} ({', '.join(features)}): {'; '.join(problems[:3])}", flush=True)
                if time.monotonic() - told > TELL_S or played == count:
                    told = time.monotonic()
                    print(
                        f"{played:,} seeds from {first:,} played in {told - begun:,.0f} s, {broken} broke", flush=True
                    )
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            print(f"stopped: {played:,} seeds from {first:,} played, {broken} broke", flush=True)
    raise SystemExit(1 if broken else 0)


if __name__ == "__main__":
    main()
