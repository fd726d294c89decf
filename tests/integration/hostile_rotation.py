"""A rotation in plain Python with the worst schedule there is.

A unit is copied only when it is asked for, and its slot is spoilt the moment its last holder lets go: whatever reads
outside a window reads NaN. Two holders of different units wait for each other where they share a slot.
"""

from __future__ import annotations

import ctypes
import threading
from collections import Counter

from streamload.errors import StreamClosedError


class HostileRotation:
    """What `CopyEngine.rotate` returns, for a host device."""

    def __init__(self, engine, plans, sources, *, slot_of, slots, order, key_names=(), debug=False, **rest):  # noqa: ANN003 - as the tests do
        self.engine, self.plans, self.sources = engine, plans, sources
        self.slot_of, self.slots = slot_of, slots
        self.orders = [list(order)]
        self.names = key_names or [()] * len(plans)
        self.debug = debug
        self.keep_alive = rest["keep_alive"]
        self.inside = [None] * len(slots)  # the unit in each slot
        self.holders = [Counter() for _ in slots]  # by thread
        self.changed = threading.Condition()
        self.kept = {}
        self.fills = self.passes = self.bytes_read = 0
        self.acquired = []
        self.closed = False
        for address, nbytes in slots:
            ctypes.memset(address, 0xFF, nbytes)

    def acquire(self, unit, *, stream):
        assert stream is None
        slot, me = self.slot_of[unit], threading.get_ident()
        with self.changed:
            if any(me in held for at, held in enumerate(self.holders) if at != slot or self.inside[at] != unit):
                raise RuntimeError("nested")
            self.changed.wait_for(lambda: self.closed or self.inside[slot] in (unit, None))
            if self.closed:
                raise StreamClosedError("closed")
            if self.inside[slot] is None:
                self._fill(unit)
                self.inside[slot] = unit
            self.holders[slot][me] += 1
            self.acquired.append(unit)

    def _fill(self, unit):
        if unit in self.kept:
            numbers = self.kept[unit]
            for at in range(0, len(numbers), 3):
                ctypes.memmove(numbers[at + 1], numbers[at], numbers[at + 2])
        else:
            with self.engine.submit(self.plans[unit], self.sources, key_names=self.names[unit]) as ticket:
                ticket.wait()
            self.bytes_read += self.plans[unit].nbytes
        self.fills += 1

    def release(self, unit, *, stream):
        slot, me = self.slot_of[unit], threading.get_ident()
        with self.changed:
            if self.inside[slot] != unit or me not in self.holders[slot]:
                raise RuntimeError("not held")
            self.holders[slot][me] -= 1
            self.holders[slot] += Counter()
            if not self.holders[slot]:
                self.inside[slot] = None
                ctypes.memset(self.slots[slot][0], 0xFF, self.slots[slot][1])
                self.changed.notify_all()

    def begin_pass(self):
        self.passes += 1

    def set_order(self, order):
        self.orders.append(list(order))

    def keep_on_host(self, unit, copies, owner):
        with self.changed:
            self.kept[unit] = copies

    def cancel(self):
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def close(self):
        self.cancel()
