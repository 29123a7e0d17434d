"""Allreduce by fewer bits: fp16, bf16, or int8 with a scale for each block of 256 numbers.

What one compression of y loses, at most (halves of a unit in the last place; doubles are rounded to
single first):

    fp16    |y| / 2047 + 2**-25, for |y| <= 65504; beyond that it becomes infinite
    bf16    |y| / 255 + 2**-133, for |y| <= 3.39e38, likewise
    int8    m / 253 + the smallest normal number, where m is the largest magnitude in the block; a
            block with NaN or infinity becomes NaN

A call compresses twice: each rank its contribution y_r, and each slice of the sum s its owner. With
b for the above, the result is wrong by at most sum_r b(y_r) + b(s).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from mpi4py import MPI

from hpckit.collectives.algorithms.twoshot import direct_allgather
from hpckit.collectives.messages import Messages
from hpckit.collectives.persistent import Operands, Work
from hpckit.collectives.schedule import Message, Piece, exchange, others
from hpckit.comm.partition import starts
from hpckit.errors import ConfigError
from hpckit.lossy.compression import Compressed, Compression, kernel, rounded_up

FORMS = {"fp16": 2, "bf16": 2, "int8": 1}  # bytes of a number
_BLOCK = 256  # numbers that share a scale


class Quantised(Compression):
    """Fewer bits for each number.

    form : "fp16", "bf16" or "int8" ::

        plan = Allreduce(comm, gradient, algorithm=Quantised("int8"))
    """

    def __init__(self, form: str) -> None:
        self.name = form
        self.form = form

    def check(self, array: np.ndarray, op: MPI.Op, chunks: int) -> None:
        if self.form not in FORMS:
            raise ConfigError(f"form {self.form!r} must be one of {', '.join(FORMS)}")
        super().check(array, op, chunks)

    def sent_bytes(self, array: np.ndarray, ranks: int) -> int:
        edges = starts(array.size, ranks)
        slices = [
            message_bytes(self.form, stop - start, array.itemsize)
            for start, stop in pairwise(edges)
        ]
        return sum(slices[1:]) + (ranks - 1) * slices[0]

    def bind(self, operands: Operands) -> Compressed:
        """Two shots: each rank adds up its slice, in rank order, for all; compressed both times."""
        form, channel, target = self.form, operands.channel, operands.target
        rank, size = channel.rank, channel.size
        slices = [slice(start, stop) for start, stop in pairwise(starts(target.size, size))]
        lengths = [message_bytes(form, part.stop - part.start, target.itemsize) for part in slices]
        edges = np.cumsum([0, *lengths]).tolist()
        slots = [Piece(start, stop) for start, stop in pairwise(edges)]
        end, length = edges[-1], lengths[rank]
        # All ranks' versions of my slice; my own is where it is packed.
        versions = [Piece(end + r * length, end + (r + 1) * length) for r in range(size)]
        versions[rank] = slots[rank]
        buffer = np.zeros(end + size * length, np.uint8)
        own = target[slices[rank]]
        lost, lost_again = np.zeros_like(target), np.zeros_like(own)

        def step(verb: str, piece: Piece, *numbers: np.ndarray) -> Callable[[], object]:
            return _step(f"{verb}_{form}", numbers, buffer[piece.start : piece.stop])

        parts = list(zip(slices, slots, strict=True))
        pack = [step("pack", slot, lost[part], operands.source[part]) for part, slot in parts]
        add = [step("add" if r else "expand", versions[r], own) for r in range(size)]
        pack_again = step("pack", slots[rank], lost_again, own)
        expand = [step("expand", slot, target[part]) for part, slot in parts]
        peers = others(rank, size)
        scatter = exchange(
            [Message(r, slots[r]) for r in peers], [Message(r, versions[r]) for r in peers]
        )
        gather = direct_allgather(rank, size, edges)
        bytes_of_it = replace(operands, source=buffer, target=buffer)
        stages = [
            Work(_all(pack)),
            Messages(bytes_of_it, [scatter]),
            Work(_all([*add, pack_again])),
            Messages(bytes_of_it, gather),
            Work(_all(expand)),
        ]
        return Compressed(channel, target, lost, stages, lost_again)


def message_bytes(form: str, n: int, itemsize: int) -> int:
    """Bytes that n numbers take: scales, then codes."""
    return rounded_up(_scale_bytes(form, n, itemsize) + n * FORMS[form])


def _scale_bytes(form: str, n: int, itemsize: int) -> int:
    return -(-n // _BLOCK) * itemsize if form == "int8" else 0


def _step(name: str, numbers: Sequence[np.ndarray], message: np.ndarray) -> Callable[[], object]:
    """The kernel with its arrays of numbers, the parts of its message, and how many numbers."""
    n, itemsize = numbers[0].size, numbers[0].itemsize
    parts = [message]
    if name.endswith("int8"):
        parts.append(message[_scale_bytes("int8", n, itemsize) :])
    return kernel(name, *numbers, *parts, n)


def _all(steps: Sequence[Callable[[], object]]) -> Callable[[], None]:
    def run() -> None:
        for step in steps:
            step()

    return run
