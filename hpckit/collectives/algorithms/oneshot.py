"""Everybody sends everything to everybody: for p ranks and n bytes a + n (p-1) b.

The direct exchange of GPU libraries for small arrays: one latency, and no root that all wait for.
"""

from __future__ import annotations

from hpckit.collectives.algorithms.algorithm import ByMessages
from hpckit.collectives.schedule import (
    Cuts,
    Message,
    Piece,
    Schedule,
    beside,
    exchange,
    in_rank_order,
    others,
)
from hpckit.machine.links import Links


class OneShot(ByMessages):
    """Everybody gets everything and reduces it."""

    name = "oneshot"
    in_rank_order = True

    def cost(self, links: Links, nbytes: int, ranks: int) -> float:
        a, b = links.slowest()
        o, c, g = links.overhead, b * links.crowd, links.gamma
        return a + (ranks - 1) * (o + nbytes * c + nbytes * g)

    def schedule(self, rank: int, size: int, cuts: Cuts) -> Schedule:
        whole = Piece(0, cuts[-1])
        pieces, receives = beside(rank, size, whole)
        sends = [Message(peer, whole) for peer in others(rank, size)]
        return [exchange(sends, receives, in_rank_order(pieces, whole))]
