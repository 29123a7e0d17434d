import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import qmc

from hpckit.errors import ConfigError
from hpckit.surrogate.space import Box, Sobol, Uniform

BOX = Box(ic=(100, 500), nu=(0.01, 0.1), fixed=(3, 3))
SAMPLERS = [Uniform(), Sobol()]


def test_a_box():
    assert (BOX.names, BOX.size) == (("ic", "nu", "fixed"), 3)
    assert repr(BOX) == "Box(ic=(100.0, 500.0), nu=(0.01, 0.1), fixed=(3.0, 3.0))"
    assert BOX.dict([1, 2, 3]) == {"ic": 1.0, "nu": 2.0, "fixed": 3.0}
    assert BOX.vector({"nu": 2, "fixed": 3, "ic": 1}).tolist() == [1, 2, 3]
    assert BOX.contains([100, 0.1, 3])
    assert not BOX.contains([100, 0.1, np.nan])
    assert BOX.outside([99, 0.05, 4]) == "ic = 99 is not in 100 to 500, fixed = 4 is not in 3 to 3"
    with pytest.raises(ConfigError, match="needed are ic, nu, fixed"):
        BOX.vector({"ic": 1, "nu": 2})


@pytest.mark.parametrize(
    ("ranges", "words"),
    [
        ({}, "at least one parameter"),
        ({"a": 3}, "parameter a = 3"),
        ({"a": (2, 1)}, "the lower first"),
        ({"a": (0, np.inf)}, "two finite numbers"),
        ({"a": ("x", 1)}, "two finite numbers"),
    ],
)
def test_impossible_boxes(ranges, words):
    with pytest.raises(ConfigError, match=words):
        Box(**ranges)


@pytest.mark.parametrize("sampler", SAMPLERS)
@given(numbers=st.lists(st.integers(0, 300), max_size=10), seed=st.integers(0, 3))
def test_draws_are_functions_of_the_number(sampler, numbers, seed):
    bound = sampler.bind(BOX, seed)
    for number in numbers:
        drawn = bound.draw(number)
        assert drawn.dtype == np.float64 and BOX.contains(drawn)
        assert drawn.tolist() == sampler.bind(BOX, seed).draw(number).tolist()
    assert len({tuple(bound.draw(number)) for number in numbers}) == len(set(numbers))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_seeds_and_streams_differ(sampler):
    one, two = sampler.bind(BOX, 1), sampler.bind(BOX, 2)
    vectors = [each(n) for b in (one, two) for each in (b.draw, b.validation) for n in range(20)]
    assert len({tuple(vector) for vector in vectors}) == 80
    uniform = Uniform().bind(BOX, 1)
    assert one.validation(7).tolist() == uniform.validation(7).tolist()


def test_sobol_is_evener_than_uniform():
    box = Box(a=(0, 1), b=(0, 1), c=(0, 1))
    even, uneven = (
        qmc.discrepancy(np.array([bound.draw(n) for n in range(256)]))
        for bound in (Sobol().bind(box, 0), Uniform().bind(box, 0))
    )
    assert even < uneven / 4
