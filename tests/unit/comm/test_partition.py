import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpckit.comm import partition
from hpckit.errors import ConfigError

SHAPES = st.lists(st.integers(1, 40), min_size=1, max_size=4).map(tuple)
WIDTHS = st.tuples(st.integers(0, 3), st.integers(0, 3))


@given(n=st.integers(0, 10**12), size=st.integers(1, 300))
def test_blocks_tile_the_range_evenly(n, size):
    blocks = [partition.block(n, size, rank) for rank in range(size)]
    offsets = partition.starts(n, size)
    assert blocks == list(itertools.pairwise(offsets))
    assert (offsets[0], offsets[-1]) == (0, n)
    lengths = [stop - start for start, stop in blocks]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] - lengths[-1] <= 1


@given(weights=st.lists(st.integers(0, 9) | st.just(10**12), max_size=30), size=st.integers(1, 9))
def test_weighted_ranges_are_even(weights, size):
    offsets = partition.weighted_starts(np.array(weights, np.int64), size)
    assert len(offsets) == size + 1 and (offsets[0], offsets[-1]) == (0, len(weights))
    assert offsets == sorted(offsets)
    heaviest = max((sum(weights[a:b]) for a, b in itertools.pairwise(offsets)), default=0)
    assert heaviest * size <= sum(weights) + size * max(weights, default=0)


def test_weighted_ranges():
    assert partition.weighted_starts(np.array([1, 1, 1, 1, 4, 4]), 3) == [0, 4, 5, 6]
    assert partition.weighted_starts(np.array([0, 0, 5, 0]), 2) == [0, 3, 4]
    assert partition.weighted_starts(np.zeros(5, int), 2) == partition.starts(5, 2)
    assert partition.weighted_starts(np.array([7]), 3)[-1] == 1


@given(data=st.data(), shape=SHAPES)
def test_boxes_cover_each_cell_once(data, shape):
    processes = tuple(data.draw(st.integers(1, min(n, 3))) for n in shape)
    ranks = math.prod(processes)
    seen = np.zeros(shape, int) if math.prod(shape) < 10**5 else None
    cells = []
    for rank in range(ranks):
        start, stop = partition.box(shape, processes, rank)
        cells.append(math.prod(b - a for a, b in zip(start, stop, strict=True)))
        if seen is not None:
            seen[tuple(map(slice, start, stop))] += 1
    assert seen is None or (seen == 1).all()
    assert partition.owned_cells(shape, processes).tolist() == cells


@given(
    data=st.data(),
    shape=st.lists(st.integers(3, 12), min_size=1, max_size=3).map(tuple),
    corners=st.booleans(),
)
def test_halo_cells_are_the_ghosts_owned_by_others(data, shape, corners):
    """Count ghosts one by one: wrapped coordinates tell who owns each."""
    processes = tuple(data.draw(st.integers(1, n // 3)) for n in shape)
    periodic = tuple(data.draw(st.booleans()) for _ in shape)
    width = tuple(data.draw(WIDTHS) for _ in shape)
    found = []
    for rank in range(math.prod(processes)):
        start, stop = partition.box(shape, processes, rank)
        place = partition.coordinates(processes, rank)
        count = 0
        ranges = [range(a - lo, b + hi) for a, b, (lo, hi) in zip(start, stop, width, strict=True)]
        for cell in np.ndindex(*[len(r) for r in ranges]):
            at = [r[i] for r, i in zip(ranges, cell, strict=True)]
            side = [(x >= b) - (x < a) for x, a, b in zip(at, start, stop, strict=True)]
            inside = all(0 <= x < n or wrap for x, n, wrap in zip(at, shape, periodic, strict=True))
            owner = [(c + s) % p for c, s, p in zip(place, side, processes, strict=True)]
            count += inside and owner != list(place) and (corners or np.count_nonzero(side) == 1)
        found.append(count)
    assert partition.halo_cells(shape, processes, periodic, width, corners).tolist() == found


def test_local_cells_count_ghosts():
    assert partition.local_cells((5, 4), (2, 1), ((1, 2), (0, 1))).tolist() == [
        (3 + 3) * 5,
        (2 + 3) * 5,
    ]


@given(data=st.data(), shape=SHAPES, size=st.integers(1, 24))
def test_the_process_grid_is_the_best_that_fits(data, shape, size):
    periodic = tuple(data.draw(st.booleans()) for _ in shape)
    width = tuple(data.draw(WIDTHS) for _ in shape)

    def fit(p):
        dimensions = zip(shape, p, width, strict=True)
        return all(q == 1 or n // q >= max(1, *w) for n, q, w in dimensions)

    fits = None
    if (size + 1) ** len(shape) < 20000:
        grids = np.ndindex(*[size + 1] * len(shape))
        fits = [p for p in grids if math.prod(p) == size and fit(p)]
    try:
        chosen = partition.process_shape(shape, size, periodic, width)
    except ConfigError as error:
        assert not fits
        assert f"no process grid of {size} ranks fits shape {shape}" in str(error)  # noqa: PT017
        return
    assert math.prod(chosen) == size
    if fits is not None:
        assert chosen in fits
        busiest = partition.halo_cells(shape, chosen, periodic, width).max()
        longest = [partition.halo_cells(shape, p, periodic, width).max() for p in fits]
        assert busiest <= 1.01 * min(longest) + 2 * sum(map(sum, width)) * max(shape)


@pytest.mark.parametrize(
    ("shape", "size", "periodic", "best"),
    [
        ((64, 64, 64), 8, False, (2, 2, 2)),
        ((64, 64, 64), 4, False, (2, 2, 1)),  # equal halos: the unit-stride dimension stays whole
        ((1000, 10), 4, False, (4, 1)),
        ((10, 1000), 4, True, (1, 4)),
        ((64, 64), 1, True, (1, 1)),
        ((7,), 7, False, (7,)),
    ],
)
def test_process_grids_one_expects(shape, size, periodic, best):
    width = ((1, 1),) * len(shape)
    assert partition.process_shape(shape, size, (periodic,) * len(shape), width) == best


def test_a_halo_thicker_than_the_blocks_does_not_fit():
    with pytest.raises(
        ConfigError,
        match=r"4 ranks fits shape \(8,\): each block needs at least 3 cells .*use 2 ranks",
    ):
        partition.process_shape((8,), 4, (False,), ((3, 2),))


def test_thousands_of_ranks_are_planned_at_once():
    begin = time.process_time()
    shape, periodic, width = (2048, 2048, 2048), (True,) * 3, ((2, 2),) * 3
    processes = partition.process_shape(shape, 4096, periodic, width)
    cells = partition.halo_cells(shape, processes, periodic, width, corners=True)
    assert processes == (16, 16, 16)
    assert cells.shape == (4096,)
    assert (cells == 132**3 - 128**3).all()
    # ~20 ms on a quiet machine; what may not happen is minutes.
    assert time.process_time() - begin < 5
