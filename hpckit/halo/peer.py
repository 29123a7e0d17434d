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
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from hpckit.comm.device import Signal
from hpckit.comm.device_moves import DeviceMoves
from hpckit.comm.pack import Move
from hpckit.comm.peer_memory import COUNTER, PeerMemory
from hpckit.errors import HpckitError
from hpckit.halo.adrift import begin_owed, help_others
from hpckit.halo.bound_exchange import (
    DOING,
    Exchange,
    NotBegun,
    Step,
    nothing,
    poll_steps,
    run_steps,
)
from hpckit.halo.pattern import Pattern
from hpckit.halo.staged import Staged
from hpckit.machine.lifetime import leave
from hpckit.machine.spin import Lookout

if TYPE_CHECKING:
    from hpckit.machine.device_model import DeviceModel

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
    pointers: str = "no"

    def __init__(self, pattern: Pattern, tag: int) -> None:
        grid = pattern.grid
        near = set(grid.node_memory.ranks)
        self._pattern = pattern
        self._device: Any = pattern.place
        self._partners = [partner for partner in pattern.partners if partner.rank in near]
        self._ranks = [partner.rank for partner in self._partners]
        others = [partner for partner in pattern.partners if partner.rank not in near]
        self._others: Staged | None = None
        if grid.node_comm.size < grid.size:  # on all ranks, those without such partners too
            self._others = Staged(pattern, tag, others, own=False)
            self.pointers = Staged.pointers
        *offsets, half = pattern.offsets([partner.sends for partner in self._partners])
        self._ours = [_Place(offset, half) for offset in offsets]
        self._theirs: list[_Place] = pattern.swap(self._partners, self._ours, tag)
        memory = PeerMemory(
            grid.comm, grid.node_memory, self._device, 2 * half, self._ranks, _FIRST
        )
        self._memory = memory
        self._lookout = Lookout(grid.comm, grid.node_memory, self._ranks, DOING, pattern.deadline)
        self._number = _FIRST  # of the exchange that has begun last
        self._stream: int | None = None  # which it is on
        self.leave = weakref.finalize(self, leave, memory.given_back)
        self.leave.atexit = False  # see `_end`
        _plans.add(self)

    @staticmethod
    def possible(pattern: Pattern) -> bool:
        return True

    @staticmethod
    def cost(model: DeviceModel, pattern: Pattern) -> float:
        near = [sizes for sizes in pattern.sizes if sizes.near]
        far = [sizes for sizes in pattern.sizes if not sizes.near]
        seconds = 2 * model.launch() + model.settle()
        for sizes in near:
            seconds += sum(model.pack(*piece) for piece in sizes.sends)
            seconds += sum(model.peer(*piece) for piece in sizes.receives)
        return seconds + (model.signal() if near else 0.0) + Staged.cost_of(model, far)

    def bind(self, arrays: Sequence[np.ndarray], stream: int = 0) -> Exchange:
        device, event = self._device, self._memory.event
        pack, unpack = (
            [DeviceMoves(device, moves(arrays, parity), stream) for parity in (0, 1)]
            for moves in (self._own_moves, self._partner_moves)
        )
        others = self._others.bind(arrays, stream) if self._others else _NOTHING
        post = Step(self._post(stream, collects=False))
        meet = Step(self._post(stream, collects=True))
        # Not earlier than need be: all that comes later on the stream waits as well.
        collect = Step(self._collect(stream), self._all_posted)
        first = [
            Step(partial(self._follow, stream)),
            Step(lambda: pack[(self._number + 1) % 2].run()),
            Step(others.start),
        ]
        last = [
            Step(lambda: unpack[self._number % 2].run()),
            Step(others.wait, others.poll),
            Step(partial(event.record, stream)),
        ]
        left: list[Step] = []  # to do; after an error `wait` goes on with the one that failed

        def begin(*rest: Step) -> None:
            left[:] = [*first, *rest]
            try:
                run_steps(left, len(rest))
            except HpckitError as error:
                left.clear()
                raise NotBegun(str(error)) from error

        def start() -> None:
            begin(post, collect, *last)
            run_steps(left, 1 + len(last))

        def call() -> None:
            begin(meet, *last)
            run_steps(left, 0)

        wait, poll = partial(run_steps, left, 0), partial(poll_steps, left, event.done)
        # The device may use these when nobody else does any more.
        weakref.finalize(wait, leave, event.done, (pack, unpack, self)).atexit = False
        return Exchange(start, wait, call, poll, self, partial(self._watch, event.done))

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

    def _post(self, stream: int, collects: bool) -> Callable[[], None]:
        """What enqueues that our data can be read, by which the exchange has begun.

        collects : and, in the same call, that the stream waits for that of all partners
        """
        own: list[Signal] = [("write", self._memory.counter(self._pattern.grid.rank, _POSTED))]
        enqueue = self._enqueue(own + self._theirs_posted() * collects, stream)

        def post() -> None:
            enqueue(self._number + 1)
            self._number += 1

        return post

    def _collect(self, stream: int) -> Callable[[], object]:
        """What enqueues that the stream waits for the data of all partners."""
        enqueue = self._enqueue(self._theirs_posted(), stream)
        return lambda: enqueue(self._number)

    def _theirs_posted(self) -> list[Signal]:
        return [("wait", self._memory.counter(rank, _POSTED)) for rank in self._ranks]

    def _enqueue(self, signals: list[Signal], stream: int) -> Callable[[int], object]:
        """What enqueues these with the number of an exchange; nothing where nobody reads them."""
        if not self._ranks:
            return lambda _: None
        enqueue = self._device.signals(signals, stream)
        return lambda number: enqueue([number & COUNTER] * len(signals))

    def _follow(self, stream: int) -> None:
        """Come after the last exchange, whatever stream that is on, and not too many before it."""
        event = self._memory.event
        if self._stream not in (None, stream):
            self._device.wait(stream, event)
        self._stream = stream
        oldest = self._number + 1 - _AHEAD
        if self._ranks and not self._memory.reached(self._pattern.grid.rank, _POSTED, oldest):
            self._watch(event.done)

    def _watch(self, over: Callable[[], bool]) -> None:
        """The host waits for its device, and looks after the ranks that this waits for."""
        begin_owed()
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


_NOTHING = Exchange(nothing, nothing, nothing, lambda: True, None, nothing)


@atexit.register
def _end() -> None:
    """Before that of `lifetime`, which registered itself first, and sees to what leaves."""
    for plan in list(_plans):
        plan.leave()
