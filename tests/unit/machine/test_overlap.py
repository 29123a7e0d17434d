"""Which views share memory, against a count of the bytes they take."""

import itertools

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided, sliding_window_view

from hpckit.machine.overlap import identical, overlap, overlaps_itself

X = np.arange(4 * 6 * 8).reshape(4, 6, 8)
PAIRS = np.zeros(9, [("a", "f8"), ("b", "f8")])
UNION = np.zeros(
    9, np.dtype({"names": ["a", "b"], "formats": ["f8", "f8"], "offsets": [0, 4], "itemsize": 16})
)
VIEWS = [
    X,
    X[1:],
    X[:-1],
    X[::-1],
    X[:, ::2],
    X[:, 1::2],
    X[..., :4],
    X[..., 4:],
    X.T,
    X[::2, 1::3, ::-5],
]
VIEWS += [X.view("i4"), X[0, 0], X[:0], X[2, 3, 4:5], np.diagonal(X[0])]
VIEWS += [record[name] for record in (PAIRS, UNION) for name in "ab"]


def places(array: np.ndarray) -> list[int]:
    """Addresses of all bytes, one by one."""
    first = array.__array_interface__["data"][0]
    starts = (
        first + sum(i * s for i, s in zip(at, array.strides, strict=True))
        for at in np.ndindex(array.shape)
    )
    return [start + byte for start in starts for byte in range(array.itemsize)]


@pytest.mark.parametrize("a", range(len(VIEWS)))
def test_two_views(a):
    for b in range(len(VIEWS)):
        common = set(places(VIEWS[a])) & set(places(VIEWS[b]))
        assert overlap(VIEWS[a], VIEWS[b]) == bool(common), b
        assert identical(VIEWS[a], VIEWS[b]) == (a == b)
    assert identical(VIEWS[a], VIEWS[a][...])


@pytest.mark.parametrize("shape", [*itertools.product((0, 1, 3), (1, 2, 4))])
@pytest.mark.parametrize("strides", [*itertools.product((-8, 0, 4, 8, 24, 32), repeat=2)])
def test_a_view_of_itself(shape, strides):
    memory = np.zeros(1000)
    view = as_strided(memory[500:], shape, strides)
    taken = places(view)
    assert overlaps_itself(view) or len(set(taken)) == len(taken)


def test_what_slices_make_never_overlaps_itself():
    assert not any(map(overlaps_itself, VIEWS))
    for made in (
        np.broadcast_to(1.0, (3,)),
        sliding_window_view(X, 2, 0),
        np.broadcast_to(X[0], X.shape),
    ):
        assert overlaps_itself(made)
