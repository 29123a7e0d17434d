"""Searches looked at under way, stopped, and gone on with the very same bits; their threads."""

import numpy as np
import pytest
import reference

from hpckit.cluster import fasterpam, pam, progress, ranks, swaps
from hpckit.errors import Checkpointed, ConfigError, HpckitError

POINTS = np.random.default_rng(0).normal(size=(301, 3))
START = {"metric": "euclidean", "init": "first"}


class Stop:
    """A monitor that keeps a snapshot and ends the run once it has been called `after` times."""

    def __init__(self, after):
        self.after, self.seen = after, []

    def __call__(self, search):
        self.seen.append((search.passes, search.position, search.n_swap, search.loss))
        if len(self.seen) == self.after:
            self.snapshot = search.snapshot()
            raise Checkpointed("stopped")


@pytest.mark.mpi
@pytest.mark.parametrize("search", [fasterpam, pam])
def test_what_is_resumed_ends_with_the_same_bits_on_any_number_of_ranks(comm, search):
    whole = search(POINTS, 12, **START)
    for after in (1, 2, 7):
        stop = Stop(after)
        with pytest.raises(Checkpointed):
            search(POINTS, 12, monitor=stop, **START)
        result = search(POINTS, 12, resume=stop.snapshot, metric="euclidean", comm=comm)
        assert reference.digest(result) == reference.digest(whole)
        assert 0 < len(stop.snapshot["trace"]) < whole.n_swap


def test_a_monitor_sees_all_blocks_and_swaps():
    seen = Stop(0)
    result = fasterpam(POINTS, 12, block=100, monitor=seen, **START)
    assert [position for _, position, _, _ in seen.seen[:5]] == [100, 200, 300, 301, 100]
    assert [passes for passes, _, _, _ in seen.seen[:5]] == [1, 1, 1, 1, 2]
    assert seen.seen[-1][2:] == (result.n_swap, result.loss) and seen.seen[-1][0] == result.n_iter
    seen = Stop(0)
    result = pam(POINTS, 12, monitor=seen, **START)
    assert [n_swap for _, _, n_swap, _ in seen.seen] == [
        *range(1, result.n_swap + 1),
        result.n_swap,
    ]
    assert [loss for _, _, _, loss in seen.seen[:-1]] == result.trace["loss"].tolist()


@pytest.mark.mpi
def test_a_finished_search_stays_finished(comm):
    stop = Stop(0)
    whole = fasterpam(
        POINTS, 12, monitor=lambda search: setattr(stop, "snapshot", search.snapshot()), **START
    )
    again = fasterpam(POINTS, 12, resume=stop.snapshot, comm=comm, **START)
    assert reference.digest(again) == reference.digest(whole)


@pytest.mark.mpi
def test_a_snapshot_that_does_not_fit_is_one_error(comm):
    stop = Stop(3)
    with pytest.raises(Checkpointed):
        fasterpam(POINTS, 12, monitor=stop, **START)
    for change, data, message in [
        ({}, POINTS * 2, "resume with the data and the arguments of the run that stopped"),
        ({"block": 3}, POINTS, "from a search by blocks of 3"),
        (
            {"medoids": [1, 2]},
            POINTS,
            r"the medoids of resume must be 12 whole numbers, got shape \(2,\)",
        ),
        ({"medoids": None}, POINTS, "the medoids of resume must be 12"),
    ]:
        with pytest.raises(ConfigError, match=message):
            fasterpam(data, 12, resume=stop.snapshot | change, metric="euclidean", comm=comm)
    with pytest.raises(ConfigError, match="resume lacks block, loss, quiet, trace, visited"):
        fasterpam(POINTS, 12, resume={"medoids": []}, metric="euclidean", comm=comm)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("search", [fasterpam, pam])
def test_a_monitor_that_fails_on_one_rank_ends_the_run_on_all(comm, search):
    def monitor(seen):
        if comm.rank == 1 and seen.n_swap > 2:
            raise RuntimeError("no space left")

    with pytest.raises(
        HpckitError, match=r"1 of . ranks failed: rank 1: RuntimeError: no space left"
    ):
        search(POINTS, 12, monitor=monitor, comm=comm, **START)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("search", [fasterpam, pam])
@pytest.mark.parametrize("argument", ["monitor", "resume"])
def test_all_ranks_watch_and_resume_or_none(comm, search, argument):
    stop = Stop(1)
    with pytest.raises(Checkpointed):
        search(POINTS, 12, monitor=stop, **START)
    value = {"monitor": stop, "resume": stop.snapshot}[argument]
    mine = {argument: value} if comm.rank == 1 else {}
    with pytest.raises(
        ConfigError, match=f"whether there is a {argument} must be the same on all ranks"
    ):
        search(POINTS, 12, comm=comm, **START, **mine)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_search_can_be_interrupted(threads, monkeypatch):
    """As by Ctrl+C while threads judge; a real signal might meet Python holding a lock."""
    points, judge = np.random.default_rng(1).normal(size=(2001, 3)), swaps._Judge._part

    def interrupted(self, thread, start, stop):
        if thread == 0 and next(calls, None) is None:
            raise KeyboardInterrupt
        return judge(self, thread, start, stop)

    monkeypatch.setattr(swaps._Judge, "_part", interrupted)
    for many in range(1, 60, 3):
        calls = iter(range(many))
        with pytest.raises(KeyboardInterrupt):
            fasterpam(points, 12, threads=threads, **START)
        np.full((50, len(points)), 7)  # where threads that outlive the search would read its arrays


@pytest.mark.mpi
@pytest.mark.parametrize("search", [fasterpam, pam])
@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_no_bit(comm, search, threads):
    alone = search(POINTS, 12, **START)
    assert reference.digest(
        search(POINTS, 12, threads=threads, comm=comm, **START)
    ) == reference.digest(alone)


@pytest.mark.mpi
def test_when_ranks_agree_changes_no_bit(comm, monkeypatch):
    """After each block, after ever more, or as many as may be: only how often they agree."""
    settle, agreements = ranks.Ranks.settle, []
    monkeypatch.setattr(ranks.Ranks, "settle", lambda ranks: agreements.append(1) or settle(ranks))
    found = []
    for slow in (10**9, 2, 1):
        monkeypatch.setattr(progress, "_SLOW", slow)
        agreements.clear()
        result = fasterpam(POINTS, 12, block=2, comm=comm, **START)
        found.append((reference.digest(result), len(agreements)))
    digests, counts = zip(*found, strict=True)
    assert len(set(digests)) == 1
    assert counts[1] < counts[0] / 2 and counts[2] <= counts[1]
