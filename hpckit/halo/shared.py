"""Ways `shared` and `direct`: ranks of one node read each other's memory, without a message.

`shared`: each rank packs into its part of a shared window, and its neighbours unpack from there;
two buffers alternate unless they are large, so that nobody waits for slow readers. `direct`:
neighbours read straight from the fields, where all fields live in shared windows
(`grid.zeros(shared=True)`); one copy less, but an exchange ends only when the neighbours have read.
Neighbours on other nodes get packed messages meanwhile. The flag protocol is in
`hpckit.comm.moves`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from hpckit import native
from hpckit.comm.pack_host import Moves
from hpckit.errors import ConfigError
from hpckit.halo.adrift import help_others
from hpckit.halo.packed import DOING, Bound, Packed
from hpckit.halo.plan import Plan
from hpckit.machine.spin import Watch, patience

if TYPE_CHECKING:
    from hpckit.comm.grid import Grid

_LARGE = 1 << 18  # bytes: larger packed data is not kept twice, for the sake of the caches
_COUNTERS = 256  # bytes before the packed data: `posted` and `finished`, 128 bytes apart (two lines, fetched in pairs)


class Shared:
    """Neighbours on this node through shared memory, the others through packed messages."""

    def __init__(self, plan: Plan, tag: int, direct: bool = False) -> None:
        grid = plan.grid
        self._plan, self._direct = plan, direct
        self._links = [link for link in plan.links if link.rank in grid.node_memory.ranks]
        far = [link for link in plan.links if link not in self._links]
        self._far = Packed(plan, tag, far, own=False) if far else None
        self._offsets = plan.offsets([link.sends for link in self._links])
        self._buffers = 2 if self._offsets[-1] <= _LARGE else 1
        self._memory = grid.node_memory.zeros(
            (_COUNTERS + (not direct) * self._buffers * self._offsets[-1],), np.uint8
        )
        self._peers = grid.shared_peers(self._memory) or {}
        ranks = [link.rank for link in self._links]
        self._watch = Watch(grid.comm, grid.node_memory, ranks, DOING, plan.deadline)
        # What each neighbour has for us: its boxes, and where it packs them in even and in odd
        # exchanges.
        ours = [
            (link.sends, self._packed_at(0, i), self._packed_at(1, i))
            for i, link in enumerate(self._links)
        ]
        self._theirs = plan.swap(self._links, ours, tag)
        self._polls = patience(grid.node_comm)
        grid.node_comm.Barrier()  # nobody reads a counter before it is zero

    def _packed_at(self, parity: int, link: int) -> int:
        return _COUNTERS + parity % self._buffers * self._offsets[-1] + self._offsets[link]

    def bind(self, arrays: Sequence[np.ndarray]) -> Bound:
        own = [Moves(self._own_moves(arrays, parity)) for parity in (0, 1)]
        incoming = [
            [Moves(self._link_moves(arrays, i, parity)) for parity in (0, 1)]
            for i in range(len(self._links))
        ]
        links = np.array(
            [
                [*self._counters(link.rank), len(moves[0]), moves[0].address, moves[1].address]
                for link, moves in zip(self._links, incoming, strict=True)
            ],
            dtype=np.int64,
        ).reshape(-1, 5)
        head = [
            *self._counters(self._plan.grid.rank),
            *self._polls,
            0,
            len(links),
            native.address(links),
        ]
        tail = [len(own[0]), own[0].address, own[1].address, self._buffers, self._direct]
        table = np.array([*head, *tail], dtype=np.int64)
        return self._steps(
            table, (links, own, incoming), self._far.bind(arrays) if self._far else None
        )

    def _own_moves(self, arrays: Sequence[np.ndarray], parity: int) -> list:
        moves = self._plan.own_moves(arrays)
        if not self._direct:
            for i, link in enumerate(self._links):
                packed = native.address(self._memory) + self._packed_at(parity, i)
                moves += self._plan.pack_moves(arrays, link.sends, packed)
        return moves

    def _link_moves(self, arrays: Sequence[np.ndarray], i: int, parity: int) -> list:
        """What we read from the memory of link `i`'s rank."""
        link, (boxes, *packed_at) = self._links[i], self._theirs[i]
        if self._direct:
            return self._plan.copy_moves(
                arrays, link.receives, _of_peer(self._plan.grid, arrays, link.rank), boxes
            )
        packed = native.address(self._peers[link.rank]) + packed_at[parity]
        return self._plan.unpack_moves(arrays, link.receives, packed)[
            ::-1
        ]  # what was packed last is still in a cache

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

    def _steps(self, table: np.ndarray, keep: object, far: Bound | None) -> Bound:
        """Native steps; each returns 1 while it must wait long, and is called again once MPI has
        had its turn.
        """
        kernels, watch = native.load("hpckit.comm.moves"), self._watch
        step = partial(native.bind, keep=(table, keep))
        post, collect, drain, whole = (
            step(kernel, native.address(table))
            for kernel in (kernels.post, kernels.collect, kernels.drain, kernels.whole)
        )
        steps = (post, collect, drain) if self._direct else (post, collect)
        at, last = 0, len(steps)  # the step that comes next: after an error it is known
        insists = False

        def insist() -> None:
            nonlocal insists
            watch.begin()
            insists = True
            try:
                while steps[at]():
                    watch.look(self._late(at))
                    help_others()
            finally:
                insists = False

        def start() -> None:
            nonlocal at
            at = 0
            if far:
                far.start()
            if post():
                insist()
            at = 1

        def wait() -> None:
            nonlocal at
            while at < last:
                if steps[at]():
                    insist()
                at += 1
            if far:
                far.wait()

        def exchange() -> None:
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
            return far is None or far.poll()

        bound = Bound.of(start, wait, poll, self)
        return bound if far else bound._replace(exchange=exchange)


def can_read_directly(grid: Grid, arrays: Sequence[np.ndarray]) -> bool:
    """Whether all of these arrays live, whole, in shared windows of the grid."""
    return all(grid.shared_peers(array) is not None for array in arrays)


def _of_peer(grid: Grid, arrays: Sequence[np.ndarray], rank: int) -> list[np.ndarray]:
    peers = [grid.shared_peers(array) for array in arrays]
    for i, peer in enumerate(peers):
        if peer is None:
            raise ConfigError(
                f"method 'direct' reads fields where they are, but field {i} is not in shared "
                "memory: "
                "make it with grid.zeros(shared=True), or use method='shared'"
            )
    return [peer[rank] for peer in peers if peer]
