"""Packing against MPI's own Pack and NumPy's own indexing, byte for byte."""

from __future__ import annotations

import numpy as np
import pytest
from datatypes import Made, Objects, recipes
from hypothesis import given, settings
from hypothesis import strategies as st
from mpi4py import MPI

from hpckit import native
from hpckit.comm.pack import Move, Moves, Packer, dense_strides, pack, unpack
from hpckit.comm.strided import NotStrided, from_datatype, from_slice
from hpckit.errors import HpckitError


def noise(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 255, n, np.uint8)


@settings(max_examples=300)
@given(recipe=recipes(), count=st.integers(1, 3))
def test_any_datatype_as_mpi_packs_it(recipe, count):
    with Made(recipe) as datatype:
        if datatype.Get_size():
            check_against_mpi(datatype, count)


def check_against_mpi(datatype: MPI.Datatype, count: int) -> None:
    with Objects(datatype, count) as objects:
        objects.memory[:] = noise(objects.memory.size)
        whole = datatype.Create_contiguous(count)
        moved = whole.Create_hindexed(
            [1], [-objects.low]
        ).Commit()  # as seen from the first byte of the memory
        packer, packed = Packer(moved), np.zeros(objects.nbytes, np.uint8)
        packer.pack(objects.memory, out=packed)
        np.testing.assert_array_equal(packed, objects.pack())
        # Else the last writer is not defined.
        if len(np.unique(visited := objects.bytes_visited())) == visited.size:
            packer.unpack(noise(objects.nbytes + 1)[:-1], ours := np.zeros_like(objects.memory))
            objects.memory[:] = 0
            objects.unpack(noise(objects.nbytes + 1)[:-1])
            np.testing.assert_array_equal(ours, objects.memory)
        moved.Free()
        whole.Free()


@settings(max_examples=300)
@given(
    shape=st.lists(st.integers(1, 7), min_size=1, max_size=6),
    cut=st.lists(
        st.tuples(st.integers(0, 6), st.integers(1, 7), st.sampled_from([1, 2, -1, -2])),
        min_size=6,
        max_size=6,
    ),
    dtype=st.sampled_from(
        ["u1", "i2", "f4", "f8", "c16", "S3", "S5", "S24", "S40", "S100", "S200"]
    ),
)
def test_any_slice_as_numpy_copies_it(shape, cut, dtype):
    array = noise(int(np.prod(shape)) * np.dtype(dtype).itemsize).view(dtype).reshape(shape)
    index = tuple(
        slice(None, None, step) if step < 0 else slice(a, a + n, step)
        for a, n, step in cut[: len(shape)]
    )
    block = from_slice(array, index)
    packed = np.zeros(block.nbytes, np.uint8)
    pack(block, array, packed)
    assert packed.tobytes() == array[index].tobytes()
    target, expected = np.zeros_like(array), np.zeros_like(array)
    unpack(block, packed, target)
    expected[index] = array[index]
    assert target.tobytes() == expected.tobytes()


def test_several_objects_of_several_layouts():
    a, b = np.arange(600.0).reshape(20, 30), np.arange(600, dtype="i4").reshape(2, 10, 30)
    column = from_slice(a[:4], (slice(None), 2))
    plane = from_slice(b[0], (slice(1, 3), slice(4, 8)))
    packer, packed = Packer(column, plane, count=2), np.zeros(8 * 8 + 16 * 4, np.uint8)
    assert packer.nbytes == packed.size
    packer.pack(a, b, out=packed)
    assert packed.tobytes() == a[:8, 2].tobytes() + b[:, 1:3, 4:8].tobytes()
    x, y = np.zeros_like(a), np.zeros_like(b)
    packer.unpack(packed, x, y)
    assert (x[:8, 2] == a[:8, 2]).all()
    assert (y[:, 1:3, 4:8] == b[:, 1:3, 4:8]).all()
    assert np.count_nonzero(x) + np.count_nonzero(y) <= 8 + 16


def test_opposite_faces_are_moved_in_one_sweep():
    field = np.random.default_rng(0).random((12, 14, 16))
    low = from_slice(field, np.s_[1:-1, 1:-1, 1:2])
    high = from_slice(field, np.s_[1:-1, 1:-1, -2:-1])
    packer, packed = Packer(low, high), np.zeros(2 * 120)
    packer.pack(field, field, out=packed)
    assert len(packer._known["pack"][2]) == 1
    np.testing.assert_array_equal(packed[:120], field[1:-1, 1:-1, 1].ravel())
    np.testing.assert_array_equal(packed[120:], field[1:-1, 1:-1, -2].ravel())


def test_more_loops_than_the_kernel_has():
    source, target = np.arange(2.0**7).reshape((2,) * 7), np.zeros((2,) * 7)
    strides = tuple(reversed(source.strides))
    move = Move(
        source.shape, 8, native.address(source), source.strides, native.address(target), strides
    )
    Moves([move]).run()
    np.testing.assert_array_equal(target, source.transpose())


def test_dense_strides_are_numpys():
    assert dense_strides((3, 4, 5), 8) == np.zeros((3, 4, 5)).strides
    assert dense_strides((), 8) == ()


def test_a_type_without_a_strided_form_takes_mpis_way():
    datatype = MPI.DOUBLE.Create_indexed([1, 2, 1], [0, 3, 9]).Commit()
    with pytest.raises(NotStrided):
        from_datatype(datatype)
    array, packed = np.arange(30.0), np.zeros(8)
    pack(datatype, array, packed, count=2)
    np.testing.assert_array_equal(packed, [0, 3, 4, 9, 10, 13, 14, 19])
    unpack(datatype, packed, target := np.zeros(30), count=2)
    assert np.flatnonzero(target).tolist() == [3, 4, 9, 10, 13, 14, 19]
    datatype.Free()


def test_bad_buffers_are_refused():
    array = np.zeros((8, 8))
    block = from_slice(array, np.s_[:, 0])
    with pytest.raises(HpckitError, match="needs 64 contiguous bytes, got 56"):
        pack(block, array, np.zeros(7))
    with pytest.raises(HpckitError, match="contiguous"):
        pack(block, array, np.zeros(16)[::2])
    with pytest.raises(HpckitError, match="reaches bytes 0 to 456 of an array of 256"):
        pack(block, array[:4], np.zeros(8))
    array.flags.writeable = False
    with pytest.raises(HpckitError, match="read-only"):
        unpack(block, np.zeros(8), array)
    with pytest.raises(HpckitError, match="one array for each of the 1 layouts, got 2"):
        Packer(block).pack(array, array, out=np.zeros(8))
