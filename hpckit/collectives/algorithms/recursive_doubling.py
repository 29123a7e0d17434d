"""Partners exchange everything: for p ranks and n bytes log2 p a + n log2 p b.

The fewest latencies in which everybody hears of everybody, two at a time (Thakur, Rabenseifner &
Gropp, IJHPCA 19, 2005).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from hpckit.collectives.algorithms.algorithm import ByMessages, beyond_a_power_of_two
from hpckit.collectives.schedule import (
    Cuts,
    Fold,
    Message,
    Piece,
    Schedule,
    exchange,
    on_a_power_of_two,
)
from hpckit.machine.links import Links


class RecursiveDoubling(ByMessages):
    """Partners exchange everything, at distance 1, 2, 4, ..."""

    name = "recursive_doubling"

    def cost(self, links: Links, nbytes: int, ranks: int) -> float:
        a, b = links.slowest()
        rounds = math.floor(math.log2(ranks))
        exchanges = rounds * (a + links.overhead + nbytes * (b + links.gamma))
        return exchanges + beyond_a_power_of_two(links, nbytes, ranks)

    def schedule(self, rank: int, size: int, cuts: Cuts) -> Schedule:
        whole, beside = Piece(0, cuts[-1]), Piece(0, cuts[-1], scratch=True)
        doublings = size.bit_length() - 1

        def rounds(place: int, rank_at: Callable[[int], int]) -> Schedule:
            schedule = []
            for bit in range(doublings):
                partner = rank_at(place ^ (1 << bit))
                # Both partners take the lower rank's data first, so that they get the same bits.
                work = [Fold(beside, whole, after=partner > rank)]
                schedule.append(
                    exchange([Message(partner, whole)], [Message(partner, beside)], work)
                )
            return schedule

        return on_a_power_of_two(rank, size, whole, rounds)
