"""Ranks that disagree, fields that share memory, what is no field: one error on every rank."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI
from numpy.lib.stride_tricks import as_strided

from hpckit.comm.grid import Grid
from hpckit.errors import ConfigError, HpckitError
from hpckit.halo import Halo

pytestmark = pytest.mark.mpi


def refused(comm, message: str, make, kind: type[HpckitError] = ConfigError) -> None:
    with pytest.raises(kind, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
    assert comm.allreduce(1) == comm.size  # nobody is left in a collective


@pytest.fixture
def last(comm) -> bool:
    """Whether this is the last of several ranks, which disagrees with the others."""
    if comm.size == 1:
        pytest.skip("one rank agrees with itself")
    return comm.rank == comm.size - 1


# -- ranks that disagree


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"method": "packed"}, {"method": "shared"}),
        ({"method": "auto"}, {"method": "neighbor"}),
        ({"corners": False}, {"corners": True}),
        ({"width": 1}, {"width": 0}),
        ({"width": (1, 1)}, {"width": (1, (1, 0))}),
        ({"deadline": None}, {"deadline": 1.0}),
        ({"deadline": 2.0}, {"deadline": 1.0}),
    ],
)
def test_options_that_differ(comm, last, ours, theirs):
    grid = Grid(comm, (16, 12))
    options = theirs if last else ours
    name = next(iter(options))
    refused(
        comm,
        rf"options of a Halo must be the same on all ranks, but .*'{name}': ",
        lambda: Halo(grid, **options),
    )
    fields = [np.zeros(grid.local_shape)]
    refused(comm, "must be the same on all ranks", lambda: Halo(grid, fields=fields, **options))


def test_fields_that_differ(comm, last):
    grid = Grid(comm, (16, 12))
    a, b, c = grid.zeros("f4"), grid.zeros("f8"), grid.zeros("f8")
    for ours, theirs in (
        (None, [a]),
        ([a], [a, b]),
        ([a, b], [b, a]),
        ([], [a]),
        ([b], [grid.zeros(">f8")]),
    ):
        fields = theirs if last else ours
        refused(
            comm, "must be the same on all ranks", lambda fields=fields: Halo(grid, fields=fields)
        )
    halo = Halo(grid)  # plans at the first exchange
    refused(
        comm, "must be the same on all ranks", lambda: halo.exchange(*([b, c] if last else [b]))
    )


def test_fields_of_which_some_are_shared(comm, last):
    grid = Grid(comm, (16, 12))
    mine, common = grid.zeros(), grid.zeros(shared=True)
    refused(
        comm,
        "shared memory",
        lambda: Halo(grid, fields=[mine if last else common], method="direct"),
    )


@pytest.mark.parametrize(
    "options",
    [
        {"width": "wide"},
        {"width": -1},
        {"width": 10**30},
        {"method": 3},
        {"method": "magic"},
        {"method": ["packed"]},
        {"corners": "no"},
        {"corners": np.array([1, 2])},
        {"deadline": 0},
        {"deadline": -1.0},
        {"deadline": float("nan")},
        {"deadline": "soon"},
        {"fields": 5},
    ],
    ids=str,
)
def test_one_rank_fails_in_its_own_check(comm, options):
    grid, last = Grid(comm, (16, 12)), comm.rank == comm.size - 1
    refused(comm, next(iter(options)), lambda: Halo(grid, **(options if last else {})), HpckitError)


@pytest.mark.parametrize(
    "options",
    [
        {"shape": (16, 13)},
        {"shape": (16,)},
        {"shape": 16},
        {"shape": (16, 1.5)},
        {"shape": (10**30, 4)},
        {"shape": (2**40, 2**40)},
        {"periodic": True},
        {"periodic": (False, True)},
        {"width": 2},
        {"width": "wide"},
        {"width": 10**30},
        {"process_shape": (1, 1, 1)},
        {"process_shape": (0, 5)},
        {"process_shape": "square"},
    ],
    ids=str,
)
def test_grids_that_differ_or_fail_on_one_rank(comm, last, options):
    refused(comm, "rank", lambda: Grid(comm, **({"shape": (16, 12)} | (options if last else {}))))


def test_process_shapes_that_differ(comm, last):
    shape = (comm.size, 1) if last else (1, comm.size)
    refused(comm, "same on all ranks", lambda: Grid(comm, (16, 12), process_shape=shape))


def test_what_is_no_intracommunicator(comm):
    freed = comm.Dup()
    freed.Free()
    wrong = {
        "COMM_NULL": MPI.COMM_NULL,
        "it was freed": freed,
        "got None": None,
        "got 7": 7,
        "got 'world'": "world",
    }
    for message, given in wrong.items():
        refused(comm, message, lambda given=given: Grid(given, (8, 8)))
    if comm.size > 1:
        half = comm.Split(comm.rank % 2, comm.rank)
        bridge = half.Create_intercomm(0, comm, 1 - comm.rank % 2)
        refused(comm, "inter-communicator", lambda: Grid(bridge, (8, 8)))
        bridge.Free()
        half.Free()


# -- fields that share memory


def pairs(shape: tuple[int, int]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Fields that overlap in part."""
    m, n = shape
    plane, records = np.zeros((m + 1, n + 1)), np.zeros(shape, [("a", "f8"), ("b", "f8")])
    union = np.zeros(
        shape,
        np.dtype({"names": ["x", "y"], "formats": ["f8", "f4"], "offsets": [0, 4], "itemsize": 8}),
    )
    vector, square = np.zeros((m, n, 3)), np.zeros((max(m, n), max(m, n)))
    complex_ = np.zeros(shape, complex)
    return {
        "shifted": (plane[:-1, :-1], plane[1:, 1:]),
        "shifted by a byte": tuple(
            np.zeros(8 * m * n + 8, "u1")[i:][: 8 * m * n].view("f8").reshape(m, n) for i in (0, 0)
        ),
        "reversed": (plane[:m, :n], plane[:m, :n][::-1, ::-1]),
        "transposed": (square[:m, :n], square.T[:m, :n]),
        "a component and the whole": (
            vector[..., 0],
            as_strided(vector, shape, vector[..., 1].strides),
        ),
        "members over each other": (union["x"], union["y"]),
        "a record and a member": (records, records["a"]),
        "the real part": (complex_, complex_.real),
        "other dtype": (plane[:m, :n], plane[:m, :n].view("i8")),
        "other strides": (
            plane.ravel()[: 1 * m * n].reshape(m, n),
            as_strided(plane, shape, plane.strides),
        ),
    }


def test_fields_that_overlap_are_refused(comm):
    grid = Grid(comm, (7 * comm.size, 5), process_shape=(comm.size, 1))
    for name, (a, b) in pairs(grid.local_shape).items():
        if np.shares_memory(a, b):
            for fields in ([a, b], [b, a]):
                refused(
                    comm, "fields 0 and 1 overlap", lambda fields=fields: Halo(grid, fields=fields)
                )
        else:
            assert name == "shifted by a byte"


def test_where_it_is_too_hard_to_tell_fields_are_refused(comm, monkeypatch):
    def too_hard(a, b, max_work):
        raise np.exceptions.TooHardError

    grid = Grid(comm, (16, 12))
    fields = [grid.zeros(), grid.zeros()]
    monkeypatch.setattr(np, "shares_memory", too_hard)
    refused(
        comm, "overlap in memory, or are too entangled to tell", lambda: Halo(grid, fields=fields)
    )


def test_fields_beside_each_other_are_right(comm):
    grid = Grid(comm, (7 * comm.size, 5), periodic=True, process_shape=(comm.size, 1))
    m, n = grid.local_shape
    vector, records = np.zeros((m, n, 3)), np.zeros((m, n), [("a", "f8"), ("b", "i2"), ("c", "f4")])
    complex_, rows = np.zeros((m, n), complex), np.zeros((2 * m, 3 * n))
    fields = [
        vector[..., 2],
        vector[:, ::-1, 0],
        records["c"],
        records["a"],
        complex_.real,
        complex_.imag,
    ]
    fields += [rows[::2, ::3], rows[1::2, 2::3], rows[::-2, 1::3][::-1, ::-1]][:2]
    for number, field in enumerate(fields):
        field[grid.owned] = 10 * number + grid.rank
    Halo(grid, fields=fields, method="packed").exchange(*fields)
    for number, field in enumerate(fields):
        assert (field[0, 1:-1] == 10 * number + grid.neighbor((-1, 0))).all()
    assert (vector[..., 1] == 0).all()
    assert (records["b"] == 0).all()


@pytest.mark.parametrize("shape", [(5, 1), (1, 5), (1, 1)])
def test_a_field_that_overlaps_itself_is_refused(comm, shape):
    grid = Grid(comm, (6 * comm.size, 6))
    last, good = comm.rank == comm.size - 1, grid.zeros()
    m, n = grid.local_shape
    small = np.zeros((m if shape[0] > 1 else 1, n if shape[1] > 1 else 1))
    wrong = [
        np.broadcast_to(small, (m, n)),
        as_strided(np.zeros(4 * m * n), (m, n), (8, 16)),
        np.zeros((m, n), "V0"),
    ]
    wrong[0] = as_strided(small, (m, n), wrong[0].strides)  # writable
    for field in wrong:
        refused(
            comm,
            "overlaps itself|no bytes",
            lambda field=field: Halo(grid, fields=[field if last else good]),
        )


def test_members_of_records_alone_are_refused_and_padding_is_none(comm):
    grid = Grid(comm, (6 * comm.size, 6), periodic=True)
    records = np.zeros(grid.local_shape, [("a", "f8"), ("b", "f8"), ("c", "f8")])
    refused(comm, "members .* of larger records", lambda: Halo(grid, fields=[records[["a", "c"]]]))
    padded = np.zeros(grid.local_shape, np.dtype([("a", "i1"), ("b", "f8")], align=True))
    for field in (records, padded, padded[::-1, ::-1]):
        Halo(grid, fields=[field], method="packed").exchange(field)


# -- what is no field


def test_what_is_no_field(comm):
    grid = Grid(comm, (6 * comm.size, 6), width=2)
    last, good = comm.rank == comm.size - 1, grid.zeros()
    sparse = type(
        "csr_matrix", (), {"shape": grid.local_shape, "dtype": np.dtype(float), "ndim": 2}
    )()
    frozen = grid.zeros()
    frozen.flags.writeable = False
    wrong = {
        "is a csr_matrix: pass a NumPy array": sparse,
        "is a list: pass a NumPy array": good.tolist(),
        "is a float": 1.0,
        "is a masked array, .*filled": np.ma.masked_less(good, 0),
        "read-only": frozen,
        "Python objects": good.astype(object),
        r"pass each component as a field of its own, such as field\[:, :, 0\]": np.zeros(
            (*grid.local_shape, 3)
        ),
        "owns .* cells": good[1:],
    }
    for message, field in wrong.items():
        refused(comm, message, lambda field=field: Halo(grid, fields=[field if last else good]))
        halo = Halo(grid)
        refused(
            comm, message, lambda field=field, halo=halo: halo.exchange(field if last else good)
        )
    refused(
        comm,
        r"pass a list of arrays, such as fields=\[u\]",
        lambda: Halo(grid, fields=good if last else [good]),
    )


def test_a_narrow_halo_for_the_arrays_of_a_wider_grid(comm):
    grid = Grid(comm, (6 * comm.size, 6), width=2)
    refused(
        comm,
        "shape of the grid's own width .*leave out width",
        lambda: Halo(grid, width=1, fields=[grid.zeros()]),
    )


@pytest.mark.parametrize("dtype", [">f8", ">i4", "M8[s]", "S3", "?", "V5"])
def test_any_bytes_are_exchanged(comm, dtype):
    grid = Grid(comm, (6 * comm.size, 6), periodic=True, process_shape=(comm.size, 1))
    field = grid.zeros(dtype)
    field[grid.owned] = (
        np.array(grid.rank).astype("i8").astype(dtype)
        if dtype != "V5"
        else np.void(b"%05d" % grid.rank)
    )
    Halo(grid, fields=[field], method="packed").exchange(field)
    theirs = comm.sendrecv(
        field[1, 1:-1].tobytes(), grid.neighbor((1, 0)), source=grid.neighbor((-1, 0))
    )
    mine = comm.sendrecv(
        field[-2, 1:-1].tobytes(), grid.neighbor((1, 0)), source=grid.neighbor((-1, 0))
    )
    assert field[0, 1:-1].tobytes() == mine
    assert theirs
