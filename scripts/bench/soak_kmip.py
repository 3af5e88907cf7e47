"""`just soak-kmip`: a node under load and under attack for ten minutes: does it leak memory or descriptors?

The one-command stack with one worker; honest clients encrypt, decrypt, get and create all the time, a twentieth of it
alone, then while others leave half of a handshake or half of a message and come by the dozen. The honest clients'
latency is shown for both parts (of Encrypt, at the client). Custodian's and worker's memory and
descriptors are written every ten seconds. The run fails when the last quarter's median is above the second quarter's by
more than allowed, when a process was replaced, or when an honest answer was wrong or missing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import socket
import ssl
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Final

from servers import REGION, Target, payloads_of, stack

from openkcm.cli import endpoints as ends

EVERY_S: Final = 10
#: What may come on top between the second and the last quarter: caches that fill, SQLite's pages.
ALLOWED: Final = {"rss_mib": 12.0, "descriptors": 8}


def state_of(pid: int) -> dict[str, float]:
    """Memory and descriptors of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return {
        "rss_mib": round(pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20), 1),
        "descriptors": len(list(Path(f"/proc/{pid}/fd").iterdir())),
    }


class Enemy(threading.Thread):
    """Comes by the dozen and goes on with nothing."""

    def __init__(self, kmip: ends.Kmip, workload: ends.Workload, over: threading.Event) -> None:
        super().__init__(daemon=True)
        self._where, self._over = (kmip.host, kmip.port), over
        self._context = ssl.create_default_context(cafile=workload.ca)
        self._context.check_hostname = False
        self._context.load_cert_chain(workload.cert, workload.key)
        self.done = 0

    def run(self) -> None:
        """Attack until it is over."""
        chance = random.Random(1)  # noqa: S311 -- which attack comes next
        while not self._over.wait(0.05):
            held: list[socket.socket] = []
            with contextlib.suppress(OSError):
                for _ in range(chance.randrange(1, 30)):
                    held.append(socket.create_connection(self._where, timeout=5))
                    held[-1].sendall(bytes.fromhex("160301")[: chance.randrange(4)])
                tls = self._context.wrap_socket(socket.create_connection(self._where, timeout=5))
                held.append(tls)
                size = chance.randrange(1, 1 << 18)
                tls.sendall(bytes.fromhex("42007801") + (size & ~7).to_bytes(4, "big") + bytes(min(size // 2, 1 << 16)))
            for one in held:
                one.close()
            self.done += len(held)


class Honest(threading.Thread):
    """One client that does real work; `wrong` is what went wrong first."""

    def __init__(self, target: Any, requests: dict[str, Any], over: threading.Event) -> None:
        super().__init__(daemon=True)
        self._target, self._requests, self._over = target, requests, over
        self.done, self.wrong = 0, ""
        self.times: dict[bool, list[float]] = {False: [], True: []}  # of Encrypt: without enemies, and with them
        self.attacked = False

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
        enemies = [Enemy(node.kmip, workload, over) for _ in range(2)]
        for one in honest:
            one.start()
        time.sleep(options.seconds / 20)
        for one in honest:
            one.attacked = True
        for enemy in enemies:
            enemy.start()
        seen = {name: [] for name in pids}
        until = time.monotonic() + options.seconds
        while time.monotonic() < until:
            time.sleep(min(EVERY_S, options.seconds / 20))
            for name, pid in pids.items():
                seen[name].append(state_of(pid))
            print(json.dumps({name: of[-1] for name, of in seen.items()}), file=sys.stderr)
        over.set()
        for thread in (*honest, *enemies):
            thread.join(30)
    wrong = [h.wrong for h in honest if h.wrong]
    print(f"{sum(h.done for h in honest)} honest operations; {sum(e.done for e in enemies)} hostile connections")
    for attacked, when in ((False, "alone"), (True, "under attack")):
        times = sorted(t for h in honest for t in h.times[attacked])
        half, most = times[len(times) // 2], times[int(len(times) * 0.99)]
        print(f"Encrypt {when}: p50 {half * 1e3:.2f} ms, p99 {most * 1e3:.2f} ms")
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
