"""Engines by scikit-learn: against its own training loop, saved and restored, and bad models."""

import logging
import pickle
import sys

import numpy as np
import pytest
from mpi4py import MPI
from sklearn.linear_model import SGDRegressor
from sklearn.multioutput import MultiOutputRegressor
from sklearn.neural_network import MLPRegressor

from hpckit.errors import ConfigError, HpckitError
from hpckit.surrogate.engine import Options, Shapes, check_same, load, make

pytestmark = pytest.mark.mpi
SHAPES = Shapes(3, 0, {"u": (4, 2), "v": (1,)})
SMALL = Options(sizes={"hidden": (16,)})


def batches(n, rows=10, shapes=SHAPES):
    rng = np.random.default_rng(7)
    for _ in range(n):
        x = rng.normal(size=(rows, shapes.inputs)).astype(np.float32)
        yield x, np.sin(x @ np.ones((shapes.inputs, shapes.outputs), np.float32))


def train(engine, data):
    return [engine.step(x, y) for x, y in data]


def alone(model="mlp", shapes=SHAPES, seed=0, options=SMALL):
    return make(model, shapes, MPI.COMM_SELF, seed, options)


def test_shapes_count_numbers():
    shapes = Shapes(3, 2, {"u": (4, 2), "v": (1,)})
    assert (shapes.inputs, shapes.outputs) == (21, 9)


def test_steps_are_those_of_a_loop_with_scikit_learn():
    engine = alone(
        MLPRegressor(hidden_layer_sizes=(16,), random_state=3),
        options=Options(rate=0.01, halve_every=2),
    )
    reference = MLPRegressor(hidden_layer_sizes=(16,), random_state=3, learning_rate_init=0.01)
    reference.partial_fit(np.zeros((1, 3), np.float32), np.zeros((1, 9), np.float32))
    for step, (x, y) in enumerate(batches(6)):
        losses = ((reference.predict(x) - y) ** 2).mean(axis=1)
        np.testing.assert_array_equal(engine.step(x, y), losses)
        reference._optimizer.learning_rate_init = 0.01 / 2 ** (step // 2)
        reference.partial_fit(x, y)
    weights = [*reference.coefs_, *reference.intercepts_]
    for mine, other in zip(engine.weights(), weights, strict=True):
        np.testing.assert_array_equal(mine, other)
        assert mine.dtype == np.float32


def test_it_learns_and_takes_one_step_for_a_large_batch():
    engine = alone()
    losses = train(engine, batches(300, rows=500))
    assert engine.model.t_ == 300 * 500 + 1
    assert engine.model._optimizer.t == 301
    assert losses[-1].mean() < 0.5 * losses[0].mean()
    assert losses[0].shape == (500,)


def test_the_seed_decides():
    one, same, other = ([w.tobytes() for w in alone(seed=seed).weights()] for seed in (1, 1, 2))
    assert one == same != other


@pytest.mark.parametrize("at", [0, 1, 5])
def test_restored_equals_uninterrupted(at):
    options = Options(sizes={"hidden": (16,)}, halve_every=3)
    data = [*batches(8)]
    whole, first = alone(options=options), alone(options=options)
    expected = train(whole, data)
    train(first, data[:at])
    second = alone(options=options, seed=5)
    second.restore(first.state())
    np.testing.assert_array_equal(train(second, data[at:]), expected[at:])
    for mine, other in zip(second.weights(), whole.weights(), strict=True):
        np.testing.assert_array_equal(mine, other)


def test_exported_predicts_the_same():
    engine = alone()
    train(engine, batches(3))
    x = next(batches(1))[0]
    again = load(engine.export())
    np.testing.assert_array_equal(again.predict(x), engine.predict(x))
    assert again.shapes == SHAPES


@pytest.mark.parametrize("n", [1, 3])
def test_any_model_with_partial_fit_and_predict(n):
    shapes = Shapes(2, 0, {"u": (n,)})
    model = SGDRegressor(random_state=0) if n == 1 else MultiOutputRegressor(SGDRegressor())
    engine = alone(model, shapes, options=Options())
    losses = train(engine, batches(50, shapes=shapes))
    assert losses[-1].mean() < losses[0].mean()
    assert engine.predict(np.zeros((5, 2), np.float32)).shape == (5, n)
    assert not hasattr(model, "coef_" if n == 1 else "estimators_")  # a copy was trained


def test_names_of_models_and_functions():
    by_place = alone("hpckit.surrogate.sklearn_engine:mlp")
    by_function = alone(
        lambda shapes, hidden: MLPRegressor(hidden_layer_sizes=hidden), options=SMALL
    )
    for engine in (by_place, by_function):
        for mine, other in zip(engine.weights(), alone().weights(), strict=True):
            np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("perceptron", "model 'perceptron' must be one of mlp"),
        ("json:nothing", "model 'json:nothing' cannot be imported"),
        ("no_such_module:x", "No module named 'no_such_module'"),
        (3, "model 3 must have partial_fit and predict"),
        (lambda shapes: "net", "the function '<lambda>' gives str"),
    ],
)
def test_bad_models(comm, model, says):
    with pytest.raises(HpckitError, match=says):
        make(model, SHAPES, comm)


@pytest.mark.parametrize("model", [MLPRegressor, SGDRegressor()])
def test_what_a_model_cannot_take_is_said_before_training(model):
    with pytest.raises(HpckitError, match=r"parameter|1d array"):
        alone(model, options=Options())


class Wrong:
    """Predicts seven numbers, whatever it learns from."""

    def partial_fit(self, x, y):
        return self

    def predict(self, x):
        return np.zeros((len(x), 7))


def test_a_wrong_output_size_is_said_before_training():
    with pytest.raises(ConfigError, match=r"gives \(1, 7\) .* \(1, 9\) is needed.*u \(4, 2\)"):
        alone(Wrong(), options=Options())


@pytest.mark.mpi(min_size=2)
def test_it_trains_on_one_trainer(comm):
    with pytest.raises(ConfigError, match=f"on one trainer: trainers={comm.size}"):
        make("mlp", SHAPES, comm)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rate": 0.0}, "rate=0.0 must be above 0"),
        ({"halve_every": -1}, "halve_every=-1"),
        ({"threads": 0}, "threads=0"),
        ({"compress": "fp16", "local": {"tau": 2}}, "give one of them"),
        ({"compress": "fp16"}, "options compress are for torch modules"),
    ],
)
def test_bad_options(options, says):
    with pytest.raises(ConfigError, match=says):
        alone(options=Options(**options))


def test_no_rate_for_models_without_one():
    with pytest.raises(ConfigError, match="no learning_rate_init"):
        alone(MultiOutputRegressor(SGDRegressor()), options=Options(rate=0.1))


def test_a_loss_that_is_not_finite_is_an_error():
    engine = alone()
    x, y = next(batches(1))
    engine.model.intercepts_[-1][0] = np.nan
    with pytest.raises(HpckitError, match="not finite at gradient step 0"):
        engine.step(x, y)


def test_a_state_of_another_model_is_refused():
    with pytest.raises(ConfigError, match="the state is of"):
        alone(options=Options()).restore(alone().state())


def test_it_warns_where_the_library_was_another(caplog):
    engine = alone()
    with caplog.at_level(logging.WARNING):
        engine.restore(engine.state())
        assert not caplog.records
        check_same(engine.about() | {"threads": "17"}, engine.about())
    assert "threads was 17, is" in caplog.text


def test_a_class_that_cannot_be_imported_is_named(monkeypatch):
    exported = alone(Wrong(), Shapes(3, 0, {"u": (7,)}), options=Options()).export()
    monkeypatch.delattr(sys.modules[Wrong.__module__], "Wrong")
    with pytest.raises(ConfigError, match=r"cannot be loaded .*Wrong.*scikit-learn"):
        load(exported)


def test_engines_pickle_what_their_users_can_load():
    library, _ = pickle.loads(alone().export())
    assert library == "scikit-learn"
