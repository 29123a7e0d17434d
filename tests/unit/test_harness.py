"""The test harness itself: ranks that fail, skip, or never return."""

import shutil
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"


@pytest.fixture
def run(tmp_path, mpirun):
    """Run the text of a test module on `n` ranks, under a copy of this suite's conftest."""

    def run(n, source, patience="300"):
        shutil.copy(CONFTEST, tmp_path)
        (tmp_path / "test_case.py").write_text("import pytest\n" + source)
        options = "-m pytest --with-mpi -p no:cacheprovider --color=no --rootdir"
        return mpirun(n, *options.split(), tmp_path, tmp_path, HPCKIT_TEST_PATIENCE=patience)

    return run


def test_a_failure_on_one_rank_is_a_failure_shown_by_rank_0(run):
    result = run(
        3,
        "def test_one(comm):\n    assert comm.rank != 2, 'the reason'\n\ndef test_two(comm): "
        "pass\n",
    )
    assert result.returncode != 0
    assert "failed on rank 2 of 3" in result.stdout
    assert "the reason" in result.stdout
    assert result.stdout.count("1 failed, 1 passed") == 1


def test_a_failing_setup_on_one_rank_stops_the_test_on_all(run):
    source = "@pytest.fixture\ndef it(comm):\n    assert comm.rank\n\n"
    source += "def test(comm, it):\n    comm.Barrier()\n"
    result = run(2, source)
    assert result.returncode != 0
    assert "1 error" in result.stdout


def test_a_skip_on_one_rank_skips_on_all(run):
    result = run(2, "def test(comm):\n    if comm.rank: pytest.skip('not here')\n")
    assert result.returncode == 0, result.stdout
    assert "1 skipped" in result.stdout


def test_ranks_draw_the_same_examples_whatever_they_have_loaded(run, tmp_path):
    (tmp_path / "more.py").write_text(f"NUMBERS = {list(range(1000, 1100))}\n")
    source = """
from hypothesis import given, strategies
from mpi4py import MPI

if MPI.COMM_WORLD.rank:
    import more

@given(number=strategies.integers())
def test(comm, number):
    assert len(set(comm.allgather(number))) == 1
"""
    result = run(2, source)
    assert result.returncode == 0, result.stdout


# Patience must outlast what the ranks of a busy machine are apart at the start: at half of it they
# give up.


def test_a_stuck_rank_ends_the_job_with_its_stack(run):
    result = run(
        2,
        "def test(comm):\n    if comm.rank == 1:\n        comm.recv(source=0)  # never sent\n",
        "16",
    )
    assert result.returncode != 0
    assert "rank 0 waited 8 s for the others" in result.stdout
    assert "test_case.py" in result.stdout


def test_a_failure_that_leaves_others_in_a_collective_is_shown(run):
    source = "def test(comm):\n    assert comm.rank, 'the reason'\n    comm.Barrier()\n"
    result = run(2, source, "16")
    assert result.returncode != 0
    assert "the reason" in result.stdout


def test_a_deadlock_of_all_ranks_ends_the_job(run):
    result = run(2, "def test(comm):\n    comm.recv(source=1 - comm.rank)\n", "16")
    assert result.returncode != 0
    assert "no end after 16 s" in result.stdout
    assert "test_case.py" in result.stdout


def test_ranks_that_collect_different_tests_are_refused(run):
    source = "from mpi4py import MPI\n@pytest.mark.parametrize('r', [MPI.COMM_WORLD.rank])\n"
    source += "def test(comm, r): pass\n"
    result = run(2, source)
    assert result.returncode != 0
    assert "collected other tests" in result.stdout


@pytest.mark.mpi
def test_the_shared_path_is_the_same_folder(comm, shared_path):
    assert shared_path.is_dir()
    assert len(set(comm.allgather(shared_path))) == 1
