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
from hpckit.halo.packed import Packed, packed_cost
from hpckit.halo.persistent import DOING, Persistent
from hpckit.halo.plan import Box, Plan
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
    """Neighbours on this node through memory that they share, the others through packed
    messages.
    """

    name: ClassVar[str] = "shared"
    _packs: ClassVar[bool] = True

    def __init__(self, plan: Plan, tag: int) -> None:
        grid = plan.grid
        self._plan = plan
        self._links = [link for link in plan.links if link.rank in grid.node_memory.ranks]
        others = [link for link in plan.links if link not in self._links]
        self._others = Packed(plan, tag, others, own=False) if others else None
        self._offsets = plan.offsets([link.sends for link in self._links])
        self._buffers = 2 if self._offsets[-1] <= _LARGE else 1
        packed = self._buffers * self._offsets[-1] if self._packs else 0
        self._memory = grid.node_memory.zeros((_COUNTERS + packed,), np.uint8)
        self._peers = grid.shared_peers(self._memory) or {}
        ranks = [link.rank for link in self._links]
        self._lookout = Lookout(grid.comm, grid.node_memory, ranks, DOING, plan.deadline)
        ours = [
            _Theirs(link.sends, self._packed_at(0, i), self._packed_at(1, i))
            for i, link in enumerate(self._links)
        ]
        self._theirs: list[_Theirs] = plan.swap(self._links, ours, tag)
        self._polls, self._eager = poll_limits(grid.node_comm)
        grid.node_comm.Barrier()  # nobody reads a counter before it is zero

    @staticmethod
    def possible(plan: Plan) -> bool:
        return True

    @staticmethod
    def cost(model: Model, plan: Plan) -> float:
        seconds = 0.0
        for sizes in plan.sizes:
            if sizes.near:
                seconds += sum(model.pack(*piece) for piece in sizes.sends)
                seconds += sum(model.shared(*piece) for piece in sizes.receives)
            else:
                seconds += packed_cost(model, sizes)
        return seconds + (model.flag() if any(sizes.near for sizes in plan.sizes) else 0.0)

    def bind(self, arrays: Sequence[np.ndarray]) -> Persistent:
        own = [Moves(self._own_moves(arrays, parity)) for parity in (0, 1)]
        incoming = [
            [Moves(self._link_moves(arrays, i, parity)) for parity in (0, 1)]
            for i in range(len(self._links))
        ]
        neighbours = np.array(
            [
                (*self._counters(link.rank), len(even), even.address, odd.address)
                for link, (even, odd) in zip(self._links, incoming, strict=True)
            ],
            dtype=NEIGHBOUR,
        )
        table = np.zeros(1, EXCHANGE)
        table["posted"], table["finished"] = self._counters(self._plan.grid.rank)
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

    def _packed_at(self, parity: int, link: int) -> int:
        """Where in our memory the boxes for a link are packed."""
        return _COUNTERS + parity % self._buffers * self._offsets[-1] + self._offsets[link]

    def _own_moves(self, arrays: Sequence[np.ndarray], parity: int) -> list[Move]:
        """What we do before the others may read: within this rank, and into the packed data."""
        moves = self._plan.own_moves(arrays)
        if self._packs:
            for i, link in enumerate(self._links):
                packed = native.address(self._memory) + self._packed_at(parity, i)
                moves += self._plan.pack_moves(arrays, link.sends, packed)
        return moves

    def _link_moves(self, arrays: Sequence[np.ndarray], i: int, parity: int) -> list[Move]:
        """What we read from the memory of link `i`'s rank."""
        link, theirs = self._links[i], self._theirs[i]
        packed = native.address(self._peers[link.rank]) + (theirs.odd if parity else theirs.even)
        moves = self._plan.unpack_moves(arrays, link.receives, packed)
        return moves[::-1]  # what was packed last is still in a cache

    def _counters(self, rank: int) -> tuple[int, int]:
        """Addresses of `posted` and `finished` of a rank of this node."""
        base = native.address(self._peers[rank])
        return base, base + _COUNTERS // 2

    def _late(self, step: int) -> list[int]:
        """The ranks that a step waits for: 0 `post`, 1 `collect`, 2 `drain`."""

        def counters(rank: int) -> list[int]:
            return self._peers[rank][:_COUNTERS].view(np.int64)[:: _COUNTERS // 16].tolist()

        posted = counters(self._plan.grid.rank)[0]
        which, needed = ((1, posted + 1 - self._buffers), (0, posted), (1, posted))[step]
        return [link.rank for link in self._links if counters(link.rank)[which] < needed]

    def _steps(self, table: np.ndarray, keep: object, others: Persistent | None) -> Persistent:
        """Native steps; each returns 1 while it must wait long, and is called again once MPI has
        had its turn.
        """
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

        exchange = Persistent.of(start, wait, poll, self)
        return exchange if others else exchange._replace(call=call)
