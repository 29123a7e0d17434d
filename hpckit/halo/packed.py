"""Method `packed`: the boxes of all fields for one rank are packed into one message, sent by
persistent requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from mpi4py import MPI

from hpckit import native
from hpckit.comm.pack import Move, Moves
from hpckit.halo.persistent import DOING, Persistent
from hpckit.halo.plan import ALIGN, Link, Plan, Sizes
from hpckit.machine.lifetime import free_with
from hpckit.machine.spin import complete, waiter

if TYPE_CHECKING:
    from hpckit.machine.model import Model


class PackedBuffers:
    """One send and one receive buffer for all links, and the moves between them and the fields."""

    def __init__(self, plan: Plan, links: Sequence[Link]) -> None:
        self.plan = plan
        self.links = links
        self.send_offsets = plan.offsets([link.sends for link in links])
        self.receive_offsets = plan.offsets([link.receives for link in links])
        self.send = _aligned(self.send_offsets[-1])
        self.receive = _aligned(self.receive_offsets[-1])

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

    name: ClassVar[str] = "packed"

    def __init__(
        self, plan: Plan, tag: int, links: Sequence[Link] | None = None, own: bool = True
    ) -> None:
        self._plan = plan
        self._own = own
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

    def bind(self, arrays: Sequence[np.ndarray]) -> Persistent:
        pack = Moves(
            self._buffers.outgoing(arrays) + (self._plan.own_moves(arrays) if self._own else [])
        )
        unpack = Moves(self._buffers.incoming(arrays))
        requests = self._requests
        start_all = MPI.Prequest.Startall
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

        return Persistent.of(start, wait, poll, self)

    @staticmethod
    def possible(plan: Plan) -> bool:
        return True

    @staticmethod
    def cost(model: Model, plan: Plan) -> float:
        return sum((packed_cost(model, each) for each in plan.sizes), 0.0)


def packed_cost(model: Model, sizes: Sizes) -> float:
    """Seconds to pack what one neighbour gets, to swap messages with it, and to unpack."""
    pack = sum(model.pack(*piece) for piece in sizes.sends)
    unpack = sum(model.unpack(*piece) for piece in sizes.receives)
    return pack + unpack + model.message(sizes.nbytes, sizes.near)


def _aligned(n: int) -> np.ndarray:
    """`n` zero bytes that start on a cache line."""
    memory = np.zeros(n + ALIGN, np.uint8)
    skip = -native.address(memory) % ALIGN
    return memory[skip : skip + n]
