import json
from collections import Counter
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from hpckit.errors import ConfigError, HpckitError
from hpckit.surrogate.buffer import BINS
from hpckit.surrogate.buffers import FIFO, FIRO, Epochs, Reservoir

COLUMNS = {"number": ((), np.int64), "field": ((3,), np.float32)}
KINDS = {
    "fifo": lambda capacity, threshold: FIFO(capacity),
    "firo": FIRO,
    "reservoir": Reservoir,
}


def bound(buffer, seed=0, leaves=None):
    return buffer.bind(COLUMNS, np.random.default_rng(seed), leaves)


def out(n=64):
    return {name: np.zeros((n, *shape), dtype) for name, (shape, dtype) in COLUMNS.items()}


def put(buffer, number):
    buffer.put({"number": number, "field": [number, 2 * number, 3 * number]})


def draw(buffer, n):
    into = out(n)
    numbers = into["number"][: buffer.draw(n, into)]
    fields = into["field"][: len(numbers)]
    np.testing.assert_array_equal(fields, numbers[:, None] * np.float32([1, 2, 3]))
    return numbers.tolist()


def run(buffer, samples, n, new):
    """All batches: `new` samples come before each, or as many as there is room for."""
    batches, sent = [], 0
    while sent < samples or buffer.population:
        for _ in range(min(new, samples - sent)):
            if not buffer.accepts():
                break
            put(buffer, sent)
            sent += 1
        if sent == samples and not buffer.finished:
            buffer.finish()
        batches.append(draw(buffer, n))
        assert batches[-1] or (sent < samples and buffer.population < buffer.capacity)
    return [batch for batch in batches if batch]


SIZES = st.integers(1, 40).flatmap(
    lambda capacity: st.tuples(
        st.just(capacity), st.integers(0, capacity - 1), st.integers(1, capacity)
    )
)


@pytest.mark.parametrize("kind", KINDS)
@given(sizes=SIZES, samples=st.integers(1, 150), new=st.integers(1, 50), seed=st.integers(0, 9))
def test_nothing_is_lost_unseen(kind, sizes, samples, new, seed):
    capacity, threshold, n = sizes
    buffer = bound(KINDS[kind](capacity, threshold), seed)
    batches = run(buffer, samples, n, new)
    drawn = Counter(number for batch in batches for number in batch)
    assert set(drawn) == set(range(samples))
    assert all(len(set(batch)) == len(batch) <= n for batch in batches)
    counts = np.minimum(list(drawn.values()), BINS - 1)
    assert buffer.reuse.tolist() == np.bincount(counts, minlength=BINS).tolist()
    assert (buffer.received, buffer.drawn) == (samples, sum(drawn.values()))
    assert buffer.unseen == buffer.population == 0
    if kind != "reservoir":
        assert set(drawn.values()) == {1}
        assert sum(len(batch) < n for batch in batches[:-1]) == 0


@pytest.mark.parametrize("kind", ["fifo", "firo"])
@given(sizes=SIZES, samples=st.integers(1, 150), new=st.integers(1, 50))
def test_number_of_batches_is_known(kind, sizes, samples, new):
    capacity, threshold, n = sizes
    batches = run(bound(KINDS[kind](capacity, threshold)), samples, n, new)
    assert len(batches) == -(-samples // n)


def test_fifo_keeps_the_order():
    batches = run(bound(FIFO(10)), 37, 4, 4)
    assert list(chain(*batches)) == list(range(37))


@pytest.mark.parametrize("make", [FIRO, Reservoir])
def test_batches_wait_for_more_than_the_threshold(make):
    buffer = bound(make(10, threshold=5))
    for number in range(5):
        put(buffer, number)
        assert not buffer.ready(2)
        assert draw(buffer, 2) == []
    put(buffer, 5)
    assert buffer.ready(6) and not buffer.ready(7)
    assert len(draw(buffer, 2)) == 2


def test_full_buffers_do_not_accept_until_a_sample_was_seen():
    for buffer in (FIFO(3), FIRO(3, 0), Reservoir(3, 0)):
        buffer = bound(buffer)
        for number in range(3):
            assert buffer.accepts()
            put(buffer, number)
        assert not buffer.accepts()
        with pytest.raises(HpckitError, match="never drawn"):
            put(buffer, 3)
        draw(buffer, 1)
        assert buffer.accepts()
        put(buffer, 3)
        assert not buffer.accepts()


@given(seed=st.integers(0, 10**6))
def test_a_reservoir_replaces_what_was_seen(seed):
    random = np.random.default_rng(seed)
    buffer, seen = bound(Reservoir(8, 2), seed), set()
    for number in range(60):
        while not buffer.accepts():
            seen |= set(draw(buffer, 2))
        before = set(buffer.columns["number"][: buffer.population].tolist())
        put(buffer, number)
        assert before - set(buffer.columns["number"][: buffer.population].tolist()) <= seen
        if random.random() < 0.4:
            seen |= set(draw(buffer, 2))
        present = set(buffer.columns["number"][: buffer.population].tolist())
        assert buffer.unseen == len(present - seen)


def test_draws_are_uniform():
    """Chi-square at 1e-6 with a fixed seed: over what is there, seen and unseen."""
    buffer = bound(Reservoir(50, 10), seed=3)
    for number in range(30):
        put(buffer, number)
    draw(buffer, 15)
    for number in range(30, 50):
        put(buffer, number)
    drawn = [number for _ in range(4000) for number in draw(buffer, 5)]
    counts = np.bincount(drawn, minlength=50)
    expected = counts.sum() / 50
    assert ((counts - expected) ** 2 / expected).sum() < chi2.ppf(1 - 1e-6, 49)


def test_replaced_samples_are_uniform():
    """Which of the seen ones goes when a new one comes: chi-square at 1e-6, fixed seed."""
    random, gone = np.random.default_rng(5), np.zeros(20, int)
    for _ in range(2000):
        buffer = Reservoir(20, 0).bind({"number": ((), np.int64)}, random)
        for number in range(20):
            buffer.put({"number": number})
        into = {"number": np.zeros(20, np.int64)}
        buffer.draw(20, into)
        buffer.put({"number": 20})
        gone[list(set(range(20)) - set(buffer.columns["number"].tolist()))] += 1
    assert gone.sum() == 2000
    assert ((gone - 100) ** 2 / 100).sum() < chi2.ppf(1 - 1e-6, 19)


def test_reuse_of_a_reservoir():
    """16 new samples for 64 drawn: each is drawn four times in the mean."""
    buffer, number = bound(Reservoir(600, 100)), 0
    for _ in range(1000):
        for _ in range(16):
            put(buffer, number)
            number += 1
        draw(buffer, 64)
    assert buffer.received == 16_000
    assert 3.8 < buffer.drawn / buffer.received < 4.0
    assert buffer.reuse @ np.arange(BINS) == buffer.drawn
    assert buffer.reuse.sum() == buffer.received


@given(samples=st.integers(1, 60), n=st.integers(1, 20), seed=st.integers(0, 9))
def test_epochs_draw_each_sample_once(samples, n, seed):
    buffer = bound(Epochs(), seed)
    for number in range(samples):
        assert not buffer.ready(1)
        put(buffer, number)
    buffer.finish()
    n = min(n, samples)
    for _ in range(3):
        epoch = [number for _ in range(samples // n) for number in draw(buffer, n)]
        assert len(set(epoch)) == len(epoch) == samples // n * n


def test_epochs_take_as_many_as_come():
    buffer = bound(Epochs())
    for number in range(5000):
        put(buffer, number)
    buffer.finish()
    orders = [[*draw(buffer, 2500), *draw(buffer, 2500)] for _ in range(2)]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(5000))


def copied(state):
    arrays, facts = state
    return {name: array.copy() for name, array in arrays.items()}, json.loads(json.dumps(facts))


@pytest.mark.parametrize("kind", [*KINDS, "epochs"])
@given(
    moves=st.lists(st.sampled_from(["put", "draw"]), min_size=20, max_size=80),
    at=st.integers(0, 20),
)
def test_a_restored_buffer_goes_on_bit_for_bit(kind, moves, at):
    fresh = {**KINDS, "epochs": lambda *_: Epochs()}[kind](12, 3)
    buffer, again = bound(fresh, seed=1), bound(fresh, seed=2)
    if kind == "epochs":
        for number in range(50):
            put(buffer, number)
        buffer.finish()
    for number, move in enumerate([*moves, *["draw"] * 10]):
        if number == at:
            again.restore(*copied(buffer.state()))
        for each in (buffer, again)[: 1 + (number >= at)]:
            if number == len(moves):
                each.finish()
            if move == "put" and each.accepts():
                put(each, number)
        if move == "draw":
            drawn = draw(buffer, 3)
            assert number < at or draw(again, 3) == drawn
    (arrays, facts), (others, other_facts) = buffer.state(), again.state()
    assert facts == other_facts
    for name, array in arrays.items():
        if "column" not in name:
            np.testing.assert_array_equal(array, others[name])


def test_another_buffer_is_refused():
    state = bound(Reservoir(12, 3)).state()
    with pytest.raises(ConfigError, match=r"Reservoir\(10, threshold=3\)"):
        bound(Reservoir(10, 3)).restore(*state)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_leave_are_told(kind):
    gone = []
    tell = lambda columns, rows: gone.extend(columns["number"][rows].tolist())  # noqa: E731
    buffer = bound(KINDS[kind](10, 2), leaves=tell)
    run(buffer, 100, 3, 2)
    assert sorted(gone) == list(range(100))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: FIFO(0), "FIFO's capacity 0"),
        (lambda: FIRO(10, 10), "threshold 10 must be below its capacity 10"),
        (lambda: Reservoir(10, -1), "threshold -1"),
        (lambda: Reservoir("many", 1), "capacity 'many'"),
    ],
)
def test_impossible_buffers(make, words):
    with pytest.raises(ConfigError, match=words):
        make()
