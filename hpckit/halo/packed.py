"""Method `packed`: the boxes of all fields for a rank in one message, by persistent requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from mpi4py import MPI

from hpckit import native
from hpckit.comm.pack import Move, Moves
from hpckit.halo.bound_exchange import DOING, Exchange
from hpckit.halo.pattern import ALIGN, Partner, Pattern, Sizes
from hpckit.machine.lifetime import free_with
from hpckit.machine.spin import complete, waiter

if TYPE_CHECKING:
    from hpckit.machine.model import Model


class PackedBuffers:
    """One send and one receive buffer for all partners, and the moves to and from the fields."""

    def __init__(self, pattern: Pattern, partners: Sequence[Partner]) -> None:
        self.pattern = pattern
        self.partners = partners
        self.send_offsets = pattern.offsets([partner.sends for partner in partners])
        self.receive_offsets = pattern.offsets([partner.receives for partner in partners])
        self.send = _aligned(self.send_offsets[-1])
        self.receive = _aligned(self.receive_offsets[-1])

    def outgoing(self, arrays: Sequence[np.ndarray]) -> list[Move]:
        """From the fields to the send buffer, all partners."""
        base = native.address(self.send)
        return [
            move
            for partner, offset in zip(self.partners, self.send_offsets, strict=False)
            for move in self.pattern.pack_moves(arrays, partner.sends, base + offset)
        ]

    def incoming(self, arrays: Sequence[np.ndarray]) -> list[Move]:
        """From the receive buffer to the fields, all partners."""
        base = native.address(self.receive)
        return [
            move
            for partner, offset in zip(self.partners, self.receive_offsets, strict=False)
            for move in self.pattern.unpack_moves(arrays, partner.receives, base + offset)
        ]

    def messages(self) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """(rank, bytes to send, bytes to receive) of each partner."""
        return [
            (
                partner.rank,
                self.send[s : s + self.pattern.nbytes(partner.sends)],
                self.receive[r : r + self.pattern.nbytes(partner.receives)],
            )
            for partner, s, r in zip(
                self.partners, self.send_offsets, self.receive_offsets, strict=False
            )
        ]


class Packed:
    """Canonical blocks of all fields, one message per neighbouring rank."""

    name: ClassVar[str] = "packed"
    pointers: ClassVar[str] = "host"

    def __init__(
        self,
        pattern: Pattern,
        tag: int,
        partners: Sequence[Partner] | None = None,
        own: bool = True,
    ) -> None:
        self._pattern = pattern
        self._own = own
        self._buffers = PackedBuffers(pattern, pattern.partners if partners is None else partners)
        messages = self._messages(tag)
        self._ranks = [rank for rank, _ in messages]
        self._requests = [request for _, request in messages]
        free_with(self, *self._requests, keep=(self._buffers.send, self._buffers.receive))

    def _messages(self, tag: int) -> list[tuple[int | None, MPI.Prequest]]:
        """Exchange requests, and the rank that each of them waits for."""
        comm, messages = self._pattern.grid.comm, self._buffers.messages()
        receives = [
            (rank, comm.Recv_init([r, MPI.BYTE], rank, tag)) for rank, _, r in messages if r.size
        ]
        sends = [
            (rank, comm.Send_init([s, MPI.BYTE], rank, tag)) for rank, s, _ in messages if s.size
        ]
        return [*receives, *sends]

    def bind(self, arrays: Sequence[np.ndarray], stream: int = 0) -> Exchange:
        pack = Moves(
            self._buffers.outgoing(arrays) + (self._pattern.own_moves(arrays) if self._own else [])
        )
        unpack = Moves(self._buffers.incoming(arrays))
        requests = self._requests
        start_all = MPI.Prequest.Startall
        wait_all = waiter(self._ranks, self._pattern.deadline, DOING)

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

        return Exchange.of(start, wait, poll, self)

    @staticmethod
    def possible(pattern: Pattern) -> bool:
        return True

    @staticmethod
    def cost(model: Model, pattern: Pattern) -> float:
        return sum((packed_cost(model, each) for each in pattern.sizes), 0.0)


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
