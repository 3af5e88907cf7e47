"""`just bench kmip`: how fast a node serves KMIP, beside a bare TLS echo, PyKMIP's server and OpenSSL, in one run.

Starts the one-command stack with one worker, pins that worker to the first core and everything else (custodian, NATS,
governance, the load) to the second, all of them in the kernel's real-time class, and measures each case in several
rounds; the median round counts. Every check, counter and metric of the node is on. Writes `docs/bench/kmip.json` and
`docs/bench/kmip.svg`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import shutil
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any, Final

import msgspec
from load import Result, Task
from plot import draw
from servers import (
    AROUND,
    DATA_BYTES,
    LOAD_CORE,
    MEASURED,
    REGION,
    ROOT,
    SERVER_CORE,
    Target,
    payloads_of,
    pinned,
    prefer,
    scheduling,
    stack,
)

from openkcm.bus.connection import connect
from openkcm.bus.vault import Vault
from openkcm.cli import background
from openkcm.cli import endpoints as ends
from openkcm.cli.pki import authority
from openkcm.execution.configuration import load as load_node
from openkcm.kmip import encode_request
from openkcm.kmip.payloads.server import DiscoverVersionsRequest

HERE: Final = Path(__file__).resolve().parent
OUT: Final = ROOT / "docs" / "bench"
BATCH: Final = 10
PAIRS: Final = 4  # of the echoes and Encrypt, one right after the other, a round
PAIR_S: Final = 0.4
HALF_S: Final = 1.2  # of half load, PAIRS times a round, an echo in between: what holds up both is the machine's doing
WAITS: Final = frozenset({"create"})  # for others on the load's core, so the load must not spin


def measure(target: Target, request: bytes, **more: Any) -> Result | None:
    """One load process, one result; None when it failed. `answer_bytes` is learnt from one call when not given."""
    size = more.pop("answer_bytes", None) or len(target.raw(request))
    task = Task(
        host=target.host, port=target.port, cert=target.workload.cert, key=target.workload.key, ca=target.workload.ca,
        request=request, answer_bytes=size, pid=target.pid, **more,
    )  # fmt: skip
    command = [sys.executable, HERE / "load.py"]
    load = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    prefer(load.pid, LOAD_CORE, MEASURED)
    found, _ = load.communicate(msgspec.json.encode(task))
    if load.returncode:
        return None
    return msgspec.json.decode(found, type=Result)


# --- what is measured -----------------------------------------------------------------------------------------------


def cases_of(payloads: dict[str, Any]) -> dict[str, tuple[bytes, dict[str, Any]]]:
    """Name -> (request, options) of the saturating cases."""
    cases: dict[str, tuple[bytes, dict[str, Any]]] = {}
    for name, payload in payloads.items():
        for connections in (1, 8, 64):
            more = {"connections": connections, "spins": name not in WAITS}
            cases[f"{name} x{connections}"] = (encode_request(payload), more)
    batch = encode_request(*[payloads["encrypt"]] * BATCH)
    for connections in (1, 8, 64):
        cases[f"encrypt batch of {BATCH} x{connections}"] = (batch, {"connections": connections, "items": BATCH})
    return cases


def openssl_speed(seconds: int) -> float:
    """AES-256-GCM of 1 KiB on one core by `openssl speed`: operations a second, no protocol, key set once."""
    command = ["openssl", "speed", "-mr", "-seconds", str(seconds), "-bytes", str(DATA_BYTES), "-evp", "aes-256-gcm"]
    done = subprocess.run(
        ["taskset", "-c", str(SERVER_CORE), *command], capture_output=True, text=True, check=True
    ).stdout
    line = next(x for x in done.splitlines() if x.startswith("+F:"))
    return float(line.split(":")[3]) / DATA_BYTES


def syncs_per_s(folder: Path) -> float:
    """Appends of 2 KiB, each synced, one after another: what bounds a durable write."""
    began, count = time.monotonic(), 200
    with (folder / "syncs").open("wb", buffering=0) as file:
        for _ in range(count):
            file.write(bytes(2048))
            os.fsync(file)
    return count / (time.monotonic() - began)


async def vault_writes(state: Path, seconds: float) -> dict[int, float]:
    """What bounds Create: durable writes a second straight into the region's vault, by how many at a time."""
    layout = background.saved_layout(state)
    node, _, _ = load_node(layout.configuration("eu-frankfurt-1"))
    connection = await connect(node.nats, name="bench")
    vault, out = Vault(connection, REGION), {}

    async def write() -> None:
        name = str(uuid.uuid4())
        await vault.put(where := f"kcm.vault.{REGION}.bench.object.{name}", bytes(2048), id=name, expect=(where, 0))

    for at_a_time in (1, 8, 64):
        count, began = 0, time.monotonic()
        while time.monotonic() - began < seconds:
            await asyncio.gather(*(write() for _ in range(at_a_time)))
            count += at_a_time
        out[at_a_time] = round(count / (time.monotonic() - began), 1)
    await connection.close()
    return out


def median(results: list[Result]) -> dict[str, Any]:
    """Each figure's own median over the rounds; `best`, of the rounds that the machine disturbed least."""
    out: dict[str, Any] = {
        name: round(statistics.median(getattr(r, name) for r in results), 3)
        for name in Result.__struct_fields__
        if name not in {"tls", "wrong", "samples"}
    }
    out["best"] = {
        name: round(pick(getattr(r, name) for r in results), 3)
        for name, pick in {
            "operations_s": max,
            "p50_us": min,
            "p99_us": min,
            "p999_us": min,
            "server_cpu_us": min,
        }.items()
    }
    out["samples"], out["wrong"] = sum(r.samples for r in results), sum(r.wrong for r in results)
    out["tls"] = results[0].tls
    return out


def run(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All of it."""
    seconds, rounds = options.seconds, options.rounds
    found: dict[str, list[Result]] = {}
    pairs: dict[str, list[float]] = {"echo": [], "uvloop's own TLS echo": []}
    writes: list[dict[int, float]] = []

    def note(name: str, result: Result | None) -> None:
        if result is None:
            print(f"{name:28} failed", file=sys.stderr)
            return
        found.setdefault(name, []).append(result)
        print(
            f"{name:28} {result.operations_s:9.0f}/s  p50 {result.p50_us:8.0f}  p99 {result.p99_us:8.0f}  p99.9 "
            f"{result.p999_us:8.0f} us  CPU {result.server_cpu_us:7.1f} us/op  server {result.server_share:4.0%}  "
            f"(waits {result.server_waits:4.1%})  load {result.load_share:4.0%}"
            + (f"  WRONG {result.wrong}" if result.wrong else ""),
            file=sys.stderr,
        )

    with stack(folder / "stack", options.port_base, real_time=True) as endpoints:
        node = endpoints.node_of(REGION)
        classes = {"worker": scheduling(node.worker_pids[0]), "custodian": scheduling(node.custodian_pid)}
        prefer(os.getpid(), LOAD_CORE, AROUND)
        workload = endpoints.workloads["acme/payments"]
        target = Target(node.kmip.host, node.kmip.port, node.worker_pids[0], workload, None)
        payloads = payloads_of(target)
        cases = {n: c for n, c in cases_of(payloads).items() if options.only in n}
        echo_port = options.port_base + 900
        encrypt = encode_request(payloads["encrypt"])
        sizes = (len(encrypt), len(target.raw(encrypt)))
        certificate = authority(folder / "stack").issue("echo")
        with contextlib.ExitStack() as echoes:

            def echo(port: int, how: str) -> Target:
                program = (HERE / "echo.py", port, *certificate, workload.ca, *sizes, how)
                return Target("127.0.0.1", port, echoes.enter_context(pinned(*program, port=port)), workload, None)

            floor, usual = echo(echo_port, "floor"), echo(echo_port + 2, "protocol")
            for _ in range(rounds):
                for connections in (1, 8, 64):
                    more = {"connections": connections, "seconds": seconds, "answer_bytes": sizes[1]}
                    note(f"echo x{connections}", measure(floor, encrypt, mode="closed", **more))
                    note(f"uvloop's own TLS echo x{connections}", measure(usual, encrypt, mode="closed", **more))
                for _ in range(PAIRS):
                    more = {"mode": "closed", "connections": 8, "seconds": PAIR_S, "answer_bytes": sizes[1]}
                    found_of = [measure(x, encrypt, **more) for x in (floor, usual, target)]
                    if all(found_of):
                        *theirs, ours = (x.server_cpu_us for x in found_of if x)
                        for of, cpu_us in zip(pairs.values(), theirs, strict=True):
                            of.append(ours / cpu_us)
                writes.append(asyncio.run(vault_writes(folder / "stack", seconds)))
                for name, (request, more) in cases.items():
                    if not name.startswith("get"):
                        note(name, measure(target, request, mode="closed", seconds=seconds, **more))
                half = {
                    "encrypt x8": "encrypt at half load",
                    "decrypt x8": "decrypt at half load",
                }
                for base, name in half.items():
                    if base in found:
                        rate = found[base][-1].operations_s / 2
                        more = {"mode": "open", "rate": rate, "connections": 8, "seconds": HALF_S}
                        for _ in range(PAIRS):
                            note(name, measure(target, cases[base][0], **more))
                            note(f"echo at the rate of {name}", measure(floor, encrypt, answer_bytes=sizes[1], **more))
                hello = encode_request(DiscoverVersionsRequest())
                note("handshakes", measure(target, hello, mode="handshake", connections=8, seconds=max(1, seconds)))
            for _ in range(rounds):  # last: each Get is reported, and the reports keep the custodian busy for a while
                for name, (request, more) in cases.items():
                    if name.startswith("get"):
                        note(name, measure(target, request, mode="closed", seconds=seconds, **more))
        counts = {
            name: value
            for name, value in metrics(node.metrics).items()
            if name.startswith("openkcm_worker") or "operations" in name
        }
    if options.pykmip:
        pykmip(folder, options, note)
    results = {name: median(of) for name, of in found.items()}
    cipher, syncs = openssl_speed(1), syncs_per_s(folder)
    return {
        "machine": machine() | {"scheduling": classes},
        "data_bytes": DATA_BYTES,
        "rounds": rounds,
        "seconds": seconds,
        "openssl_aes_256_gcm_per_s": round(cipher),
        "disk_syncs_per_s": round(syncs),
        "vault_writes_per_s": (vault := {n: statistics.median(w[n] for w in writes) for n in writes[0]}),
        "ratios": {f"CPU per Encrypt / CPU per {n}": round(statistics.median(of), 2) for n, of in pairs.items()}
        | ratios(results, cipher, vault),
        "results": results,
        "node_counts": counts,
    }


def pykmip(folder: Path, options: argparse.Namespace, note: Any) -> None:
    """The same requests to PyKMIP's server."""
    own = folder / "pykmip"
    own.mkdir()
    pki = authority(own)
    cert, key = pki.issue("pykmip")
    client_cert, client_key = pki.issue_workload("acme", "payments")
    workload = ends.Workload(cert=str(client_cert), key=str(client_key), ca=str(pki.ca))
    port = options.port_base + 901
    with pinned(HERE / "pykmip_server.py", own, port, cert, key, pki.ca, port=port) as pid:
        target = Target("127.0.0.1", port, pid, workload, ssl.TLSVersion.TLSv1_2)
        payloads = payloads_of(target)
        for _ in range(options.rounds):
            for name, payload in payloads.items():
                request = encode_request(payload)
                more = {"connections": 8, "seconds": options.seconds}
                note(f"PyKMIP {name} x8", measure(target, request, mode="closed", **more))


def ratios(results: dict[str, dict[str, Any]], cipher: float, vault: dict[int, float]) -> dict[str, float]:
    """The figures that a noisy machine changes least."""
    out = {}
    if "encrypt x8" in results:
        ours = results["encrypt x8"]
        out["bare cipher / Encrypt"] = round(cipher / ours["operations_s"], 1)
    for at_a_time, per_s in vault.items():
        if create := results.get(f"create x{at_a_time}"):
            out[f"create / vault write x{at_a_time}"] = round(create["operations_s"] / per_s, 2)
    for name in ("encrypt", "decrypt", "get", "create"):
        theirs = results.get(f"PyKMIP {name} x8")
        if theirs and f"{name} x8" in results:
            out[f"{name} / PyKMIP's {name}"] = round(results[f"{name} x8"]["operations_s"] / theirs["operations_s"], 1)
    return out


def metrics(url: str) -> dict[str, float]:
    """What the node says it has counted."""
    import urllib.request

    with urllib.request.urlopen(url, timeout=5) as page:  # noqa: S310 -- loopback, from endpoints.json
        lines = page.read().decode().splitlines()
    return {
        name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#") if name
    }


def machine() -> dict[str, Any]:
    """What the figures belong to."""
    cpu = next((x.partition(":")[2].strip() for x in open("/proc/cpuinfo") if x.startswith("model name")), "?")  # noqa: SIM115, PTH123
    openssl = subprocess.run(["openssl", "version"], capture_output=True, text=True, check=True).stdout.strip()
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "ssl": ssl.OPENSSL_VERSION,
        "openssl": openssl,
        "load_average_before": LOAD_BEFORE,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


LOAD_BEFORE: Final = os.getloadavg()[0]


def main() -> None:
    """Measure, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each case and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--port-base", type=int, default=26000)
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--no-pykmip", dest="pykmip", action="store_false")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    if (os.cpu_count() or 1) < 2:
        raise SystemExit("two cores are needed: one for the worker, one for the load")
    folder = Path(tempfile.mkdtemp(prefix="bench-kmip-"))
    try:
        found = run(folder, options)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "kmip.json").write_text(json.dumps(found, indent=1) + "\n")
    (options.out / "kmip.svg").write_text(draw(found))
    print(json.dumps(found["ratios"], indent=1))


if __name__ == "__main__":
    main()
