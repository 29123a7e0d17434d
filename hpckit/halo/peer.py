"""Method `peer`: ranks of one node read each other's packed data in the memory of their devices.

The device's twin of `shared`. Each rank packs into memory of its own, which its neighbours opened
when the plan was made, and one launch of theirs reads it all. A counter of each rank says which
exchange's data can be read: streams write it and wait for it, so that no kernel spins and no host
waits. Neighbours on other nodes get staged messages meanwhile.

Two buffers alternate, and nothing else need be said: a rank packs exchange k after it has waited
for its neighbours to post k - 1, which they do after they have read k - 2.

A stream writes a counter after all that was enqueued before, and makes that visible to the whole
system first. What follows a stream's wait begins when the value is there. A kernel begins without
stale copies of what others wrote.
"""

from __future__ import annotations

import atexit
import os
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from hpckit.comm.device import Signal
from hpckit.comm.device_moves import DeviceMoves
from hpckit.comm.pack import Move
from hpckit.comm.peer_memory import COUNTER, PeerMemory
from hpckit.halo.adrift import help_others, leaving
from hpckit.halo.bound_exchange import DOING, Exchange
from hpckit.halo.pattern import Pattern
from hpckit.halo.staged import Staged
from hpckit.machine.spin import Lookout

if TYPE_CHECKING:
    pass

_AHEAD = 64  # exchanges that may be enqueued: the driver blocks when its queue is full
_FIRST = 0  # the number before that of the first exchange
_POSTED = 0  # the counter

_plans: weakref.WeakSet[Peer] = weakref.WeakSet()  # all that live


class _Place(NamedTuple):
    """Where a rank packs what it has for another, from the beginning of its memory."""

    offset: int  # in exchanges of even number
    half: int  # bytes from there to the same of odd number


class Peer:
    """Partners on this node through memory of the devices, others by staged messages."""

    name: ClassVar[str] = "peer"

    def __init__(self, pattern: Pattern, tag: int) -> None:
        grid = pattern.grid
        near = set(grid.node_memory.ranks)
        self._pattern = pattern
        self._partners = [partner for partner in pattern.partners if partner.rank in near]
        self._ranks = [partner.rank for partner in self._partners]
        others = [partner for partner in pattern.partners if partner.rank not in near]
        self._others = Staged(pattern, tag, others, own=False) if others else None
        *offsets, half = pattern.offsets([partner.sends for partner in self._partners])
        self._ours = [_Place(offset, half) for offset in offsets]
        self._theirs: list[_Place] = pattern.swap(self._partners, self._ours, tag)
        memory = PeerMemory(
            grid.comm, grid.node_memory, pattern.place, 2 * half, self._ranks, _FIRST
        )
        self._memory = memory
        self._lookout = Lookout(grid.comm, grid.node_memory, self._ranks, DOING, pattern.deadline)
        self._number = _FIRST  # of the exchange that has begun last
        self._stream: int | None = None  # which it is on
        # Whose tables the device may still read, though the arrays that they are for are gone.
        self._recent: deque[list[DeviceMoves]] = deque(maxlen=2 * (_AHEAD + 1))
        self.leave = weakref.finalize(self, leaving.append, (memory.given_back, self._recent))
        self.leave.atexit = False  # see `_end`
        _plans.add(self)

    @staticmethod
    def possible(pattern: Pattern) -> bool:
        return True

    def bind(self, arrays: Sequence[np.ndarray], stream: int = 0) -> Exchange:
        """Steps that enqueue: after an error `wait` goes on with the one that failed."""
        others = self._others.bind(arrays, stream) if self._others else _NOTHING
        post = self._signals(stream, ours=True)
        collect = self._signals(stream, theirs=True)
        meet = self._signals(stream, ours=True, theirs=True)
        pack = self._launch(self._own_moves, arrays, stream)
        unpack = self._launch(self._partner_moves, arrays, stream)
        done = self._memory.event.done
        first = [others.start, partial(self._begin, stream), pack]
        last = [unpack, others.wait, partial(self._memory.event.record, stream)]
        # What would block, the host or all that comes later on the stream, and when it does not.
        ready = {collect: self._all_posted, others.wait: others.poll}
        left: list[Callable[[], object]] = []  # steps to do
        rest: list[Callable[[], object]] = []  # and those that only `wait` does

        def run() -> None:
            while left:
                left[0]()
                del left[0]

        def start() -> None:
            left[:], rest[:] = [*first, post], [collect, *last]
            run()

        def wait() -> None:
            left.extend(rest)
            rest.clear()
            run()

        def call() -> None:
            left[:] = [*first, meet, *last]
            run()

        def poll() -> bool:
            left.extend(rest)
            rest.clear()
            while left:
                if not ready.get(left[0], _yes)():
                    return False
                left[0]()
                del left[0]
            return done()

        return Exchange(start, wait, call, poll, self, partial(self._watch, done))

    def _own_moves(self, arrays: Sequence[np.ndarray], parity: int) -> list[Move]:
        """What we do before the others may read: within this rank, and into the packed data."""
        moves = self._pattern.own_moves(arrays)
        for partner, (offset, half) in zip(self._partners, self._ours, strict=True):
            packed = self._memory.address + offset + parity * half
            moves += self._pattern.pack_moves(arrays, partner.sends, packed)
        return moves

    def _partner_moves(self, arrays: Sequence[np.ndarray], parity: int) -> list[Move]:
        """What we read from the memory of all partners."""
        moves: list[Move] = []
        for partner, (offset, half) in zip(self._partners, self._theirs, strict=True):
            packed = self._memory.theirs(partner.rank) + offset + parity * half
            moves += self._pattern.unpack_moves(arrays, partner.receives, packed)
        return moves

    def _launch(
        self,
        moves: Callable[[Sequence[np.ndarray], int], list[Move]],
        arrays: Sequence[np.ndarray],
        stream: int,
    ) -> Callable[[], None]:
        """What enqueues the moves of the exchange that has begun."""
        place = self._pattern.place
        both = [DeviceMoves(place, moves(arrays, parity), stream) for parity in (0, 1)]

        def launch() -> None:
            self._recent.append(both)
            both[self._number % 2].run()

        return launch

    def _signals(
        self, stream: int, ours: bool = False, theirs: bool = False
    ) -> Callable[[], object]:
        """What enqueues, in one call, that our data is posted, and the wait for all partners'."""
        counter = self._memory.counter
        posts: list[Signal] = [("write", counter(self._pattern.grid.rank, _POSTED))] * ours
        waits: list[Signal] = [("wait", counter(rank, _POSTED)) for rank in self._ranks] * theirs
        signals = posts + waits if self._ranks else []
        if not signals:
            return _nothing
        enqueue = self._pattern.place.signals(signals, stream)
        return lambda: enqueue([self._number & COUNTER] * len(signals))

    def _begin(self, stream: int) -> None:
        """The next exchange, after the one before, whatever stream that is on."""
        event = self._memory.event
        if self._stream not in (None, stream):
            self._pattern.place.wait(stream, event)
        oldest = self._number - _AHEAD
        if self._ranks and not self._memory.reached(self._pattern.grid.rank, _POSTED, oldest):
            self._watch(event.done)
        self._stream = stream
        self._number += 1

    def _watch(self, over: Callable[[], bool]) -> None:
        """The host waits for its device, and looks after the ranks that this waits for."""
        self._lookout.begin()
        while not over():
            self._lookout.look(self._late())
            help_others()
            os.sched_yield()

    def _late(self) -> list[int]:
        """The ranks that our device waits for; this one where it waits for nobody else."""
        me = self._pattern.grid.rank
        return self._behind(self._memory.value(me, _POSTED)) or [me]

    def _all_posted(self) -> bool:
        return not self._behind(self._number)

    def _behind(self, number: int) -> list[int]:
        """The ranks that have not posted this exchange."""
        return [rank for rank in self._ranks if not self._memory.reached(rank, _POSTED, number)]


def _nothing() -> None:
    pass


def _yes() -> bool:
    return True


_NOTHING = Exchange(_nothing, _nothing, _nothing, _yes, None, _nothing)


@atexit.register
def _end() -> None:
    """Before that of `adrift`, which registered itself first, and sees to what leaves."""
    for plan in list(_plans):
        plan.leave()
