"""A worker under an attacker's control: a debugger makes the real process do what the attacker would, and the kernel's
answers are read. What it can read while it lives (L3 of its region) is in the threat model; here is what it cannot do.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import signal
import socket
import struct
from pathlib import Path

import pytest

from custody.fork_inside import Inside
from custody.residence_bench import onboard, serving_node, workers_of
from node_bench import RunningNode

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or platform.machine() != "x86_64", reason="plays the attacker with ptrace on x86-64, as root"
)
OPEN, MPROTECT, MUNMAP, SOCKET, CONNECT, KILL, MREMAP, PTRACE = 2, 10, 11, 41, 42, 62, 25, 101
READ_WRITE = 3


def is_alive(pid: int) -> bool:
    """Whether the process still runs: a dead one has no descriptors."""
    try:
        return bool(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError:
        return False


def arenas(pid: int) -> list[tuple[int, int, str]]:
    """(start, size, rights) of key memory in a process."""
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        if "secretmem" in line or "memfd:keys" in line:
            start, end = (int(x, 16) for x in line.split()[0].split("-"))
            found.append((start, end - start, line.split()[1]))
    return found


async def test_a_worker_that_is_taken_over_reaches_nothing_but_its_own_memory(tmp_path):
    async with serving_node(tmp_path) as (governor, node):
        residence = await onboard(governor, node, "acme")
        await residence.new_key(node)
        custodian = node.process.pid
        (worker,) = workers_of(custodian)
        nats = governor.orbital.ports[governor.press.region].client
        with Inside(worker) as inside:
            _no_gate_and_no_key_is_written(inside)
            _no_credential_is_read(inside, node)
            _nobody_is_spoken_to(inside, nats)
            for number in (signal.SIGKILL, signal.SIGSTOP):
                assert inside.call(KILL, custodian, int(number)) == -errno.EPERM
            assert inside.call(PTRACE, 16, custodian, 0, 0) == -errno.EPERM
        _no_descriptor_leads_elsewhere(worker, governor.orbital)
        assert await residence.new_key(node)  # it serves on as if nothing had been
        os.kill(custodian, signal.SIGKILL)
        node.process.wait()
        await governor.until(lambda: not is_alive(worker))


def _no_gate_and_no_key_is_written(inside: Inside) -> None:
    region = [(start, size) for start, size, rights in arenas(inside.pid) if "w" not in rights]
    assert len(region) == 1, arenas(inside.pid)
    ((start, size),) = region
    assert inside.call(MPROTECT, start, size, READ_WRITE) == -errno.EPERM  # sealed
    assert inside.call(MUNMAP, start, size) == -errno.EPERM
    assert inside.call(MREMAP, start, size, 2 * size, 1) == -errno.EPERM
    assert inside.call(OPEN, f"/proc/self/map_files/{start:x}-{start + size:x}".encode() + b"\0", os.O_RDWR) < 0


def _no_credential_is_read(inside: Inside, node: RunningNode) -> None:
    files = [node.folder / "seal.seed", node.folder / "node.json", node.folder / "acme.keys", Path("/etc/passwd")]
    files.append(Path(f"/proc/{node.process.pid}/mem"))
    for path in files:
        assert path.exists()
        assert inside.call(OPEN, str(path).encode() + b"\0", os.O_RDONLY) == -errno.EACCES, path
    opened = inside.call(OPEN, str(node.folder / "node.sqlite").encode() + b"\0", os.O_RDONLY)
    assert opened >= 0  # the control: what it needs it can open


def _nobody_is_spoken_to(inside: Inside, port: int) -> None:
    made = inside.call(SOCKET, socket.AF_INET, socket.SOCK_STREAM, 0)
    assert made >= 0
    address = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", port, socket.inet_aton("127.0.0.1"))
    assert inside.call(CONNECT, made, address, len(address)) == -errno.EACCES
    with socket.create_connection(("127.0.0.1", port)):  # the control: somebody listens there
        pass


def _no_descriptor_leads_elsewhere(worker: int, orbital) -> None:
    """Every socket it holds is the control pair, its listener or a client's; no key memory can be mapped anew."""
    links = [str(fd.readlink()) for fd in Path(f"/proc/{worker}/fd").iterdir()]
    assert not [link for link in links if "secretmem" in link or "memfd" in link], links
    inodes = {re.search(r"\d+", link)[0] for link in links if link.startswith("socket:")}
    ports = {f"{p:04X}" for ports in orbital.ports.values() for p in (ports.client, ports.monitor, ports.leaf)}
    for line in Path(f"/proc/{worker}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[9] in inodes:
            assert fields[2].rpartition(":")[2] not in ports, line
