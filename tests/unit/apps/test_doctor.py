import json

import pytest

from hpckit.apps import doctor
from hpckit.apps.doctor import Place

GOOD = Place("node", (0, 1), 2, 16 * 10**9, 8 * 10**9, 0)


@pytest.mark.parametrize("ranks", [1, 3])
def test_it_runs_on_any_number_of_ranks(mpirun, ranks):
    job = mpirun(ranks, "-m", "hpckit.apps.doctor", "--copy", "1")
    assert job.returncode == 0, job.stdout
    words = ["mpi  ", "gpu  ", "packages", "hdf5", "kernels", "host  ", "advice", "copy by all ranks, GB/s"]
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
    assert doctor._advice([GOOD, GOOD], 1, 2) == ["advice    nothing is off"]


@pytest.mark.parametrize(
    ("places", "threads", "advice"),
    [
        ([GOOD] * 3, 1, "node: 3 ranks x 1 threads share 2 cores"),
        ([GOOD], 4, "node: 1 ranks x 4 threads share 2 cores"),
        ([GOOD._replace(cores=(0,))] * 2, 1, "the ranks are bound to 1 of 2 cores"),
        ([GOOD._replace(shared_memory=16 * 2**20)] * 2, 1, "/dev/shm has 16.8 MB free"),
        ([GOOD._replace(shared_memory=0)], 1, "/dev/shm is missing, full or read-only"),
        ([GOOD._replace(left=("/dev/shm/mpich_shm_1_0",))], 1, "left 1 segments of shared memory: rm /dev/shm/mpich"),
        ([GOOD._replace(promised_ranks=4)], 1, "launcher started 4 processes, but MPI sees 1"),
    ],
)
def test_what_is_off_is_told(places, threads, advice):
    assert any(advice in line for line in doctor._advice(places, threads, len(places)))


def test_a_fault_of_the_linker_is_told():
    fault = "kernels cannot be linked: cc: /usr/bin/ld: cannot find crti.o"
    assert doctor._advice([GOOD._replace(link_fault=fault)], 1, 1) == [f"advice    node: {fault}"]


def test_many_ranks_make_a_short_table():
    pinned = [GOOD._replace(host=f"node{r // 32}", cores=(r % 32,), host_cores=32) for r in range(64)]
    table = doctor._ranks(pinned)
    assert len(table) == 3
    assert table[1].split()[:3] == ["node0", "0-31", "0-31"]
    assert len(doctor._ranks(pinned[:4])) == 5
