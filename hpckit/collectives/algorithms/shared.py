"""Among the ranks of one node, through memory that they all can address.

Small arrays go through slots: everyone writes its own and reduces all of them, after one wait.
Arrays that are shared are reduced where they are: rank r reduces slice r of all of them and writes
it to all. Other arrays are copied to and from shared memory piece by piece. Whoever computes an
element takes the ranks in order, so that all ranks get the same bits. The protocols are in
`hpckit.collectives.kernels.shared`.
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
from hpckit.collectives.algorithms.algorithm import Algorithm
from hpckit.collectives.kernels.table import (
    ALLGATHER,
    BOTH,
    COUNTERS,
    GO_ON,
    LINE,
    REDUCE,
    REDUCE_SCATTER,
    TABLE,
)
from hpckit.collectives.persistent import Operands
from hpckit.collectives.reduction import KERNELS, Reduction
from hpckit.comm import partition
from hpckit.machine.spin import Lookout, crowded, poll_limits

_PIECES = 1 << 18  # bytes that a rank copies to shared memory at a time: they stay in its caches
_SMALL = {False: 2048, True: 16384}  # bytes up to which slots are best; whether ranks share cores


class Shared(Algorithm):
    """Passes over the node's memory, no messages."""

    name = "shared"
    in_rank_order = True
    in_shared_memory = True
    on_one_node = True

    def bind(self, operands: Operands) -> SharedReduction:
        return SharedReduction(operands)


class Steps:
    """An operation of a protocol: `start`, `poll` and `wait`, or all three by one native call."""

    def __init__(
        self, bind: Callable[[int, int], Callable[[], int]], mode: int, polls: int, turn: _Turn
    ) -> None:
        self._begin = bind(mode, 1)
        self._look = bind(GO_ON, 1)
        self._go_on = bind(GO_ON, polls)
        self._whole = bind(mode, polls)
        self._turn = turn

    def start(self) -> None:
        """Begin, without blocking."""
        self._turn.watch.begin()
        if (code := self._begin()) == REDUCE:
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
    """What Python does for a protocol: reduce without a kernel, or look why it waits."""

    def __init__(
        self,
        table: np.ndarray,
        reduction: Reduction,
        largest: int,
        watch: Lookout,
        ranks: list[int],
    ) -> None:
        self.watch = watch
        self._awaited = table["awaited"]
        self._next = [table[name] for name in ("pointers", "result", "length")]
        self._op = reduction.op
        self._type = reduction.type
        self._ranks = ranks
        self._sum = bytearray(largest)

    def __call__(self, code: int) -> None:
        if code == REDUCE:
            self._reduce()
        else:
            self.watch.look(self._ranks[self._awaited[()]])

    def _reduce(self) -> None:
        """x0 op (x1 op (x2 op ...)), as `Reduce_local` does; the result may be one of them."""
        pointers, result, n = map(int, self._next)
        addresses = MPI.memory.fromaddress(pointers, 8 * len(self._ranks)).cast("q").tolist()
        total = memoryview(self._sum)[:n]
        total[:] = MPI.memory.fromaddress(addresses[-1], n)
        for address in addresses[-2::-1]:
            part = MPI.memory.fromaddress(address, n)
            self._op.Reduce_local([part, self._type], [total, self._type])
        MPI.memory.fromaddress(result, n)[:] = total


class SharedReduction(Steps):
    """Reduces one array among the ranks of this node (constructing is collective on the node).

    operands : any operation; MPI's of the usual types run in kernels, others by `op.Reduce_local`.
        The deadline counts from `start`, or from `wait`
    cuts : offsets, in elements, of the slices that the first ranks of the node own, and the end; by
        default all ranks own slices of equal length, cut at cache lines
    kernel : what reduces, if not the operation's own

    Its halves have the same methods: after `reduce_scatter`, `target[owned]` is the node's sum of
    this rank's slice, and the rest of `target` is not defined; `allgather` brings everyone's slice
    to all ranks. They take turns: only the end of an `allgather` says that the others have read
    `source`.
    """

    def __init__(
        self, operands: Operands, cuts: Sequence[int] | None = None, kernel: Any = None
    ) -> None:
        source, target, channel = operands.source, operands.target, operands.channel
        node = self._node = channel.node
        rank, ranks = node.comm.rank, node.comm.size
        self._unit = math.lcm(LINE, operands.group * target.itemsize)
        ends = list(cuts or _slices(target, ranks, self._unit))
        ends += [target.size] * (ranks + 1 - len(ends))
        self.owned = slice(ends[rank], ends[rank + 1])
        self._cuts = np.array(ends) * target.itemsize
        self._keep: list[np.ndarray] = [source, target, self._cuts]
        self.protocol, words = self._choose(source, target, cuts is None)
        polls, eager = poll_limits(node.comm)
        reduction = Reduction(operands.op, target.dtype, operands.group)
        kernel = kernel or reduction.kernel
        words |= {
            "eager": eager,
            "rank": rank,
            "ranks": ranks,
            "reduction": ctypes.cast(kernel, ctypes.c_void_p).value if kernel else 0,
            "source": native.address(source),
            "target": native.address(target),
        }
        table = np.zeros((), TABLE)
        for name, word in words.items():
            table[name] = word
        doing = "an allreduce in shared memory"
        watch = Lookout(channel.comm, node, node.ranks, doing, operands.deadline)
        turn = _Turn(table, reduction, 0 if kernel else target.nbytes, watch, node.ranks)
        protocol = getattr(native.load(KERNELS), self.protocol)
        bind = partial(native.bind, protocol, native.address(table), keep=(table, self._keep))
        super().__init__(bind, BOTH, polls, turn)
        self.reduce_scatter = Steps(bind, REDUCE_SCATTER, polls, turn)
        self.allgather = Steps(bind, ALLGATHER, polls, turn)

    def _choose(
        self, source: np.ndarray, target: np.ndarray, whole: bool
    ) -> tuple[str, dict[str, int]]:
        """Name of the protocol, and what it needs in its table."""
        sources, targets = self._node.rows(source), self._node.rows(target)
        if whole and target.nbytes <= _SMALL[crowded(self._node.comm)]:
            return "slots", self._slots(target)
        if sources is not None and targets is not None:
            return "direct", self._direct(sources, targets)
        return "staged", self._staged()

    def _slots(self, target: np.ndarray) -> dict[str, int]:
        slot = -(-(8 + target.nbytes) // (2 * LINE)) * 2 * LINE
        bases = self._memory(2 * slot)
        return {
            "bases": self._address(bases),
            "even": self._address([base + 8 for base in bases]),
            "odd": self._address([base + slot + 8 for base in bases]),
            "slot": slot,
            "result": native.address(target),
            "length": target.nbytes,
        }

    def _direct(self, sources: list[np.ndarray], targets: list[np.ndarray]) -> dict[str, int]:
        self._keep += sources + targets
        rank = self._node.comm.rank
        start, stop = self._cuts[rank : rank + 2].tolist()
        return {
            "bases": self._address(self._memory(COUNTERS)),
            "pointers": self._address([native.address(row) + start for row in sources]),
            "result": native.address(targets[rank]) + start,
            "length": stop - start,
            "targets": self._address([native.address(row) for row in targets]),
        }

    def _staged(self) -> dict[str, int]:
        ranks = self._node.comm.size
        largest = int(np.diff(self._cuts).max())
        piece = -(-min(_PIECES // ranks, largest) // self._unit) * self._unit
        return {
            "bases": self._address(self._memory(COUNTERS + 2 * (ranks + 1) * piece)),
            "pointers": self._address([0] * ranks),  # other ones for each piece
            "cuts": native.address(self._cuts),
            "pieces": -(-largest // piece) if largest else 0,
            "piece": piece,
        }

    def _memory(self, nbytes: int) -> list[int]:
        """Addresses of that much zeroed memory of each rank."""
        own = self._node.zeros((nbytes,), np.uint8)
        rows = self._node.rows(own) or [own]
        self._keep += rows
        return [native.address(row) for row in rows]

    def _address(self, words: Sequence[int]) -> int:
        """Where these words are, which live as long as this operation."""
        self._keep.append(np.array(words, dtype=np.int64))
        return native.address(self._keep[-1])


def _slices(array: np.ndarray, size: int, unit: int) -> list[int]:
    """Offsets, in elements, of slices of equal length, cut at multiples of so many bytes."""
    step = unit // array.itemsize
    edges = partition.starts(-(-array.size // step), size)
    return [min(step * edge, array.size) for edge in edges]
