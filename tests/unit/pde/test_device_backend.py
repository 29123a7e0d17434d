"""What solvers need of a device gives the bits that the host gives."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from hpckit.comm.device import HOST
from hpckit.comm.grid import Grid
from hpckit.comm.places import open_device
from hpckit.errors import ConfigError
from hpckit.pde import walls
from hpckit.pde.backend import BACKENDS

DTYPES = [np.float64, np.float32]


class Twice:
    """The same arrays on the host and on a device, full of random numbers, and both backends."""

    def __init__(self, comm, shape, dtype, seed=0):
        self.grid = Grid(comm, shape)
        self.places = HOST, open_device(comm, "stand-in")
        self.backends = [
            BACKENDS[place.kind](place, self.grid, np.dtype(dtype), 1, "auto", "hpckit.pde.kernels")
            for place in self.places
        ]
        self._draw = np.random.default_rng([seed, comm.rank])

    def local(self, *stagger):
        """Of a local array, here and there."""
        here, there = (backend.zeros(stagger or 0) for backend in self.backends)
        here[...] = self._draw.uniform(-1, 1, here.shape)
        there.set(here)
        return here, there

    def rows(self, like):
        """Of one number per row, and one more."""
        values = self._draw.uniform(-1, 1, like.shape[0] + 1).astype(like.dtype)
        here, there = (backend.put(values) for backend in self.backends)
        both = self.places[0].view(here), self.places[1].view(there)
        return [np.broadcast_to(each[:, None], (each.size, like.shape[1])) for each in both]


def same_bits(*pairs):
    for here, there in pairs:
        np.testing.assert_array_equal(here.view(f"u{here.itemsize}"), bits(there.get()))


def bits(array):
    return array.view(f"u{array.itemsize}")


def shell(cells):
    """An interior and boxes around it."""
    inner = tuple(slice(s.start + 1, max(s.start + 1, s.stop - 1)) for s in cells)
    boxes, rest = [], list(cells)
    for d, (all_, inside) in enumerate(zip(cells, inner, strict=True)):
        for cut in (slice(all_.start, inside.start), slice(inside.stop, all_.stop)):
            boxes.append((*rest[:d], cut, *rest[d + 1 :]))
        rest[d] = inside
    return inner, boxes


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(7, 19, 33), (1, 40, 300), (9, 9, 1), (3, 8, 256)])
def test_diffusion(comm, shape, dtype):
    both = Twice(comm, (comm.size * shape[0], *shape[1:]), dtype)
    old, new = both.local(), both.local()
    cells = tuple(slice(1, 1 + n) for n in both.grid.owned_shape())
    for i, (backend, place) in enumerate(zip(both.backends, both.places, strict=True)):
        views = place.views([new[i], old[i]])
        strides = tuple(s // views[0].itemsize for s in views[0].strides[:2])
        sweep = backend.sweep("diffuse", views, *shell(cells), layout=strides, walk=(4, False))
        sweep.interior(0.1, 0.2, 0.3, 1e-3)
        sweep.shell(0.1, 0.2, 0.3, 1e-3)
    same_bits(new, old)


@pytest.mark.parametrize("dtype", DTYPES)
def test_waves(comm, dtype):
    both = Twice(comm, (comm.size * 21, 37), dtype)
    pairs = [both.local(), both.local(0, 1), both.local(1, 0), both.local(), both.local()]
    weights = [both.local(0, 1), both.local(1, 0)]
    metric = [both.rows(pairs[0][0]) for _ in range(4)]
    cells = tuple(slice(1, 1 + n) for n in both.grid.owned_shape())
    for i, (backend, place) in enumerate(zip(both.backends, both.places, strict=True)):
        eta, hu, hv, peak, arrival, to_u, to_v = place.views(
            [pair[i] for pair in (*pairs, *weights)]
        )
        height, u, v = (a.strides[0] // a.itemsize for a in (eta, hu, hv))
        per_x, per_y, per_face, shrink = (pair[i] for pair in metric)
        push = backend.sweep("push", (hu, to_u, eta, per_x), *shell(cells), layout=(u, height, 1))
        push.add((hv, to_v, eta, per_face), *shell(cells), (v, height, height))
        push.interior(0.1)
        push.shell(0.1)
        arrays = eta, hu, hv, peak, arrival, per_x, per_y, shrink
        rise = backend.sweep("fill", arrays, cells, [], layout=(height, u, v))
        for time in (0.3, -0.2):
            rise.interior(0.1, time, 0.5)
    same_bits(*pairs, *weights)
    assert (pairs[4][0] == dtype(-0.2)).any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(50,), (7, 41), (5, 6, 17)])
def test_walls(comm, shape, dtype):
    both = Twice(comm, (comm.size * shape[0], *shape[1:]), dtype)
    pairs = both.local(), both.local()
    kinds = walls.parse([(0.3, walls.INSULATED)] * len(shape), len(shape))
    for backend, arrays in zip(both.backends, zip(*pairs, strict=True), strict=True):
        backend.fill(kinds, arrays)()
    for here, there in pairs:
        ghosts = there.get()
        assert not np.array_equal(ghosts, 0 * ghosts)
        for d in range(len(shape)):  # without those of edges and corners, which no face needs
            face = tuple(slice(None) if i == d else slice(1, -1) for i in range(len(shape)))
            np.testing.assert_array_equal(bits(here[face].copy()), bits(ghosts[face].copy()))


@pytest.mark.parametrize("dtype", DTYPES)
def test_products(comm, dtype):
    both = Twice(comm, (comm.size * 9, 40), dtype)
    flux, height = both.local(0, 1), both.local()
    rows, columns = (np.linspace(-1, 1, n, dtype=dtype) for n in both.grid.owned_shape())
    west = (slice(1, 1 + rows.size), slice(2, 3)), rows[:, None]
    north = (slice(4, 5), slice(1, 1 + columns.size)), columns[None]
    for i, backend in enumerate(both.backends):
        triples = [
            (flux[i][box], height[i][box], backend.put(speed)) for box, speed in (west, north)
        ]
        backend.products(triples)()
    same_bits(flux, height)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_is_found_in_owned_cells_alone(comm, dtype):
    both = Twice(comm, (comm.size * 9, 40), dtype)
    arrays = {"h": both.local()[1], "u": both.local(0, 1)[1]}
    device = both.backends[1]
    fields = device.fields(arrays)
    assert not device.has_nan(fields)
    with device.changing(fields) as copies:
        copies["h"][0], copies["h"][:, -1] = math.nan, math.nan
        copies["u"][1, 2] = math.inf
    assert not device.has_nan(fields)
    for name, array in arrays.items():
        last = tuple(n - 2 for n in array.shape)
        array[last].set(math.nan)
        assert device.has_nan(fields), name
        array[last].set(0)
    assert not device.has_nan(fields)


def test_fields_are_copies_and_changes_are_put_back(comm):
    both = Twice(comm, (comm.size * 3, 4), float)
    arrays = {"a": both.local()[1], "b": both.local()[1]}
    fields = both.backends[1].fields(arrays)
    before = fields["b"]
    fields["a"][...] = 7
    assert not (fields["a"] == 7).any()
    with both.backends[1].changing(fields) as copies:
        copies["a"][...] = 7
    assert (fields["a"] == 7).all()
    assert list(fields) == ["a", "b"]
    np.testing.assert_array_equal(fields["b"], before)


def test_threads_are_refused(comm):
    place, grid = open_device(comm, "stand-in"), Grid(comm, (8,))
    with pytest.raises(ConfigError, match="threads=2, but steps run on a device: use threads=1"):
        BACKENDS["device"](place, grid, np.dtype(float), 2, "auto", "")


def test_sweeps_in_the_simulator(mpirun):
    script = Path(__file__).with_name("simulated_sweeps.py")
    result = mpirun(None, script, NUMBA_ENABLE_CUDASIM="1")
    assert result.returncode == 0 and result.stdout.split()[-2:] == ["5", "kernels"], result.stdout
