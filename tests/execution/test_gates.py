"""Steps (1) to (3) of the kill switch, in this order, on every slot of the residence and on no other."""

from __future__ import annotations

from openkcm.execution.arena import Gate
from openkcm.execution.gates import Gates


class Arena:
    """Writes down what is done to it."""

    def __init__(self, log: list[str]) -> None:
        self.log, self.slots = log, 0

    def allocate(self) -> int:
        self.slots += 1
        return self.slots

    def set_gate(self, slot, state) -> None:
        self.log.append(f"set {slot} {state.name}")

    def close_gates(self, slots, state) -> None:
        self.log.append(f"close {sorted(slots)} {state.name}")

    def zeroize(self, slot) -> None:
        self.log.append(f"zeroize {slot}")

    def raise_generation(self, slot) -> None:
        self.log.append(f"raise {slot}")

    def release(self, cell) -> None:
        self.log.append(f"wipe L2 {cell}")


def test_closing_closes_wipes_raises_drains_and_kills_the_unsealers_in_this_order():
    log: list[str] = []
    arena = Arena(log)
    gates = Gates(
        arena, arena, lambda: log.append("drain"), lambda t: log.append(f"kill {t}"), lambda e: log.append(f"cut {e}")
    )
    gates.slot("acme", "reg", 1)
    gates.slot("acme", "reg", 2)
    gates.slot("bolt", "reg", 1)
    gates.keep("acme", 1, 77)
    log.clear()
    ticket = gates.ticket("acme")
    gates.close("acme", "revoked")
    assert log == [
        "close [1, 2] REVOKED", "wipe L2 77", "zeroize 1", "raise 1", "zeroize 2", "raise 2", "drain", "kill acme"
    ]  # fmt: skip
    assert gates.ticket("acme") == ticket + 1
    assert gates.cell("acme", 1) is None
    assert Gate.REVOKED.name == "REVOKED"
