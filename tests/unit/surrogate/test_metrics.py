import math

import numpy as np

from hpckit.surrogate.metrics import relative_l2, summary


def test_mean_of_relative_errors():
    true = np.ones((2, 4, 4)) * np.reshape([1.0, 3.0], (2, 1, 1))
    predicted = true + np.reshape([0.5, 0.3], (2, 1, 1))
    errors = relative_l2(true, predicted)
    np.testing.assert_allclose(errors, [0.5, 0.1], rtol=1e-14)
    np.testing.assert_allclose(summary(errors).mean, 0.30, rtol=1e-14)


def test_of_a_true_zero_the_error_is_absolute():
    assert relative_l2(np.zeros((1, 2)), np.array([[3.0, 4.0]])).tolist() == [5]
    assert relative_l2(np.zeros((1, 2)), np.zeros((1, 2))).tolist() == [0]


def test_percentiles_are_those_of_all_ranks(comm):
    errors = np.random.default_rng(0).random(1001)
    mine = errors[comm.rank :: comm.size]
    found = summary(mine, comm)
    assert found == (math.fsum(errors) / 1001, *np.percentile(errors, [95, 99]))
    assert np.isnan(summary(errors[:0], comm)).all()
