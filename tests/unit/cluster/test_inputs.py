"""Data in slices, in HDF5 files and of odd kinds: as from one array, or one error on all ranks."""

import contextlib
import logging

import h5py
import numpy as np
import pytest
import reference

from hpckit.cluster import fasterpam, inputs, pam
from hpckit.cluster.data import read_data
from hpckit.cluster.distances import load_distances
from hpckit.cluster.ranks import Ranks
from hpckit.errors import ConfigError, HpckitError

POINTS = np.random.default_rng(0).normal(size=(190, 4))
MATRIX = np.random.default_rng(1).integers(0, 200, (190, 190))  # not symmetric
WEIGHTS = np.random.default_rng(2).integers(0, 5, 190)


def cut(comm, n, sizes):
    """This rank's slice of n rows, whose sizes are in the proportion of `sizes`."""
    sizes = np.resize(sizes, comm.size)
    ends = np.cumsum(sizes) * n // sizes.sum()
    return slice(0 if comm.rank == 0 else ends[comm.rank - 1], ends[comm.rank])


@contextlib.contextmanager
def dataset(comm, folder, values, **layout):
    """The values in a file, opened by all ranks."""
    if comm.rank == 0:
        with h5py.File(folder / "data.h5", "w") as file:
            file.create_dataset("values", data=values, **layout)
    comm.barrier()
    with h5py.File(folder / "data.h5") as file:
        yield file["values"]
    comm.barrier()  # nobody has it open


@pytest.mark.parametrize("sizes", [[1], [1, 2, 3], [1, 0, 3], [3, 1, 0]])
@pytest.mark.parametrize("search", [fasterpam, pam])
def test_slices_are_the_whole(comm, search, sizes):
    mine = cut(comm, 190, sizes)
    for data, metric in [
        (POINTS, "euclidean"),
        (MATRIX, "precomputed"),
        (MATRIX.astype("f4"), "precomputed"),
    ]:
        options = {"metric": metric, "init": "build"}
        expected = reference.digest(search(data, 9, sample_weight=WEIGHTS, **options))
        parts = {"sample_weight": WEIGHTS[mine], "distributed": True}
        assert reference.digest(search(data[mine], 9, **parts, **options, comm=comm)) == expected
        unweighted = search(data[mine], 9, distributed=True, **options, comm=comm)
        assert reference.digest(unweighted) == reference.digest(search(data, 9, **options))


@pytest.mark.mpi
@pytest.mark.parametrize("by_candidate", [False, True])
def test_slices_travel_in_many_messages(comm, monkeypatch, by_candidate):
    monkeypatch.setattr("hpckit.cluster.matrix._VALUES", 1000)
    for objects in (np.arange(190), np.array([0, 1, 70, 71, 150, 189])):
        problem = inputs.check(
            MATRIX[cut(comm, 190, [2, 1])], 3, init="first", distributed=True, comm=comm
        )
        loaded = load_distances(problem, by_candidate=by_candidate, objects=objects)
        mine = np.arange(loaded.first, loaded.first + loaded.m)
        found = np.ldexp(loaded.part(np.arange(len(objects)), mine).astype(float), loaded.exponent)
        np.testing.assert_array_equal(found, MATRIX[np.ix_(objects, mine)])


@pytest.mark.parametrize(
    "layout", [{}, {"chunks": (50, 60)}, {"chunks": True, "compression": "gzip"}]
)
@pytest.mark.parametrize("dtype", ["f4", ">f8", "i2", "f2"])
def test_datasets_in_files(comm, shared_path, dtype, layout):
    with dataset(comm, shared_path, MATRIX.astype(dtype), **layout) as matrix:
        for search in (fasterpam, pam):
            expected = reference.digest(search(MATRIX, 7, init="first"))
            assert reference.digest(search(matrix, 7, init="first", comm=comm)) == expected


@pytest.mark.mpi
def test_points_in_a_file(comm, shared_path):
    with dataset(comm, shared_path, POINTS.astype("f4")) as points:
        expected = reference.digest(pam(POINTS.astype("f4"), 7, metric="manhattan"))
        assert reference.digest(pam(points, 7, metric="manhattan", comm=comm)) == expected
        few = reference.digest(pam(POINTS[:2].astype("f4"), 1, metric="manhattan"))
    with dataset(comm, shared_path, POINTS[:2].astype("f4")) as points:  # fewer than ranks
        assert reference.digest(pam(points, 1, metric="manhattan", comm=comm)) == few


@pytest.mark.parametrize("dtype", ["f2", "f4", "i1", "u1", "i8", "u8", "?", ">i4"])
def test_points_of_all_real_types(dtype):
    points = np.random.default_rng(3).integers(0, 2, (60, 9)).astype(dtype)
    expected = reference.digest(pam(points.astype(float), 4, metric="manhattan"))
    for layout in (
        points,
        np.asfortranarray(points),
        np.repeat(points, 2, axis=0)[::2],
        points.tolist(),
    ):
        assert reference.digest(pam(layout, 4, metric="manhattan")) == expected


def test_large_integers_do_not_overflow():
    distances = np.abs(np.subtract.outer(*[np.random.default_rng(4).integers(0, 2**31, 50)] * 2))
    for dtype in ("i4", "u4", "i8", "u8"):
        found = pam(distances.astype(dtype), 4)
        assert reference.digest(found) == reference.digest(pam(distances.astype(float), 4))
    assert found.loss > 2**31


def test_a_memory_map_is_read_in_place(tmp_path):
    np.save(tmp_path / "matrix.npy", MATRIX.astype("f4"))
    mapped = np.load(tmp_path / "matrix.npy", mmap_mode="r")
    assert reference.digest(fasterpam(mapped, 5, init="first")) == reference.digest(
        fasterpam(MATRIX, 5, init="first")
    )


def test_sparse_matrices_are_refused():
    sparse = pytest.importorskip("scipy.sparse")
    for metric in ("precomputed", "euclidean"):
        for matrix in (
            sparse.eye_array(5),
            sparse.csc_matrix(np.eye(5)),
            sparse.coo_array(np.eye(5)),
        ):
            sort = type(matrix).__name__
            message = f"must be a dense array of real numbers, not a sparse {sort}: pass .toarray"
            with pytest.raises(ConfigError, match=message):
                fasterpam(matrix, 2, metric=metric)


@pytest.mark.mpi
@pytest.mark.parametrize(
    "masked",
    [np.ma.masked_less(POINTS, 0), np.ma.array(POINTS), list(np.ma.masked_less(POINTS, 0))],
)
def test_masked_arrays_are_refused(comm, masked):
    """By all ranks, if one has one: anything may be under a mask, and nobody looks at masks."""
    data = masked if comm.rank == comm.size - 1 else POINTS
    for search in (fasterpam, pam):
        with pytest.raises(ConfigError, match="the points must not be a masked array"):
            search(data, 3, metric="euclidean", comm=comm)
    with pytest.raises(ConfigError, match="the distance matrix must not be a masked array"):
        fasterpam(np.ma.array(MATRIX), 3, comm=comm)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_no_points_are_refused(shape):
    with pytest.raises(ConfigError, match=r"they must be \(n, d\) with n and d above 0"):
        fasterpam(np.zeros(shape), 1, metric="euclidean")


def test_too_many_objects_for_exact_sums():
    with pytest.raises(ConfigError, match="268435457 objects are too many"):
        fasterpam(np.broadcast_to(0.0, (2**28 + 1, 1)), 2, metric="euclidean")


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("change", "messages"),
    [
        (lambda d: None, []),
        (lambda d: d.__setitem__((5, 5), 1), ["not at distance 0 from themselves"]),
        (lambda d: d.__iadd__(np.tri(190, k=-1)), ["not symmetric"]),
        (lambda d: d.__iadd__(np.tri(190)), ["not at distance 0 from themselves", "not symmetric"]),
    ],
)
def test_odd_distances_are_named(comm, caplog, change, messages):
    distances = np.abs(POINTS[:, None] - POINTS).sum(axis=-1)
    change(distances)
    with caplog.at_level(logging.WARNING):
        fasterpam(distances, 3, init="first", comm=comm)
    found = [record.message for record in caplog.records]
    assert len(found) == (len(messages) if comm.rank == 0 else 0)
    assert all(message in text for message, text in zip(messages, found, strict=False))


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize(
    ("mine", "message"),
    [
        ({"data": POINTS[:9, :3]}, "shape and type of the data must be the same"),
        ({"data": POINTS[:9].astype("f4")}, "shape and type of the data must be the same"),
        ({"data": POINTS[0]}, r"1 of . ranks failed: rank 1: the points have shape \(4,\)"),
        (
            {"data": np.full((3, 4), np.inf)},
            "rank 1: points must be finite, but coordinate 0 of point 0 of this rank",
        ),
        (
            {"data": np.full((3, 4), "x")},
            "rank 1: the points must be a dense array of real numbers",
        ),
        ({"sample_weight": [1, 2]}, r"rank 1: sample_weight has shape \(2,\), it must be \(9,\)"),
        ({"distributed": False}, "shape and type of the data must be the same"),
        ({"metric": "manhattan"}, "metric and memory must be the same"),
        ({"metric": "precomputed"}, "metric and memory must be the same"),
        ({"memory": "free"}, "metric and memory must be the same"),
    ],
)
def test_slices_that_do_not_fit(comm, mine, message):
    arguments = {"data": POINTS[:9], "metric": "euclidean", "distributed": True}
    arguments |= mine if comm.rank == 1 else {}
    with pytest.raises(ConfigError, match=message):
        fasterpam(**arguments, k=3, comm=comm)


@pytest.mark.mpi
def test_slices_that_make_no_matrix(comm):
    n = 3 * comm.size
    good, nothing = np.ones((3, n)), np.zeros((0, 4))
    with pytest.raises(ConfigError, match=rf"shape \({n}, {n + 1}\), it must be square"):
        fasterpam(np.ones((3, n + 1)), 2, distributed=True, comm=comm)
    with pytest.raises(
        ConfigError, match=r"shape \(0, 4\), they must be \(n, d\) with n and d above 0"
    ):
        fasterpam(nothing, 2, metric="euclidean", distributed=True, comm=comm)
    with pytest.raises(ConfigError, match=r"k=99 medoids of"):
        fasterpam(good, 99, distributed=True, comm=comm)
    good[1, 0] = np.nan if comm.rank == comm.size - 1 else 1
    with pytest.raises(HpckitError, match="one is nan"):
        fasterpam(good, 2, distributed=True, comm=comm)


@pytest.mark.mpi
def test_slices_without_any_weight(comm):
    with pytest.raises(ConfigError, match="not all zero"):
        fasterpam(
            POINTS, 2, metric="euclidean", sample_weight=np.zeros(190), distributed=True, comm=comm
        )
    weights = np.zeros(190) if comm.rank else np.ones(190)  # a slice of zeros is no error
    data, given = read_data(Ranks(comm), POINTS, weights, points=True, distributed=True)
    assert data.shape == (190 * comm.size, 4) and given.sum() == 190
