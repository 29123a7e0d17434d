"""Matrices read where they lie: the bits of a copy, and only where that is right."""

import numpy as np
import pytest
import reference

from hpckit.cluster import fasterpam, inplace, inputs, pam
from hpckit.cluster.distances import load_distances


@pytest.mark.mpi
@pytest.mark.parametrize("n", [1, 15, 129, 301])
def test_a_symmetric_matrix_is_read_where_it_lies(comm, n):
    matrix = np.random.default_rng(6).random((n, n)).astype("f4") * 1e3
    matrix = np.minimum(matrix, matrix.T)
    for data in (matrix, np.asfortranarray(matrix), np.pad(matrix, 3)[3:-3, 3:-3]):
        for by_candidate in (False, True):
            problem = inputs.check(data, 1, init="first", comm=comm, threads=2)
            given = inplace.find(problem, by_candidate=by_candidate)
            stored = load_distances(problem, by_candidate=by_candidate)
            assert given is not None and (not given.m or np.shares_memory(given.table, data))
            ours = (
                np.arange(n)[stored.first : stored.first + stored.m]
                if by_candidate
                else np.arange(n)
            )
            table, places = given.rows(ours)
            np.testing.assert_array_equal(
                np.rint(table[places] * given.scale), stored.view.T if by_candidate else stored.view
            )
            columns = np.empty((2, n), np.float32)
            for column, distances in zip(columns, (given, stored), strict=True):
                distances.fetch(n // 2, column, problem.ranks)
            np.testing.assert_array_equal(*columns)
            assert given.exponent == stored.exponent


@pytest.mark.mpi
def test_only_symmetric_matrices_are_read_along_the_other_axis(comm):
    for n, o, j in [(40, 3, 21), (40, 39, 38), (300, 299, 2), (300, 128, 127)]:
        for value in (2.0, np.inf, np.nan, -1.0):
            matrix = np.ones((n, n), np.float32)
            matrix[o, j] = value
            if value != 2.0:
                matrix[j, o] = value
            problem = inputs.check(matrix, 1, init="first", comm=comm)
            assert inplace.find(problem, by_candidate=True) is None


@pytest.mark.mpi(min_size=2)
def test_ranks_may_differ_in_threads_and_order(comm):
    """Together they see all of a matrix that one of them can read along the other axis only."""
    for odd in range(4 * comm.size):
        matrix = np.ones((128 * 4 * comm.size, 128 * 4 * comm.size), np.float32)
        matrix[128 * odd + 1, 128 * odd] = 2
        for order in ("C", "F") if odd < 2 else "C":
            data = np.asarray(matrix, order=order if comm.rank else "C")
            problem = inputs.check(data, 1, init="first", comm=comm, threads=1 + comm.rank)
            assert inplace.find(problem, by_candidate=True) is None


@pytest.mark.mpi
@pytest.mark.parametrize("search", [fasterpam, pam])
@pytest.mark.parametrize("init", ["random", "build", "lab"])
def test_searches_find_the_same(comm, search, init):
    matrix = np.random.default_rng(7).random((301, 301)).astype("f4")
    weights = np.random.default_rng(8).integers(1, 5, 301)
    for data in (np.minimum(matrix, matrix.T), matrix, np.asfortranarray(matrix)):
        options = {"init": init, "random_state": 1, "sample_weight": weights}
        copied = search(data, 9, memory="matrix", **options)
        assert reference.digest(
            search(data, 9, comm=comm, threads=2, **options)
        ) == reference.digest(copied)


@pytest.mark.mpi(min_size=2)
def test_ranks_may_store_it_differently(comm):
    matrix = np.random.default_rng(9).random((60, 60)).astype("f4")
    mine = np.asfortranarray(matrix) if comm.rank else matrix
    assert reference.digest(fasterpam(mine, 5, init="first", comm=comm)) == reference.digest(
        fasterpam(matrix, 5, init="first")
    )
