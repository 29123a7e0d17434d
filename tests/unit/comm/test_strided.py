"""A datatype's canonical block visits the bytes MPI packs, in order; equal layouts, equal blocks.

No rank speaks to another here, so these tests are not marked `mpi`: they run once.
"""

import numpy as np
import pytest
from datatypes import Made, Objects, loops_of, recipes
from hypothesis import given, settings
from hypothesis import strategies as st
from mpi4py import MPI

from hpckit.comm.strided import NotStrided, StridedBlock, from_array, from_datatype, from_slice

DOUBLE = MPI.DOUBLE
C, F = MPI.ORDER_C, MPI.ORDER_F
NOTHING = StridedBlock(0, (), (), 0, 0)


def of(child, how, *arguments):
    return how, child if isinstance(child, list) else [child], arguments


def block_of(recipe):
    with Made(recipe) as datatype:
        return from_datatype(datatype)


def check(recipe, count):
    """Compare one type's block with the bytes that MPI's Pack reads and its Unpack writes."""
    with Made(recipe) as datatype:
        if datatype.Get_size():
            compare(datatype, count)
        else:
            assert from_datatype(datatype) == NOTHING


def compare(datatype, count):
    with Objects(datatype, 1) as one, Objects(datatype, count) as several:
        expected = loops_of(one.bytes_visited())
        try:
            block = from_datatype(datatype)
        except NotStrided:
            assert expected is None, "a regular type has a strided form"
            return
        assert (block.start, block.counts, block.strides, block.row) == expected
        assert block.nbytes == datatype.Get_size()
        assert block.extent == datatype.Get_extent()[1]

        objects = block.repeat(count)
        visited = np.add.outer(objects.offsets(), np.arange(objects.row)).ravel()
        np.testing.assert_array_equal(visited, several.bytes_visited())
        if np.unique(visited).size == visited.size:  # MPI forbids to receive into overlapping bytes
            memory, packed = several.memory.copy(), np.arange(visited.size).astype(np.uint8)
            memory[visited - several.low] = packed
            several.unpack(packed)
            np.testing.assert_array_equal(several.memory, memory)

        again = block.to_datatype()
        assert from_datatype(again) == block
        assert from_datatype(again).extent == block.extent
        again.Free()


@settings(max_examples=250)
@given(recipes(), st.integers(1, 3))
def test_random_types_visit_the_bytes_that_mpi_packs(recipe, count):
    check(recipe, count)


# What TEMPI 9e623f0 packs wrongly or not at all: type, number of objects.
ELSEWHERE_WRONG = {
    "z face, width 1": (of(DOUBLE, "subarray", [18, 18, 18], [1, 16, 16], [16, 1, 1], C), 1),
    "y face, width 1": (of(DOUBLE, "subarray", [18, 18, 18], [16, 1, 16], [1, 1, 1], C), 1),
    "y face, width 1, Fortran": (
        of(DOUBLE, "subarray", [18, 18, 18], [16, 1, 16], [1, 1, 1], F),
        1,
    ),
    "corner": (of(DOUBLE, "subarray", [18, 18, 18], [1, 1, 1], [16, 1, 16], C), 1),
    "1-D part, 2 objects": (of(DOUBLE, "subarray", [100], [1], [7], C), 2),
    "2-D full rows, 2 objects": (of(DOUBLE, "subarray", [10, 10], [3, 10], [2, 0], C), 2),
    "transpose": (of(of(DOUBLE, "vector", 8, 1, 8), "hvector", 8, 1, 8), 1),
    "backwards": (of(of(DOUBLE, "hvector", 5, 1, -24), "hvector", 3, 1, 200), 2),
    "4-D box": (of(DOUBLE, "subarray", [5, 5, 5, 5], [3, 2, 3, 2], [1, 2, 0, 3], C), 2),
    "dup under vector": (of(of(DOUBLE, "dup"), "vector", 3, 1, 4), 2),
}


@pytest.mark.parametrize(("recipe", "count"), ELSEWHERE_WRONG.values(), ids=ELSEWHERE_WRONG.keys())
def test_types_that_others_pack_wrongly(recipe, count):
    assert block_of(recipe).nbytes
    check(recipe, count)


PADDED = of(DOUBLE, "resized", 0, 16)
CYCLIC, DEFAULT = MPI.DISTRIBUTE_CYCLIC, MPI.DISTRIBUTE_DFLT_DARG


@pytest.mark.parametrize(
    "recipe",
    [
        of(PADDED, "vector", 3, 2, 4),
        of(PADDED, "hvector", 3, 2, 100),
        of(PADDED, "indexed_block", 2, [0, 3, 6]),
        of(PADDED, "subarray", [4, 5], [2, 3], [1, 1], F),
        of(of([PADDED], "struct", [3], [8]), "contiguous", 2),
        of(
            MPI.INT16_T, "darray", 2, 0, [3, 3], [CYCLIC, CYCLIC], [DEFAULT, 2], [2, 1], F
        ),  # rows touch where it turns
        of(DOUBLE, "darray", 6, 4, [8, 9], [CYCLIC, MPI.DISTRIBUTE_BLOCK], [2, DEFAULT], [2, 3], C),
    ],
)
def test_gaps_between_the_cells(recipe):
    assert block_of(recipe).counts
    check(recipe, 2)


def test_equal_layouts_are_equal_blocks():
    cells = np.zeros((6, 7, 8))
    face = StridedBlock(start=784, counts=(4,), strides=(448,), row=24, extent=0)  # [1:5, 5, 2:5]
    starts = [98, 154, 210, 266]
    bytes_ = [8 * start for start in starts]
    three = of(DOUBLE, "contiguous", 3)
    for recipe in (
        of(DOUBLE, "subarray", [6, 7, 8], [4, 1, 3], [1, 5, 2], C),
        of(DOUBLE, "subarray", [8, 7, 6], [3, 1, 4], [2, 5, 1], F),
        of(MPI.BYTE, "subarray", [6, 7, 64], [4, 1, 24], [1, 5, 16], C),
        of(of(three, "hvector", 4, 1, 448), "hindexed", [1], [784]),
        of(of(of(DOUBLE, "vector", 4, 3, 56), "dup"), "hindexed", [1], [784]),
        of(DOUBLE, "indexed", [3] * 4, starts),
        of(DOUBLE, "indexed", [1, 2, 2, 1, 3, 3], [98, 99, 154, 156, 210, 266]),
        of(DOUBLE, "indexed_block", 3, starts),
        of(of(three, "resized", 0, 1000), "hindexed_block", 1, bytes_),
        of(
            [three, DOUBLE, MPI.INT64_T, three, three],
            "struct",
            [1, 1, 2, 1, 1],
            [784, 1232, 1240, *bytes_[2:]],
        ),
    ):
        assert block_of(recipe) == face
        assert hash(block_of(recipe)) == hash(face)
    assert from_slice(cells, np.s_[1:5, 5, 2:5]) == face
    assert from_slice(cells, np.s_[1:5, 5, 2:5]).extent == cells.nbytes


def test_the_order_is_part_of_the_layout():
    rows = of(of(DOUBLE, "contiguous", 4), "hvector", 4, 1, 32)
    columns = of(of(DOUBLE, "vector", 4, 1, 4), "hvector", 4, 1, 8)
    assert block_of(rows) == StridedBlock(0, (), (), 128, 128)
    assert block_of(columns) == StridedBlock(0, (4, 4), (8, 32), 8, 128)


def test_extents_place_the_next_object():
    one = block_of(of(of(DOUBLE, "contiguous", 2), "resized", -8, 40))
    assert one == StridedBlock(0, (), (), 16, 16)
    assert one.repeat(3) == StridedBlock(0, (3,), (40,), 16, 120)
    assert (one.repeat(3).extent, one.repeat(0).nbytes) == (120, 0)
    backwards = block_of(of(DOUBLE, "resized", 0, -8))
    assert backwards.repeat(3) == StridedBlock(0, (3,), (-8,), 8, 0)
    assert (
        backwards.repeat(3).extent
        == block_of(of(of(DOUBLE, "resized", 0, -8), "contiguous", 3)).extent
        == 8
    )


def test_named_types():
    for name in (
        "BYTE",
        "CHAR",
        "INT",
        "INT64_T",
        "FLOAT",
        "DOUBLE",
        "C_DOUBLE_COMPLEX",
        "C_BOOL",
        "FLOAT_INT",
    ):
        datatype = getattr(MPI, name)
        assert from_datatype(datatype) == StridedBlock(0, (), (), datatype.Get_size(), 0)
    assert from_datatype(MPI.DOUBLE_INT) == StridedBlock(0, (), (), 12, 16)
    assert from_datatype(MPI.DOUBLE_INT).repeat(2) == StridedBlock(0, (2,), (16,), 12, 32)
    assert from_datatype(MPI.Datatype.Create_f90_real(15, 300)).row == 8
    with pytest.raises(
        NotStrided, match=r"contiguous: .*SHORT_INT has 2 B of padding inside; MPI.Datatype.Pack"
    ):
        block_of(of(MPI.SHORT_INT, "contiguous", 2))


@pytest.mark.parametrize(
    ("recipe", "why"),
    [
        (
            of(DOUBLE, "indexed_block", 1, [0, 2, 4, 7]),
            "indexed_block: blocks 0 to 2 repeat every 16 B, block 3 of 4",
        ),
        (
            of(DOUBLE, "indexed_block", 1, [0, 1, 4, 5, 8]),
            "blocks 0 to 1 repeat every 8 B, block 4 of 5",
        ),
        (
            of(DOUBLE, "indexed", [2, 1], [0, 4]),
            "the contiguous run at byte 32 is 8 B long, those before it 16 B",
        ),
        (
            of(of([DOUBLE, MPI.INT], "struct", [1, 1], [0, 12]), "vector", 3, 1, 2),
            "vector: struct: the contiguous run",
        ),
        (
            of([of(MPI.BYTE, "vector", 1 << 20, 1, 2), DOUBLE], "struct", [1, 1], [0, -8]),
            "1048577 rows .* too many",
        ),
    ],
)
def test_irregular_types_say_why(recipe, why):
    with pytest.raises(NotStrided, match=why):
        block_of(recipe)


def test_empty_types_are_one_block():
    irregular = of(DOUBLE, "indexed_block", 1, [0, 2, 7])
    for recipe in (
        of(DOUBLE, "contiguous", 0),
        of(DOUBLE, "vector", 3, 0, 5),
        of(irregular, "contiguous", 0),
        of([], "struct", [], []),
        of(DOUBLE, "hindexed", [0, 0], [8, 64]),
    ):
        assert block_of(recipe) == NOTHING
    assert from_array(np.zeros((3, 0))) == NOTHING
    assert NOTHING.offsets().shape == (1,)
    assert block_of(of([irregular, DOUBLE], "struct", [0, 1], [0, 24])) == StridedBlock(
        24, (), (), 8, 0
    )


def test_64_bit():
    large = 1 << 33
    assert block_of(of(MPI.BYTE, "contiguous", large)).row == large
    flat = block_of(of(of(DOUBLE, "vector", 1 << 30, 1, 2), "hvector", 8, 1, 1 << 34))
    assert flat == StridedBlock(0, (large,), (16,), 8, 0)
    far = block_of(of(of(DOUBLE, "hvector", 3, 1, 1 << 36), "hindexed", [1], [-(1 << 50)]))
    assert far == StridedBlock(-(1 << 50), (3,), (1 << 36,), 8, 0)
    again = StridedBlock(5, (1 << 20, 3), (1 << 34, -9), 7, 1 << 60).to_datatype()
    assert from_datatype(again) == StridedBlock(5, (1 << 20, 3), (1 << 34, -9), 7, 0)
    again.Free()


SLICES = [np.s_[...], np.s_[1], np.s_[:, 2], np.s_[..., 0], np.s_[::-1, 1:-1]]
SLICES += [np.s_[:, ::2, ::-3], np.s_[3, 4, 5], np.s_[-1, ..., ::-1], np.s_[2:2]]
SLICES += [np.s_[1:2, None, 3:4]]


@pytest.mark.parametrize("index", SLICES, ids=str)
@pytest.mark.parametrize("dtype", ["u1", "f4", "f8", "c16", [("a", "i2"), ("b", "f8")]], ids=str)
def test_slices_of_arrays(index, dtype):
    whole = np.zeros((4, 5, 6), dtype)
    whole.reshape(-1).view(np.uint8)[:] = np.random.default_rng(0).integers(0, 256, whole.nbytes)
    for array in (whole, np.asfortranarray(whole), whole[::-1, :, ::2], whole.T[::2]):
        index_ = index if array.shape == whole.shape else ...
        block = from_slice(array, index_)
        places = array.ctypes.data + np.add.outer(block.offsets(), np.arange(block.row)).ravel()
        low, high = np.lib.array_utils.byte_bounds(array)
        memory = np.frombuffer(MPI.buffer.fromaddress(low, high - low), np.uint8)
        np.testing.assert_array_equal(
            memory[places - low], np.frombuffer(array[index_].tobytes(), np.uint8)
        )


def test_slices_that_copy_have_no_block():
    array = np.zeros((4, 5))
    for index in ([0, 2], array > -1, np.s_[:, [1]]):
        with pytest.raises(NotStrided, match="is not made of integers, slices"):
            from_slice(array, index)
    with pytest.raises(NotStrided, match="object"):
        from_array(np.array([None]))


def test_a_field_of_a_record_is_strided():
    records = np.zeros(10, [("id", "i4"), ("x", "f8", 3)])
    assert from_array(records["x"]) == StridedBlock(0, (10,), (28,), 24, 0)


def test_blocks_read_well():
    cells = np.zeros((66, 66, 66))
    assert (
        str(from_slice(cells, np.s_[1:65, 1, 1:65]))
        == "64 rows of 512 B, every 34848 B, from byte 35384 (32.0 KiB)"
    )
    assert str(from_slice(cells, np.s_[1:65, 1:65, 64])) == (
        "64 x 64 rows of 8 B, every 34848 x 528 B, from byte 35888 (32.0 KiB)"
    )
    assert str(from_array(cells)) == "one row of 2299968 B, from byte 0 (2.2 MiB)"
    assert str(from_array(cells[:0])) == "nothing (0 B)"
    assert str(from_array(np.zeros(3)[::-1])) == "3 rows of 8 B, every -8 B, from byte 0 (24 B)"


def test_decoding_frees_what_it_makes():
    gone = []
    key = MPI.Datatype.Create_keyval(delete_fn=lambda datatype, key, name: gone.append(name))
    inner = DOUBLE.Create_contiguous(3)
    inner.Set_attr(key, "inner")
    outer = MPI.Datatype.Create_struct([2, 2], [0, 96], [inner, inner])
    inner.Free()
    from_datatype(outer)
    assert not gone
    outer.Free()
    assert gone == ["inner"]  # by now nobody holds it, not even a forgotten part
    MPI.Datatype.Free_keyval(key)
