"""Among the devices of one node: they read each other's memory, and the host only enqueues.

Each rank copies its array to memory that the others have opened, reduces its slice of all of them
in the order of the ranks, where it lies, and gathers all slices from their owners.

Every rank has a counter in the node's memory: 2k - 1 says that its array of call k can be read, 2k
that its slice of the result can. Streams write it and wait for it: what they did before is visible
to all devices by then, and what they do after begins no earlier. Two buffers alternate: who has
seen 2k - 1 of all others knows that they have read all that they needed of call k - 1, so that its
memory may be overwritten in call k + 1.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from hpckit import native
from hpckit.collectives.algorithms.on_device import OnDevice, rounded, slices
from hpckit.collectives.folds import Folds
from hpckit.collectives.persistent import Operands
from hpckit.collectives.side_stream import SideStream
from hpckit.comm.device_moves import DeviceMoves
from hpckit.comm.pack import Move
from hpckit.comm.peer_memory import PeerMemory
from hpckit.errors import together
from hpckit.machine.lifetime import leave
from hpckit.machine.spin import Lookout

_AHEAD = 64  # calls that may be enqueued: the driver blocks when its queue is full
_COUNTER = 0  # which of a rank's


class Peer(OnDevice):
    """Through memory that the devices of a node open for each other, no messages."""

    name = "peer"
    on_one_node = True

    def bind(self, operands: Operands) -> PeerReduction:
        return PeerReduction(operands)


class PeerReduction:
    """Enqueued when it starts, on a stream of its own; the user's waits for it where he does.

    Where there is a deadline the host waits too, since streams wait for ever.
    """

    def __init__(self, operands: Operands) -> None:
        channel, device, source = operands.channel, operands.place, operands.source
        self._device, self._stream, self._deadline = device, operands.stream, operands.deadline
        self._rank, ranks = channel.rank, range(channel.size)
        self._others = [rank for rank in ranks if rank != self._rank]
        self._number = 0  # of the call that has begun last
        span = rounded(source.nbytes)
        memory = PeerMemory(channel.comm, channel.node, device, 2 * span, self._others)
        weakref.finalize(self, leave, memory.given_back).atexit = False
        self._memory, self._done = memory, memory.event
        self._lookout = Lookout(
            channel.comm, channel.node, self._others, "an allreduce on devices", operands.deadline
        )
        first = [memory.theirs(rank) if rank in self._others else memory.address for rank in ranks]
        buffers = np.array([first, np.add(first, span)])  # (2, ranks): where everybody's are
        written = "write", memory.counter(self._rank, _COUNTER)
        awaited = [("wait", memory.counter(rank, _COUNTER)) for rank in self._others]
        with together(channel.comm):
            self._keep: list[object] = [source, operands.target]
            self._side = SideStream(device, operands.stream, self._keep)
            folds = Folds(device, operands.op, source.dtype, buffers, self._side.number)
            self._keep.append(folds)
            self._steps = [self._bound(operands, folds, row) for row in range(2)]
            self._signal = device.signals([written, *awaited], self._side.number)

    def _bound(self, operands: Operands, folds: Folds, row: int) -> list[Callable[[], object]]:
        """What enqueues the steps of a call in one of the buffers: bring, reduce and gather."""
        source, stream = operands.source, self._side.number
        cuts = slices(source.nbytes, len(folds.rows[row]))
        bases = folds.rows[row].tolist()
        start, stop = cuts[self._rank : self._rank + 2]
        mine = bases[self._rank]
        bring = partial(self._device.copy, mine, native.address(source), source.nbytes, stream)
        fold = folds.fold(row, mine + start, start, stop - start, stream)
        gather = DeviceMoves(self._device, _gathered(bases, operands.target, cuts), stream)
        self._keep += [fold, gather]
        return [bring if source.size else _nothing, fold, gather.run]

    def start(self) -> None:
        if self._behind(2 * (self._number - _AHEAD), [self._rank]):
            self._watch()
        self._number += 1
        bring, fold, gather = self._steps[self._number % 2]
        self._side.follow()
        bring()
        self._meet(2 * self._number - 1)
        fold()
        self._meet(2 * self._number)
        gather()
        self._done.record(self._side.number)

    def poll(self) -> bool:
        return self._done.done()

    def wait(self) -> None:
        if self._deadline is not None:
            self._watch()
        self._device.wait(self._stream, self._done)

    def __call__(self) -> None:
        self.start()
        self.wait()

    def _meet(self, value: int) -> None:
        """What follows on the stream waits until all ranks are here."""
        self._signal([value % 2**32] * (1 + len(self._others)))

    def _behind(self, value: int, ranks: Sequence[int]) -> list[int]:
        """Those of these ranks whose counter has not come to a value."""
        return [rank for rank in ranks if not self._memory.reached(rank, _COUNTER, value)]

    def _watch(self) -> None:
        """The host waits for the device, and looks after the ranks for which that waits."""
        value = 2 * self._number
        self._lookout.begin()
        while not self._done.done():
            late = self._behind(value - 1, self._others) or self._behind(value, self._others)
            self._lookout.look(late or [self._rank])
            os.sched_yield()


def _gathered(bases: list[int], target: np.ndarray, cuts: list[int]) -> list[Move]:
    """All ranks' slices of the result, from their owners' memory."""
    into = native.address(target)
    return [
        Move((), stop - start, base + start, (), into + start, ())
        for base, start, stop in zip(bases, cuts, cuts[1:], strict=False)
    ]


def _nothing() -> None:
    pass
