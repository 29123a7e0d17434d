import json
import mmap

import pytest

from hpckit.apps.doctor import kernels
from hpckit.apps.doctor.places import Place, advice, table
from hpckit.program import shm as node_shm

GOOD = Place("node", (0, 1), 2, 16 * 10**9, 8 * 10**9, 0)


@pytest.mark.parametrize("ranks", [1, 3])
def test_it_runs_on_any_number_of_ranks(mpirun, ranks):
    job = mpirun(ranks, "-m", "hpckit.apps.doctor", "--copy", "1")
    assert job.returncode == 0, job.stdout
    words = [
        "mpi  ",
        "gpu  ",
        "packages",
        "hdf5",
        "kernels",
        "host  ",
        "advice",
        "copy by all ranks, GB/s",
    ]
    assert [job.stdout.count(f"\n{word}") for word in words[:6]] == [1] * 6
    assert all(word in job.stdout for word in words)
    assert ("latency between ranks 0 and 2, us" in job.stdout) == (ranks == 3)


def test_its_figures_are_positive(mpirun):
    job = mpirun(2, "-m", "hpckit.apps.doctor", "--copy", "1", "--json")
    (line,) = [line for line in job.stdout.splitlines() if line.startswith("{")]
    results = json.loads(line)["results"]
    assert len(results) == 4
    assert all(value > 0 for value in results.values())


def test_nothing_is_off():
    assert advice([GOOD, GOOD], 1, 2) == ["advice    nothing is off"]


@pytest.mark.parametrize(
    ("places", "threads", "said"),
    [
        ([GOOD] * 3, 1, "node: 3 ranks x 1 threads share 2 cores"),
        ([GOOD], 4, "node: 1 ranks x 4 threads share 2 cores"),
        ([GOOD._replace(cores=(0,))] * 2, 1, "the ranks are bound to 1 of 2 cores"),
        ([GOOD._replace(shared_memory=16 * 2**20)] * 2, 1, "/dev/shm has 16.8 MB free"),
        ([GOOD._replace(shared_memory=0)], 1, "/dev/shm is missing, full or read-only"),
        (
            [GOOD._replace(left=("/dev/shm/mpich_shm_1_0",))],
            1,
            "left 1 segments of shared memory: rm /dev/shm/mpich",
        ),
        ([GOOD._replace(promised_ranks=4)], 1, "launcher started 4 processes, but MPI sees 1"),
    ],
)
def test_what_is_off_is_told(places, threads, said):
    assert any(said in line for line in advice(places, threads, len(places)))


@pytest.fixture
def shm(tmp_path, monkeypatch):
    """A folder in place of /dev/shm."""
    monkeypatch.setattr(node_shm, "FOLDER", tmp_path)
    return tmp_path


def test_segments_of_dead_jobs_are_found(shm):
    names = [
        "mpich_shm_1f_0",
        "sm_segment.node.0.1.2",
        "vader_segment.node.1",
        "ucx_shm_posix_1",
        "osc_sm.node.1.2",
    ]
    for name in [*names, "somebody_else_s"]:
        (shm / name).write_bytes(bytes(4096))
    assert sorted(path.name for path in node_shm.left()) == sorted(names)
    with (shm / names[0]).open("r+b") as file, mmap.mmap(file.fileno(), 4096):
        assert sorted(path.name for path in node_shm.left()) == sorted(names[1:])  # it is in use
    with (shm / names[0]).open("r+b") as file, mmap.mmap(file.fileno(), 4096):
        (shm / names[0]).unlink()
        assert sorted(path.name for path in node_shm.left()) == sorted(names[1:])


def test_a_missing_folder_is_no_error(shm, monkeypatch):
    monkeypatch.setattr(node_shm, "FOLDER", shm / "missing")
    assert node_shm.free() == 0
    assert node_shm.left() == []


@pytest.mark.parametrize(
    ("room", "ranks", "told"), [(8, 1, True), (16, 1, True), (64, 4, False), (64, 16, True)]
)
def test_programs_warn_before_mpi_dies_for_want_of_shared_memory(
    shm, monkeypatch, capsys, room, ranks, told
):
    monkeypatch.setattr(node_shm, "free", lambda: room << 20)
    monkeypatch.setattr(node_shm, "speaks", lambda: True)
    monkeypatch.delenv("OMPI_COMM_WORLD_SIZE", raising=False)
    node_shm.warn("hpckit.apps.halo", ranks)
    said = capsys.readouterr().err
    assert bool(said) == told
    if told:
        assert "--shm-size" in said
        assert "UCX_POSIX_DIR" in said
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "1")  # Open MPI finds its own words
    node_shm.warn("hpckit.apps.halo", ranks)
    assert not capsys.readouterr().err


def test_compile_knows_its_flags(capsys, monkeypatch):
    monkeypatch.setattr(kernels, "compile_all", lambda ranks: 7)
    assert kernels.compile_kernels(["--compile"]) == 7
    assert kernels.compile_kernels(["--compile", "--bogus"]) == 2
    assert "unknown flag --bogus" in capsys.readouterr().err


def test_a_fault_of_the_linker_is_told():
    fault = "kernels cannot be linked: cc: /usr/bin/ld: cannot find crti.o"
    assert advice([GOOD._replace(link_fault=fault)], 1, 1) == [f"advice    node: {fault}"]


def test_many_ranks_make_a_short_table():
    pinned = [
        GOOD._replace(host=f"node{r // 32}", cores=(r % 32,), host_cores=32) for r in range(64)
    ]
    lines = table(pinned)
    assert len(lines) == 3
    assert lines[1].split()[:3] == ["node0", "0-31", "0-31"]
    assert len(table(pinned[:4])) == 5
