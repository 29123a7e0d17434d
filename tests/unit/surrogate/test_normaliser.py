import json

import numpy as np
import pytest

from hpckit.errors import ConfigError
from hpckit.surrogate.normaliser import Normaliser
from hpckit.surrogate.solver import Fields

FIELDS = Fields.of({"u": (4,), "p": (2, 3)})


def samples(count, seed=0):
    random = np.random.default_rng(seed)
    x = np.float32(random.normal(3, 2, (count, 2 + FIELDS.size)))
    y = np.float32(random.normal(1e3, 5, (count, FIELDS.size)))
    y[:, FIELDS.slices[1]] /= 1e3
    return x, y


def observed(x, y, comm=None):
    normaliser = Normaliser(2, 1, FIELDS)
    for start in range(0, len(x), 7):
        normaliser.observe(x[start : start + 7], y[start : start + 7])
    normaliser.freeze(comm)
    return normaliser


def test_two_constant_simulations():
    normaliser = Normaliser(1, 0, Fields.of({"T": (8, 8)}))
    for temperature in (100, 500):
        for step in range(5):
            y = np.full((1, 64), temperature, np.float32)
            normaliser.observe(np.float32([[step]]), y)
    normaliser.freeze()
    np.testing.assert_allclose(normaliser.mean, [2, 300], rtol=1e-15)
    np.testing.assert_allclose(normaliser.deviation, [2**0.5, 200], rtol=1e-15)
    y = np.full((1, 64), 500, np.float32)
    normaliser.outputs(y)
    assert (y == 1).all()
    normaliser.undo(y)
    assert (y == 500).all()


def test_it_is_numpys_mean_and_deviation():
    x, y = samples(500)
    normaliser = observed(x, y)
    parts = [x[:, 0], x[:, 1], *(y[:, part] for part in FIELDS.slices)]
    exact = [np.float64(part) for part in parts]
    np.testing.assert_allclose(normaliser.mean, [p.mean() for p in exact], rtol=1e-13)
    np.testing.assert_allclose(normaliser.deviation, [p.std() for p in exact], rtol=1e-11)


def test_inputs_and_outputs_and_back():
    x, y = samples(300)
    normaliser, given = observed(x, y), y.copy()
    x[:, 2:] = y  # the fields' own mean is theirs as history too
    normaliser.inputs(x)
    normaliser.outputs(y)
    np.testing.assert_array_equal(x[:, 2:], y)
    for part in (x[:, 0], x[:, 1], y[:, :4], y[:, 4:]):
        assert abs(part.mean()) < 1e-3 and abs(part.std() - 1) < 1e-3
    normaliser.undo(y)
    np.testing.assert_allclose(y, given, rtol=1e-6)


def test_what_does_not_vary_is_not_divided():
    normaliser = Normaliser(2, 0, FIELDS)
    for step in range(7):
        values = np.full((1, FIELDS.size), 0.1, np.float32)
        normaliser.observe(np.float32([[0.3, step]]), values)
    normaliser.freeze()
    assert normaliser.deviation.tolist() == [1, 2, 1, 1]
    normaliser.outputs(out := np.full((1, FIELDS.size), 0.1, np.float32))
    assert abs(out).max() < 1e-7


def test_all_ranks_get_the_same_bits(comm):
    x, y = samples(40 * comm.size)
    mine = slice(40 * comm.rank, 40 * (comm.rank + 1))
    normaliser, serial = observed(x[mine], y[mine], comm), observed(x, y)
    np.testing.assert_allclose(normaliser.mean, serial.mean, rtol=1e-13)
    np.testing.assert_allclose(normaliser.deviation, serial.deviation, rtol=1e-11)
    states = comm.allgather(json.dumps(normaliser.state()))
    assert len(set(states)) == 1


def test_a_rank_may_have_seen_nothing(comm):
    x, y = samples(30)
    few = 30 if comm.rank == 0 else 0
    normaliser = observed(x[:few], y[:few], comm)
    np.testing.assert_array_equal(normaliser.mean, observed(x, y).mean)


def test_nothing_seen_at_all(comm):
    with pytest.raises(ConfigError, match="no sample"):
        Normaliser(2, 1, FIELDS).freeze(comm)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_restored_normaliser_is_the_same(frozen):
    x, y = samples(50)
    first, again = Normaliser(2, 1, FIELDS), Normaliser(2, 1, FIELDS)
    first.observe(x[:20], y[:20])
    if frozen:
        first.freeze()
    again.restore(json.loads(json.dumps(first.state())))
    assert again.frozen == frozen
    for normaliser in (first, again):
        if not frozen:
            normaliser.observe(x[20:], y[20:])
            normaliser.freeze()
    results = [x.copy(), x.copy()]
    first.inputs(results[0])
    again.inputs(results[1])
    np.testing.assert_array_equal(*results)
    with pytest.raises(ConfigError, match="go on with the view and the solver"):
        Normaliser(3, 1, FIELDS).restore(first.state())


def test_given_ranges():
    ranges = [(0, 10), (-1, 1), (100, 500), (0, 1)]
    normaliser = Normaliser(2, 0, FIELDS, ranges)
    assert normaliser.frozen
    x = np.float32([[0, -1], [10, 1]])
    normaliser.inputs(x)
    assert x.tolist() == [[-1, -1], [1, 1]]
    assert normaliser.mean.tolist() == [5, 0, 300, 0.5]
    for wrong in (ranges[:3], [*ranges[:3], (1, 1)]):
        with pytest.raises(ConfigError, match=r"u, p; got"):
            Normaliser(2, 0, FIELDS, wrong)
