"""From neighbour to neighbour: for p ranks and n bytes 2 (p-1) a + 2 n (p-1)/p b.

The least bytes that there can be, among any number of ranks, and the most messages (Thakur,
Rabenseifner & Gropp, IJHPCA 19, 2005).
"""

from __future__ import annotations

from hpckit.collectives.algorithms.algorithm import ByMessages
from hpckit.collectives.schedule import (
    Cuts,
    Fold,
    Message,
    Piece,
    Round,
    Schedule,
    exchange,
    slice_of,
)
from hpckit.machine.links import Links


class Ring(ByMessages):
    """Slices travel round the ring twice: being reduced, then as results."""

    name = "ring"

    def cost(self, links: Links, nbytes: int, ranks: int) -> float:
        a, b = links.slowest()
        part = nbytes / ranks
        rounds = ranks - 1
        sends = 2 * rounds * (a + links.overhead + part * b)
        return sends + rounds * part * links.gamma

    def schedule(self, rank: int, size: int, cuts: Cuts) -> Schedule:
        return ring_reduce_scatter(rank, size, cuts) + ring_allgather(rank, size, cuts)


def ring_reduce_scatter(rank: int, size: int, cuts: Cuts) -> Schedule:
    """Slice r starts on rank r + 1, and comes to rank r reduced."""
    rounds = []
    for step in range(1, size):
        sent = slice_of(cuts, (rank - step) % size)
        received = slice_of(cuts, (rank - step - 1) % size)
        beside = Piece(0, received.stop - received.start, scratch=True)
        rounds.append(_passed_on(rank, size, sent, beside, Fold(beside, received)))
    return rounds


def ring_allgather(rank: int, size: int, cuts: Cuts) -> Schedule:
    """Slice r travels from rank r round the ring."""
    rounds = []
    for step in range(size - 1):
        sent = slice_of(cuts, (rank - step) % size)
        received = slice_of(cuts, (rank - step - 1) % size)
        rounds.append(_passed_on(rank, size, sent, received))
    return rounds


def _passed_on(rank: int, size: int, sent: Piece, received: Piece, *work: Fold) -> Round:
    to, source = (rank + 1) % size, (rank - 1) % size
    return exchange([Message(to, sent)], [Message(source, received)], work)
