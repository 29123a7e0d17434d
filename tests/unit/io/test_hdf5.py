"""Arrays in HDF5 files that lack something: the right values, or an error that names it."""

from __future__ import annotations

import os

import h5py
import numpy as np
import pytest

from hpckit.errors import ConfigError
from hpckit.io.input import read_field, read_rows

SHAPE = (4, 6)
WHOLE = np.arange(24.0).reshape(SHAPE)
HALF = (2, 6)


@pytest.fixture
def grid(comm):
    from hpckit.comm.grid import Grid

    return Grid(comm, SHAPE)


def read(grid, write, folder, name=None, **options):
    """This rank's box of what rank 0 has written to a.h5."""
    if grid.rank == 0:
        write(folder)
    grid.comm.Barrier()
    return read_field(folder / "a.h5", grid, name, **options)


def mine(grid, whole=WHOLE):
    return whole[tuple(slice(a, b) for a, b in zip(grid.start, grid.stop, strict=True))]


def halves(folder):
    for i in range(2):
        with h5py.File(folder / f"s{i}.h5", "w") as file:
            file["d"] = WHOLE[2 * i : 2 * i + 2]
            file.create_dataset("grows", data=WHOLE[2 * i : 2 * i + 2], maxshape=(None, 6))
            file.create_dataset("unwritten", HALF, "f8", chunks=(1, 6))[0] = 1


def view(path, *sources, fill=None):
    layout = h5py.VirtualLayout(SHAPE, "f8")
    for file, name, rows, shape in sources:
        layout[rows] = h5py.VirtualSource(file, name, shape)
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("v", layout, fillvalue=fill)


LOW, HIGH = slice(0, 2), slice(2, 4)


def of_halves(*high, fill=None):
    """A view whose lower half is there."""

    def write(folder):
        halves(folder)
        view(folder / "a.h5", ("s0.h5", "d", LOW, HALF), *high, fill=fill)

    return write


def nested(*high):
    def write(folder):
        halves(folder)
        view(folder / "b.h5", ("s0.h5", "d", LOW, HALF), *high)
        view(folder / "a.h5", ("b.h5", "v", slice(None), SHAPE))

    return write


def absolute(folder):
    halves(folder)
    view(
        folder / "a.h5",
        (str(folder / "s0.h5"), "d", LOW, HALF),
        (str(folder / "s1.h5"), "d", HIGH, HALF),
    )


def in_itself(folder):
    with h5py.File(folder / "a.h5", "w") as file:
        file["d"] = WHOLE
        layout = h5py.VirtualLayout(SHAPE, "f8")
        layout[:] = h5py.VirtualSource(".", "d", SHAPE)
        file.create_virtual_dataset("v", layout)


def numbered(*missing):
    """A view of columns p0.h5, p1.h5, p2.h5, named to HDF5 as p%b.h5."""

    def write(folder):
        for i in {0, 1, 2} - set(missing):
            with h5py.File(folder / f"p{i}.h5", "w") as file:
                file["d"] = WHOLE[:, 2 * i : 2 * i + 2]
        no_end = h5py.h5s.UNLIMITED
        space = h5py.h5s.create_simple((4, 2), (4, no_end))
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        space.select_hyperslab((0, 0), (1, no_end), (4, 2), (4, 2))
        properties.set_virtual(space, b"p%b.h5", b"d", h5py.h5s.create_simple((4, 2)))
        with h5py.File(folder / "a.h5", "w") as file:
            h5py.h5d.create(
                file.id,
                b"v",
                h5py.h5t.IEEE_F64LE,
                h5py.h5s.create_simple((4, 2), (4, no_end)),
                properties,
            )

    return write


def growing(rows):
    """A view of two datasets side by side that may grow, of which the second has so many rows."""

    def write(folder):
        with h5py.File(folder / "s.h5", "w") as file:
            file.create_dataset("d0", data=WHOLE[:, :3], maxshape=(None, 3))
            file.create_dataset("d1", data=WHOLE[:rows, 3:], maxshape=(None, 3))
        no_end = h5py.h5s.UNLIMITED
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        for i in range(2):
            space, source = (h5py.h5s.create_simple((4, n), (no_end, n)) for n in (6, 3))
            space.select_hyperslab((0, 3 * i), (1, 1), None, (no_end, 3))
            source.select_hyperslab((0, 0), (1, 1), None, (no_end, 3))
            properties.set_virtual(space, b"s.h5", b"d%d" % i, source)
        with h5py.File(folder / "a.h5", "w") as file:
            h5py.h5d.create(
                file.id,
                b"v",
                h5py.h5t.IEEE_F64LE,
                h5py.h5s.create_simple(SHAPE, (no_end, 6)),
                properties,
            )

    return write


@pytest.mark.parametrize(
    "write",
    [
        of_halves(("s1.h5", "d", HIGH, HALF)),
        nested(("s1.h5", "d", HIGH, HALF)),
        absolute,
        numbered(),
        growing(4),
    ],
    ids=["halves", "nested", "absolute", "numbered", "growing"],
)
def test_views_show_their_sources(grid, shared_path, write):
    assert np.array_equal(read(grid, write, shared_path), mine(grid))


def test_a_view_of_its_own_file(grid, shared_path):
    assert np.array_equal(read(grid, in_itself, shared_path, "v"), mine(grid))


def test_sources_in_the_folder_of_the_environment(grid, shared_path, monkeypatch):
    def write(folder):
        (folder / "elsewhere").mkdir()
        halves(folder / "elsewhere")
        view(folder / "a.h5", ("s0.h5", "d", LOW, HALF), ("s1.h5", "d", HIGH, HALF))

    monkeypatch.setenv("HDF5_VDS_PREFIX", str(shared_path / "elsewhere"))
    assert np.array_equal(read(grid, write, shared_path), mine(grid))


NO_FILE = ("none.h5", "d", HIGH, HALF)
NO_PATH = ("/none/x.h5", "d", HIGH, HALF)
NO_DATASET = ("s1.h5", "none", HIGH, HALF)
UNWRITTEN = ("s1.h5", "unwritten", HIGH, HALF)


@pytest.mark.parametrize(
    ("write", "missing"),
    {
        "file": (of_halves(NO_FILE), "/v is a view of none.h5:d, which is missing"),
        "absolute": (of_halves(NO_PATH), "a view of /none/x.h5:d, which is missing"),
        "dataset": (of_halves(NO_DATASET), "a view of s1.h5:none, which is missing"),
        "deep": (nested(NO_FILE), "b.h5: /v is a view of none.h5:d, which is missing"),
        "no source": (of_halves(), "12 of 24 numbers of this view have no source"),
        "NaN": (of_halves(fill=np.nan), "12 of 24 numbers of this view have no source"),
        "small": (
            of_halves(("s1.h5", "d", slice(1, 4), (3, 6))),
            "s1.h5:/d to be larger than it is",
        ),
        "unwritten": (of_halves(UNWRITTEN), "/unwritten: 1 of 2 chunks were never written"),
        "unwritten, deep": (nested(UNWRITTEN), "1 of 2 chunks were never written"),
        "number 0": (numbered(0), "a view of p0.h5:d, which is missing"),
        "number 1": (numbered(1), "a view of p1.h5:d, which is missing"),
        "short": (growing(3), "3 of 24 numbers of this view have no source"),
    }.values(),
)
def test_views_of_what_is_missing_are_refused(grid, shared_path, write, missing):
    with pytest.raises(ConfigError, match=missing):
        read(grid, write, shared_path, finite=False)


def test_a_result_without_the_files_of_its_ranks(grid, shared_path):
    from hpckit.io.fields import FieldFile

    u = grid.zeros()
    u[grid.owned] = mine(grid)
    with FieldFile(shared_path / "u.vtkhdf", grid, {"u": float}, 1, layout="files") as file:
        file.write(0, 0.0, "u", u)
    grid.comm.Barrier()
    path = shared_path / "u.vtkhdf"
    assert np.array_equal(read_field(path, grid, "VTKHDF/CellData/u"), mine(grid))
    grid.comm.Barrier()
    if grid.rank == 0:
        (shared_path / "u.vtkhdf.parts").rename(shared_path / "parts")
    grid.comm.Barrier()
    with pytest.raises(
        ConfigError, match=r"u is a view of u.vtkhdf.parts/00000.h5:u, which is missing"
    ):
        read_field(path, grid, "VTKHDF/CellData/u")


def unwritten(folder):
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("half", SHAPE, "f8", chunks=(2, 6))[:2] = WHOLE[:2]
        file.create_dataset("plain", SHAPE, "f8")
        file.create_dataset("whole", data=WHOLE, chunks=(3, 4))
        file.create_dataset("steps", (3, *SHAPE), "f8", chunks=(1, 2, 6))[1] = WHOLE
        file.create_dataset("nan", SHAPE, "f8", chunks=(2, 6), fillvalue=np.nan)[:2] = WHOLE[:2]
        data = file.create_dataset("marked", SHAPE, "f8", chunks=(2, 6), fillvalue=-9)
        data[:2], data.attrs["_FillValue"] = WHOLE[:2], -9.0


def test_what_was_never_written_is_refused_or_missing(grid, shared_path):
    assert np.array_equal(read(grid, unwritten, shared_path, "whole"), mine(grid))
    for name, message in {
        "half": "/half: 1 of 2 chunks were never written",
        "plain": "/plain was never written",
        "nan": r"12 values of 24 are NaN or infinite, the first at \(2, 0\)",
        "marked": r"12 values of 24 are NaN .* \(2, 0\); missing are those stored as -9.0",
    }.items():
        with pytest.raises(ConfigError, match=message):
            read_field(shared_path / "a.h5", grid, name)
    halved = WHOLE.copy()
    halved[2:] = np.nan
    for name in ("nan", "marked"):
        read_here = read_field(shared_path / "a.h5", grid, name, finite=False)
        assert np.array_equal(read_here, mine(grid, halved), equal_nan=True)
    assert np.array_equal(read_field(shared_path / "a.h5", grid, "steps", index=1), mine(grid))
    with pytest.raises(ConfigError, match="/steps: 2 of 2 chunks were never written"):
        read_field(shared_path / "a.h5", grid, "steps", index=0)
    with pytest.raises(ConfigError, match="/half: 1 of 2 chunks were never written"):
        read_rows(shared_path / "a.h5", grid.comm, "half")


def test_links(grid, shared_path):
    def write(folder):
        halves(folder)
        with h5py.File(folder / "b.h5", "w") as file:
            file["deep/d"] = WHOLE
            file["padding"] = np.ones(999)
        with h5py.File(folder / "a.h5", "w") as file:
            for name, target in {
                "there": h5py.ExternalLink("b.h5", "/deep/d"),
                "group": h5py.ExternalLink("b.h5", "/deep"),
                "no file": h5py.ExternalLink("none.h5", "/d"),
                "no array": h5py.ExternalLink("b.h5", "/none"),
                "soft": h5py.SoftLink("/there"),
                "nowhere": h5py.SoftLink("/none"),
            }.items():
                file[name] = target

    assert np.array_equal(read(grid, write, shared_path, "there"), mine(grid))
    for name in ("group/d", "soft"):
        assert np.array_equal(read_field(shared_path / "a.h5", grid, name), mine(grid))
    for name, target in {
        "no file": "none.h5:/d",
        "no array": "b.h5:/none",
        "nowhere": "/none",
    }.items():
        with pytest.raises(ConfigError, match=f"{name} is a link to {target}, which is missing"):
            read_field(shared_path / "a.h5", grid, name)


def test_numbers_in_other_files(grid, shared_path, monkeypatch):
    def write(folder):
        (folder / "sub").mkdir()
        for path, whole in {
            "raw": WHOLE,
            "sub/raw": WHOLE,
            "short": WHOLE[:3],
            "two": WHOLE[2:],
        }.items():
            whole.tofile(folder / path)
        with h5py.File(folder / "a.h5", "w") as file:
            for name, files in {
                "raw": [("raw", 0, h5py.h5f.UNLIMITED)],
                "sub": [("sub/raw", 0, WHOLE.nbytes)],
                "short": [("short", 0, WHOLE.nbytes)],
                "gone": [("gone", 0, WHOLE.nbytes)],
                "outside": [("/proc/version", 0, WHOLE.nbytes)],
                "above": [("../raw", 0, WHOLE.nbytes)],
                "pieces": [("raw", 0, 96), ("two", 0, 96)],
            }.items():
                file.create_dataset(name, SHAPE, "f8", external=files)

    monkeypatch.chdir("/")  # HDF5 itself would look here
    assert np.array_equal(read(grid, write, shared_path, "raw"), mine(grid))
    for name in ("sub", "pieces"):
        assert np.array_equal(read_field(shared_path / "a.h5", grid, name), mine(grid))
    for name, message in {
        "short": "in short, which is too short",
        "gone": "in gone, which is missing",
        "outside": "in /proc/version, outside of the folder",
        "above": r"in ../raw, outside of the folder",
    }.items():
        with pytest.raises(ConfigError, match=f"/{name}: its numbers are {message}"):
            read_field(shared_path / "a.h5", grid, name)


def test_types_that_memory_does_not_have(grid, shared_path):
    """Twelve bits within sixteen: HDF5 knows, and the file must not be mapped."""

    def write(folder):
        bits = h5py.h5t.STD_I16LE.copy()
        bits.set_precision(12)
        bits.set_offset(4)
        with h5py.File(folder / "a.h5", "w", userblock_size=512) as file:
            data = h5py.h5d.create(file.id, b"d", bits, h5py.h5s.create_simple(SHAPE))
            data.write(h5py.h5s.ALL, h5py.h5s.ALL, WHOLE.astype("i2"))

    assert np.array_equal(read(grid, write, shared_path), mine(grid))


def test_packed_and_over_time(grid, shared_path):
    """As in netCDF-4: coordinates beside the field, time first, numbers packed, boxes of ranks."""
    stored = np.stack([WHOLE, WHOLE + 1, WHOLE + 2]).astype("i2")
    stored[1, 3, 5] = -99

    def write(folder):
        with h5py.File(folder / "a.h5", "w") as file:
            for layout, chunks in (("plain", None), ("chunked", (1, 3, 3))):
                data = file.create_dataset(layout, data=stored, chunks=chunks)
                data.attrs.update(
                    {"scale_factor": 0.5, "add_offset": 10.0, "_FillValue": np.int16(-99)}
                )
            file["z"] = stored[:1]
            file["lat"] = np.arange(4.0)
            file["lat"].make_scale()

    read(grid, write, shared_path, "z")
    for name in ("plain", "chunked"):
        path = shared_path / "a.h5"
        assert np.array_equal(read_field(path, grid, name, index=0), mine(grid, 10 + WHOLE / 2))
        assert np.array_equal(read_field(path, grid, name, index=-1), mine(grid, 11 + WHOLE / 2))
        with pytest.raises(
            ConfigError, match=r"1 values of 24 are NaN or infinite, the first at \(3, 5\); missing"
        ):
            read_field(path, grid, name, index=1)
        values = 10.5 + WHOLE / 2
        values[3, 5] = np.nan
        assert np.array_equal(
            read_field(path, grid, name, index=1, finite=False), mine(grid, values), equal_nan=True
        )
        for index in (None, 3, -4, (0, 0)):
            with pytest.raises(
                ConfigError, match=r"has shape \(3, 4, 6\), .*index must be one of 0 to 2, not"
            ):
                read_field(path, grid, name, index=index)


def test_damaged_sources_are_named(grid, shared_path):
    def write(folder):
        of_halves(("s1.h5", "d", HIGH, HALF))(folder)
        os.truncate(folder / "s1.h5", 700)

    with pytest.raises(ConfigError, match=r"/v is a view of .*s1.h5, which is damaged"):
        read(grid, write, shared_path)
