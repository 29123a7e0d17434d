"""Global arrays from .npy, .npz and HDF5 files: every rank gets its box, and bad files one clear error on all ranks."""

from __future__ import annotations

import numpy as np
import pytest

from hpckit.comm.partition import block
from hpckit.errors import ConfigError, HpckitError
from hpckit.io.input import read_field, read_rows

SHAPE = (7, 6, 5)
WHOLE = np.random.default_rng(1).standard_normal(SHAPE)


@pytest.fixture
def grid(comm):
    from hpckit.comm.grid import Grid

    return Grid(comm, SHAPE)


def mine(grid, whole=WHOLE):
    return whole[tuple(slice(a, b) for a, b in zip(grid.start, grid.stop, strict=True))]


def written(grid, path, write):
    """Rank 0 writes the file."""
    if grid.rank == 0:
        write(path)
    grid.comm.Barrier()
    return path


def hdf5(**datasets):
    def write(path):
        import h5py

        with h5py.File(path, "w") as file:
            for name, options in datasets.items():
                file.create_dataset(name.replace("__", "/"), **{"data": WHOLE} | options)

    return write


FILES = {
    "c.npy": lambda path: np.save(path, WHOLE),
    "f.npy": lambda path: np.save(path, np.asfortranarray(WHOLE)),
    "big-endian.npy": lambda path: np.save(path, WHOLE.astype(">f8")),
    "one.npz": lambda path: np.savez(path, u=WHOLE),
    "small.npz": lambda path: np.savez_compressed(path, u=WHOLE),
    "plain.h5": hdf5(u={}),
    "chunked.h5": hdf5(deep__down__u={"chunks": (2, 2, 2), "compression": "gzip"}),
    "compact-or-unwritten.h5": hdf5(u={"data": WHOLE, "maxshape": (None, None, None)}),
}


@pytest.mark.parametrize("name", FILES)
def test_every_rank_reads_its_box(grid, shared_path, name):
    path = written(grid, shared_path / name, FILES[name])
    assert np.array_equal(read_field(path, grid), mine(grid))


@pytest.mark.parametrize("dimensions", [1, 2, 4])
def test_other_dimensions(comm, shared_path, dimensions):
    from hpckit.comm.grid import Grid

    grid = Grid(comm, (8, 5, 4, 3)[:dimensions])
    whole = np.random.default_rng(2).random(grid.shape).astype("f4")
    for name, write in [("u.npy", np.save), ("u.npz", np.savez_compressed)]:
        path = written(grid, shared_path / name, lambda path, write=write: write(path, whole))
        u = grid.zeros()
        read_field(path, grid, out=u[grid.owned])
        assert np.array_equal(u[grid.owned], mine(grid, whole))
        assert u.sum() == pytest.approx(u[grid.owned].sum())


def test_integers_become_floats_and_not_the_other_way(grid, shared_path):
    whole = np.arange(210, dtype=np.int16).reshape(SHAPE)
    path = written(grid, shared_path / "i.npy", lambda path: np.save(path, whole))
    assert np.array_equal(read_field(path, grid), mine(grid, whole))
    assert read_field(path, grid, dtype=np.float32).dtype == np.float32
    path = written(grid, shared_path / "f.npy", FILES["c.npy"])
    with pytest.raises(ConfigError, match="float64, which cannot become int32 without loss"):
        read_field(path, grid, dtype=np.int32)


def test_nan_is_an_error_unless_allowed(grid, shared_path):
    whole = WHOLE.copy()
    whole[0, 0, 0], whole[-1, -1, -1] = np.nan, np.inf
    path = written(grid, shared_path / "nan.npy", lambda path: np.save(path, whole))
    with pytest.raises(HpckitError, match=r"values of \d+ are NaN or infinite"):
        read_field(path, grid)
    assert np.array_equal(read_field(path, grid, finite=False), mine(grid, whole), equal_nan=True)


def cut(write, keep):
    def damaged(path):
        write(path)
        path.write_bytes(path.read_bytes()[:keep])

    return damaged


def flipped(write, at):
    def damaged(path):
        write(path)
        data = bytearray(path.read_bytes())
        data[at] ^= 0x55
        path.write_bytes(data)

    return damaged


BAD = {
    "wrong-shape.npy": (
        lambda path: np.save(path, WHOLE[1:]),
        {},
        r"has shape \(6, 6, 5\), but the grid has shape \(7",
    ),
    "objects.npy": (lambda path: np.save(path, np.array([{}])), {}, "cannot read"),
    "cut.npy": (cut(FILES["c.npy"], 700), {}, "cut short"),
    "cut-header.npy": (cut(FILES["c.npy"], 20), {}, "cannot read"),
    "empty.npy": (lambda path: path.touch(), {}, "neither"),
    "text.npy": (lambda path: path.write_text("0 1 2\n"), {}, "neither .npy nor .npz nor HDF5"),
    "cut.npz": (cut(FILES["small.npz"], 700), {}, "cannot read"),
    "flipped.npz": (flipped(FILES["one.npz"], 900), {}, "CRC"),
    "two.npz": (lambda path: np.savez(path, a=WHOLE, b=WHOLE), {}, "more than one array.*a, b"),
    "missing.npz": (FILES["one.npz"], {"name": "v"}, "no array 'v'.*names: u"),
    "missing.h5": (hdf5(a__b={}), {"name": "v"}, "no array 'v'.*a/b"),
    "cut.h5": (cut(hdf5(u={}), 3000), {}, "cannot read"),
    "flipped.h5": (flipped(FILES["chunked.h5"], -400), {}, "cannot read"),
    "nothing.h5": (hdf5(), {}, "no array"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(grid, shared_path, name):
    write, options, message = BAD[name]
    path = written(grid, shared_path / name, write)
    with pytest.raises(HpckitError, match=message):
        read_field(path, grid, **options)


def test_missing_file(grid, shared_path):
    with pytest.raises(ConfigError, match="there is no file"):
        read_field(shared_path / "none.npy", grid)
    with pytest.raises(ConfigError, match=r"use u\[grid.owned\]"):
        read_field(written(grid, shared_path / "u.npy", FILES["c.npy"]), grid, out=grid.zeros())


TABLE = np.random.default_rng(4).integers(0, 99, (7, 3)).astype(float)
LINES = ["name;a;b;c", *(f"n{i};{a};{b};{c}" for i, (a, b, c) in enumerate(TABLE))]
TABLES = {
    "t.npy": (lambda path: np.save(path, TABLE), None),
    "t.npz": (lambda path: np.savez_compressed(path, t=TABLE), None),
    "t.h5": (hdf5(t={"data": TABLE, "chunks": (2, 3)}), None),
    "plain.txt": (lambda path: np.savetxt(path, TABLE), None),
    "t.csv": (lambda path: path.write_text("\n".join(LINES)), (1, 4)),
    "headless.csv": (lambda path: path.write_text("\n".join(LINES[1:])), (1, 4)),
}


@pytest.mark.parametrize("name", TABLES)
def test_every_rank_reads_its_rows(comm, shared_path, name):
    write, columns = TABLES[name]
    if comm.rank == 0:
        write(shared_path / name)
    comm.Barrier()
    rows = read_rows(shared_path / name, comm, columns=columns)
    assert np.array_equal(rows, TABLE[slice(*block(len(TABLE), comm.size, comm.rank))])


def test_rows_as_the_file_has_them_and_none_on_ranks_too_many(comm, shared_path):
    if comm.rank == 0:
        np.savez(shared_path / "one.npz", np.ones((1, 2), np.float16))
    comm.Barrier()
    rows = read_rows(shared_path / "one.npz", comm)
    assert rows.shape == (int(comm.rank == 0), 2) and rows.dtype == np.float16


@pytest.mark.parametrize(
    ("name", "write", "columns", "message"),
    [
        ("line.npy", lambda path: np.save(path, np.arange(3)), None, r"has shape \(3,\), but a table has rows"),
        ("text.npy", lambda path: np.save(path, np.array([["a"]])), None, "but a table has real numbers"),
        ("t.npy", TABLES["t.npy"][0], (0, 1), "columns can be chosen of tables of text only"),
        ("t.csv", TABLES["t.csv"][0], None, "'n0'.*choose the columns that hold numbers"),
        ("short.csv", lambda path: path.write_text("1,2\n3\n"), None, "choose the columns"),
    ],
)
def test_bad_tables(comm, shared_path, name, write, columns, message):
    if comm.rank == 0:
        write(shared_path / name)
    comm.Barrier()
    with pytest.raises(ConfigError, match=message):
        read_rows(shared_path / name, comm, columns=columns)
