"""All through one rank: for p ranks and n bytes 2 a + 2 n (p-1) b.

The algorithm of TPI-LLM (Li et al., arXiv:2410.00531): two latencies, and all bytes through the
root's link.
"""

from __future__ import annotations

import numpy as np

from hpckit.collectives.algorithms.algorithm import ByMessages
from hpckit.collectives.messages import Messages
from hpckit.collectives.persistent import Operands
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


class Star(ByMessages):
    """The root gets everything, reduces it, and tells the others; it is where links are best."""

    name = "star"
    in_rank_order = True

    def cost(self, links: Links, nbytes: int, ranks: int) -> float:
        a, b = links.slowest()
        others = ranks - 1
        sends = 2 * (a + others * (links.overhead + nbytes * b))
        return sends + others * nbytes * links.gamma

    def schedule(self, rank: int, size: int, cuts: Cuts, root: int = 0) -> Schedule:
        whole = Piece(0, cuts[-1])
        if rank != root:
            return [exchange([Message(root, whole)], []), exchange([], [Message(root, whole)])]
        pieces, receives = beside(rank, size, whole)
        sends = [Message(peer, whole) for peer in others(rank, size)]
        return [exchange([], receives, in_rank_order(pieces, whole)), exchange(sends, [])]

    def bind(self, operands: Operands) -> Messages:
        channel = operands.channel
        middle = root(channel.links) if channel.links else 0
        schedule = self.schedule(channel.rank, channel.size, self.cuts(operands), middle)
        return Messages(operands, schedule)


def root(links: Links) -> int:
    """The rank that is nearest to all others: where a star should have its middle."""
    return int(links.per_node(links.alpha, np.max)[list(links.node_of)].argmin())
