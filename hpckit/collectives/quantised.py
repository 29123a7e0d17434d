"""Allreduce by fewer bits for each number: fp16, bf16, or int8 with a scale for each block of 256 numbers.

What one compression of y loses, at most (halves of a unit in the last place; doubles are rounded to single first):

    fp16    |y| / 2047 + 2**-25, for |y| <= 65504; beyond that it becomes infinite
    bf16    |y| / 255 + 2**-133
    int8    m / 253 + the smallest normal number, where m is the largest magnitude in the block; a block with NaN or
            infinity becomes NaN

A call compresses twice: each rank its contribution y_r, and each slice of the sum s its owner. With b for the above,
the result is wrong by at most sum_r b(y_r) + b(s).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from mpi4py import MPI

from hpckit.collectives.channel import Channel
from hpckit.collectives.engine import Messages, Work
from hpckit.collectives.lossy import Lossy, kernel, slot
from hpckit.collectives.schedule import Message, Piece, exchange
from hpckit.comm.partition import starts

_BLOCK = 256  # numbers that share a scale
_CODE = {"fp16": 2, "bf16": 2, "int8": 1}  # bytes


def message_bytes(form: str, n: int, itemsize: int) -> int:
    """Bytes that n numbers take: scales, then codes."""
    return slot(_scale_bytes(form, n, itemsize) + n * _CODE[form])


class Quantised(Lossy):
    """A two-shot exchange: each rank adds up its own slice, in rank order, and sends it to all; compressed both times.

    source, target : (n,) float32 or float64
    form : "fp16", "bf16" or "int8"
    """

    def __init__(
        self,
        channel: Channel,
        source: np.ndarray,
        target: np.ndarray,
        op: MPI.Op,
        deadline: float | None = None,
        *,
        form: str,
    ) -> None:
        rank, size = channel.rank, channel.size
        cuts = starts(target.size, size)
        slices = [slice(*cuts[r : r + 2]) for r in range(size)]
        lengths = [message_bytes(form, part.stop - part.start, target.itemsize) for part in slices]
        slots, others = _pieces(lengths), [(rank + step) % size for step in range(1, size)]
        beside = _pieces([lengths[rank]] * (size - 1), slots[-1].stop)  # the others' versions of my slice
        arriving = dict(zip(sorted(others), beside, strict=True))
        buffer = np.zeros((beside or slots)[-1].stop, np.uint8)
        lost, lost_again = np.zeros_like(target), np.zeros_like(target[slices[rank]])

        def view(piece: Piece) -> np.ndarray:
            return buffer[piece.start : piece.stop]

        def messages(sends: list[Message], receives: list[Message]) -> Messages:
            return Messages(channel, buffer, buffer, op, [exchange(sends, receives)], deadline)

        own, mine = target[slices[rank]], view(slots[rank])
        versions = [mine if r == rank else view(arriving[r]) for r in range(size)]
        pack = [
            _bound("pack", form, lost[part], source[part], view(piece))
            for part, piece in zip(slices, slots, strict=True)
        ]
        add = [_bound("expand" if r == 0 else "add", form, own, versions[r]) for r in range(size)]
        again = _bound("pack", form, lost_again, own, mine)
        expand = [_bound("expand", form, target[part], view(piece)) for part, piece in zip(slices, slots, strict=True)]
        stages = [
            Work(_all(pack)),
            messages([Message(r, slots[r]) for r in others], [Message(r, arriving[r]) for r in others]),
            Work(_all([*add, again])),
            messages([Message(r, slots[rank]) for r in others], [Message(r, slots[r]) for r in others]),
            Work(_all(expand)),
        ]
        super().__init__(channel, lost, lost_again, stages)


def _scale_bytes(form: str, n: int, itemsize: int) -> int:
    return -(-n // _BLOCK) * itemsize if form == "int8" else 0


def _bound(verb: str, form: str, *arrays: np.ndarray) -> Callable[[], object]:
    """The kernel with its arrays of numbers, and last the message."""
    numbers, message = arrays[:-1], arrays[-1]
    scales = _scale_bytes(form, numbers[0].size, numbers[0].itemsize)
    parts = [message, message[scales:]] if form == "int8" else [message]
    return kernel(f"{verb}_{form}", *numbers, *parts, numbers[0].size)


def _pieces(lengths: list[int], start: int = 0) -> list[Piece]:
    """Pieces of these lengths, one after the other."""
    edges = np.cumsum([start, *lengths]).tolist()
    return [Piece(start, stop) for start, stop in pairwise(edges)]


def _all(steps: list[Callable[[], object]]) -> Callable[[], None]:
    def run() -> None:
        for step in steps:
            step()

    return run
