"""The language of point-to-point algorithms: who sends which elements to whom, round after round.

An algorithm is a pure function of a rank, the number of ranks and the cuts of the data: it returns
that rank's rounds, and knows neither MPI nor arrays. `hpckit.collectives.messages` runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

# Rank r is responsible for elements cuts[r] to cuts[r + 1]; cuts[-1] is how many there are.
Cuts = Sequence[int]


class Piece(NamedTuple):
    """Elements start to stop of the data, or of the scratch buffer."""

    start: int
    stop: int
    scratch: bool = False

    def __bool__(self) -> bool:
        return self.stop > self.start


class Message(NamedTuple):
    peer: int
    piece: Piece


class Fold(NamedTuple):
    """`into = piece op into`, or, where the piece comes after it, `into = into op piece`."""

    piece: Piece
    into: Piece
    after: bool = False


class Copy(NamedTuple):
    """`into = piece`."""

    piece: Piece
    into: Piece


class Round(NamedTuple):
    """Messages that travel at once, and the work on this rank once they have arrived."""

    sends: Sequence[Message] = ()
    receives: Sequence[Message] = ()
    work: Sequence[Fold | Copy] = ()


Schedule = list[Round]


def scratch_size(schedule: Schedule) -> int:
    """Elements of scratch that a schedule needs."""
    pieces = (message.piece for step in schedule for message in step.receives)
    return max((piece.stop for piece in pieces if piece.scratch), default=0)


def exchange(
    sends: Iterable[Message], receives: Iterable[Message], work: Iterable[Fold | Copy] = ()
) -> Round:
    """A round without its empty pieces, which no rank sends and so no rank awaits."""
    sent, received = (tuple(m for m in messages if m.piece) for messages in (sends, receives))
    return Round(sent, received, tuple(task for task in work if task.into))


def slice_of(cuts: Cuts, rank: int) -> Piece:
    """What that rank is responsible for."""
    return Piece(cuts[rank], cuts[rank + 1])


def others(rank: int, size: int) -> list[int]:
    """All other ranks, from the next one on, so that they do not all send to one at once."""
    return [(rank + step) % size for step in range(1, size)]


def beside(rank: int, size: int, mine: Piece) -> tuple[list[Piece], list[Message]]:
    """All ranks' versions of a piece, the others' in scratch; and the messages that bring these."""
    length = mine.stop - mine.start
    pieces = []
    for peer in range(size):
        slot = (peer - (peer > rank)) * length
        pieces.append(mine if peer == rank else Piece(slot, slot + length, scratch=True))
    return pieces, [Message(peer, pieces[peer]) for peer in reversed(others(rank, size))]


def in_rank_order(pieces: Sequence[Piece], into: Piece) -> list[Fold | Copy]:
    """`into = pieces[0] op pieces[1] op ...`, whatever rank does it: all get the same bits.

    into : one of the pieces
    """
    result = pieces[-1]
    work: list[Fold | Copy] = [Fold(piece, result) for piece in pieces[-2::-1]]
    return work if result == into else [*work, Copy(result, into)]


def rotated(schedule: Schedule, size: int, by: int) -> Schedule:
    """The same rounds among ranks that are counted from rank `by` on."""

    def moved(messages: Sequence[Message]) -> list[Message]:
        return [Message((m.peer + by) % size, m.piece) for m in messages]

    return [Round(moved(step.sends), moved(step.receives), step.work) for step in schedule]


def on_a_power_of_two(
    rank: int, size: int, whole: Piece, rounds: Callable[[int, Callable[[int], int]], Schedule]
) -> Schedule:
    """The first ranks, as many as are too many, leave their data to their neighbours.

    rounds : the schedule of one of the places that are left, given the rank that is at each place
    """
    extra = size - (1 << (size.bit_length() - 1))

    def rank_at(place: int) -> int:
        return 2 * place + 1 if place < extra else place + extra

    if rank >= 2 * extra:
        return rounds(rank - extra, rank_at)
    if rank % 2 == 0:
        return [exchange([Message(rank + 1, whole)], []), exchange([], [Message(rank + 1, whole)])]
    copy = whole._replace(scratch=True)
    before = exchange([], [Message(rank - 1, copy)], [Fold(copy, whole)])
    return [before, *rounds(rank // 2, rank_at), exchange([Message(rank - 1, whole)], [])]
