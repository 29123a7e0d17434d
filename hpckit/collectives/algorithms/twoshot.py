"""A direct exchange of slices, twice: for p ranks and n bytes 2 a + 2 n (p-1)/p b.

The star's latency and the ring's bytes, if a rank may send to all others at once.
"""

from __future__ import annotations

import numpy as np

from hpckit.collectives.algorithms.algorithm import ByMessages
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
from hpckit.machine.links import Links


class TwoShot(ByMessages):
    """Each rank reduces its slice of everybody's data for all; less behind slow links."""

    name = "twoshot"
    in_rank_order = True

    def cost(self, links: Links, nbytes: int, ranks: int) -> float:
        a, b = links.slowest()
        others, part, crowded = ranks - 1, nbytes / ranks, b * links.crowd
        sends = 2 * (a + others * links.overhead) + 2 * others * part * crowded
        return sends + others * part * links.gamma

    def schedule(self, rank: int, size: int, cuts: Cuts) -> Schedule:
        return direct_reduce_scatter(rank, size, cuts) + direct_allgather(rank, size, cuts)

    def cuts(self, operands: Operands) -> Cuts:
        links = operands.channel.links
        uneven = shares(links, operands.groups) if links else None
        return uneven or super().cuts(operands)


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


def shares(links: Links, n: int) -> list[int] | None:
    """Cuts of n elements into the ranks' slices in a two-shot; None: equal ones are best.

    A rank that owns s elements sends n - s of others, and (p - 1) s as results: with time b per
    element that takes b (n + (p - 2) s). Ranks behind slow links get less, or nothing, such that
    the slowest rank is done soonest.
    """
    p = len(links.node_of)
    b = links.per_node(links.beta, np.median)[list(links.node_of)]
    if p < 3 or not b.min() or b.max() < 1.5 * b.min():
        return None

    def owned(limit: float) -> np.ndarray:
        return np.maximum((limit / b - n) / (p - 2), 0.0)

    low, high = 0.0, float(b.max()) * n * (p - 1)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if owned(middle).sum() < n else (low, middle)
    part = owned(high)
    return [0, *np.rint(n * np.cumsum(part) / part.sum()).astype(int).tolist()]
