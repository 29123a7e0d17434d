"""Studies whose ranks are killed, stop, or find no room; `kill_surrogates.py` kills more."""

from pathlib import Path

import psutil
import pytest

PROGRAM = Path(__file__).with_name("faulty_study.py")


@pytest.fixture
def study(mpirun, tmp_path):
    """`study(ranks, fault, moment)`: a job that goes on with the one before."""

    def run(ranks, fault="none", moment=0, folder="killed"):
        done = mpirun(ranks, PROGRAM, tmp_path / folder, fault, moment)
        assert not [path for path in Path("/dev/shm").iterdir() if "hpckit" in path.name]
        return done

    return run


def digest(done):
    assert done.returncode == 0, done.stdout
    assert len(done.stdout.splitlines()) == 1  # nothing else, as of what MPI did not free
    return done.stdout


@pytest.mark.patience(900)
def test_killed_again_and_again_the_study_ends_as_if_it_had_not_been(study):
    """Each on another number of ranks."""
    for ranks, fault, moment in (
        (3, "solver killed", 30),
        (2, "trainer killed", 10),
        (4, "killed while saving", 16),
        (3, "trainer killed", 23),
    ):
        assert study(ranks, fault, moment).returncode != 0
    assert digest(study(2)) == digest(study(1, folder="whole"))


@pytest.mark.patience(900)
def test_a_disk_that_is_full_is_one_error_and_the_study_goes_on_with_more_room(study):
    done = study(2, "full", 11)
    assert done.returncode == 1
    assert "cannot write" in done.stdout and "File too large" in done.stdout
    assert "ranks 0-1 of 2 failed" in done.stdout
    assert digest(study(3)) == digest(study(1, folder="whole"))


@pytest.mark.patience(900)
def test_a_solver_that_hangs_is_named_and_its_process_ends(study, tmp_path):
    done = study(3, "solver stopped", 20)
    assert done.returncode != 0
    assert "waited 1 s for rank" in done.stdout
    left = [each for each in psutil.process_iter(["cmdline"]) if each.info["cmdline"]]
    assert not [each for each in left if str(tmp_path / "killed") in each.info["cmdline"]]
