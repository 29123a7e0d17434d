"""Global arrays from .npy, .npz and HDF5: every rank gets its box, bad files one error on all."""

from __future__ import annotations

import gzip
import sys

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
        (
            "line.npy",
            lambda path: np.save(path, np.arange(3)),
            None,
            r"has shape \(3,\), but a table has rows",
        ),
        (
            "text.npy",
            lambda path: np.save(path, np.array([["a"]])),
            None,
            "but a table has real numbers",
        ),
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


RIGHT = [[1.5, 2.0], [3.25, 4.0]]
TEXTS = {
    "mark.csv": "1.5,2\n3.25,4\n".encode("utf-8-sig"),
    "utf16.csv": "a,b\n1.5,2\n3.25,4\n".encode("utf-16"),
    "latin.csv": "größe,b\n1.5,2\n3.25,4\n".encode("latin-1"),
    "windows.csv": b"a,b\r\n1.5,2\r\n3.25,4\r\n",
    "mac.csv": b"a,b\r1.5,2\r3.25,4",
    "semicolons.csv": b"a;b\n1.5;2\n3.25;4\n",
    "commas.csv": b"a;b\n1,5;2\n3,25;4\n",
    "commas.tsv": b"a\tb\n1,5\t2\n3,25\t4\n",
    "commas-below.csv": b"1;2\n1,5;2\n3,25;4\n",
    "quotes.csv": b'"a, b";"c;d"\n"1.5";2\n3.25;"4"\n',
    "quotes-and-commas.csv": b'"a; b","c"\n"1.5",2\n3.25,"4"\n',
    "blanks.txt": b"\n\n  1.5   2\n\n3.25\t4\n\n",
    "comments.txt": b"# x y\n\n# z\n1.5 2 # t\n3.25 4\n",
    "spaces.csv": b"a, b\n 1.5, 2\n3.25 , 4\n",
    "UPPER.CSV": b"1.5,2\n3.25,4\n",
    "packed.csv.gz": gzip.compress(b"a,b\n1.5,2\n3.25,4\n"),
    "packed-too.csv": gzip.compress("a;b\n1,5;2\n3,25;4\n".encode("utf-8-sig")),
}


@pytest.mark.parametrize("name", TEXTS)
def test_tables_as_they_are_found(comm, shared_path, name):
    if comm.rank == 0:
        (shared_path / name).write_bytes(TEXTS[name])
    comm.Barrier()
    right = [[1.0, 2.0], *RIGHT] if name == "commas-below.csv" else RIGHT
    rows = comm.allgather(read_rows(shared_path / name, comm).tolist())
    assert [row for each in rows for row in each] == right
    second = comm.allgather(read_rows(shared_path / name, comm, columns=(1, 2)).tolist())
    assert [row for each in second for row in each] == [row[1:] for row in right]


BEYOND = r"columns 1 to 9 of .*: it has 3 columns, so choose .* 0 to 2, .* at most 3"
WRONG_TEXTS = {
    "beyond": (b"a,b,c\n1,2,3\n", (1, 9), BEYOND),
    "negative": (b"1,2,3\n", (-2, 0), "columns -2 to 0 of .*: it has 3 columns"),
    "backwards": (b"1,2,3\n", (2, 1), "columns 2 to 1 of .*: it has 3 columns"),
    "none of them": (b"1,2,3\n", (1, 1), "columns 1 to 1 of .*: it has 3 columns"),
    "empty": (b"", None, "holds no numbers"),
    "blank": (b"\n \n# nothing\n", None, "holds no numbers"),
    "head alone": (b"a,b\n", None, "holds no numbers, only 'a,b'"),
    "units": (b"a,b\nm,s\n1,2\n", None, "could not convert string 'm'.*choose the columns"),
    "cells without": (b"a,b\n1,\n", None, "could not convert string ''"),
    "NA": (b"a,b\n1,NA\n", None, "could not convert string 'NA'"),
    "thousands": (b"1.234,5;2\n3;4\n", None, "numbers with a comma and numbers with a point"),
    "both marks": (b"1,5;2\n3;2.5\n", None, "numbers with a comma and numbers with a point"),
    "commas and blanks": (b"1,5 2,5\n", None, "could not convert string '5 2'"),
    "ragged": (b"1,2\n3\n", None, "number of columns changed"),
    "cut": (gzip.compress(b"1,2\n" * 99)[:-9], None, "cut short or damaged"),
    "zero byte": (b"1,2\n3,\0004\n", None, "could not convert"),
}


@pytest.mark.parametrize("kind", WRONG_TEXTS)
def test_tables_that_are_none(comm, shared_path, kind):
    content, columns, message = WRONG_TEXTS[kind]
    if comm.rank == 0:
        (shared_path / "t.csv").write_bytes(content)
    comm.Barrier()
    with pytest.raises(ConfigError, match=message):
        read_rows(shared_path / "t.csv", comm, columns=columns)


def test_packed_tables(comm, shared_path):
    """Rows of netCDF are scaled, and none may be missing."""

    def write(path):
        import h5py

        with h5py.File(path, "w") as file:
            for name, chunks in (("plain", None), ("chunked", (2, 2))):
                file.create_dataset(name, data=TABLE.astype("i2"), chunks=chunks)
                file[name].attrs.update({"scale_factor": 0.5, "_FillValue": np.int16(-1)})
                file[f"{name} with gaps"] = np.where(TABLE.max() == TABLE, -1, TABLE).astype("i2")
                file[f"{name} with gaps"].attrs["_FillValue"] = -1

    if comm.rank == 0:
        write(shared_path / "t.h5")
    comm.Barrier()
    for name in ("plain", "chunked"):
        rows = read_rows(shared_path / "t.h5", comm, name)
        assert np.array_equal(rows, TABLE[slice(*block(len(TABLE), comm.size, comm.rank))] / 2)
        with pytest.raises(
            ConfigError,
            match=r"\d of 21 values are missing \(stored as -1\): a table needs them all",
        ):
            read_rows(shared_path / "t.h5", comm, f"{name} with gaps")


GRID = np.arange(12.0).reshape(3, 4)


@pytest.fixture
def small(comm):
    from hpckit.comm.grid import Grid

    return Grid(comm, GRID.shape)


def ascii_grid(path, numbers=GRID):
    head = "ncols 4\nNROWS 3\nxllcorner 0\nyllcorner 1\ncellsize 2\nNODATA_value 5\n"
    text = head + "\n".join(" ".join(map(str, row)) for row in numbers)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def netcdf3(path):
    from scipy.io import netcdf_file

    with netcdf_file(path, "w") as file:
        for name, size in {"time": None, "y": 3, "x": 4}.items():
            file.createDimension(name, size)
            file.createVariable(name, "f4", (name,))[:] = np.arange(size or 1)
        variable = file.createVariable("z", "i2", ("time", "y", "x"))
        variable[0] = np.where(GRID == 5, -32767, 2 * GRID - 2)
        variable.scale_factor, variable.add_offset = 0.5, 1.0


def tiff(path):
    tifffile = pytest.importorskip("tifffile", reason="needs tifffile (extra geo)")
    metadata = '<GDALMetadata><Item name="SCALE" sample="0" role="scale">0.5</Item></GDALMetadata>'
    tags = [(42113, 2, 0, "10", True), (42112, 2, 0, metadata, True)]
    tifffile.imwrite(path, (2 * GRID).astype("i2"), compression="zlib", predictor=2, extratags=tags)


@pytest.mark.parametrize(
    ("name", "write"),
    [("z.asc", ascii_grid), ("z.asc.gz", ascii_grid), ("z.nc", netcdf3), ("z.tif", tiff)],
)
def test_what_people_have(small, shared_path, name, write):
    """5 stands for no value in each of these, by the means of its format."""
    if write is not ascii_grid:
        pytest.importorskip(
            "scipy.io" if write is netcdf3 else "tifffile", reason="needs the extra geo"
        )
    path = written(small, shared_path / name, write)
    values = mine(small, np.where(GRID == 5, np.nan, GRID))
    assert np.array_equal(read_field(path, small, finite=False), values, equal_nan=True)
    with pytest.raises(
        ConfigError, match=r"1 values of 12 are NaN or infinite, the first at \(1, 1\); missing are"
    ):
        read_field(path, small)


def geotiff(*tags):
    def write(path):
        tifffile = pytest.importorskip("tifffile", reason="needs tifffile (extra geo)")
        tifffile.imwrite(path, GRID.astype("f4"), extratags=tags)

    return write


def matrix(row):
    """Of columns and rows to coordinates; `row` is the step in y from one row to the next."""
    return (34264, 12, 16, (2.0, 0, 0, 5.0, 0, row, 0, 7.0, 0, 0, 0, 0, 0, 0, 0, 1.0), True)


SCALE = (33550, 12, 3, (2.0, 2.0, 0.0), True)


@pytest.mark.parametrize(
    ("name", "write", "turned"),
    [
        ("z.asc", lambda path: ascii_grid(path, GRID + 10), True),
        ("scale.tif", geotiff(SCALE), True),
        ("matrix.tif", geotiff(matrix(-2.0)), True),
        ("south.tif", geotiff(matrix(2.0)), False),
        ("no map.tif", geotiff(), False),
        ("z.npy", lambda path: np.save(path, GRID), False),
    ],
)
def test_maps_that_say_where_north_is_are_turned(small, shared_path, name, write, turned):
    if name.endswith(".tif"):
        pytest.importorskip("tifffile", reason="needs the extra geo")
    path = written(small, shared_path / name, write)
    values = GRID + 10 if name == "z.asc" else GRID
    for first in (None, "north"):
        assert np.array_equal(read_field(path, small, first_row=first), mine(small, values))
    values = values[::-1] if turned else values
    assert np.array_equal(read_field(path, small, first_row="south"), mine(small, values))


def test_an_unknown_first_row_is_refused_on_all_ranks(small, shared_path):
    path = written(small, shared_path / "z.npy", lambda path: np.save(path, GRID))
    with pytest.raises(ConfigError, match="first_row='up' must be 'north', 'south' or None"):
        read_field(path, small, first_row="up")


def test_without_the_library_one_line_says_what_to_do(small, shared_path, monkeypatch):
    head = b"II*\0\x08\0\0\0"
    path = written(small, shared_path / "z.tif", lambda path: path.write_bytes(head))
    for key in list(sys.modules):
        if key.split(".")[0] == "tifffile" or key == "hpckit.io.geotiff":
            monkeypatch.delitem(sys.modules, key)
    monkeypatch.delattr("hpckit.io.geotiff", raising=False)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(ConfigError, match=r"pip install tifffile, or gdal_translate .*z.tif"):
        read_field(path, small)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (b"GRIB1234", "is GRIB: gdal_translate -of netCDF .*z.x"),
        (b"CDF\x05\0\0\0\0", "is netCDF-5: nccopy -k nc4 .*z.x"),
        (b"\x0e\x03\x13\x01", "is HDF4: h4toh5 .*z.x"),
        (b"BZh91AY", "is compressed by bzip2: bunzip2 .*z.x"),
        (b"ncols 4\nnrows 3\n1 2 3\n", r"cut short: it has 3 numbers, but its head says \(3, 4\)"),
    ],
)
def test_what_is_not_read_says_what_to_do(small, shared_path, head, message):
    path = written(small, shared_path / "z.x", lambda path: path.write_bytes(head))
    with pytest.raises(ConfigError, match=message):
        read_field(path, small)


def test_folders_and_forbidden_files(small, shared_path):
    with pytest.raises(ConfigError, match=f"cannot read {shared_path}: Is a directory"):
        read_field(shared_path, small)


def test_masked_arrays_are_refused(small, shared_path):
    path = written(small, shared_path / "z.npy", lambda path: np.save(path, GRID))
    with pytest.raises(ConfigError, match=r"out is masked, and its mask would be lost"):
        read_field(path, small, out=np.ma.zeros(small.owned_shape()))
    with pytest.raises(
        ConfigError, match="out must be a NumPy array of numbers or records, not list"
    ):
        read_field(path, small, out=[1.0])


def test_ranks_that_ask_for_different_things_are_told(small, shared_path):
    for name in ("a.npy", "b.npy"):
        written(small, shared_path / name, lambda path: np.save(path, GRID))
    if small.size == 1:
        pytest.skip("needs two ranks")
    last = small.rank == small.size - 1
    path = shared_path / "a.npy"
    for call in (
        lambda: read_field(shared_path / "b.npy" if last else path, small),
        lambda: read_field(path, small, dtype="f4" if last else "f8"),
        lambda: read_field(path, small, name="x" if last else None),
        lambda: read_field(path, small, finite=last),
        lambda: read_field(path, small, index=0 if last else None),
        lambda: read_rows(shared_path / "b.npy" if last else path, small.comm),
        lambda: read_rows(path, small.comm, columns=(0, 1) if last else None),
    ):
        with pytest.raises(ConfigError, match="must be the same on all ranks"):
            call()
