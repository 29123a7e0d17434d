"""Result files: what all ranks write together, plain h5py (and VTK) reads back."""

from __future__ import annotations

import json
import logging
import re
import resource
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest

from hpckit.errors import Checkpointed, ConfigError, HpckitError
from hpckit.io.fields import FieldFile

LAYOUTS = ["mpi", "files", "h5py"] if h5py.get_config().mpi else ["mpi", "files"]
RECORD = np.dtype([("id", "<i2"), ("v", "<f8", (2,))])
# name → dtype, stagger
FIELDS = {
    "h": (np.dtype(float), 0),
    "small": (np.dtype("f4"), 0),
    "count": (np.dtype(">i4"), 0),
    "flux": (np.dtype(float), 1),
    "dry": (np.dtype(bool), 0),
    "record": (RECORD, 0),
}
SHAPES = [(11,), (7, 6), (5, 6, 7), (4, 5, 4, 3)]
STEPS = 3


def make(comm, shape=(7, 6), **options):
    """A grid and its fields."""
    from hpckit.comm.grid import Grid

    grid = Grid(comm, shape, **{"width": 1} | options)
    orders = dict.fromkeys(FIELDS, "C") | {"small": "F"}
    arrays = {
        k: grid.zeros(dtype, [s] + [0] * (grid.ndim - 1), order=orders[k])
        for k, (dtype, s) in FIELDS.items()
    }
    return grid, arrays


def whole(grid, name, step):
    """The global array that stands for a field at a step."""
    dtype, stagger = FIELDS[name]
    shape = grid.global_shape([stagger] + [0] * (grid.ndim - 1))
    values = (np.arange(np.prod(shape)) % 97 + 100 * step).reshape(shape)
    if dtype != RECORD:
        return (values % 3 == 1).astype(dtype) if dtype.kind == "b" else values.astype(dtype)
    records = np.zeros(shape, dtype)
    records["id"], records["v"][..., 1] = values, values / 8
    return records


def write(file, grid, arrays, steps=range(STEPS)):
    for step in steps:
        for name, array in arrays.items():
            box = zip(grid.start, array[grid.owned].shape, strict=True)
            array[grid.owned] = whole(grid, name, step)[tuple(slice(a, a + n) for a, n in box)]
            file.write(step, step / 4, name, array)


def interrupted(file, grid, arrays, steps, error):
    with file:
        write(file, grid, arrays, steps)
        raise error


def new(path, grid, arrays, times=STEPS, **options):
    """Prototypes for the staggered fields, dtypes for the others."""
    fields = {name: array if FIELDS[name][1] else array.dtype for name, array in arrays.items()}
    return FieldFile(path, grid, fields, times, **options)


def check(path, grid, steps=STEPS):
    """Compare every value, with serial h5py, on rank 0."""
    if grid.rank:
        return
    with h5py.File(path) as file:
        root = "VTKHDF/" * (grid.ndim <= 3)
        assert np.array_equal(file[f"{root}Steps/Values"], np.arange(steps) / 4)
        for name, (dtype, stagger) in FIELDS.items():
            shown = root and dtype.kind in "iuf" and not stagger
            data = file[f"VTKHDF/CellData/{name}" if shown else f"fields/{name}"]
            assert data.dtype == dtype
            for step in range(steps):
                assert np.array_equal(data[step], whole(grid, name, step)), (name, step)
        if root:
            assert file["VTKHDF/Steps"].attrs["NSteps"] == steps
            extent = [n for size in reversed(grid.shape) for n in (0, size)] + [0, 0] * (
                3 - grid.ndim
            )
            assert list(file["VTKHDF"].attrs["WholeExtent"]) == extent
        else:
            assert "VTKHDF" not in file


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_serial_h5py_reads_it(comm, shared_path, shape, layout):
    grid, arrays = make(comm, shape)
    with new(shared_path / "a.vtkhdf", grid, arrays, layout=layout) as file:
        write(file, grid, arrays)
    check(shared_path / "a.vtkhdf", grid)
    comm.Barrier()
    if layout == "files":
        if comm.rank == 0:  # the parts are found from wherever the folder is
            shutil.move(shared_path, f"{shared_path}-moved")
            check(f"{shared_path}-moved/a.vtkhdf", grid)
            shutil.move(f"{shared_path}-moved", shared_path)
        comm.Barrier()


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "files"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_same_bytes_on_any_number_of_ranks(comm, shared_path, shape, layout):
    from mpi4py import MPI

    divided = {
        d: [1] * d + [comm.size] + [1] * (len(shape) - d - 1)
        for d in range(len(shape))
        if shape[d] >= comm.size
    }
    for processes in [None, *divided.values()]:
        grid, arrays = make(comm, shape, process_shape=processes)
        with new(shared_path / "all.vtkhdf", grid, arrays, layout=layout) as file:
            write(file, grid, arrays)
        if comm.rank == 0:
            grid, arrays = make(MPI.COMM_SELF, shape)
            with new(shared_path / "one.vtkhdf", grid, arrays) as file:
                write(file, grid, arrays)
            assert (shared_path / "all.vtkhdf").read_bytes() == (
                shared_path / "one.vtkhdf"
            ).read_bytes()
        comm.Barrier()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("stop", range(STEPS))
def test_resumed_is_uninterrupted(comm, shared_path, layout, stop):
    grid, arrays = make(comm)
    for name in "through", "resumed":
        (shared_path / name).mkdir(exist_ok=True)
    with new(shared_path / "through/a.vtkhdf", grid, arrays, layout=layout) as file:
        write(file, grid, arrays)
    path = shared_path / "resumed/a.vtkhdf"
    file = new(path, grid, arrays, layout=layout, resume=True)
    with pytest.raises(Checkpointed):
        interrupted(file, grid, arrays, range(stop + 1), Checkpointed("enough for now"))
    assert file.partial.exists() and not path.exists()
    comm.Barrier()
    with new(path, grid, arrays, layout=layout, resume=True) as file:
        write(file, grid, arrays, range(stop, STEPS))
    for _ in range(2):  # the second time a finished file is gone on with
        check(path, grid)
        if comm.rank == 0:
            for one in [path, *path.parent.glob("a.vtkhdf.parts/*")]:
                other = shared_path / "through" / one.relative_to(path.parent)
                assert one.read_bytes() == other.read_bytes()
        comm.Barrier()
        with new(path, grid, arrays, layout=layout, resume=True) as file:
            write(file, grid, arrays, [STEPS - 1])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_steps_that_were_not_written_are_cut_off(comm, shared_path, layout):
    grid, arrays = make(comm)
    with new(
        shared_path / "a.vtkhdf", grid, arrays, times=[0.0, 1.0, 2.0, 3.0, 4.0], layout=layout
    ) as file:
        write(file, grid, arrays, range(2))
    check(shared_path / "a.vtkhdf", grid, steps=2)


def test_the_old_result_stays_until_the_new_one_is_complete(comm, shared_path):
    grid, arrays = make(comm)
    path = shared_path / "a.vtkhdf"
    with new(path, grid, arrays) as file:
        write(file, grid, arrays)
    with pytest.raises(ZeroDivisionError):
        interrupted(new(path, grid, arrays), grid, arrays, [0], ZeroDivisionError())
    check(path, grid)
    comm.Barrier()
    with pytest.raises(ConfigError, match=r"Spacing is .* but this run's is"):
        new(path, grid, arrays, spacing=2.0, resume=True)
    check(path, grid)


def test_bad_arguments_are_one_error_on_all_ranks(comm, shared_path):
    grid, _ = make(comm)
    u = grid.zeros()
    path = shared_path / "a.vtkhdf"
    for error, make_it in {
        "there is no folder .*/none": lambda: FieldFile(
            shared_path / "none" / "a.h5", grid, {"u": float}, 1
        ),
        "it is a folder": lambda: FieldFile(shared_path, grid, {"u": float}, 1),
        "cannot write /proc/a.h5": lambda: FieldFile("/proc/a.h5", grid, {"u": float}, 1),
        "at least one step": lambda: FieldFile(path, grid, {"u": float}, []),
        "layout 'x' is not known: use one of mpi": lambda: FieldFile(
            path, grid, {"u": float}, 1, layout="x"
        ),
        "a name without '/'": lambda: FieldFile(path, grid, {"a/u": float}, 1),
        "field 'u' of object": lambda: FieldFile(path, grid, {"u": object}, 1),
        r"spacing \[1, 2, 3\] must be": lambda: FieldFile(
            path, grid, {"u": float}, 1, spacing=[1, 2, 3]
        ),
        "it needs 336000000000.00 GB, but": lambda: FieldFile(path, grid, {"u": float}, 10**18),
    }.items():
        with pytest.raises(ConfigError, match=error):
            make_it()
    if not h5py.get_config().mpi:
        with pytest.raises(
            ConfigError, match='built with MPI, and this one is not: use layout="mpi"'
        ):
            FieldFile(path, grid, {"u": float}, 1, layout="h5py")
    assert comm.bcast(not list(shared_path.iterdir()))
    with FieldFile(path, grid, {"u": float}, 1) as file:
        last = comm.rank == comm.size - 1  # bad on one rank only
        for error, arguments in {
            "has no field 'v', only u": (0, "v" if last else "u", u),
            "step 1 of .*: it has room for steps 0 to 0": (int(last), "u", u),
            "field 'u' is float32, but": (0, "u", u.astype("f4") if last else u),
            "field 'u' has local shape": (0, "u", u[1:] if last else u),
        }.items():
            with pytest.raises(ConfigError, match=error):
                file.write(arguments[0], 0.0, *arguments[1:])


def test_damaged_partial_file(comm, shared_path):
    grid, arrays = make(comm)
    if comm.rank == 0:
        (shared_path / "a.vtkhdf.partial").write_text("not HDF5")
    comm.Barrier()
    with pytest.raises(
        ConfigError, match=r"cannot go on with .*a.vtkhdf.partial.*remove it to start anew"
    ):
        new(shared_path / "a.vtkhdf", grid, arrays, resume=True)
    with new(shared_path / "a.vtkhdf", grid, arrays) as file:
        write(file, grid, arrays)
    check(shared_path / "a.vtkhdf", grid)


def test_a_disk_that_refuses_one_rank(comm, shared_path):
    """The last rank may not write beyond 64 kB: as if its disk were full."""
    from hpckit.comm.grid import Grid

    grid = Grid(comm, (64, 64, 8))
    u = grid.zeros()
    file = FieldFile(shared_path / "a.vtkhdf", grid, {"u": float}, 2)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        if comm.rank == comm.size - 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (65536, limits[1]))
        with (
            pytest.raises(HpckitError, match=f"rank {comm.size - 1}: cannot write|^cannot write"),
            file,
        ):
            file.write(1, 0.0, "u", u)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.partial.exists() and not file.path.exists()


def values(path, name="u"):
    """Times, and the one value of each step, of a file of `one`; read on rank 0, for all."""
    with h5py.File(path) as file:
        times = file["VTKHDF/Steps/Values"][:]
        assert file["VTKHDF/Steps"].attrs["NSteps"] == len(times)
        assert np.array_equal(file[f"VTKHDF/Steps/CellDataOffsets/{name}"], np.arange(len(times)))
        data = file[f"VTKHDF/CellData/{name}"][: len(times)]
    assert (data == data[:, :1, :1]).all()
    return dict(zip(times.tolist(), data[:, 0, 0].tolist(), strict=True))


def one(path, grid, steps, times, name="u", **options):
    """A file of one field whose values are `steps` (step → value); time is half the value."""
    u = grid.zeros()
    with FieldFile(path, grid, {name: float}, times, **options) as file:
        for step, value in steps.items():
            u[...] = value
            file.write(step, value / 2, name, u)


def seen(comm, path, name="u"):
    comm.Barrier()
    found = comm.bcast(values(path, name) if comm.rank == 0 else None)
    comm.Barrier()
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_finished_files_are_gone_on_with_and_prolonged(comm, shared_path, layout):
    from hpckit.comm.grid import Grid

    grid, path = Grid(comm, (8, 6)), shared_path / "a.vtkhdf"
    how = {"layout": layout, "resume": True}
    one(path, grid, {s: s + 1 for s in range(4)}, 10, **how)  # closed early
    assert seen(comm, path) == {(s + 1) / 2: s + 1 for s in range(4)}
    one(path, grid, {s: s + 1 for s in range(4, 7)}, 10, **how)  # gone on with
    assert seen(comm, path) == {(s + 1) / 2: s + 1 for s in range(7)}
    one(path, grid, {3: 4}, 4, **how)  # less room than there is: nothing is lost
    assert seen(comm, path) == {(s + 1) / 2: s + 1 for s in range(7)}
    one(path, grid, {s: s + 1 for s in range(7, 12)}, 12, **how)  # prolonged
    assert seen(comm, path) == {(s + 1) / 2: s + 1 for s in range(12)}
    one(path, grid, {12: 13}, 13, **how)  # a full one
    assert seen(comm, path) == {(s + 1) / 2: s + 1 for s in range(13)}
    (shared_path / "through").mkdir(exist_ok=True)
    through = shared_path / "through/a.vtkhdf"
    one(through, grid, {s: s + 1 for s in range(13)}, 13, layout=layout)
    comm.Barrier()
    if comm.rank == 0:  # in the end nobody can tell
        for file in [path, *path.parent.glob("a.vtkhdf.parts/*")]:
            assert (
                file.read_bytes() == (through.parent / file.relative_to(path.parent)).read_bytes()
            )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_interrupted_file_is_prolonged(comm, shared_path, layout):
    from hpckit.comm.grid import Grid

    grid, path, u = Grid(comm, (8, 6)), shared_path / "a.vtkhdf", Grid(comm, (8, 6)).zeros()
    file = FieldFile(path, grid, {"u": float}, 2, layout=layout)
    u[...] = 1
    file.write(0, 0.5, "u", u)
    file.suspend()
    one(path, grid, {1: 2, 2: 3}, 3, layout=layout, resume=True)
    assert seen(comm, path) == {0.5: 1, 1.0: 2, 1.5: 3}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_steps_without_data_are_left_out(comm, shared_path, layout, caplog):
    from hpckit.comm.grid import Grid

    grid, path = Grid(comm, (8, 6)), shared_path / "a.vtkhdf"
    with caplog.at_level(logging.WARNING, "hpckit"):
        one(path, grid, {0: 2, 2: 6, 3: 8, 6: 14}, 9, layout=layout)
    assert seen(comm, path) == {1.0: 2, 3.0: 6, 4.0: 8, 7.0: 14}
    assert comm.rank or "a.vtkhdf: 3 steps that were never written are left out" in caplog.text
    one(path, grid, {4: 20}, 9, layout=layout, resume=True)
    assert seen(comm, path) == {1.0: 2, 3.0: 6, 4.0: 8, 7.0: 14, 10.0: 20}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_fields_that_a_step_lacks_are_nan_and_said(comm, shared_path, layout, caplog):
    from hpckit.comm.grid import Grid

    grid, path = Grid(comm, (8, 6)), shared_path / "a.vtkhdf"
    u, n = grid.zeros(), grid.zeros(np.int32)
    u[...], n[...] = 1, 2
    with (
        caplog.at_level(logging.WARNING, "hpckit"),
        FieldFile(path, grid, {"u": float, "n": np.int32}, 3, layout=layout) as file,
    ):
        file.write(0, 0.0, "u", u)
        file.write(0, 0.0, "n", n)
        file.write(1, 1.0, "n", n)
        comm.Barrier()
        if comm.rank == 0:
            with h5py.File(
                file.partial, locking=False
            ) as partial:  # a step that has its time has its data
                assert np.array_equal(
                    partial["VTKHDF/Steps/Values"], [0, np.nan, np.nan], equal_nan=True
                )
        comm.Barrier()
    comm.Barrier()
    if comm.rank == 0:
        with h5py.File(path) as result:
            assert np.array_equal(result["VTKHDF/Steps/Values"], [0, 1])
            assert (
                np.isnan(result["VTKHDF/CellData/u"][1]).all()
                and (result["VTKHDF/CellData/n"][:2] == 2).all()
            )
        assert "not written, and NaN or 0 there: 'u' of step 1" in caplog.text


def test_a_step_at_another_time_does_away_with_those_after_it(comm, shared_path):
    from hpckit.comm.grid import Grid

    grid, path = Grid(comm, (8, 6)), shared_path / "a.vtkhdf"
    one(path, grid, {s: s + 1 for s in range(5)}, 5)
    one(path, grid, {2: 3, 3: 3.5}, 5, resume=True)
    assert seen(comm, path) == {0.5: 1, 1.0: 2, 1.5: 3, 1.75: 3.5}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("file", "name"),
    [("a.vtkhdf", "humidity %"), ("50%b.vtkhdf", "u"), ("a%%b.h5", "100%%"), ("ä %d", "%b%s%%b ü")],
)
def test_percent_signs_and_other_letters(comm, shared_path, layout, file, name):
    from hpckit.comm.grid import Grid

    (shared_path / "0%b").mkdir(exist_ok=True)
    path = shared_path / "0%b" / file
    one(path, Grid(comm, (8, 6)), {0: 1, 1: 2}, 2, name=name, layout=layout)
    assert seen(comm, path, name) == {0.5: 1, 1.0: 2}


def test_times_that_make_no_sense(comm, shared_path):
    from hpckit.comm.grid import Grid

    grid, path = Grid(comm, (8, 6)), shared_path / "a.vtkhdf"
    u = grid.zeros()
    for times in (
        [0, np.nan],
        [0, np.inf],
        [1, 0],
        [0, 1, 1],
        "soon",
        1.5,
        None,
        [[0, 1]],
        np.ma.array([0.0, 1.0]),
    ):
        with pytest.raises(ConfigError, match=f"times of {path} must be"):
            FieldFile(path, grid, {"u": float}, times)
    with FieldFile(path, grid, {"u": float, "v": float}, np.int64(5)) as file:
        for name in ("u", "v"):
            file.write(1, 1.0, name, u)
            file.write(3, 3.0, name, u)
        for step, time, message in [
            (4, np.nan, "time nan of step 4 of .*: it must be a finite number"),
            (4, -np.inf, "time -inf of step 4"),
            (4, 2.0, "time 2.0 of step 4 of .*: it must come after that of step 3, 3.0"),
            (4, 3.0, "must come after that of step 3, 3.0"),
            (2, 3.0, "must come before that of step 3, 3.0"),
            (0, 1.5, "must come before that of step 1, 1.0"),
            (5, 5.0, "it has room for steps 0 to 4"),
            (2**40, 5.0, "it has room for steps 0 to 4"),
        ]:
            with pytest.raises(ConfigError, match=message):
                file.write(step, time, "u", u)
        file.write(4, 4.0, "u", u)
        with pytest.raises(ConfigError, match=r"step 4 of .* is at time 4.0, so not at 5.0 too"):
            file.write(4, 5.0, "v", u)
        file.write(4, 4.0, "v", u)
    comm.Barrier()
    if comm.rank == 0:
        with h5py.File(path) as result:
            assert np.array_equal(result["VTKHDF/Steps/Values"], [1, 3, 4])


def test_what_is_no_array_is_refused(comm, shared_path):
    from hpckit.comm.grid import Grid

    grid, path = Grid(comm, (8, 6)), shared_path / "a.vtkhdf"
    u = grid.zeros()
    for fields in (
        {"u": np.ma.array(u)},
        {"u": [1.0]},
        {"u": np.dtype([])},
        {"u": "S0"},
        {1: float},
        {"\ud800": float},
    ):
        with pytest.raises(ConfigError, match="field "):
            FieldFile(path, grid, fields, 1)
    for name in ("", ".", "..", "a/b", "a\0b"):
        with pytest.raises(ConfigError, match="a name without '/'"):
            FieldFile(path, grid, {name: float}, 1)
    with pytest.raises(ConfigError, match=r"cannot write .*aaa: .*File name too long"):
        FieldFile(shared_path / ("a" * 300), grid, {"u": float}, 1)
    for spacing in (0, -1.0, (1, -1)):
        with pytest.raises(ConfigError, match=r"spacing .* must be greater than 0"):
            FieldFile(path, grid, {"u": float}, 1, spacing=spacing)
    assert comm.bcast([file.name for file in shared_path.iterdir()]) == []
    file = FieldFile(path, grid, {"u": float}, 1)
    with pytest.raises(ConfigError, match="'u' is masked, and its mask would be lost"):
        file.write(0, 0.0, "u", np.ma.array(u))
    with pytest.raises(
        ConfigError, match="'u' must be a NumPy array of numbers or records, not list"
    ):
        file.write(0, 0.0, "u", u.tolist())
    file.write(0, 0.0, "u", u)
    file.close()
    file.close()
    with pytest.raises(
        ConfigError, match="is closed: to write more, open it again with resume=True"
    ):
        file.write(0, 0.0, "u", u)


def test_ranks_that_disagree_are_told(comm, shared_path):
    from hpckit.comm.grid import Grid

    if comm.size == 1:
        pytest.skip("needs two ranks")
    grid, path, last = Grid(comm, (8, 6)), shared_path / "a.vtkhdf", comm.rank == comm.size - 1
    u = grid.zeros()
    for mine in (
        {"path": shared_path / "b.vtkhdf"},
        {"fields": {"v": float}},
        {"fields": {"u": np.float32}},
        {"fields": {"u": float, "v": float}},
        {"times": 4},
        {"spacing": 2.0},
        {"origin": (0.0, 1.0)},
        {"layout": "files"},
        {"resume": True},
    ):
        with pytest.raises(
            ConfigError, match="the arguments of FieldFile must be the same on all ranks"
        ):
            FieldFile(
                **{"path": path, "grid": grid, "fields": {"u": float}, "times": 3}
                | (mine if last else {})
            )
    for wrong in ({"times": "x"}, {"fields": None}, {"path": None}, {"spacing": "x"}):
        with pytest.raises(HpckitError):  # on one rank alone
            FieldFile(
                **{"path": path, "grid": grid, "fields": {"u": float}, "times": 3}
                | (wrong if last else {})
            )
    with FieldFile(path, grid, {"u": float, "v": float}, 3) as file:
        for step, time, name in ((1, 0.0, "u"), (0, 1.0, "u"), (0, 0.0, "v")):
            with pytest.raises(
                ConfigError, match="step, time and name of a field must be the same on all ranks"
            ):
                file.write(*((step, time, name) if last else (0, 0.0, "u")), u)


def test_only_what_is_ours_is_gone_on_with_or_removed(comm, shared_path):
    from hpckit.comm.grid import Grid

    grid, path = Grid(comm, (8, 6)), shared_path / "a.vtkhdf"
    one(path, grid, {0: 1}, 2, layout="files")
    comm.Barrier()
    if comm.rank == 0:
        (shared_path / "a.vtkhdf.parts/notes.txt").write_text("mine")
    comm.Barrier()
    for options, message in {
        "fields": ({"name": "v"}, "VTKHDF/CellData/. is .*, but this run writes"),
        "spacing": ({"spacing": 2.0}, r"its Spacing is .*, but this run's is"),
        "layout": ({"layout": "mpi"}, 'its layout is "files"'),
    }.values():
        with pytest.raises(ConfigError, match=message):
            one(path, grid, {}, 2, resume=True, **{"layout": "files"} | options)
    one(path, grid, {0: 3}, 2, layout="files")
    assert seen(comm, path) == {1.5: 3}
    assert comm.bcast((shared_path / "a.vtkhdf.parts/notes.txt").read_text()) == "mine"
    comm.Barrier()
    one(shared_path / "b.vtkhdf", grid, {0: 1}, 2)
    with pytest.raises(ConfigError, match="its layout is one file"):
        one(shared_path / "b.vtkhdf", grid, {}, 2, resume=True, layout="files")


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "h5py"])
@pytest.mark.parametrize("limit", [100, 3000, 9000])
def test_a_disk_that_is_full_at_once(comm, shared_path, layout, limit):
    """Rank 0 cannot make the file: one error that names it, nothing by halves, the old result."""
    from hpckit.comm.grid import Grid

    grid, path = Grid(comm, (64, 64)), shared_path / "a.vtkhdf"
    one(path, grid, {0: 1}, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        if comm.rank == 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
        with pytest.raises(HpckitError, match=r"cannot write .*a.vtkhdf"):
            one(path, grid, {0: 2}, 3, layout=layout, resume=layout == "mpi")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    comm.Barrier()
    if layout == "mpi":
        assert seen(comm, path) == {0.5: 1}
    assert comm.bcast(not list(shared_path.rglob("*.tmp")))


KILLED = """
import os, signal, sys
import numpy as np
from mpi4py import MPI
from hpckit.comm.grid import Grid
from hpckit.io.fields import FieldFile
grid = Grid(MPI.COMM_WORLD, (6, 5))
file, u = FieldFile(sys.argv[1], grid, {"u": float}, 5), grid.zeros()
for step in range(2):
    u[...] = step + 1
    file.write(step, 0.5 * step, "u", u)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_leaves_a_readable_partial_file(mpirun, tmp_path):
    assert mpirun(2, "-c", KILLED, str(tmp_path / "a.vtkhdf")).returncode != 0
    assert [file.name for file in tmp_path.iterdir()] == ["a.vtkhdf.partial"]
    with h5py.File(tmp_path / "a.vtkhdf.partial") as file:
        assert np.array_equal(
            file["VTKHDF/Steps/Values"], [0, 0.5, np.nan, np.nan, np.nan], equal_nan=True
        )
        assert (file["VTKHDF/CellData/u"][:2] == np.array([1, 2])[:, None, None]).all()


IMPORTS = """
import sys
from mpi4py import MPI
from hpckit.comm.grid import Grid
from hpckit.io.fields import FieldFile
grid = Grid(MPI.COMM_WORLD, (6, 5))
with FieldFile(sys.argv[1], grid, {"u": float}, 1) as file:
    file.write(0, 0.0, "u", grid.zeros())
print(["h5py" in sys.modules, MPI.COMM_WORLD.rank])
"""


def test_only_rank_0_imports_h5py(mpirun, tmp_path):
    done = mpirun(3, "-c", IMPORTS, str(tmp_path / "a.vtkhdf"))
    lists = re.findall(r"\[.*?\]", done.stdout.lower())  # launchers may join the lines of two ranks
    assert sorted(json.loads(each) for each in lists) == [[False, 1], [False, 2], [True, 0]]


VTK = """
import sys
import h5py, numpy
from vtkmodules.util.numpy_support import vtk_to_numpy
from vtkmodules.vtkIOHDF import vtkHDFReader
reader = vtkHDFReader()
reader.SetFileName(sys.argv[1])
reader.UpdateInformation()
with h5py.File(sys.argv[1]) as file:
    times = file["VTKHDF/Steps/Values"][:]
    assert reader.GetNumberOfSteps() == len(times) == int(sys.argv[2])
    for step, time in enumerate(times):
        reader.UpdateTimeStep(time)
        image = reader.GetOutput()
        for name, values in file["VTKHDF/CellData"].items():
            array = vtk_to_numpy(image.GetCellData().GetArray(name))
            expected = values[step].ravel()
            assert array.size == expected.size and numpy.array_equal(array, expected)
print([image.GetDimensions(), image.GetSpacing(), image.GetOrigin()])
"""


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [*SHAPES[:3], (1, 4), (3, 1, 5)], ids=str)
def test_vtk_reads_it(comm, shared_path, shape, layout):
    pytest.importorskip("vtkmodules.vtkIOHDF", reason="needs the vtk package (pip install vtk)")
    grid, arrays = make(
        comm, shape, process_shape=[comm.size if n == max(shape) else 1 for n in shape]
    )
    path = shared_path / "a.vtkhdf"
    spacing, origin = [0.5, 0.25, 2.0][: grid.ndim], [3.0, 2.0, 1.0][: grid.ndim]
    with new(path, grid, arrays, times=5, spacing=spacing, origin=origin, layout=layout) as file:
        write(file, grid, arrays)
    if comm.rank == 0:
        command = [sys.executable, "-c", VTK, str(path), str(STEPS)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        fill = [1] * (3 - grid.ndim)
        expected = [
            (*(n + 1 for n in reversed(shape)), *fill),
            (*reversed(spacing), *map(float, fill)),
            (*reversed(origin), *(0.0 for _ in fill)),
        ]
        assert (done.stdout.strip(), done.stderr) == (str(expected), "")
