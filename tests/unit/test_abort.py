"""`abort_on_exception` in scripts of its own: each test runs `mpirun` on one."""

import pytest

SCRIPT = """
import sys, threading
from mpi4py import MPI
import hpckit, hpckit.abort
comm, way = MPI.COMM_WORLD, sys.argv[1]
# Ranks of a busy machine may be far apart.
hpckit.abort.TIMEOUT = 60.0 if way.startswith("all") else 0.2
hpckit.abort_on_exception(comm)
hpckit.abort_on_exception(comm)  # once is enough
last = comm.rank == comm.size - 1

def fail():
    raise ValueError("broken")

def leave(status):
    try:
        sys.exit(status)
    except SystemExit:
        pass

if way == "all":
    fail()
if way == "all, differently":
    raise ValueError(f"broken as {comm.rank % 2}")
if way == "all leave":
    sys.exit(5)
if last and way == "one":
    fail()
if last and way == "thread":
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
if last and way == "leaves":
    try:
        sys.exit(3)
    finally:
        print("closed")
if last and way == "leaves with words":
    sys.exit("no more")
if last and way == "leaves by exit":
    exit(4)
if last and way == "Ctrl-C":
    raise KeyboardInterrupt
if last and way == "caught":
    leave(3)
    try:
        fail()
    except ValueError:
        pass
if last and way == "ends early":
    sys.exit(0)
if way != "ends early":
    comm.Barrier()
print("the end")
"""


@pytest.fixture
def script(tmp_path, mpirun):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return lambda n, way: mpirun(n, path, way)


@pytest.mark.parametrize(
    ("way", "code", "says"),
    [
        ("one", 1, "ValueError: broken"),
        ("thread", 1, "ValueError: broken"),
        ("leaves", 3, "sys.exit(3)"),
        ("leaves by exit", 4, "sys.exit(4)"),
        ("leaves with words", 1, "no more"),
        ("Ctrl-C", 130, "KeyboardInterrupt"),
    ],
)
def test_one_rank_that_fails_ends_the_job(script, way, code, says):
    job = script(2, way)
    assert job.returncode == code, job.stdout
    assert job.stdout.count("rank 1 of 2 failed, which ends the job:") == 1
    assert says in job.stdout
    assert "the end" not in job.stdout
    assert ("closed" in job.stdout) == (way == "leaves")


def test_what_fails_on_all_ranks_is_told_once(script):
    job = script(3, "all")
    assert job.returncode == 1
    assert job.stdout.count("ranks 0-2 of 3 failed:") == job.stdout.count("Traceback") == 1
    job = script(3, "all, differently")
    assert job.stdout.count("Traceback") == 2
    assert "ranks 0, 2 of 3 failed:" in job.stdout and "rank 1 of 3 failed:" in job.stdout
    job = script(2, "all leave")
    assert job.returncode == 5
    assert "failed" not in job.stdout


@pytest.mark.parametrize(
    ("ranks", "way"), [(2, "well"), (2, "caught"), (2, "ends early"), (1, "caught")]
)
def test_a_script_that_ends_well_is_left_alone(script, ranks, way):
    job = script(ranks, way)
    assert job.returncode == 0, job.stdout
    assert "failed" not in job.stdout
    assert job.stdout.count("the end") == ranks - (way == "ends early")


def test_one_rank_fails_as_python_does(script):
    job = script(1, "one")
    assert job.returncode == 1
    assert job.stdout.startswith("Traceback")
