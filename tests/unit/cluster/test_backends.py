"""Where distances are kept: the same bits from memory, from a file, and computed on demand."""

import textwrap

import h5py
import numba
import numpy as np
import pytest
import reference
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hpckit.cluster import distances, fasterpam, inputs, pam
from hpckit.cluster.distances import load_distances
from hpckit.cluster.metrics import WITH_KERNEL as METRICS
from hpckit.cluster.pairs import pairs_of
from hpckit.errors import ConfigError, HpckitError

POINTS = np.random.default_rng(0).normal(size=(330, 5))
INTEGERS = np.random.default_rng(1).integers(1, 4, (200, 3)).astype(float)


def shifted(x, y):
    """Dearer in one direction than in the other."""
    return np.abs(x - y).sum() + max(0.0, x[0] - y[0])


def by_hand(x, y):
    total = 0.0
    for a, b in zip(x, y):  # noqa: B905
        total += abs(a - b)
    return total


compiled = numba.njit(by_hand)


@pytest.mark.parametrize("search", [fasterpam, pam])
@pytest.mark.parametrize("metric", [*METRICS, compiled])
def test_all_backends_give_the_same_bits(comm, shared_path, search, metric):
    points = INTEGERS if metric == "hamming" else POINTS
    expected = reference.digest(search(points, 8, metric=metric, init="first", memory="matrix"))
    for memory, threads in [("auto", 2), ("free", 1), ("free", 2), (shared_path / "ticks.h5", 2)]:
        result = search(
            points, 8, metric=metric, init="first", memory=memory, threads=threads, comm=comm
        )
        assert reference.digest(result) == expected, memory


@pytest.mark.parametrize("init", ["build", "lab", "k-medoids++"])
@pytest.mark.parametrize("search", [fasterpam, pam])
def test_starts_from_distances_on_demand(comm, search, init):
    options = {"metric": "manhattan", "init": init, "random_state": 4}
    expected = reference.digest(search(INTEGERS, 12, memory="matrix", **options))
    assert reference.digest(search(INTEGERS, 12, memory="free", **options, comm=comm)) == expected


@pytest.mark.parametrize("memory", ["matrix", "free"])
@pytest.mark.parametrize("search", [fasterpam, pam])
def test_a_function_of_object_and_medoid(comm, search, memory):
    distances = [[shifted(x, y) for y in INTEGERS[:60]] for x in INTEGERS[:60]]
    expected = reference.digest(search(distances, 5, init="first"))
    found = search(INTEGERS[:60], 5, metric=shifted, init="first", memory=memory, comm=comm)
    assert reference.digest(found) == expected
    assert reference.digest(search(np.transpose(distances), 5, init="first")) != expected


def test_compiled_and_plain_functions_agree():
    plain, fast = (
        fasterpam(POINTS[:80], 5, metric=metric, init="first") for metric in (by_hand, compiled)
    )
    assert reference.digest(plain) == reference.digest(fast)
    assert plain.loss == pytest.approx(
        fasterpam(POINTS[:80], 5, metric="manhattan", init="first").loss, rel=1e-6
    )


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (lambda x, y: -1.0, "finite and not negative, but one is -1"),
        (lambda x, y: np.nan, "one is nan"),
        (lambda x, y: {}[0], "KeyError"),
        (lambda x, y: "far", "ValueError: could not convert string"),
        (lambda x: 0.0, "takes 1 positional argument"),
    ],
)
def test_functions_that_are_no_distances(comm, metric, message):
    for memory in ("matrix", "free"):
        with pytest.raises(HpckitError, match=message):
            fasterpam(INTEGERS[:20], 2, metric=metric, memory=memory, comm=comm)


@settings(max_examples=40)
@given(st.integers(1, 150), st.integers(1, 9), st.sampled_from(METRICS), st.integers(0, 2**32 - 1))
@example(n=111, dim=1, metric="sqeuclidean", seed=111)
def test_a_pair_has_its_distance_in_any_company(n, dim, metric, seed):
    """Any rows with any columns, in either role: the entries of the whole matrix."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n, dim)) * 10.0 ** rng.integers(-9, 9)
    everything = np.arange(n)
    loaded = load_distances(problem(points, metric), by_candidate=True)
    exponent, wide = loaded.exponent, loaded.wide  # wide where a point is far from all others
    whole = np.zeros((n, n), np.float32)
    by_row = pairs_of(points, metric, everything, by_candidate=True)
    by_row.fill(everything, exponent, whole, wide=wide)
    np.testing.assert_array_equal(whole, whole.T)
    assert whole.max() <= loaded.far
    rows, columns = (rng.choice(n, rng.integers(1, n + 1)) for _ in range(2))
    some = np.full((len(rows), len(columns) + 3), -1, np.float32)
    by_column = pairs_of(points, metric, columns, by_candidate=False)
    by_column.fill(rows, exponent, some, wide=wide)
    np.testing.assert_array_equal(some[:, :-3], whole[np.ix_(rows, columns)])
    assert (some[:, -3:] == -1).all()


def problem(points, metric, **options):
    return inputs.check(points, 1, init="first", metric=metric, **options)


@pytest.mark.mpi
@pytest.mark.parametrize("by_candidate", [False, True])
@pytest.mark.parametrize("memory", ["matrix", "free"])
def test_distances_of_some_objects(comm, by_candidate, memory):
    some = np.array([0, 3, 64, 65, 200, 329])
    whole = load_distances(problem(POINTS, "euclidean"), by_candidate=True)
    loaded = load_distances(
        problem(POINTS, "euclidean", memory=memory, comm=comm),
        by_candidate=by_candidate,
        objects=some,
    )
    mine = np.arange(loaded.first, loaded.first + loaded.m)
    assert (loaded.n, loaded.candidates, loaded.exponent) == (6, 330, whole.exponent)
    np.testing.assert_array_equal(loaded.part(np.arange(6), mine), whole.part(some, mine))
    column, expected = np.empty(6, np.float32), np.empty(330, np.float32)
    loaded.fetch(77, column, problem(POINTS, "euclidean", comm=comm).ranks)
    whole.fetch(77, expected, problem(POINTS, "euclidean").ranks)
    np.testing.assert_array_equal(column, expected[some])


@pytest.mark.mpi
def test_a_file_is_kept_and_used_again_by_any_number_of_ranks(comm, shared_path):
    file = shared_path / "ticks.h5"
    first = pam(POINTS, 6, metric="euclidean", memory=file, comm=comm)
    assert [path.name for path in shared_path.iterdir()] == ["ticks.h5"]
    comm.barrier()
    if comm.rank == 0:
        before = file.stat().st_ino
        with h5py.File(file) as contents:
            ticks = contents["ticks"]
            distances = np.ldexp(ticks[:].astype(float), ticks.attrs["exponent"])
        expected = np.linalg.norm(POINTS[:, None] - POINTS, axis=-1)
        np.testing.assert_allclose(distances, expected, rtol=0, atol=expected.max() * 2**-22)
        assert reference.digest(
            pam(POINTS, 6, metric="euclidean", memory=file)
        ) == reference.digest(first)
        assert file.stat().st_ino == before
        pam(POINTS + 1, 6, metric="euclidean", memory=file)
        assert file.stat().st_ino != before


def test_an_interrupted_run_leaves_no_file_that_looks_complete(tmp_path, monkeypatch):
    def interrupt(*_):
        # No signal: a shell that runs its jobs in the background has them ignore SIGINT.
        raise KeyboardInterrupt

    file, expected = tmp_path / "ticks.h5", pam(POINTS, 6, metric="euclidean")
    with monkeypatch.context() as patch:
        patch.setattr(distances._Points, "fill", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pam(POINTS, 6, metric="euclidean", memory=file)
    assert not file.exists()
    assert reference.digest(pam(POINTS, 6, metric="euclidean", memory=file)) == reference.digest(
        expected
    )


@pytest.mark.mpi
def test_files_of_others_stay(comm, shared_path):
    other = shared_path / "results.h5"
    if comm.rank == 0:
        with h5py.File(other, "w") as contents:
            contents["ticks"] = 7
        other.with_name("text.h5").write_text("no HDF5")
    comm.barrier()
    for name, message in [
        ("results.h5", "exists, but is no file of distances"),
        ("text.h5", "exists, but is no file of distances"),
        ("missing/ticks.h5", r"cannot make a file of 0\.00 GB"),
    ]:
        with pytest.raises(ConfigError, match=message):
            fasterpam(POINTS, 3, metric="euclidean", memory=shared_path / name, comm=comm)
    comm.barrier()
    assert sorted(path.name for path in shared_path.iterdir()) == ["results.h5", "text.h5"]


@pytest.mark.mpi
def test_a_matrix_in_a_file(comm, shared_path):
    distances = np.random.default_rng(2).integers(0, 99, (130, 130))
    for search in (fasterpam, pam):
        expected = reference.digest(search(distances, 7, init="build"))
        for _ in range(2):
            found = search(
                distances, 7, init="build", memory=str(shared_path / "ticks.hdf5"), comm=comm
            )
            assert reference.digest(found) == expected


def test_memory_of_unknown_kind():
    for memory in ("fre", "matrix.npy", 3, None):
        with pytest.raises(
            ConfigError,
            match=r"must be auto, matrix, free, or the name of a file that ends in \.h5",
        ):
            fasterpam(POINTS, 3, metric="euclidean", memory=memory)
    with pytest.raises(ConfigError, match="pass them and a metric"):
        fasterpam(np.zeros((3, 3)), 1, memory="free")


def test_auto_keeps_what_fits(monkeypatch):
    monkeypatch.setattr(
        "psutil.virtual_memory", lambda: type("Memory", (), {"available": 8 * 330 * 384})
    )
    kept = load_distances(problem(POINTS, "euclidean"), by_candidate=True)
    computed = load_distances(
        problem(np.concatenate([POINTS, POINTS]), "euclidean"), by_candidate=True
    )
    assert (type(kept), type(computed)) == (distances.Stored, distances.Computed)


MEASURE = textwrap.dedent("""
    import re, resource, sys
    import numpy as np
    from mpi4py import MPI
    from hpckit.cluster import fasterpam

    def now(field):
        return int(re.search(rf"{field}:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024

    comm, n = MPI.COMM_WORLD, 6000
    points = np.random.default_rng(0).normal(size=(n, 2))
    fasterpam(points[:500], 10, metric="euclidean", comm=comm)  # whatever is loaded once
    matrix = 4 * n * n / comm.size
""")
PEAK = MEASURE + textwrap.dedent("""
    before = now("VmRSS")
    fasterpam(points, 10, metric="euclidean", memory=sys.argv[1], max_iter=1, comm=comm)
    used = comm.allreduce(now("VmHWM") - before, MPI.MAX)
    if comm.rank == 0:
        print("part", used / matrix)
""")
LIMITED = MEASURE + textwrap.dedent("""
    resource.setrlimit(resource.RLIMIT_DATA, (int(now("VmData") + matrix / 3), -1))
    for memory in ("matrix", sys.argv[1], "free"):
        try:
            options = {"init": "first", "metric": "euclidean", "memory": memory, "max_iter": 1}
            print(fasterpam(points, 10, **options).loss)
        except Exception as error:
            print(error)
""")


@pytest.mark.parametrize(
    ("ranks", "memory", "low", "high"),
    [(1, "matrix", 0.9, 1.1), (2, "matrix", 0.9, 1.1), (1, "free", 0, 0.2)],
)
def test_memory_is_4_bytes_for_each_pair_over_the_ranks(mpirun, tmp_path, ranks, memory, low, high):
    """Peak of the resident memory of the fullest rank, without what the process had before."""
    (tmp_path / "measure.py").write_text(PEAK)
    job = mpirun(ranks, tmp_path / "measure.py", memory)
    assert job.returncode == 0, job.stdout
    assert low < float(job.stdout.split()[-1]) < high


def test_a_file_may_be_larger_than_the_memory(mpirun, tmp_path):
    (tmp_path / "limited.py").write_text(LIMITED)
    job = mpirun(None, tmp_path / "limited.py", tmp_path / "ticks.h5")
    in_memory, in_file, nowhere = job.stdout.splitlines()
    assert "Unable to allocate" in in_memory
    assert float(in_file) == float(nowhere) > 0
    assert (tmp_path / "ticks.h5").stat().st_size > 4 * 6000**2
