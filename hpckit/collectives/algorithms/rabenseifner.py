"""Halving, then doubling: for p ranks and n bytes 2 log2 p a + 2 n (p-1)/p b.

As few bytes as a ring and as few rounds as a tree (Thakur, Rabenseifner & Gropp, IJHPCA 19, 2005).
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


class Rabenseifner(ByMessages):
    """Recursive halving of what is reduced, then recursive doubling of what is known."""

    name = "rabenseifner"

    def cost(self, links: Links, nbytes: int, ranks: int) -> float:
        a, b = links.slowest()
        others, part = ranks - 1, nbytes / ranks
        latencies = 2 * math.floor(math.log2(ranks)) * (a + links.overhead)
        halving = latencies + 2 * nbytes * others / ranks * b
        sums = others * part * links.gamma
        return halving + sums + beyond_a_power_of_two(links, nbytes, ranks)

    def schedule(self, rank: int, size: int, cuts: Cuts) -> Schedule:
        power = 1 << (size.bit_length() - 1)
        edges = [cuts[-1] * part // power for part in range(power + 1)]

        def rounds(place: int, rank_at: Callable[[int], int]) -> Schedule:
            halving, doubling = [], []
            low, high, distance = 0, power, power // 2
            while distance:
                middle = low + distance
                lower, upper = Piece(edges[low], edges[middle]), Piece(edges[middle], edges[high])
                if place < middle:
                    kept, given, high = lower, upper, middle
                else:
                    kept, given, low = upper, lower, middle
                beside = Piece(0, kept.stop - kept.start, scratch=True)
                peer = rank_at(place ^ distance)
                halving.append(
                    exchange([Message(peer, given)], [Message(peer, beside)], [Fold(beside, kept)])
                )
                doubling.append(exchange([Message(peer, kept)], [Message(peer, given)]))
                distance //= 2
            return halving + doubling[::-1]

        return on_a_power_of_two(rank, size, Piece(0, cuts[-1]), rounds)
