"""Who solves and who trains: shares of any number of ranks, lanes for all, and what cannot be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpckit.errors import ConfigError
from hpckit.surrogate.roles import Roles, share_out, shares


@pytest.mark.parametrize(
    ("size", "trainers", "group", "expected"),
    [
        (1, 1, 1, ((0,), ())),
        (4, 1, 1, ((0,), ((1,), (2,), (3,)))),
        (4, 4, 1, ((0, 1, 2, 3), ())),
        (7, 1, 3, ((0,), ((1, 2, 3), (4, 5, 6)))),
        (8, 2, 3, ((0, 4), ((1, 2, 3), (5, 6, 7)))),
        (10, 3, 1, ((0, 3, 6), ((1,), (2,), (4,), (5,), (7,), (8,), (9,)))),
    ],
)
def test_trainers_are_spread_and_the_others_solve(size, trainers, group, expected):
    assert shares(size, trainers, group) == expected


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 5), st.integers(1, 3))
def test_each_lane_has_one_root_and_one_trainer(trainers, group, groups, rounds):
    roles = Roles(*shares(trainers + group * groups, trainers, group), None, None, None)
    lanes = trainers * max(rounds, -(-groups // trainers))
    roles.check_lanes(lanes)
    senders = roles.trainers if not groups else [ranks[0] for ranks in roles.groups]
    for ranks in (roles.trainers, senders):
        shared = sorted(lane for rank in ranks for lane in roles.lanes_of(rank, lanes))
        assert shared == list(range(lanes))
    both = {(roles.root_of(lane), roles.trainer_of(lane)) for lane in range(lanes)}
    assert roles.pairs(lanes) == (sorted(both) if groups else [])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((4, 0, 1), "trainers = 0 must be a number of at least 1"),
        ((4, 1, 1.5), "group = 1.5 must be a number of at least 1"),
        ((2, 3, 1), "trainers = 3 are more than there are ranks: .* at least 4 ranks"),
        ((6, 1, 2), "5 of 6 ranks solve, which makes no groups of 2: start 5 ranks"),
        ((2, 1, 4), "1 of 2 ranks solve, which makes no groups of 4: start 5 ranks"),
    ],
)
def test_shares_that_cannot_be(arguments, words):
    with pytest.raises(ConfigError, match=words):
        shares(*arguments)


@pytest.mark.parametrize(
    ("size", "trainers", "lanes", "words"),
    [
        (3, 2, 3, "lanes = 3 must be a multiple of the number of trainers, 2"),
        (3, 1, 0, "lanes = 0 must be a multiple"),
        (6, 1, 4, "lanes = 4 is too few for 5 groups"),
    ],
)
def test_lanes_that_cannot_be(size, trainers, lanes, words):
    roles = Roles(*shares(size, trainers, 1), None, None, None)
    with pytest.raises(ConfigError, match=words):
        roles.check_lanes(lanes)


def test_all_ranks_know_what_they_are(comm):
    roles = share_out(comm)
    assert roles.trainer == (0 if comm.rank == 0 else None)
    assert roles.group == (comm.rank - 1 if comm.rank else None)
    assert roles.team.size == 1


def test_ranks_must_agree(comm):
    if comm.size > 1:
        with pytest.raises(ConfigError, match="trainers and group must be the same on all ranks"):
            share_out(comm, trainers=1 + comm.rank % 2)
