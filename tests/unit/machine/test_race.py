"""Races whose times are given."""

from types import SimpleNamespace

import pytest

from hpckit.machine.race import Race


def look(race, times):
    """One look; a call takes its way's time, which may depend on the number of calls so far."""
    calls = dict.fromkeys(times, 0)
    while not race.over:
        way = race.next()
        if not race.over:
            calls[way] += 1
            race.tell(times[way](calls[way]) if callable(times[way]) else times[way])
    return calls


def again(race, times, **options):
    race.again(**options)
    return look(race, times)


@pytest.mark.mpi
def test_the_slowest_rank_decides_for_all(comm):
    race = Race(comm, ["a", "b", "c"])
    assert not race.over and race.winner is None
    times = {"a": 2e-3, "b": 1e-3, "c": 3e-3}
    look(race, times if comm.rank == comm.size - 1 else dict.fromkeys(times, 1e-9))
    assert race.over and race.current == race.winner == "b" and race.measured["a"] == 2e-3
    assert len(set(comm.allgather(race.rest))) == 1


def test_nobody_to_race_with_needs_no_race(comm):
    race = Race(comm, ["a"])
    assert race.over and race.rest is None and race.next() == race.winner == "a"


@pytest.mark.mpi
def test_a_way_that_was_disturbed_while_all_ran_is_found_later(comm):
    """Another program ran during all its turns of the first look, which ends with them."""
    race = Race(comm, ["a", "b"])
    calls = look(race, {"a": 2e-3, "b": 9e-3})
    assert race.current == "a" and calls["b"] <= 5
    again(race, {"a": 2e-3, "b": 1e-3})
    assert race.current == race.winner == "b"


@pytest.mark.mpi
def test_one_disturbed_look_changes_nothing_and_three_do(comm):
    race = Race(comm, ["a", "b"])
    look(race, {"a": 1e-3, "b": 2e-3})
    for time in (9e-3, 9e-3):
        again(race, {"a": time, "b": 2e-3})
        assert race.current == "a"
    again(race, {"a": 9e-3, "b": 2e-3})
    assert race.current == "b"


@pytest.mark.mpi
def test_what_is_hardly_better_is_not_worth_a_change(comm):
    race = Race(comm, ["a", "b"])
    look(race, {"a": 1.00e-3, "b": 1.02e-3})
    again(race, {"a": 1.00e-3, "b": 0.99e-3})
    assert race.current == "a"


@pytest.mark.mpi
def test_looks_become_rare_and_lose_little(comm, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("hpckit.machine.race.time", SimpleNamespace(perf_counter=lambda: now[0]))

    def takes(seconds):
        def call(_):
            now[0] += seconds
            return seconds

        return call

    times = {"a": takes(1e-3), "b": takes(2e-3)}
    race = Race(comm, ["a", "b"])
    lost = [1e-3 * look(race, times)["b"]]
    rests = [race.rest * 1e-3]
    for _ in range(12):
        lost.append(1e-3 * again(race, times)["b"])
        rests.append(race.rest * 1e-3)
    shares = [loss / rest for loss, rest in zip(lost, rests, strict=True)]
    assert max(shares[:2]) < 0.12 and max(shares[2:]) < 0.03
    assert rests[-1] > 30 and sorted(rests[1:]) == rests[1:]


@pytest.mark.mpi
def test_hopeless_ways_stay_away_until_all_is_forgotten(comm):
    race = Race(comm, ["a", "b", "c"])
    times = {"a": 1e-3, "b": 2e-3, "c": 5e-3}
    look(race, times)
    # Once each round, until it is beaten.
    assert again(race, times)["c"] == again(race, times)["c"] == 5
    assert again(race, times)["c"] == 0
    assert again(race, times | {"a": 9e-3}, forget=True)["c"] > 5


@pytest.mark.mpi
def test_a_known_way_is_used_before_the_first_look(comm):
    race = Race(comm, ["a", "b", "c"], known="b")
    assert race.over and race.current == "b" and race.rest
    again(race, {"a": 1e-3, "b": 2e-3}, names=["a", "b"])
    assert race.current == "a"
