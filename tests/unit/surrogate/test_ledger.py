"""Exactly once: what has come, in ranges, and back from JSON."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpckit.errors import HpckitError
from hpckit.surrogate.ledger import Ledger


@given(st.data(), st.integers(1, 3), st.integers(1, 3))
def test_counts_as_a_plain_table_does(data, steps, stride):
    """Open simulations advance in any order; every answer is that of a dictionary."""
    numbers = list(range(-4, 7))
    table = dict.fromkeys(numbers, 0)
    ledger = Ledger(steps, stride)
    for _ in range(data.draw(st.integers(0, 30))):
        left = [number for number in numbers if table[number] < steps]
        if not left:
            break
        number = data.draw(st.sampled_from(left))
        ledger.take(number, table[number])
        table[number] += 1
    again = Ledger(steps, stride)
    again.restore(json.loads(json.dumps(ledger.state())))
    for each in (ledger, again):
        assert {number: each.received(number) for number in numbers} == table
        assert each.total == sum(table.values())
        assert each.whole == sum(count == steps for count in table.values())
        assert each.open == {n: k for n, k in table.items() if 0 < k < steps}
    assert again.state() == ledger.state()


def test_simulations_in_their_order_are_one_range():
    ledger = Ledger(1, stride=2)
    for number in (1, 5, 3, 9, 7):
        ledger.take(number, 0)
    assert ledger.state() == {"whole": [[1, 0, 4]], "open": []}
    assert not ledger.is_whole(2)


@pytest.mark.parametrize(
    ("simulation", "step", "why"),
    [(0, 0, "it is whole"), (1, 0, "step 1 is the next"), (1, 2, "step 1"), (2, 1, "step 0")],
)
def test_twice_and_too_early_are_errors(simulation, step, why):
    ledger = Ledger(3)
    for at in [(0, 0), (0, 1), (1, 0), (0, 2)]:
        ledger.take(*at)
    before = ledger.state()
    with pytest.raises(
        HpckitError, match=f"step {step} of simulation {simulation} came, but.*{why}"
    ):
        ledger.take(simulation, step)
    assert ledger.state() == before
