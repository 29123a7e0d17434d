"""Exactly once: what has come, in ranges, and back from JSON."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpckit.errors import HpckitError
from hpckit.surrogate.ledger import Progress


@given(st.data(), st.integers(1, 3), st.integers(1, 3))
def test_counts_as_a_plain_table_does(data, steps, stride):
    """Open simulations advance in any order; every answer is that of a dictionary."""
    numbers = list(range(-4, 7))
    table = dict.fromkeys(numbers, 0)
    progress = Progress(steps, stride)
    for _ in range(data.draw(st.integers(0, 30))):
        left = [number for number in numbers if table[number] < steps]
        if not left:
            break
        number = data.draw(st.sampled_from(left))
        progress.take(number, table[number])
        table[number] += 1
    again = Progress(steps, stride)
    again.restore(json.loads(json.dumps(progress.state())))
    for each in (progress, again):
        assert {number: each.received(number) for number in numbers} == table
        assert each.total == sum(table.values())
        assert each.whole == sum(count == steps for count in table.values())
        assert each.open == {n: k for n, k in table.items() if 0 < k < steps}
    assert again.state() == progress.state()


def test_simulations_in_their_order_are_one_range():
    progress = Progress(1, stride=2)
    for number in (1, 5, 3, 9, 7):
        progress.take(number, 0)
    assert progress.state() == {"whole": [[1, 0, 4]], "open": []}
    assert not progress.is_whole(2)


@pytest.mark.parametrize(
    ("simulation", "step", "why"),
    [(0, 0, "it is whole"), (1, 0, "step 1 is the next"), (1, 2, "step 1"), (2, 1, "step 0")],
)
def test_twice_and_too_early_are_errors(simulation, step, why):
    progress = Progress(3)
    for at in [(0, 0), (0, 1), (1, 0), (0, 2)]:
        progress.take(*at)
    before = progress.state()
    with pytest.raises(
        HpckitError, match=f"step {step} of simulation {simulation} came, but.*{why}"
    ):
        progress.take(simulation, step)
    assert progress.state() == before
