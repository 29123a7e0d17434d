"""Way `shared`: an allreduce among the ranks of one node, through memory that they all can address.

Small arrays go through slots: everyone writes its own and reduces all of them, after one wait.
Arrays that live in a shared window are reduced where they are: rank r reduces slice r of all of
them and writes it to all. Other arrays are copied to and from a window piece by piece. Whoever
computes an element takes the ranks in order, so that all ranks get the same bits. The protocols are
in `hpckit.collectives.shared_kernels`.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from mpi4py import MPI

from hpckit import native
from hpckit.collectives.channel import Channel
from hpckit.collectives.reduction import KERNELS, Reduction
from hpckit.comm import partition
from hpckit.machine.spin import Lookout, crowded, poll_limits

_REDUCE = (
    2  # what a protocol returns when the reduction is the caller's; 1: it waits; 0: it is done
)
_REDUCE_SCATTER, _ALLGATHER, _BOTH = 1, 2, 3  # modes that begin an operation
_LINE = 64  # bytes of a cache line
_COUNTERS = 256  # bytes before the data in each rank's memory
_PIECES = 1 << 18  # bytes that a rank copies to the window at a time: they stay in its caches
_SMALL = {
    False: 2048,
    True: 16384,
}  # bytes up to which slots are best, without and with ranks that share cores


class Steps:
    """An operation of a protocol, bound to its arrays: `start`, `poll` and `wait`, or all three by
    one native call.
    """

    def __init__(
        self, bind: Callable[[int, int], Callable[[], int]], mode: int, polls: int, turn: _Turn
    ) -> None:
        self._begin, self._look, self._go_on, self._whole = (
            bind(mode, 1),
            bind(0, 1),
            bind(0, polls),
            bind(mode, polls),
        )
        self._turn = turn

    def start(self) -> None:
        """Begin, without blocking."""
        self._turn.watch.begin()
        if (code := self._begin()) == _REDUCE:
            self._turn(code)

    def poll(self) -> bool:
        """Go on without blocking; whether it is complete."""
        if code := self._look():
            self._turn(code)
        return not code

    def wait(self) -> None:
        """Block until it is complete."""
        if code := self._go_on():
            self._finish(code)

    def __call__(self) -> None:
        if code := self._whole():
            self._finish(code)

    def _finish(self, code: int) -> None:
        self._turn.watch.begin()
        while code:
            self._turn(code)
            code = self._go_on()


class _Turn:
    """What Python does when a protocol asks for it: reduce by an operation without a kernel, or
    look why it waits.
    """

    def __init__(
        self, plan: np.ndarray, reduction: Reduction, largest: int, watch: Lookout, ranks: list[int]
    ):
        self.watch = watch
        self._plan, self._op, self._type, self._ranks = plan, reduction.op, reduction.type, ranks
        self._sum = bytearray(largest)

    def __call__(self, code: int) -> None:
        if code == _REDUCE:
            self._reduce()
        else:
            self.watch.look(self._ranks[self._plan[4]])

    def _reduce(self) -> None:
        """x0 op (x1 op (x2 op ...)), as `op.Reduce_local` associates; the target may be one of
        them.
        """
        pointers, target, n = self._plan[10:13].tolist()
        at = MPI.memory.fromaddress(pointers, 8 * len(self._ranks)).cast("q").tolist()
        total = memoryview(self._sum)[:n]
        total[:] = MPI.memory.fromaddress(at[-1], n)
        for address in at[-2::-1]:
            self._op.Reduce_local(
                [MPI.memory.fromaddress(address, n), self._type], [total, self._type]
            )
        MPI.memory.fromaddress(target, n)[:] = total


class Shared(Steps):
    """Allreduce of one array among the ranks of this node (constructing is collective on the node).

    source, target : (n,) contiguous, same dtype; one array where in place
    op : any; MPI's of the usual types run in kernels, others by `op.Reduce_local`
    deadline : seconds from `start`, or from `wait`, in which the others must come; then
        `HpckitError` names who did not
    cuts : offsets, in elements, of the slices that the first ranks of the node own, and the end; by
        default all ranks own slices of equal length, cut at cache lines
    group : numbers that stay together in every cut, and in these cuts

    Its halves, for `hierarchical`, have the same methods: after `reduce_scatter`, `target[owned]`
    is the node's sum of this rank's slice, and the rest of `target` is not defined; `allgather`
    brings everyone's slice to all ranks. They take turns: only the end of an `allgather` says that
    the others have read `source`.
    """

    def __init__(
        self,
        channel: Channel,
        source: np.ndarray,
        target: np.ndarray,
        op: MPI.Op,
        deadline: float | None = None,
        cuts: Sequence[int] | None = None,
        group: int = 1,
    ) -> None:
        self._node, self._unit = channel.node, math.lcm(_LINE, group * target.itemsize)
        comm = self._node.comm
        ends = list(cuts or _slices(target, comm.size, self._unit))
        ends += [target.size] * (comm.size + 1 - len(ends))
        self.owned = slice(ends[comm.rank], ends[comm.rank + 1])
        self._cuts = np.array(ends) * target.itemsize
        self._keep: list[np.ndarray] = [source, target, self._cuts]
        self.protocol, words = self._choose(source, target, cuts is None)
        polls, eager = poll_limits(comm)
        reduction = Reduction(op, target.dtype, group)
        kernels, kernel = native.load(KERNELS), self._kernel(reduction, target.dtype)
        code = ctypes.cast(kernel, ctypes.c_void_p).value if kernel else 0
        plan = np.array([0, 0, 0, 0, 0, eager, comm.rank, comm.size, code, *words], dtype=np.int64)
        watch = Lookout(
            channel.comm, self._node, self._node.ranks, "an allreduce in shared memory", deadline
        )
        turn = _Turn(plan, reduction, 0 if kernel else target.nbytes, watch, self._node.ranks)
        bind = partial(
            native.bind,
            getattr(kernels, self.protocol),
            native.address(plan),
            keep=(plan, self._keep),
        )
        super().__init__(bind, _BOTH, polls, turn)
        self.reduce_scatter = Steps(bind, _REDUCE_SCATTER, polls, turn)
        self.allgather = Steps(bind, _ALLGATHER, polls, turn)

    def _kernel(self, reduction: Reduction, dtype: np.dtype) -> Any:
        """The kernel that reduces such arrays, if there is one."""
        return reduction.kernel

    def _choose(self, source: np.ndarray, target: np.ndarray, whole: bool) -> tuple[str, list[int]]:
        """Name of the protocol, and the words of its plan from the bases on."""
        sources, targets = self._node.rows(source), self._node.rows(target)
        if whole and target.nbytes <= _SMALL[crowded(self._node.comm)]:
            return "slots", self._slots(source, target)
        if sources is not None and targets is not None:
            return "direct", self._direct(sources, targets)
        return "staged", self._staged(source, target)

    def _slots(self, source: np.ndarray, target: np.ndarray) -> list[int]:
        slot = -(-(8 + target.nbytes) // 128) * 128
        bases = self._memory(2 * slot)
        even, odd = (self._table([base + parity * slot + 8 for base in bases]) for parity in (0, 1))
        arrays = [native.address(source), native.address(target)]
        return [self._table(bases), even, arrays[1], target.nbytes, *arrays, even, odd, slot]

    def _direct(self, sources: list[np.ndarray], targets: list[np.ndarray]) -> list[int]:
        self._keep += sources + targets
        rank = self._node.comm.rank
        start, stop = self._cuts[rank : rank + 2].tolist()
        contributions = self._table([native.address(row) + start for row in sources])
        places = [native.address(row) for row in targets]
        own = [native.address(sources[rank]), places[rank]]
        bases = self._table(self._memory(_COUNTERS))
        return [bases, contributions, own[1] + start, stop - start, *own, self._table(places)]

    def _staged(self, source: np.ndarray, target: np.ndarray) -> list[int]:
        size = self._node.comm.size
        largest = int(np.diff(self._cuts).max())
        piece = -(-min(_PIECES // size, largest) // self._unit) * self._unit
        pieces = -(-largest // piece) if largest else 0
        bases = self._table(self._memory(_COUNTERS + 2 * (size + 1) * piece))
        own = [native.address(source), native.address(target)]
        return [
            bases,
            self._table([0] * size),
            0,
            0,
            *own,
            native.address(self._cuts),
            pieces,
            piece,
        ]

    def _memory(self, nbytes: int) -> list[int]:
        """Addresses of that much zeroed memory of each rank."""
        own = self._node.zeros((nbytes,), np.uint8)
        rows = self._node.rows(own) or [own]
        self._keep += rows
        return [native.address(row) for row in rows]

    def _table(self, words: Sequence[int]) -> int:
        """Address of these words, which live as long as this plan."""
        self._keep.append(np.array(words, dtype=np.int64))
        return native.address(self._keep[-1])


def _slices(array: np.ndarray, size: int, unit: int) -> list[int]:
    """Offsets, in elements, of slices of equal length, cut at multiples of so many bytes."""
    step = unit // array.itemsize
    return [
        min(step * start, array.size) for start in partition.starts(-(-array.size // step), size)
    ]
