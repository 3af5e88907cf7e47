"""The prober's inside: when it asks again, and that nobody waits for somebody else's root."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from execution.test_roots_file import FileCustomer
from openkcm.contract.decrees import RootReference
from openkcm.execution import unseal_watch
from openkcm.execution.roots.base import Canary
from openkcm.execution.unseal_process import Observed, Watch
from openkcm.execution.unseal_watch import AGAIN_S, JITTER, LONGEST, _Probe, _Watch

CANARY = Canary(ciphertext=bytes(60), root_version="v1", digest=bytes(32))


def order(customer: FileCustomer, n: int = 1, interval_s: float = 30.0) -> Watch:
    return Watch(
        n=n, root=customer.reference, settings=customer.settings, context={}, canary=CANARY, interval_s=interval_s
    )


@pytest.mark.parametrize(
    ("codes", "pause_s"),
    [
        (["ok"], 30.0),
        (["KeyDisabled"], 30.0),
        (["AccessDenied"], AGAIN_S),  # counts when it comes twice: soon
        (["Unreachable"] * 2, 30.0),
        (["Unreachable"] * 3, 60.0),
        (["Unreachable"] * 4, 120.0),
        (["Unreachable"] * 40, 30.0 * LONGEST),
        (["Unreachable"] * 40 + ["ok"], 30.0),
    ],
)
def test_a_probe_comes_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codes: list[str], pause_s: float) -> None:
    probe = _Probe(order(FileCustomer(tmp_path)))

    class Answers:
        def probe(self, *_: object) -> None:
            raise unseal_watch.RootError(code)

    for code in codes:
        if code == "ok":
            monkeypatch.setattr(Answers, "probe", lambda *_: type("Info", (), {"version": "v1"}))
        monkeypatch.setattr(unseal_watch.roots, "open_root", lambda *_: Answers())
        seen = probe.ask()
        assert seen.code == code
    assert pause_s * (1 - JITTER) <= probe.pause_s(seen.code) <= pause_s * (1 + JITTER)


def test_roots_that_hang_delay_none_of_another_provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hang = threading.Event()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    customer = FileCustomer(tmp_path)
    real = unseal_watch.roots.open_root

    def opened(reference: RootReference, *settings: object) -> object:
        if reference.provider == "aws":
            hang.wait(30)
        return real(reference, *settings)

    monkeypatch.setattr(unseal_watch.roots, "open_root", opened)
    watch = _Watch(theirs)
    away = RootReference(provider="aws", ref="arn:aws:kms:eu-central-1:000000000000:alias/x")
    for n in range(3 * unseal_watch.THREADS):
        watch.order(replace(order(customer, n), root=away))
    watch.order(order(customer, 1000))
    watch.start_due()
    ours.settimeout(20)
    assert msgspec.msgpack.decode(ours.recv(65536), type=Observed).n == 1000
    hang.set()
    for pool in watch._workers.values():
        pool.shutdown(cancel_futures=True)
    ours.close()
    theirs.close()


def test_no_more_clients_are_kept_than_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    monkeypatch.setattr(unseal_watch, "OPEN_ROOTS", 3)
    watch, customer = _Watch(theirs), FileCustomer(tmp_path)
    for n in range(8):
        watch.order(order(customer, n))
    watch.start_due()
    ours.settimeout(20)
    answers = {msgspec.msgpack.decode(ours.recv(65536), type=Observed).n for _ in range(8)}
    for pool in watch._workers.values():
        pool.shutdown()
    assert answers == set(range(8))
    assert sum(probe.root is not None for probe in watch._probes.values()) == 3
    ours.close()
    theirs.close()
