"""`just soak-kmip`: a node under load and under attack for ten minutes: does it leak memory or descriptors?

The one-command stack with one worker; honest clients encrypt, decrypt, get and create all the time, while others attack
and, a quarter of the time, rest: half and whole handshakes by the dozen, foreign certificates and none, halves of
messages, bombs, answers that nobody takes. The honest clients' latency is shown with and without (of Encrypt, at the
client). Custodian's and worker's memory and descriptors are written in every turn. The run fails when the last
quarter's median is above the second quarter's by more than allowed, when a descriptor stays open after the last enemy
is gone, when an attack never came about, when a process was replaced, or when an honest answer was wrong or missing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import socket
import ssl
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from servers import REGION, Target, payloads_of, stack

from openkcm.cli import endpoints as ends
from openkcm.cli import pki
from openkcm.kmip import KMIP_1_4, RequestHeader, encode_request
from openkcm.kmip.payloads.server import QueryRequest

TURN_S, SHORTEST_TURN_S, SETTLE_S = 10.0, 4.0, 0.5  # of attack and rest; what an attack began is over then
#: What may come on top between the second and the last quarter: caches that fill, SQLite's pages.
ALLOWED: Final = {"rss_mib": 12.0, "descriptors": 8}
REQUEST: Final = bytes.fromhex("42007801")
SPAWN: Final = multiprocessing.get_context("spawn")
QUIET_S: Final = 30.0  # until what enemies left is ended: longer than a handshake may take


def state_of(pid: int) -> dict[str, float]:
    """Memory and descriptors of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return {
        "rss_mib": round(pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20), 1),
        "descriptors": len(list(Path(f"/proc/{pid}/fd").iterdir())),
    }


def left_open(pids: dict[str, int], before: dict[str, float]) -> dict[str, float]:
    """Descriptors that a process has more than before, where it has."""
    now = {name: state_of(pid)["descriptors"] - before[name] for name, pid in pids.items()}
    return {name: more for name, more in now.items() if more > 0}


class Enemy(SPAWN.Process):  # type: ignore[misc, name-defined]  # a thread would hold the interpreter of the honest
    """Comes again and again, each time in one of the ways of `ATTACKS`, and goes on with nothing. `done`: how often.

    It has what the honest clients and the node leave of the processors: those of real ones are elsewhere.
    """

    def __init__(self, kmip: ends.Kmip, workload: ends.Workload, foreign: tuple[str, ...], number: int) -> None:
        super().__init__(daemon=True)
        self._where, self.over = (kmip.host, kmip.port), SPAWN.Event()
        self.chance = random.Random(number)  # noqa: S311 -- which attack comes next
        self._ca, self._own = workload.ca, (workload.cert, workload.key)
        self.foreign = foreign
        self.held: list[socket.socket] = []
        self.resting = SPAWN.Event()
        self.done = SPAWN.Array("q", len(ATTACKS), lock=False)

    def run(self) -> None:
        """Attack until it is over."""
        os.nice(19)
        ways = list(ATTACKS.values())
        while not self.over.wait(0.05):
            if self.resting.is_set():
                continue
            at = self.chance.randrange(len(ways))
            try:
                ways[at](self)
                self.done[at] += 1
            except OSError:
                pass  # the node was faster
            while self.held:
                self.held.pop().close()

    def tcp(self) -> socket.socket:
        """Connect, and hold it."""
        self.held.append(socket.create_connection(self._where, timeout=5))
        return self.held[-1]

    def tls(self, files: tuple[str, ...] | None = None, *, older: bool = False) -> ssl.SSLSocket:
        """Shake hands, as the workload unless told otherwise."""
        context = ssl.create_default_context(cafile=self._ca)
        context.check_hostname = False
        if older:
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        if files != ():
            context.load_cert_chain(*(files or self._own))
        self.held[-1:] = [context.wrap_socket(self.tcp())]
        one = self.held[-1]
        assert isinstance(one, ssl.SSLSocket)
        return one

    def half_handshakes(self) -> None:
        """Less than a hello, by the dozen."""
        for _ in range(self.chance.randrange(1, 30)):
            self.tcp().sendall(bytes.fromhex("160301")[: self.chance.randrange(4)])

    def whole_handshakes(self) -> None:
        """What costs the node most before it knows who comes."""
        for _ in range(self.chance.randrange(1, 10)):
            self.tls(older=self.chance.random() < 0.5)

    def strangers(self) -> None:
        """A foreign certificate, or none."""
        with contextlib.suppress(OSError):
            self.tls(self.chance.choice([self.foreign, ()])).recv(1)

    def half_message(self) -> None:
        """Up to a quarter of a MiB is announced; half of it comes."""
        size = self.chance.randrange(1, 1 << 18) & ~7
        self.tls().sendall(REQUEST + size.to_bytes(4, "big") + bytes(min(size // 2, 1 << 16)))

    def half_post(self) -> None:
        """The same over HTTP: in the head, or in the body."""
        whole = b"POST /kmip HTTP/1.1\r\nContent-Type: text/xml\r\nContent-Length: 4096\r\n\r\n<RequestMessage>"
        self.tls().sendall(whole[: self.chance.randrange(1, len(whole))])

    def bomb(self) -> None:
        """A length, a nesting, a count; the answer is taken."""
        depth = b"".join(REQUEST + (8 * n).to_bytes(4, "big") for n in range(5000, -1, -1))
        count = encode_request(
            QueryRequest(), header=RequestHeader(protocol_version=KMIP_1_4, batch_count=(1 << 31) - 1)
        )
        one = self.tls()
        one.sendall(self.chance.choice([REQUEST + bytes.fromhex("fffffff8"), depth, count]))
        one.recv(1 << 16)

    def no_taker(self) -> None:
        """Asks and asks, and takes no answer."""
        one = self.tls()
        one.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            for _ in range(100):
                one.sendall(encode_request(QueryRequest(query_function=tuple(range(1, 7)))) * 100)


#: Renegotiation and certificates that are over or withdrawn are played once each in tests/execution/test_hostile.py.
ATTACKS: Final[dict[str, Callable[[Enemy], None]]] = {
    "half handshakes": Enemy.half_handshakes, "whole handshakes": Enemy.whole_handshakes,
    "strangers": Enemy.strangers, "half a message": Enemy.half_message, "half a POST": Enemy.half_post,
    "bombs": Enemy.bomb, "answers not taken": Enemy.no_taker,
}  # fmt: skip


class Honest(threading.Thread):
    """One client that does real work; `wrong` is what went wrong first."""

    def __init__(self, target: Any, requests: dict[str, Any], over: threading.Event) -> None:
        super().__init__(daemon=True)
        self._target, self._requests, self._over = target, requests, over
        self.done, self.wrong = 0, ""
        self.times: dict[bool | None, list[float]] = {False: [], True: [], None: []}  # of Encrypt
        self.attacked: bool | None = None  # None: neither quite

    def run(self) -> None:
        """Work until it is over."""
        plain = self._requests["encrypt"].data
        try:
            while not self._over.wait(0.01):
                for name, request in self._requests.items():
                    if name == "create" and self.done % 50:
                        continue
                    began = time.monotonic()
                    (answer,) = self._target.call(request)
                    if name == "encrypt":
                        self.times[self.attacked].append(time.monotonic() - began)
                    self.done += 1
                    if name == "decrypt" and answer.data != plain:
                        raise SystemExit("a decryption is wrong")  # noqa: TRY301 -- reported by the main thread
        except (SystemExit, OSError) as bad:
            self.wrong = str(bad) or type(bad).__name__


def main() -> int:
    """Run, write, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--port-base", type=int, default=26200)
    options = parser.parse_args()
    over, seen = threading.Event(), {}
    turn_s = min(TURN_S, max(SHORTEST_TURN_S, options.seconds / 20))
    with (
        tempfile.TemporaryDirectory(prefix="soak-kmip-") as folder,
        stack(Path(folder) / "stack", options.port_base) as endpoints,
    ):
        node = endpoints.node_of(REGION)
        workload = endpoints.workloads["acme/payments"]
        pids = {"custodian": node.custodian_pid, "worker": node.worker_pids[0]}
        honest = []
        for _ in range(3):
            target = Target(node.kmip.host, node.kmip.port, pids["worker"], workload, None)
            honest.append(Honest(target, payloads_of(target), over))
        foreign = tuple(map(str, pki.authority(Path(folder) / "foreign").issue_workload("acme", "payments")))
        enemies = [Enemy(node.kmip, workload, foreign, n) for n in range(2)]
        for one in honest:
            one.start()
        time.sleep(SETTLE_S)
        before = {name: state_of(pid)["descriptors"] for name, pid in pids.items()}
        for enemy in enemies:
            enemy.start()
        seen = {name: [] for name in pids}
        until = time.monotonic() + options.seconds
        while time.monotonic() < until:
            for attacked in (True, False):
                for enemy in enemies:
                    (enemy.resting.clear if attacked else enemy.resting.set)()
                time.sleep(SETTLE_S)
                for one in honest:
                    one.attacked = attacked
                time.sleep((0.75 if attacked else 0.25) * turn_s - SETTLE_S)
                for one in honest:
                    one.attacked = None
            for name, pid in pids.items():
                seen[name].append(state_of(pid))
            print(json.dumps({name: of[-1] for name, of in seen.items()}), file=sys.stderr)
        for enemy in enemies:
            enemy.over.set()
        for enemy in enemies:
            enemy.join(30)
        until = time.monotonic() + QUIET_S
        while (held := left_open(pids, before)) and time.monotonic() < until:
            time.sleep(0.5)
        over.set()
        for thread in honest:
            thread.join(30)
    wrong = [h.wrong for h in honest if h.wrong]
    wrong += [f"{name}: {more:.0f} descriptors stay open after the last enemy is gone" for name, more in held.items()]
    done = {name: sum(e.done[at] for e in enemies) for at, name in enumerate(ATTACKS)}
    wrong += [f"nobody attacked by {name}" for name, times in done.items() if not times]
    print(f"{sum(h.done for h in honest)} honest operations; attacks: {done}")
    alone, attacked = (sorted(t for h in honest for t in h.times[how]) for how in (False, True))
    for share in (0.5, 0.9, 0.99):
        usual, then = (times[int(len(times) * share)] * 1e3 for times in (alone, attacked))
        print(f"Encrypt p{share * 100:.0f}: {usual:.2f} ms, and under attack {then:.2f}: {then / usual:.1f} x")
    for name, states in seen.items():
        quarter = len(states) // 4
        for what, allowed in ALLOWED.items():
            early, late = (statistics.median(s[what] for s in part)
                           for part in (states[quarter : 2 * quarter], states[-quarter:]))  # fmt: skip
            print(f"{name} {what}: {early} in the second quarter, {late} in the last")
            if late - early > allowed:
                wrong.append(f"{name}: {what} grew by {late - early}")
    print("\n".join(wrong) or "nothing leaks")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
