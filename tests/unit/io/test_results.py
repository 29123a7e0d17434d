"""Results: what `FieldFile` wrote comes back, of any layout, dimension and kind of field."""

from __future__ import annotations

import numpy as np
import pytest

from hpckit import ConfigError, FieldFile, Grid, Results

pytest.importorskip("h5py")


def write(comm, path, shape, layout="mpi", **place):
    """Three steps of a field, and of a staggered one, whose values are numbers of their cells."""
    grid = Grid(comm, shape)
    u, v = grid.zeros(), grid.zeros("i4", stagger=(1,) + (0,) * (len(shape) - 1))
    with FieldFile(path, grid, {"u": u, "v": v}, 3, layout=layout, **place) as file:
        for step in range(3):
            for name, array in (("u", u), ("v", v)):
                array[grid.owned] = mine(grid, array, step)
                file.write(step, step / 2, name, array)


def mine(grid, array, step):
    box = tuple(slice(a, a + n) for a, n in zip(grid.start, array[grid.owned].shape, strict=True))
    return whole(tuple(n + 1 for n in grid.shape), step)[box]


def whole(shape, step):
    return np.arange(np.prod(shape)).reshape(shape) + step


@pytest.mark.mpi
@pytest.mark.parametrize("layout", ["mpi", "files"])
@pytest.mark.parametrize("shape", [(9,), (8, 7), (6, 5, 4), (4, 3, 2, 2)])
def test_what_was_written_is_read(comm, shared_path, shape, layout):
    path = shared_path / "a.vtkhdf"
    place = {"spacing": [0.5 + d for d in range(len(shape))], "origin": [*range(len(shape))]}
    write(comm, path, shape, layout, **place)
    comm.Barrier()
    with Results(path) as results:
        assert results.names == ("u", "v") and results.times.tolist() == [0.0, 0.5, 1.0]
        image = len(shape) < 4
        assert results.spacing == (tuple(place["spacing"]) if image else None)
        assert results.origin == (tuple(place["origin"]) if image else None)
        staggered = (shape[0] + 1, *shape[1:])
        assert results.shape("u") == shape and results.shape("v") == staggered
        for step in (0, 1, 2, -1):
            for name, its in (("u", shape), ("v", staggered)):
                wanted = whole(tuple(n + 1 for n in shape), step % 3)[tuple(map(slice, its))]
                found = results.read(name, step)
                assert np.array_equal(found, wanted)
                assert np.array_equal(results.read(name, step, np.s_[::2]), wanted[::2])
        assert results.read("v").dtype == np.int32
        for wrong, said in ((("w",), "has no field 'w', only u, v"), (("u", 3), "steps 0 to 2")):
            with pytest.raises(ConfigError, match=said):
                results.read(*wrong)
    comm.Barrier()


def test_what_are_no_results_is_refused(tmp_path):
    import h5py

    (tmp_path / "text.h5").write_text("no HDF5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["u"] = 1.0
    for name in ("text.h5", "other.h5", "none.h5"):
        with pytest.raises(ConfigError, match=f"{name}"):
            Results(tmp_path / name)
