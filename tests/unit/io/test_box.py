"""Recognising staggered fields, and regrouping boxes into slabs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpckit.errors import ConfigError, HpckitError
from hpckit.io.box import Slabs, field_box, staggering_of


@settings(max_examples=30)
@given(data=st.data())
def test_slabs_hold_the_rows_of_the_global_array(comm, data):
    from hpckit.comm.grid import Grid

    ndim = data.draw(st.integers(1, 4))
    shape = [data.draw(st.integers(4, 9)) for _ in range(ndim)]
    stagger = data.draw(st.tuples(*[st.integers(0, 1)] * ndim))
    grid = Grid(comm, shape, periodic=data.draw(st.booleans()), width=data.draw(st.integers(0, 1)))
    dtype = np.dtype(
        data.draw(st.sampled_from(["f8", "u1", ">i4", [("a", "u1"), ("b", "f4", (2,))]]))
    )
    extra = tuple(n - m for n, m in zip(grid.global_shape(stagger), grid.shape, strict=True))
    whole = np.arange(np.prod(grid.global_shape(stagger))).astype((dtype.fields and "u1") or dtype)
    whole = whole.reshape(grid.global_shape(stagger))
    if dtype.fields:
        records = np.zeros(whole.shape, dtype)
        records["a"] = whole
        whole = records
    box = whole[tuple(slice(a, b) for a, b in zip(*field_box(grid, grid.rank, extra), strict=True))]
    slabs = Slabs(grid, extra, dtype)
    slab = slabs.regroup(np.ascontiguousarray(box), np.empty((2, slabs.nbytes + 5), np.uint8))
    assert np.array_equal(slab, whole[slice(*slabs.rows)])
    rows = [row for each in comm.allgather(slabs.rows) for row in range(*each)]
    assert rows == list(range(whole.shape[0]))


@pytest.mark.parametrize("stagger", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_staggering_is_recognised(comm, stagger):
    from hpckit.comm.grid import Grid

    grid = Grid(comm, (8, 9), width=((1, 2), 0))
    assert staggering_of(grid, {"v": grid.empty(stagger=stagger)}) == {"v": stagger}
    wrapped = Grid(comm, (8, 9), periodic=(True, False))
    assert staggering_of(wrapped, {"v": wrapped.empty(stagger=stagger)}) == {"v": (0, stagger[1])}


def test_foreign_arrays_are_refused_on_all_ranks(comm):
    from hpckit.comm.grid import Grid

    grid = Grid(comm, (8, 9))
    last = comm.rank == comm.size - 1
    shape = tuple(n + 2 * last for n in grid.local_shape)
    with pytest.raises(ConfigError, match=r"'u' has local shape \(.*\), but on this rank"):
        staggering_of(grid, {"u": np.zeros(shape)})
    with pytest.raises(ConfigError, match="NumPy array of numbers or records, not list"):
        staggering_of(grid, {"u": [1.0]})
    with (
        pytest.raises(HpckitError, match="names of the fields")
        if comm.size > 1
        else pytest.raises(ConfigError)
    ):
        staggering_of(grid, {f"u{comm.rank}": np.zeros(3)})
