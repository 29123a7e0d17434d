"""Where on Earth a grid lies."""

import numpy as np
import pytest

from hpckit.errors import ConfigError
from hpckit.pde.maps import Bounds


def test_bounds_know_where_and_how_large():
    bounds = Bounds(-126.0, -122.0, 48.0, 50.0)
    latitude, longitude = bounds.centres((4, 8))
    np.testing.assert_allclose(latitude, [48.25, 48.75, 49.25, 49.75])
    assert longitude[0] == -125.75
    dy, dx = bounds.spacing((91, 120))
    assert dy == pytest.approx(2444, abs=1)
    assert dx == pytest.approx(2432, abs=1)


@pytest.mark.parametrize("name", ["tsunami", "hillslope"])
def test_an_equation_on_a_map_without_an_input_is_refused_on_all_ranks(comm, name):
    from hpckit.comm.grid import Grid
    from hpckit.pde import EQUATIONS, Setup

    numerics = {"dtype": "float64", "threads": 1, "method": "packed"}
    kind = EQUATIONS[name]
    grid = Grid(comm, (12, 12), width=kind.width)
    with pytest.raises(ConfigError, match="needs an input, and its Setup has none"):
        kind(Setup(grid, numerics, (-126.0, -122.0, 48.0, 50.0)), kind.Options()).start()
