"""Way `packed`: the boxes of all fields for one rank are packed into one message, sent by
persistent requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from mpi4py import MPI

from hpckit import native
from hpckit.comm.pack_host import Move, Moves
from hpckit.errors import HpckitError
from hpckit.halo.plan import ALIGN, Link, Plan
from hpckit.machine.lifetime import free_with
from hpckit.machine.spin import complete, waiter

DOING = "a halo exchange"  # in errors
TAGS = 8  # of one halo, beginning with the one that ways are given
MEETING = TAGS - 1  # the one by which ranks meet, beyond those of the ways


class NotBegun(HpckitError):
    """The others did not come: there is nothing to wait for, and `start` may be tried again."""


class Bound(NamedTuple):
    """An exchange of certain arrays: its two halves, and both in one.

    After an error in any of them, `wait` goes on with what is left to do.

    poll : do what can be done of `wait` without blocking; whether that was all
    owner : has the buffers, requests and communicators that these use, for as long as this lives
    """

    start: Callable[[], object]
    wait: Callable[[], object]
    exchange: Callable[[], object]
    poll: Callable[[], bool]
    owner: object

    @classmethod
    def of(
        cls,
        start: Callable[[], object],
        wait: Callable[[], object],
        poll: Callable[[], bool],
        owner: object,
    ) -> Bound:
        def exchange() -> None:
            start()
            wait()

        return cls(start, wait, exchange, poll, owner)


class PackedBuffers:
    """One send and one receive buffer for all links, and the moves between them and the fields."""

    def __init__(self, plan: Plan, links: Sequence[Link]) -> None:
        self.plan, self.links = plan, links
        self.send_offsets = plan.offsets([link.sends for link in links])
        self.receive_offsets = plan.offsets([link.receives for link in links])
        self.send, self.receive = aligned(self.send_offsets[-1]), aligned(self.receive_offsets[-1])

    def outgoing(self, arrays: Sequence[np.ndarray]) -> list[Move]:
        """From the fields to the send buffer, all links."""
        base = native.address(self.send)
        return [
            move
            for link, offset in zip(self.links, self.send_offsets, strict=False)
            for move in self.plan.pack_moves(arrays, link.sends, base + offset)
        ]

    def incoming(self, arrays: Sequence[np.ndarray]) -> list[Move]:
        """From the receive buffer to the fields, all links."""
        base = native.address(self.receive)
        return [
            move
            for link, offset in zip(self.links, self.receive_offsets, strict=False)
            for move in self.plan.unpack_moves(arrays, link.receives, base + offset)
        ]

    def messages(self) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """(rank, bytes to send, bytes to receive) of each link."""
        return [
            (
                link.rank,
                self.send[s : s + self.plan.nbytes(link.sends)],
                self.receive[r : r + self.plan.nbytes(link.receives)],
            )
            for link, s, r in zip(self.links, self.send_offsets, self.receive_offsets, strict=False)
        ]


class Packed:
    """Canonical blocks of all fields, one message per neighbouring rank."""

    def __init__(
        self, plan: Plan, tag: int, links: Sequence[Link] | None = None, own: bool = True
    ) -> None:
        self._plan, self._own = plan, own
        self._buffers = PackedBuffers(plan, plan.links if links is None else links)
        messages = self._messages(tag)
        self._ranks = [rank for rank, _ in messages]
        self._requests = [request for _, request in messages]
        free_with(self, *self._requests, keep=(self._buffers.send, self._buffers.receive))

    def _messages(self, tag: int) -> list[tuple[int | None, MPI.Prequest]]:
        """Persistent requests, and the rank that each of them waits for."""
        comm, messages = self._plan.grid.comm, self._buffers.messages()
        receives = [
            (rank, comm.Recv_init([r, MPI.BYTE], rank, tag)) for rank, _, r in messages if r.size
        ]
        sends = [
            (rank, comm.Send_init([s, MPI.BYTE], rank, tag)) for rank, s, _ in messages if s.size
        ]
        return [*receives, *sends]

    def bind(self, arrays: Sequence[np.ndarray]) -> Bound:
        pack = Moves(
            self._buffers.outgoing(arrays) + (self._plan.own_moves(arrays) if self._own else [])
        )
        unpack = Moves(self._buffers.incoming(arrays))
        requests, start_all = self._requests, MPI.Prequest.Startall
        wait_all = waiter(self._ranks, self._plan.deadline, DOING)

        def start() -> None:
            pack.run()
            start_all(requests)

        def wait() -> None:
            wait_all(requests)
            unpack.run()

        def poll() -> bool:
            over = complete(requests)
            if over:
                unpack.run()
            return over

        return Bound.of(start, wait, poll, self)


def aligned(n: int) -> np.ndarray:
    """`n` zero bytes that start on a cache line."""
    memory = np.zeros(n + ALIGN, np.uint8)
    skip = -native.address(memory) % ALIGN
    return memory[skip : skip + n]
