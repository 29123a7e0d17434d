"""The language of point-to-point algorithms: who sends which elements to whom, round after round.

An algorithm is a pure function of a rank, the number of ranks and the cuts of the data: it returns
that rank's rounds, and knows neither MPI nor arrays. `hpckit.collectives.engine` runs them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple


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
    return max(
        (m.piece.stop for step in schedule for m in step.receives if m.piece.scratch), default=0
    )


def exchange(
    sends: Iterable[Message], receives: Iterable[Message], work: Iterable[Fold | Copy] = ()
) -> Round:
    """A round without its empty pieces, which no rank sends and so no rank awaits."""
    sent, received = (tuple(m for m in messages if m.piece) for messages in (sends, receives))
    return Round(sent, received, tuple(task for task in work if task.into))


def in_rank_order(pieces: Sequence[Piece], into: Piece) -> list[Fold | Copy]:
    """`into = pieces[0] op pieces[1] op ...`, whatever rank does it: all get the same bits. `into`
    is one of them.
    """
    result = pieces[-1]
    work: list[Fold | Copy] = [Fold(piece, result) for piece in pieces[-2::-1]]
    return work if result == into else [*work, Copy(result, into)]


def rotated(schedule: Schedule, size: int, by: int) -> Schedule:
    """The same rounds among ranks that are counted from rank `by` on."""

    def moved(messages: Sequence[Message]) -> list[Message]:
        return [Message((m.peer + by) % size, m.piece) for m in messages]

    return [Round(moved(step.sends), moved(step.receives), step.work) for step in schedule]
