"""Up and down a binomial tree: for p ranks and n bytes 2 log2 p a + 2 n log2 p b."""

from __future__ import annotations

import math

from hpckit.collectives.algorithms.algorithm import ByMessages
from hpckit.collectives.schedule import Cuts, Fold, Message, Piece, Schedule, exchange
from hpckit.machine.links import Links


class Tree(ByMessages):
    """Up a binomial tree to rank 0, and down again: for comparison."""

    name = "tree"

    def cost(self, links: Links, nbytes: int, ranks: int) -> float:
        a, b = links.slowest()
        levels = math.ceil(math.log2(ranks))
        return 2 * levels * (a + links.overhead + nbytes * b) + levels * nbytes * links.gamma

    def schedule(self, rank: int, size: int, cuts: Cuts) -> Schedule:
        whole, beside = Piece(0, cuts[-1]), Piece(0, cuts[-1], scratch=True)
        up: Schedule = []
        distance = 1
        while distance < size and not rank & distance:
            if rank + distance < size:
                up.append(exchange([], [Message(rank + distance, beside)], [Fold(beside, whole)]))
            distance *= 2
        if rank:
            up.append(exchange([Message(rank - distance, whole)], []))
        return up + bcast(rank, size, cuts)


def bcast(rank: int, size: int, cuts: Cuts) -> Schedule:
    """Rank 0's data down a binomial tree."""
    whole = Piece(0, cuts[-1])
    distance = rank & -rank if rank else 1 << (size - 1).bit_length()
    down = [exchange([], [Message(rank - distance, whole)])] if rank else []
    while distance := distance // 2:
        if rank + distance < size:
            down.append(exchange([Message(rank + distance, whole)], []))
    return down
