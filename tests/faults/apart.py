"""A region's NATS server in a network namespace of its own: its link to the hub can be cut, one way or both, or be made bad.

Addresses stay 127.0.0.1 on both sides (certificates name it); NAT carries them over a pair of veths. What is cut is cut
by nftables inside the namespace. This kernel may lack netem: packets are lost by nftables' random numbers, and the delay
is a relay's on the hub's side, through which the link always goes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from openkcm.cli.layout import Layout

REAL = Path(sys.executable).parent
LOST_PERCENT = 5
#: Rules of a fault, by name: chain and what is dropped.
CUTS: dict[str, tuple[str, ...]] = {
    "cut": ("in tcp sport {port} drop", "out tcp dport {port} drop"),
    "cut towards the region": ("in tcp sport {port} drop",),
    "cut towards the hub": ("out tcp dport {port} drop",),
    "lossy": (f"in tcp sport {{port}} numgen random mod 100 < {LOST_PERCENT} drop",
              f"out tcp dport {{port}} numgen random mod 100 < {LOST_PERCENT} drop"),
}  # fmt: skip


def possible() -> str:
    """Why this machine does not permit it, or nothing."""
    if os.geteuid() != 0:
        return "needs root"
    for command in (["unshare", "-n", "true"], ["nft", "list", "ruleset"], ["ip", "netns", "list"]):
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as no:
            return f"{command[0]}: {no}"
    return ""


def sh(command: str, *, text: str | None = None) -> None:
    done = subprocess.run(command.split(), input=text, text=True, capture_output=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{command}: {done.stderr}")


class Apart:
    """The namespace of one region's server, and the link."""

    def __init__(self, folder: Path, layout: Layout, region: str) -> None:
        base, ports = layout.ports.hub.client, layout.server_ports[region]
        self.name, self.folder, self.region = f"kcm{base}", folder, region
        self.hub, self.relayed = layout.ports.hub.leaf, layout.ports.ministack  # the local KMS's port is not used here
        self.own = (ports.client, ports.monitor)
        self.outer, self.inner = f"kh{base}", f"kr{base}"
        self.net = f"10.{200 + base // 256 % 50}.{base % 256}"
        self._relay: subprocess.Popen | None = None

    def build(self) -> None:
        """Make namespace, veths, NAT, relay, and the directory of programs that starts the server in there."""
        sh(f"ip netns add {self.name}")
        sh(f"ip link add {self.outer} type veth peer name {self.inner} netns {self.name}")
        inside = f"ip netns exec {self.name}"
        for where, device, address in (("", self.outer, 1), (inside, self.inner, 2)):
            sh(f"{where} ip addr add {self.net}.{address}/30 dev {device}")
            sh(f"{where} ip link set {device} up")
            sh(f"{where} sysctl -qw net.ipv4.conf.{device}.route_localnet=1")
        sh(f"{inside} ip link set lo up")
        mine = f"{{ {self.own[0]}, {self.own[1]} }}"
        self._nat("nft -f -", self.outer, 2, mine, f"tcp dport {self.hub} dnat to 127.0.0.1:{self.relayed}")
        own = f"tcp dport {mine} dnat to 127.0.0.1"
        self._nat(f"{inside} nft -f -", self.inner, 1, f"{self.hub}", own)
        filters = """table ip cuts {
            chain in { type filter hook input priority 0; }
            chain out { type filter hook output priority 0; }
        }"""
        sh(f"{inside} nft -f -", text=filters)
        command = [sys.executable, str(Path(__file__).with_name("relay.py")), str(self.relayed), str(self.hub)]
        self._relay = subprocess.Popen(command)
        self._programs()

    def _nat(self, nft: str, device: str, other: int, away: str, arriving: str) -> None:
        sh(nft, text=f"""table ip {self.name} {{
            chain out {{ type nat hook output priority -100; ip daddr 127.0.0.1 tcp dport {away} dnat to {self.net}.{other}; }}
            chain pre {{ type nat hook prerouting priority -100; iifname "{device}" {arriving}; }}
            chain post {{ type nat hook postrouting priority 100; oifname "{device}" masquerade; }}
        }}""")  # fmt: skip

    @property
    def python(self) -> Path:
        """The interpreter beside which the stack finds the wrapped server."""
        return self.folder / "bin" / "python"

    def _programs(self) -> None:
        (self.folder / "bin").mkdir(parents=True)
        (self.folder / "lib").symlink_to(REAL.parent / "lib")
        (self.folder / "pyvenv.cfg").write_text((REAL.parent / "pyvenv.cfg").read_text())
        self.python.symlink_to(REAL / "python")
        server = self.folder / "bin" / "nats-server"
        server.write_text(
            f'#!/bin/sh\ncase "$PWD" in */{self.region}) exec ip netns exec {self.name} {REAL}/nats-server "$@";; esac\n'
            f'exec {REAL}/nats-server "$@"\n'
        )
        server.chmod(0o755)

    def destroy(self) -> None:
        """Take it all away."""
        if self._relay is not None:
            self._relay.kill()
            self._relay.wait()
        for command in (f"nft delete table ip {self.name}", f"ip netns del {self.name}", f"ip link del {self.outer}"):
            subprocess.run(command.split(), capture_output=True, check=False)

    # --- what is done to the link -----------------------------------------------------------------------------------

    def cut(self, how: str) -> None:
        """Have `how` of CUTS hold from now on."""
        for rule in CUTS[how]:
            sh(f"ip netns exec {self.name} nft add rule ip cuts {rule.format(port=self.hub)}")

    def heal(self) -> None:
        """Nothing is dropped or delayed any more."""
        sh(f"ip netns exec {self.name} nft flush table ip cuts")
        self.delay(on=False)

    def delay(self, *, on: bool) -> None:
        """Have the relay hold everything back by its 200 ms, half of it each way, or no longer."""
        assert self._relay is not None
        self._relay.send_signal(signal.SIGUSR1 if on else signal.SIGUSR2)


@contextlib.contextmanager
def apart(folder: Path, layout: Layout, region: str) -> Iterator[Apart]:
    """The namespace for as long as it is needed."""
    one = Apart(folder, layout, region)
    try:
        one.build()
        yield one
    finally:
        one.destroy()
