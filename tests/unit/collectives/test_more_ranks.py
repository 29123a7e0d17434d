"""All algorithms on more ranks than usual: an odd number, and one whose half is even."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.patience(900)  # a job within has its own for each of its tests
@pytest.mark.parametrize("ranks", [5, 8])
@pytest.mark.parametrize("chosen", ["operations_and_types", "again_and_again"])
def test_operations_types_and_sizes(mpirun, ranks, chosen):
    words = "-m", "pytest", "--with-mpi", "-q", HERE / "test_allreduce.py", "-k", chosen
    result = mpirun(ranks, *words, cwd=HERE.parents[2], timeout=850)
    assert result.returncode == 0, result.stdout
