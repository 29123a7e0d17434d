"""What searches say of their results: clusters without a member, and whether they ended."""

import logging

import numpy as np
import pytest

from hpckit.cluster import (
    alternate,
    clara,
    clarans,
    dynmsc,
    fastermsc,
    fasterpam,
    onebatch,
    pam,
)

SEARCHES = [fasterpam, pam, onebatch, clara, clarans, alternate, fastermsc, dynmsc]
FEW = np.repeat([[0.0], [3.0], [7.0]], 5, axis=0)  # distinct points
POINTS = np.random.default_rng(0).normal(size=(200, 2))


@pytest.fixture(params=SEARCHES, ids=lambda search: search.__name__)
def search(request):
    return request.param


@pytest.mark.mpi
def test_fewer_distinct_objects_than_medoids(search, comm, caplog):
    k_min = {"k_min": 5} if search is dynmsc else {}
    with caplog.at_level(logging.WARNING):
        found = search(FEW, 5, metric="euclidean", random_state=0, comm=comm, **k_min)
    assert len(found.empty) >= 2 if search is alternate else len(found.empty) == 2
    assert not set(found.empty) & set(found.labels.tolist())
    text = "fewer distinct objects than k=5" if search is not alternate else "empty"
    said = [
        record for record in caplog.records if text in record.message or "empty" in record.message
    ]
    assert len(said) == (comm.rank == 0)


@pytest.mark.mpi
def test_empty_clusters_of_coinciding_medoids(comm, caplog):
    """Objects enough that differ, but a round of alternate leaves medoids where others are."""
    values = np.array([[1.0], [3.0], [0.0], [1.0], [1.0], [3.0], [0.0], [2.0], [1.0], [0.0]])
    with caplog.at_level(logging.WARNING):
        found = alternate(values, 4, metric="euclidean", init=[2, 6, 1, 0], comm=comm)
        assert found.empty == [1] and found.loss == 1
        first = fasterpam(values, 4, metric="euclidean", init=[2, 6, 1, 0], max_iter=0, comm=comm)
        assert first.empty == [1]
    assert caplog.text.count("empty: clusters [1]") == 2 * (comm.rank == 0)
    assert "fewer distinct" not in caplog.text


def test_nothing_is_said_of_clusters_with_members(search, caplog):
    with caplog.at_level(logging.WARNING):
        found = search(POINTS, 9, metric="euclidean", random_state=0)
    assert found.empty == [] and not caplog.records


@pytest.mark.mpi
def test_whether_a_search_came_to_its_end(search, comm):
    options = {"metric": "euclidean", "random_state": 0, "comm": comm}
    assert search(POINTS, 9, **options).converged
    if search is not clarans:
        assert not search(POINTS, 9, max_iter=1, **options).converged
        assert search(POINTS, 9, max_iter=1000, **options).converged
