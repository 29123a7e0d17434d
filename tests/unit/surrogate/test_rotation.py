"""The order of all steps: it depends on no rank, and what ranks see of it is the same order."""

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from hpckit.surrogate.rotation import Rotation

ROTATIONS = st.builds(
    Rotation,
    lanes=st.integers(1, 5),
    steps=st.integers(1, 4),
    simulations=st.integers(0, 13),
    validation=st.integers(0, 6),
)


def all_turns(rotation):
    return list(rotation.turns(range(rotation.lanes)))


def test_the_order_of_two_lanes_is_known():
    order = Rotation(lanes=2, steps=2, simulations=5).turns(range(2))
    steps = [(turn.simulation, turn.step) for turn in order]
    assert steps == [(0, 0), (1, 0), (0, 1), (1, 1), (2, 0), (3, 0), (2, 1), (3, 1), (4, 0), (4, 1)]


def test_without_an_end_it_goes_on():
    order = Rotation(lanes=3, steps=2).turns(range(3))
    assert next(islice(order, 6 * 1000, None))[2:] == (3 * 1000, 0)


def test_validation_comes_first_and_lanes_that_have_none_are_passed_over():
    order = Rotation(lanes=2, steps=2, simulations=2, validation=3).turns(range(2))
    steps = [(turn.simulation, turn.step) for turn in order]
    first = [(-1, 0), (-2, 0), (-1, 1), (-2, 1), (-3, 0), (-3, 1)]
    assert steps == [*first, (0, 0), (1, 0), (0, 1), (1, 1)]


@given(ROTATIONS)
def test_each_step_has_one_turn(rotation):
    steps = [(turn.simulation, turn.step) for turn in all_turns(rotation)]
    numbers = [*range(-rotation.validation, 0), *range(rotation.simulations)]
    assert sorted(steps) == [(s, step) for s in numbers for step in range(rotation.steps)]


@given(ROTATIONS)
def test_lanes_take_turns_as_a_loop_over_them_would(rotation):
    given = []
    for rows in (rotation.validation, rotation.simulations):
        for first in range(0, rows, rotation.lanes):
            row = range(first, min(first + rotation.lanes, rows))
            given += [(each, step) for step in range(rotation.steps) for each in row]
    numbers = [
        (turn.simulation if turn.simulation >= 0 else -1 - turn.simulation, turn.step)
        for turn in all_turns(rotation)
    ]
    assert numbers == given


@given(ROTATIONS, st.data())
def test_some_lanes_see_the_same_order_less_the_others(rotation, data):
    lanes = data.draw(st.sets(st.integers(0, rotation.lanes - 1)))
    expected = [turn for turn in all_turns(rotation) if turn.lane in lanes]
    assert list(rotation.turns(lanes)) == expected


@given(ROTATIONS, st.data())
def test_after_any_beginning_the_rest_comes(rotation, data):
    turns = all_turns(rotation)
    done = data.draw(st.integers(0, len(turns)))
    received = {simulation: 0 for _, _, simulation, _ in turns}
    for turn in turns[:done]:
        received[turn.simulation] += 1
    rest = rotation.turns(range(rotation.lanes), received.__getitem__)
    assert list(rest) == turns[done:]


@given(ROTATIONS)
def test_where_a_simulation_begins_follows_from_its_number(rotation):
    for turn in all_turns(rotation):
        assert turn.lane == rotation.lane(turn.simulation)
        assert turn.cycle == rotation.cycle(turn.simulation) + turn.step
