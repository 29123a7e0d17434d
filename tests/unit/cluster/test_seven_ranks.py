"""Ranks whose number divides nothing, and that are more than the points: the tests of ranks, on seven of them."""

from pathlib import Path

RANKS = Path(__file__).with_name("test_rank_invariance.py")


def test_the_same_bits_and_the_same_errors(mpirun):
    chosen = "points or disagree"
    result = mpirun(7, "-m", "pytest", "--with-mpi", "-q", RANKS, "-k", chosen, cwd=RANKS.parents[3])
    assert result.returncode == 0, result.stdout
    assert " passed" in result.stdout
