import json

import numpy as np
import pytest
from sklearn.neural_network import MLPRegressor

from hpckit.errors import ConfigError
from hpckit.surrogate.breed import Breed
from hpckit.surrogate.buffers import Reservoir
from hpckit.surrogate.metrics import relative_l2, summary
from hpckit.surrogate.space import Box, Uniform

BOX = Box(a=(0, 1), b=(0, 1))
X = np.linspace(0, 1, 32)
STEPS = 10


def steep(vectors):
    """1 in the corner where both parameters are large, 0 elsewhere."""
    return 1 / (1 + np.exp(-12 * (vectors.sum(axis=-1) - 1.6)))


def taught(sampler, simulations, seed=0):
    """Parameters drawn where losses are large in the corner, 16 simulations in a batch."""
    bound, random = sampler.bind(BOX, seed), np.random.default_rng(seed)
    vectors = np.empty((simulations, 2))
    for simulation in range(simulations):
        vectors[simulation] = bound.draw(simulation)
        recent = np.unique(random.integers(max(0, simulation - 100), simulation + 1, 16))
        bound.learn(recent, 0.1 + steep(vectors[recent]) + 0.01 * random.random(len(recent)))
    return bound, vectors


@pytest.mark.parametrize("seed", range(3))
def test_the_corner_gets_more_and_nothing_is_left_out(seed):
    _, vectors = taught(Breed(), 2000, seed)
    shares = np.histogram2d(*vectors.T, 4, [[0, 1], [0, 1]])[0] * 16 / len(vectors)
    assert shares[3, 3] > 2
    assert shares.min() > 0.3
    assert all(BOX.contains(vector) for vector in vectors)


def test_without_losses_it_is_uniform():
    uniform, bound = Uniform().bind(BOX, 3), Breed().bind(BOX, 3)
    for simulation in range(300):
        assert bound.draw(simulation).tolist() == uniform.draw(simulation).tolist()
    bound.learn(np.arange(20), np.full(20, 0.5))  # none stands out
    assert bound.draw(300).tolist() == uniform.draw(300).tolist()
    assert bound.validation(5).tolist() == uniform.validation(5).tolist()


def test_the_same_seed_draws_the_same():
    np.testing.assert_array_equal(taught(Breed(), 400)[1], taught(Breed(), 400)[1])


def test_a_simulation_that_is_solved_again_has_its_parameters():
    bound, vectors = taught(Breed(), 300)
    for simulation in range(250, 300):
        assert bound.draw(simulation).tolist() == vectors[simulation].tolist()


@pytest.mark.parametrize("at", [0, 7, 200])
def test_a_restored_sampler_goes_on(at):
    bound, _ = taught(Breed(share=0.9, parents=30), at)
    again = Breed(share=0.9, parents=30).bind(BOX, 0)
    again.restore(json.loads(json.dumps(bound.state())))
    for simulation in range(at, at + 20):
        assert again.draw(simulation).tolist() == bound.draw(simulation).tolist()
        for each in (again, bound):
            each.learn(np.array([simulation, simulation - 1]), np.array([1.0, 2.0]))
    with pytest.raises(ConfigError, match="parents = 40 of Breed, but 30 were saved"):
        Breed(parents=40).bind(BOX, 0).restore(bound.state())


def test_its_worst_predictions_are_better_than_uniforms():
    """Equal steps of the same network; the field is steep in one corner."""
    errors = {type(each): trained(each, 1000) for each in (Uniform(), Breed(share=0.3, ramp=50))}
    assert errors[Breed].p99 < errors[Uniform].p99


def trained(sampler, steps):
    bound = sampler.bind(BOX, 0)
    network = MLPRegressor(
        hidden_layer_sizes=(48, 48), random_state=0, learning_rate_init=2e-3, batch_size=64
    )
    columns = {"simulation": ((), np.int64), "x": ((3,), np.float32), "y": ((32,), np.float32)}
    buffer = Reservoir(2000, threshold=300).bind(columns, np.random.default_rng(0))
    rows = {name: np.empty((64, *shape), dtype) for name, (shape, dtype) in columns.items()}
    coming = samples(bound)
    for step in range(steps):
        for _ in range(16 if step else 301):
            buffer.put(next(coming))
        buffer.draw(64, rows)
        if step:
            losses = np.square(network.predict(rows["x"]) - rows["y"]).mean(axis=1)
            bound.learn(rows["simulation"], losses)
        network.partial_fit(rows["x"], rows["y"])
    random = np.random.default_rng(9)
    vectors, times = random.random((2000, 2)), random.integers(0, STEPS, 2000) / STEPS
    predicted = network.predict(np.float32(np.column_stack([vectors, times])))
    return summary(relative_l2(field(vectors, times), predicted))


def samples(bound):
    simulation = 0
    while True:
        vector = bound.draw(simulation)
        times = np.arange(STEPS) / STEPS
        for time, y in zip(times, field(np.tile(vector, (STEPS, 1)), times), strict=True):
            yield {"simulation": simulation, "x": [*vector, time], "y": y}
        simulation += 1


def field(vectors, times):
    (a, b), t = vectors.T[:, :, None], times[:, None]
    smooth = 1 + 0.5 * np.sin(2 * np.pi * (0.5 * X + 0.3 * a + 0.2 * b * t))
    return smooth + steep(vectors)[:, None] * np.sin(20 * X * (a + b - 1) + 6 * t)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"share": 1.0}, "share = 1.0 of Breed"),
        ({"share": -0.1}, "share = -0.1"),
        ({"ramp": 0}, "ramp = 0 of Breed must be above 0"),
        ({"parents": 0}, "parents = 0"),
    ],
)
def test_impossible_arguments(arguments, words):
    with pytest.raises(ConfigError, match=words):
        Breed(**arguments)
