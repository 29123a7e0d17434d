"""Allreduce by fewer bits for each number: fp16, bf16, or int8 with a scale for each block of 256
numbers.

What one compression of y loses, at most (halves of a unit in the last place; doubles are rounded to
single first):

    fp16    |y| / 2047 + 2**-25, for |y| <= 65504; beyond that it becomes infinite
    bf16    |y| / 255 + 2**-133, for |y| <= 3.39e38, likewise
    int8    m / 253 + the smallest normal number, where m is the largest magnitude in the block; a block with NaN or
            infinity becomes NaN

A call compresses twice: each rank its contribution y_r, and each slice of the sum s its owner. With
b for the above, the result is wrong by at most sum_r b(y_r) + b(s).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from mpi4py import MPI

from hpckit.collectives.algorithms import direct_allgather
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
    """A two-shot exchange: each rank adds up its own slice, in rank order, and sends it to all;
    compressed both times.

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
        slices = [slice(start, stop) for start, stop in pairwise(starts(target.size, size))]
        lengths = [message_bytes(form, part.stop - part.start, target.itemsize) for part in slices]
        edges = np.cumsum([0, *lengths]).tolist()
        slots = [Piece(start, stop) for start, stop in pairwise(edges)]
        end, length = edges[-1], lengths[rank]
        versions = [
            Piece(end + r * length, end + (r + 1) * length) for r in range(size)
        ]  # of my slice
        versions[rank] = slots[rank]  # where it is packed
        buffer = np.zeros(end + size * length, np.uint8)
        own = target[slices[rank]]
        lost, lost_again = np.zeros_like(target), np.zeros_like(own)

        def bound(verb: str, piece: Piece, *numbers: np.ndarray) -> Callable[[], object]:
            return _bound(f"{verb}_{form}", numbers, buffer[piece.start : piece.stop])

        pack = [
            bound("pack", piece, lost[part], source[part])
            for part, piece in zip(slices, slots, strict=True)
        ]
        add = [bound("add" if r else "expand", versions[r], own) for r in range(size)]
        again = bound("pack", slots[rank], lost_again, own)
        expand = [
            bound("expand", piece, target[part]) for part, piece in zip(slices, slots, strict=True)
        ]
        others = [(rank + step) % size for step in range(1, size)]
        scatter = exchange(
            [Message(r, slots[r]) for r in others], [Message(r, versions[r]) for r in others]
        )
        gather = direct_allgather(rank, size, edges)
        stages = [
            Work(_all(pack)),
            Messages(channel, buffer, buffer, op, [scatter], deadline),
            Work(_all([*add, again])),
            Messages(channel, buffer, buffer, op, gather, deadline),
            Work(_all(expand)),
        ]
        super().__init__(channel, target, lost, stages, lost_again)


def _scale_bytes(form: str, n: int, itemsize: int) -> int:
    return -(-n // _BLOCK) * itemsize if form == "int8" else 0


def _bound(name: str, numbers: Sequence[np.ndarray], message: np.ndarray) -> Callable[[], object]:
    """The kernel with its arrays of numbers, its message, in parts, and how many numbers there
    are.
    """
    n, itemsize = numbers[0].size, numbers[0].itemsize
    parts = (
        [message, message[_scale_bytes("int8", n, itemsize) :]]
        if name.endswith("int8")
        else [message]
    )
    return kernel(name, *numbers, *parts, n)


def _all(steps: Sequence[Callable[[], object]]) -> Callable[[], None]:
    def run() -> None:
        for step in steps:
            step()

    return run
