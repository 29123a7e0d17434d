"""The only place that divides work: blocks of a range, process grids of a box; pure arithmetic, no
MPI.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from hpckit.errors import ConfigError

Width = tuple[tuple[int, int], ...]


def block(n: int, size: int, rank: int) -> tuple[int, int]:
    """Start and stop of `rank`'s part of `range(n)`: the first `n % size` have one item more."""
    items, rest = divmod(n, size)
    start = rank * items + min(rank, rest)
    return start, start + items + (rank < rest)


def starts(n: int, size: int) -> list[int]:
    """The `size + 1` offsets of all blocks: rank r owns `offsets[r]:offsets[r + 1]`."""
    return [block(n, size, rank)[0] for rank in range(size)] + [n]


def weighted_starts(weights: np.ndarray, size: int) -> list[int]:
    """The `size + 1` offsets of ranges whose items weigh about as much: `starts` for unequal items.

    weights : (n,) integers >= 0. Each offset is where the sum of the weights before it is nearest
    to its share of the total, so no range weighs more than a share and the heaviest item.
    """
    sums = np.concatenate([[0], np.cumsum(weights, dtype=np.int64)])
    if sums[-1] == 0:
        return starts(len(weights), size)
    offsets = [0]
    for rank in range(1, size):
        share, rest = divmod(rank * int(sums[-1]), size)
        after = int(np.searchsorted(sums, share + (rest > 0)))
        before = max(after - 1, 0)
        nearer = (share - sums[before]) * size + rest < (sums[after] - share) * size - rest
        offsets.append(max(offsets[-1], before if nearer else after))
    return [*offsets, len(weights)]


def coordinates(process_shape: Sequence[int], rank: int) -> tuple[int, ...]:
    """Place of `rank` in the process grid: row-major, as MPI's Cartesian communicators count."""
    return tuple(int(c) for c in np.unravel_index(rank, tuple(process_shape)))


def box(
    shape: Sequence[int], process_shape: Sequence[int], rank: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Start and stop, in global cells, of the box that `rank` owns."""
    place = coordinates(process_shape, rank)
    start, stop = zip(
        *(block(n, p, c) for n, p, c in zip(shape, process_shape, place, strict=True)), strict=True
    )
    return start, stop


def owned_cells(shape: Sequence[int], process_shape: Sequence[int]) -> np.ndarray:
    """Cells that each rank owns: (ranks,) int64."""
    return _product(_lengths(shape, process_shape))


def local_cells(shape: Sequence[int], process_shape: Sequence[int], width: Width) -> np.ndarray:
    """Cells of each rank's array, ghosts included: (ranks,) int64."""
    return _product(
        [n + lo + hi for n, (lo, hi) in zip(_lengths(shape, process_shape), width, strict=True)]
    )


def halo_cells(
    shape: Sequence[int],
    process_shape: Sequence[int],
    periodic: Sequence[bool],
    width: Width,
    corners: bool = False,
) -> np.ndarray:
    """Ghost cells from *other* ranks in one exchange of one field, by rank: (ranks,) int64.

    Faces only, or edges and corners too.
    """
    lengths = _lengths(shape, process_shape)
    ghosts = [
        _ghosts(p, wrap, w) for p, wrap, w in zip(process_shape, periodic, width, strict=True)
    ]
    if not corners:
        faces = (
            [*lengths[:d], ghosts[d], *lengths[d + 1 :]]
            for d in range(len(shape))
            if process_shape[d] > 1
        )
        return sum((_product(face) for face in faces), np.zeros(math.prod(process_shape), np.int64))
    own = [
        0 * g if p > 1 else g for p, g in zip(process_shape, ghosts, strict=True)
    ]  # periodic copies within a rank
    everything = _product([n + g for n, g in zip(lengths, ghosts, strict=True)])
    return everything - _product([n + g for n, g in zip(lengths, own, strict=True)])


def process_shape(
    shape: Sequence[int], size: int, periodic: Sequence[bool], width: Width
) -> tuple[int, ...]:
    """The process grid whose busiest rank receives the fewest halo cells; the last is cut least.

    Raises `ConfigError` where none leaves every rank a cell and every cut dimension blocks as thick
    as its ghosts.
    """
    limits = [n if max(w) == 0 else max(1, n // max(w)) for n, w in zip(shape, width, strict=True)]
    fitting = list(_factorisations(size, limits))
    if not fitting:
        thickest = max(max(w) for w in width)
        fewer = next(
            s for s in range(min(size, math.prod(limits)), 0, -1) if any(_factorisations(s, limits))
        )
        raise ConfigError(
            f"no process grid of {size} ranks fits shape {tuple(shape)}: each block needs at least"
            f" {max(1, thickest)} cell{'s' if thickest > 1 else ''} per dimension (the ghost "
            "width);"
            f" use {fewer} ranks or a larger grid"
        )
    return min(fitting, key=lambda p: (_busiest(shape, p, periodic, width), p[::-1]))


def _factorisations(size: int, limits: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """All ways to write `size` as a product of `len(limits)` factors, each within its limit."""
    if len(limits) == 1:
        if size <= limits[0]:
            yield (size,)
        return
    for first in range(1, min(size, limits[0]) + 1):
        if size % first == 0:
            yield from ((first, *rest) for rest in _factorisations(size // first, limits[1:]))


def _busiest(
    shape: Sequence[int], processes: tuple[int, ...], periodic: Sequence[bool], width: Width
) -> int:
    """Halo cells of the busiest rank, in O(1): longest block times most ghosts, per dimension."""
    lengths = [-(-n // p) for n, p in zip(shape, processes, strict=True)]
    total = 0
    for d, p in enumerate(processes):
        sides = sum(width[d]) if p > 2 or periodic[d] else max(width[d])
        total += sides * math.prod(lengths[:d] + lengths[d + 1 :]) if p > 1 else 0
    return total


def _lengths(shape: Sequence[int], processes: Sequence[int]) -> list[np.ndarray]:
    return [np.diff(starts(n, p)) for n, p in zip(shape, processes, strict=True)]


def _ghosts(size: int, wrap: bool, width: tuple[int, int]) -> np.ndarray:
    """Ghost cells of each block along one dimension that have a neighbour."""
    ghosts = np.full(size, sum(width))
    if not wrap:
        ghosts[0] -= width[0]
        ghosts[-1] -= width[1]
    return ghosts


def _product(lengths: Sequence[np.ndarray]) -> np.ndarray:
    """Outer product over the dimensions, one entry per rank in row-major order."""
    result = np.ones(1, np.int64)
    for each in lengths:
        result = np.multiply.outer(result, each).ravel()
    return result
