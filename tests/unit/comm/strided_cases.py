"""Random MPI datatypes with a strided form, and what MPI makes of objects of them."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
from datatypes import NAMED, Made, Objects, Recipe
from mpi4py import MPI

from hpckit import native
from hpckit.comm.pack import Move, dense_strides
from hpckit.comm.strided import NotStrided, from_datatype

MOST = 1 << 14  # bytes of a type


class Case:
    """`count` objects of a type with a strided form, and what MPI makes of them.

    before, after : uint8, their memory, and the same after MPI unpacked `noise` to it
    packed : uint8, what MPI packs of `before`
    """

    def __init__(self, recipe: Recipe, count: int) -> None:
        with Made(recipe) as datatype:
            if not 0 < datatype.Get_size() <= MOST or datatype.Get_true_extent()[1] > 8 * MOST:
                raise NotStrided("nothing, or more than a test needs")
            self.block = from_datatype(datatype).repeat(count)
            with Objects(datatype, count) as objects:
                self.low = objects.low
                self.before = noise(objects.memory.size)
                self.noise = noise(objects.nbytes)[::-1].copy()
                objects.memory[:] = self.before
                self.packed = objects.pack()
                objects.unpack(self.noise)
                self.after = objects.memory.copy()
                # Else some bytes were written twice, and who comes last is not defined.
                self.is_defined = np.array_equal(objects.pack(), self.noise)

    def pack(self, packed: np.ndarray) -> Move:
        ends = *self._place(self.before), *self._dense(packed)
        return Move(self.block.counts, self.block.row, *ends)

    def unpack(self, memory: np.ndarray) -> Move:
        ends = *self._dense(self.noise), *self._place(memory)
        return Move(self.block.counts, self.block.row, *ends)

    def _place(self, memory: np.ndarray) -> tuple[int, tuple[int, ...]]:
        return native.address(memory) - self.low + self.block.start, self.block.strides

    def _dense(self, packed: np.ndarray) -> tuple[int, tuple[int, ...]]:
        return native.address(packed), dense_strides(self.block.counts, self.block.row)


def noise(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 255, n, np.uint8)


def strided_cases(seed: int) -> Iterator[Case]:
    """Random ones for ever, of types nested up to five deep."""
    draw = random.Random(seed)
    while True:
        with contextlib.suppress(NotStrided):
            yield Case(random_recipe(draw, draw.randint(1, 5)), draw.choice([1, 1, 2]))


def random_recipe(draw: random.Random, depth: int) -> Recipe:
    """As `datatypes.recipes`, which says what MPI cannot do; drawn in a tenth of its time."""
    child = random_recipe(draw, depth - 1) if depth > 1 else draw.choice(NAMED)
    few = draw.randint(1, 4)
    match draw.choice(["contiguous", "vector", "hvector", "indexed_block", "subarray", "resized"]):
        case "contiguous" as how:
            return how, [child], (few,)
        case "vector" as how:
            return how, [child], (few, draw.randint(1, 3), draw.randint(-6, 6))
        case "hvector" as how:
            stride = draw.choice([-64, -24, -16, -8, -3, 4, 6, 8, 9, 16, 24, 32, 40, 72])
            return how, [child], (few, draw.randint(1, 3), stride)
        case "indexed_block" as how:
            first, step = draw.randint(-4, 4), draw.randint(-6, 6)
            return how, [child], (draw.randint(1, 3), [first + step * i for i in range(few)])
        case "subarray" as how:
            before, cells, after = zip(
                *((draw.randint(0, 2), draw.randint(1, 3), draw.randint(0, 2)) for _ in range(few)),
                strict=True,
            )
            sizes = [sum(dim) for dim in zip(before, cells, after, strict=True)]
            return how, [child], (sizes, cells, before, draw.choice([MPI.ORDER_C, MPI.ORDER_F]))
        case how:
            return how, [child], (draw.randint(-16, 16), 2 * draw.randint(0, 24))
