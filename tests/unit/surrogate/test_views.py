import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpckit.errors import ConfigError, HpckitError
from hpckit.surrogate.buffers import FIRO, Epochs, Reservoir
from hpckit.surrogate.message import message_dtype
from hpckit.surrogate.solver import Fields
from hpckit.surrogate.views import parse

FIELDS = Fields.of({"u": (2,), "v": (3,)})
VIEWS = ["direct", "initial", "pairs:1", "pairs:3", "window:1", "window:3"]


def field(simulation, step):
    return np.arange(FIELDS.size) + 10 * step + 1000 * simulation


def message(simulation, step, lane=0):
    made = np.zeros(1, message_dtype(2, FIELDS.size))[0]
    made["simulation"] = simulation
    made["step"] = step
    made["lane"] = lane
    made["time"] = 0.5 * step + 7 * simulation
    made["parameters"] = [simulation, -simulation]
    made["values"] = field(simulation, step)
    return made


def lanes(simulations, steps, count):
    """Messages of simulations in so many lanes, in turns."""
    for first in range(0, simulations, count):
        for step in range(steps):
            for lane in range(min(count, simulations - first)):
                yield message(first + lane, step, lane)


def samples(view, messages):
    """(simulation, x, y) of each sample, gathered as if drawn alone."""
    found = []
    for each in messages:
        row = view.feed(each)
        if row is not None:
            assert row.keys() == view.columns.keys()
            rows = {
                name: np.array(row[name], dtype).reshape(1, *shape)
                for name, (shape, dtype) in view.columns.items()
            }
            x, y = view.gather(rows)
            assert x.dtype == y.dtype == np.float32
            found.append((int(row["simulation"]), x[0].copy(), y[0].copy()))
    return found


def expected(text, simulation, steps):
    """The samples of a simulation, by the table at the top of views.py."""
    kind, _, number = text.partition(":")
    history, lag = {
        "direct": (0, 0),
        "initial": (1, 0),
        "pairs": (1, int(number or 0)),
        "window": (int(number or 0), 1),
    }[kind]
    for step in range(steps):
        first = step - lag - history + 1
        if kind == "initial":
            past = [0] if step else None
        else:
            past = range(first, first + history) if first >= 0 or not history else None
        if past is not None:
            time = 0.5 * (step - lag) + 7 * simulation
            head = [simulation, -simulation, time]
            x = np.concatenate([head, *(field(simulation, each) for each in past)])
            yield simulation, x, field(simulation, step)


def same(found, wanted):
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        assert a[0] == b[0]
        np.testing.assert_array_equal(a[1], b[1].astype(np.float32))
        np.testing.assert_array_equal(a[2], b[2].astype(np.float32))


@pytest.mark.parametrize("text", VIEWS)
@given(simulations=st.integers(1, 9), steps=st.integers(1, 7), count=st.integers(1, 4))
def test_samples_of_mixed_simulations(text, simulations, steps, count):
    view = parse(text).bind(2, FIELDS)
    assert view.inputs == view.scalars + view.history * FIELDS.size
    found = samples(view, lanes(simulations, steps, count))
    found.sort(key=lambda sample: sample[0])  # is stable
    same(found, [each for s in range(simulations) for each in expected(text, s, steps)])
    assert bool(found) == (steps >= parse(text).fewest())


@pytest.mark.parametrize("text", VIEWS)
@given(at=st.integers(0, 20))
def test_a_restored_view_goes_on(text, at):
    messages = list(lanes(4, 5, 2))
    whole = samples(parse(text).bind(2, FIELDS), messages)
    first, second = (parse(text).bind(2, FIELDS) for _ in range(2))
    found = samples(first, messages[:at])
    second.restore({name: array.copy() for name, array in first.state().items()})
    same([*found, *samples(second, messages[at:])], whole)


@pytest.mark.parametrize("at", range(6))
def test_five_steps_give_four_pairs(at):
    view, again = (parse("pairs:1").bind(2, FIELDS) for _ in range(2))
    found = samples(view, [message(0, step) for step in range(at)])
    again.restore(view.state())
    found += samples(again, [message(0, step) for step in range(at, 5)])
    assert len(found) == 4
    same(found, list(expected("pairs:1", 0, 5)))


@pytest.mark.parametrize("text", ["initial", "pairs:1", "window:3"])
def test_missing_steps_are_an_error(text):
    view = parse(text).bind(2, FIELDS)
    view.feed(message(4, 0))
    with pytest.raises(HpckitError, match="step 2 of simulation 4 came after step 0"):
        view.feed(message(4, 2))
    with pytest.raises(HpckitError, match="simulation 5"):
        view.feed(message(5, 1, lane=3))


@pytest.mark.parametrize("buffer", [FIRO(20, 4), Reservoir(20, 4), Epochs()])
def test_initial_fields_are_kept_once_and_as_long_as_needed(buffer):
    """Whatever is drawn has its own initial field; at the end none but open lanes keep one."""
    view = parse("initial").bind(2, FIELDS)
    buffer = buffer.bind(view.columns, np.random.default_rng(0), view.leaves)
    rows = {n: np.empty((4, *shape), dtype) for n, (shape, dtype) in view.columns.items()}

    def draw():
        if count := buffer.draw(4, rows):
            x, y = view.gather({name: array[:count] for name, array in rows.items()})
            for simulation, sample in zip(rows["simulation"], x, strict=False):
                np.testing.assert_array_equal(sample[3:], field(simulation, 0))
            assert y.shape == (count, FIELDS.size)
        return count

    for each in lanes(60, 6, 3):
        while not buffer.accepts():
            assert draw()
        if (row := view.feed(each)) is not None:
            buffer.put(row)
        draw()
    buffer.finish()
    kept = len(view.counts)
    if isinstance(buffer, Epochs):
        assert draw() == 4
        assert view.counts.sum() == 60 * 5 + 3
    else:
        while draw():
            pass
        assert kept <= 32  # of 60
        assert sorted(view.counts[view.counts > 0]) == [1, 1, 1]


@pytest.mark.parametrize(
    "text", ["", "Direct", "pairs", "pairs:0", "window:-1", "direct:1", "window:01", "pairs:x", 3]
)
def test_impossible_views(text):
    with pytest.raises(ConfigError, match="must be direct, initial, pairs:D or window:n"):
        parse(text)
