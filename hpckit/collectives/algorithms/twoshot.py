"""A direct exchange of slices, twice: for p ranks and n bytes 2 a + 2 n (p-1)/p b.

The star's latency and the ring's bytes, if a rank may send to all others at once.
"""

from __future__ import annotations

from hpckit.collectives.algorithms.algorithm import ByMessages
from hpckit.collectives.cost import shares
from hpckit.collectives.messages import Messages
from hpckit.collectives.persistent import Operands
from hpckit.collectives.schedule import (
    Cuts,
    Message,
    Schedule,
    beside,
    exchange,
    in_rank_order,
    others,
    slice_of,
)
from hpckit.comm.partition import starts


class TwoShot(ByMessages):
    """Each rank reduces its slice of everybody's data for all; less behind slow links."""

    name = "twoshot"
    in_rank_order = True

    def schedule(self, rank: int, size: int, cuts: Cuts) -> Schedule:
        return direct_reduce_scatter(rank, size, cuts) + direct_allgather(rank, size, cuts)

    def bind(self, operands: Operands) -> Messages:
        channel, n = operands.channel, operands.groups
        cuts = shares(channel.links, n) if channel.links else None
        cuts = cuts or starts(n, channel.size)
        return Messages(operands, self.schedule(channel.rank, channel.size, cuts))


def direct_reduce_scatter(rank: int, size: int, cuts: Cuts) -> Schedule:
    """Rank r gets slice r of everybody's data, and reduces it."""
    mine = slice_of(cuts, rank)
    pieces, receives = beside(rank, size, mine)
    sends = [Message(peer, slice_of(cuts, peer)) for peer in others(rank, size)]
    return [exchange(sends, receives, in_rank_order(pieces, mine))]


def direct_allgather(rank: int, size: int, cuts: Cuts) -> Schedule:
    """Rank r sends its slice to everybody."""
    sends = [Message(peer, slice_of(cuts, rank)) for peer in others(rank, size)]
    receives = [Message(peer, slice_of(cuts, peer)) for peer in others(rank, size)]
    return [exchange(sends, receives)]
