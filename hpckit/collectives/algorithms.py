"""Allreduce over point-to-point messages; a is the latency of a message, b the time a link takes
per byte.

For p ranks and n bytes, what each algorithm costs (Thakur, Rabenseifner & Gropp, IJHPCA 19, 2005;
the star is that of TPI-LLM, Li et al., arXiv:2410.00531; one-shot and two-shot are the direct
exchanges of GPU libraries):

    ring                  2 (p-1) a      2 n (p-1)/p b    any number of ranks, least bytes
    star                  2 a            2 n (p-1) b      all through the root's link
    oneshot               a              n (p-1) b        everybody sends everything to everybody
    twoshot               2 a            2 n (p-1)/p b    the star's latency and the ring's bytes
    recursive_doubling    log2 p a       n log2 p b
    rabenseifner          2 log2 p a     2 n (p-1)/p b    halving, then doubling
    tree                  2 log2 p a     2 n log2 p b     binomial

`star`, `oneshot` and `twoshot` reduce in rank order: they give the same bits, and serve operations
that do not commute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hpckit.collectives.schedule import (
    Copy,
    Fold,
    Message,
    Piece,
    Round,
    Schedule,
    exchange,
    in_rank_order,
)

Cuts = Sequence[
    int
]  # rank r is responsible for elements cuts[r] to cuts[r + 1]; cuts[-1] is how many there are
Algorithm = Callable[[int, int, Cuts], Schedule]


def oneshot(rank: int, size: int, cuts: Cuts) -> Schedule:
    """Everybody gets everything and reduces it."""
    whole = Piece(0, cuts[-1])
    pieces, receives = _beside(rank, size, whole)
    sends = [Message(peer, whole) for peer in _others(rank, size)]
    return [exchange(sends, receives, in_rank_order(pieces, whole))]


def star(rank: int, size: int, cuts: Cuts, root: int = 0) -> Schedule:
    """The root gets everything, reduces it, and tells the others."""
    whole = Piece(0, cuts[-1])
    if rank != root:
        return [exchange([Message(root, whole)], []), exchange([], [Message(root, whole)])]
    pieces, receives = _beside(rank, size, whole)
    sends = [Message(peer, whole) for peer in _others(rank, size)]
    return [exchange([], receives, in_rank_order(pieces, whole)), exchange(sends, [])]


def twoshot(rank: int, size: int, cuts: Cuts) -> Schedule:
    """Each rank reduces its own slice of everybody's data, and sends it to all."""
    return direct_reduce_scatter(rank, size, cuts) + direct_allgather(rank, size, cuts)


def direct_reduce_scatter(rank: int, size: int, cuts: Cuts) -> Schedule:
    """Rank r gets slice r of everybody's data, and reduces it."""
    mine = _slice(cuts, rank)
    pieces, receives = _beside(rank, size, mine)
    sends = [Message(peer, _slice(cuts, peer)) for peer in _others(rank, size)]
    return [exchange(sends, receives, in_rank_order(pieces, mine))]


def direct_allgather(rank: int, size: int, cuts: Cuts) -> Schedule:
    """Rank r sends its slice to everybody."""
    sends = [Message(peer, _slice(cuts, rank)) for peer in _others(rank, size)]
    return [exchange(sends, [Message(peer, _slice(cuts, peer)) for peer in _others(rank, size)])]


def direct_scatter(rank: int, size: int, cuts: Cuts) -> Schedule:
    """Rank 0 sends slice r of its data to rank r."""
    if rank:
        return [exchange([], [Message(0, _slice(cuts, rank))])]
    return [exchange([Message(peer, _slice(cuts, peer)) for peer in range(1, size)], [])]


def ring(rank: int, size: int, cuts: Cuts) -> Schedule:
    """Slices travel round the ring twice: being reduced, then as results."""
    return ring_reduce_scatter(rank, size, cuts) + ring_allgather(rank, size, cuts)


def ring_reduce_scatter(rank: int, size: int, cuts: Cuts) -> Schedule:
    """Slice r starts on rank r + 1, and comes to rank r reduced."""
    rounds = []
    for step in range(1, size):
        sent, received = _slice(cuts, (rank - step) % size), _slice(cuts, (rank - step - 1) % size)
        beside = Piece(0, received.stop - received.start, scratch=True)
        rounds.append(_pass_on(rank, size, sent, beside, Fold(beside, received)))
    return rounds


def ring_allgather(rank: int, size: int, cuts: Cuts) -> Schedule:
    """Slice r travels from rank r round the ring."""
    return [
        _pass_on(
            rank, size, _slice(cuts, (rank - step) % size), _slice(cuts, (rank - step - 1) % size)
        )
        for step in range(size - 1)
    ]


def recursive_doubling(rank: int, size: int, cuts: Cuts) -> Schedule:
    """Partners exchange everything, at distance 1, 2, 4, ..."""
    whole, beside = Piece(0, cuts[-1]), Piece(0, cuts[-1], scratch=True)
    power = 1 << (size.bit_length() - 1)

    def rounds(place: int, rank_at: Callable[[int], int]) -> Schedule:
        partners = [rank_at(place ^ (1 << bit)) for bit in range(power.bit_length() - 1)]
        # Both partners take the lower rank's data first, so that they get the same.
        return [
            exchange([Message(p, whole)], [Message(p, beside)], [Fold(beside, whole, p > rank)])
            for p in partners
        ]

    return _on_a_power_of_two(rank, size, whole, rounds)


def rabenseifner(rank: int, size: int, cuts: Cuts) -> Schedule:
    """Recursive halving of what is reduced, then recursive doubling of what is known."""
    power = 1 << (size.bit_length() - 1)
    edges = [cuts[-1] * part // power for part in range(power + 1)]

    def rounds(place: int, rank_at: Callable[[int], int]) -> Schedule:
        halving, doubling = [], []
        low, high, distance = 0, power, power // 2
        while distance:
            middle = low + distance
            lower, upper = Piece(edges[low], edges[middle]), Piece(edges[middle], edges[high])
            kept, given = (lower, upper) if place < middle else (upper, lower)
            beside = Piece(0, kept.stop - kept.start, scratch=True)
            peer = rank_at(place ^ distance)
            halving.append(
                exchange([Message(peer, given)], [Message(peer, beside)], [Fold(beside, kept)])
            )
            doubling.append(exchange([Message(peer, kept)], [Message(peer, given)]))
            low, high, distance = (
                (low, middle, distance // 2) if place < middle else (middle, high, distance // 2)
            )
        return halving + doubling[::-1]

    return _on_a_power_of_two(rank, size, Piece(0, cuts[-1]), rounds)


def tree(rank: int, size: int, cuts: Cuts) -> Schedule:
    """Up a binomial tree to rank 0, and down again."""
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


ALGORITHMS: dict[str, Algorithm] = {
    f.__name__: f for f in (ring, star, oneshot, twoshot, recursive_doubling, rabenseifner, tree)
}
ORDERED = ("star", "oneshot", "twoshot")  # reduce in rank order


def _others(rank: int, size: int) -> list[int]:
    """All other ranks, each rank beginning after itself, so that they do not all send to one at
    once.
    """
    return [(rank + step) % size for step in range(1, size)]


def _slice(cuts: Cuts, rank: int) -> Piece:
    return Piece(cuts[rank], cuts[rank + 1])


def _beside(rank: int, size: int, mine: Piece) -> tuple[list[Piece], list[Message]]:
    """All ranks' versions of a piece, the others' in scratch; and the messages that bring these."""
    length = mine.stop - mine.start
    slots = {peer: i for i, peer in enumerate(p for p in range(size) if p != rank)}
    pieces = [
        mine
        if peer == rank
        else Piece(slots[peer] * length, (slots[peer] + 1) * length, scratch=True)
        for peer in range(size)
    ]
    return pieces, [Message(peer, pieces[peer]) for peer in reversed(_others(rank, size))]


def _pass_on(rank: int, size: int, sent: Piece, received: Piece, *work: Fold | Copy) -> Round:
    return exchange(
        [Message((rank + 1) % size, sent)], [Message((rank - 1) % size, received)], work
    )


def _on_a_power_of_two(
    rank: int, size: int, whole: Piece, rounds: Callable[[int, Callable[[int], int]], Schedule]
) -> Schedule:
    """As many of the first ranks as are too many give their data to their neighbour, and get the
    result from it.
    """
    extra = size - (1 << (size.bit_length() - 1))

    def rank_at(place: int) -> int:
        return 2 * place + 1 if place < extra else place + extra

    if rank >= 2 * extra:
        return rounds(rank - extra, rank_at)
    if rank % 2 == 0:
        return [exchange([Message(rank + 1, whole)], []), exchange([], [Message(rank + 1, whole)])]
    beside = whole._replace(scratch=True)
    before = exchange([], [Message(rank - 1, beside)], [Fold(beside, whole)])
    return [before, *rounds(rank // 2, rank_at), exchange([Message(rank - 1, whole)], [])]
