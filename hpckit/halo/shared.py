"""Method `shared`: ranks of one node read each other's packed data, without a message.

Each rank packs into its part of node memory, and its neighbours unpack from there; two buffers
alternate unless they are large, so that nobody waits for slow readers. Neighbours on other nodes
get packed messages meanwhile. The flag protocol is in `hpckit.comm.moves`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from hpckit import native
from hpckit.comm.pack import Move, Moves
from hpckit.comm.tables import EXCHANGE, NEIGHBOUR
from hpckit.halo.adrift import help_others
from hpckit.halo.bound_exchange import DOING, Exchange
from hpckit.halo.packed import Packed, packed_cost
from hpckit.halo.pattern import Box, Pattern
from hpckit.machine.spin import Lookout, poll_limits

if TYPE_CHECKING:
    from hpckit.machine.model import Model

_LARGE = 1 << 18  # bytes: larger packed data is not kept twice, for the sake of the caches
# Bytes before the packed data: `posted` and `finished`, 128 apart, for lines are fetched in pairs.
_COUNTERS = 256


class _Theirs(NamedTuple):
    """What a neighbour has for us."""

    boxes: tuple[Box, ...]
    even: int  # where it packs them in exchanges of even number
    odd: int


class Shared:
    """Partners on this node through memory that they share, others by packed messages."""

    name: ClassVar[str] = "shared"
    pointers: ClassVar[str] = "host"
    _packs: ClassVar[bool] = True

    def __init__(self, pattern: Pattern, tag: int) -> None:
        grid = pattern.grid
        self._pattern = pattern
        self._partners = [
            partner for partner in pattern.partners if partner.rank in grid.node_memory.ranks
        ]
        others = [partner for partner in pattern.partners if partner not in self._partners]
        self._others = Packed(pattern, tag, others, own=False) if others else None
        self._offsets = pattern.offsets([partner.sends for partner in self._partners])
        self._buffers = 2 if self._offsets[-1] <= _LARGE else 1
        packed = self._buffers * self._offsets[-1] if self._packs else 0
        self._memory = grid.node_memory.zeros((_COUNTERS + packed,), np.uint8)
        self._peers = grid.shared_peers(self._memory) or {}
        ranks = [partner.rank for partner in self._partners]
        self._lookout = Lookout(grid.comm, grid.node_memory, ranks, DOING, pattern.deadline)
        ours = [
            _Theirs(partner.sends, self._packed_at(0, i), self._packed_at(1, i))
            for i, partner in enumerate(self._partners)
        ]
        self._theirs: list[_Theirs] = pattern.swap(self._partners, ours, tag)
        self._polls, self._eager = poll_limits(grid.node_comm)
        grid.node_comm.Barrier()  # nobody reads a counter before it is zero

    @staticmethod
    def possible(pattern: Pattern) -> bool:
        return True

    @staticmethod
    def cost(model: Model, pattern: Pattern) -> float:
        seconds = 0.0
        for sizes in pattern.sizes:
            if sizes.near:
                seconds += sum(model.pack(*piece) for piece in sizes.sends)
                seconds += sum(model.shared(*piece) for piece in sizes.receives)
            else:
                seconds += packed_cost(model, sizes)
        return seconds + (model.flag() if any(sizes.near for sizes in pattern.sizes) else 0.0)

    def bind(self, arrays: Sequence[np.ndarray], stream: int = 0) -> Exchange:
        own = [Moves(self._own_moves(arrays, parity)) for parity in (0, 1)]
        incoming = [
            [Moves(self._partner_moves(arrays, i, parity)) for parity in (0, 1)]
            for i in range(len(self._partners))
        ]
        neighbours = np.array(
            [
                (*self._counters(partner.rank), len(even), even.address, odd.address)
                for partner, (even, odd) in zip(self._partners, incoming, strict=True)
            ],
            dtype=NEIGHBOUR,
        )
        table = np.zeros(1, EXCHANGE)
        table["posted"], table["finished"] = self._counters(self._pattern.grid.rank)
        table["polls"] = self._polls
        table["eager"] = self._eager
        table["neighbours"] = len(neighbours)
        table["table"] = native.address(neighbours)
        table["moves"] = len(own[0])
        table["even"], table["odd"] = (moves.address for moves in own)
        table["lag"] = self._buffers
        table["drains"] = not self._packs
        others = self._others.bind(arrays) if self._others else None
        return self._steps(table, (neighbours, own, incoming), others)

    def _packed_at(self, parity: int, partner: int) -> int:
        """Where in our memory the boxes for a partner are packed."""
        return _COUNTERS + parity % self._buffers * self._offsets[-1] + self._offsets[partner]

    def _own_moves(self, arrays: Sequence[np.ndarray], parity: int) -> list[Move]:
        """What we do before the others may read: within this rank, and into the packed data."""
        moves = self._pattern.own_moves(arrays)
        if self._packs:
            for i, partner in enumerate(self._partners):
                packed = native.address(self._memory) + self._packed_at(parity, i)
                moves += self._pattern.pack_moves(arrays, partner.sends, packed)
        return moves

    def _partner_moves(self, arrays: Sequence[np.ndarray], i: int, parity: int) -> list[Move]:
        """What we read from the memory of partner `i`'s rank."""
        partner, theirs = self._partners[i], self._theirs[i]
        packed = native.address(self._peers[partner.rank]) + (theirs.odd if parity else theirs.even)
        moves = self._pattern.unpack_moves(arrays, partner.receives, packed)
        return moves[::-1]  # what was packed last is still in a cache

    def _counters(self, rank: int) -> tuple[int, int]:
        """Addresses of `posted` and `finished` of a rank of this node."""
        base = native.address(self._peers[rank])
        return base, base + _COUNTERS // 2

    def _late(self, step: int) -> list[int]:
        """The ranks that a step waits for: 0 `post`, 1 `collect`, 2 `drain`."""

        def counters(rank: int) -> list[int]:
            return self._peers[rank][:_COUNTERS].view(np.int64)[:: _COUNTERS // 16].tolist()

        posted = counters(self._pattern.grid.rank)[0]
        which, needed = ((1, posted + 1 - self._buffers), (0, posted), (1, posted))[step]
        return [
            partner.rank for partner in self._partners if counters(partner.rank)[which] < needed
        ]

    def _steps(self, table: np.ndarray, keep: object, others: Exchange | None) -> Exchange:
        """Native steps; each returns 1 when it waits long, and is called again after MPI."""
        kernels = native.load("hpckit.comm.moves")
        lookout = self._lookout
        step = partial(native.bind, keep=(table, keep))
        post, collect, drain, whole = (
            step(kernel, native.address(table))
            for kernel in (kernels.post, kernels.collect, kernels.drain, kernels.whole)
        )
        steps = (post, collect) if self._packs else (post, collect, drain)
        last = len(steps)
        at = 0  # the step that comes next: after an error it is known
        insists = False

        def insist() -> None:
            nonlocal insists
            lookout.begin()
            insists = True
            try:
                while steps[at]():
                    lookout.look(self._late(at))
                    help_others()
            finally:
                insists = False

        def start() -> None:
            nonlocal at
            at = 0
            if others:
                others.start()
            if post():
                insist()
            at = 1

        def wait() -> None:
            nonlocal at
            while at < last:
                if steps[at]():
                    insist()
                at += 1
            if others:
                others.wait()

        def call() -> None:
            nonlocal at
            at = 0
            at = whole()
            if at < last:
                wait()

        def poll() -> bool:
            nonlocal at
            while at < last:
                if insists or steps[at]():
                    return False
                at += 1
            return others is None or others.poll()

        exchange = Exchange.of(start, wait, poll, self)
        return exchange if others else exchange._replace(call=call)
