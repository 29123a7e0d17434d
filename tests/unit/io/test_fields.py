"""Result files: what all ranks write together, plain h5py (and VTK) reads back."""

from __future__ import annotations

import json
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
    arrays = {k: grid.zeros(dtype, [s] + [0] * (grid.ndim - 1), order=orders[k]) for k, (dtype, s) in FIELDS.items()}
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
            extent = [n for size in reversed(grid.shape) for n in (0, size)] + [0, 0] * (3 - grid.ndim)
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
        d: [1] * d + [comm.size] + [1] * (len(shape) - d - 1) for d in range(len(shape)) if shape[d] >= comm.size
    }
    for processes in [None, *divided.values()]:
        grid, arrays = make(comm, shape, process_shape=processes)
        with new(shared_path / "all.vtkhdf", grid, arrays, layout=layout) as file:
            write(file, grid, arrays)
        if comm.rank == 0:
            grid, arrays = make(MPI.COMM_SELF, shape)
            with new(shared_path / "one.vtkhdf", grid, arrays) as file:
                write(file, grid, arrays)
            assert (shared_path / "all.vtkhdf").read_bytes() == (shared_path / "one.vtkhdf").read_bytes()
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
    with new(shared_path / "a.vtkhdf", grid, arrays, times=[0.0, 1.0, 2.0, 3.0, 4.0], layout=layout) as file:
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
        "there is no folder .*/none": lambda: FieldFile(shared_path / "none" / "a.h5", grid, {"u": float}, 1),
        "it is a folder": lambda: FieldFile(shared_path, grid, {"u": float}, 1),
        "cannot write /proc/a.h5": lambda: FieldFile("/proc/a.h5", grid, {"u": float}, 1),
        "at least one step": lambda: FieldFile(path, grid, {"u": float}, []),
        "layout 'x' is not known: use one of mpi": lambda: FieldFile(path, grid, {"u": float}, 1, layout="x"),
        "a name without '/'": lambda: FieldFile(path, grid, {"a/u": float}, 1),
        "field 'u' of object": lambda: FieldFile(path, grid, {"u": object}, 1),
        r"spacing \[1, 2, 3\] must be": lambda: FieldFile(path, grid, {"u": float}, 1, spacing=[1, 2, 3]),
        "it needs 336000000000.00 GB, but": lambda: FieldFile(path, grid, {"u": float}, 10**18),
    }.items():
        with pytest.raises(ConfigError, match=error):
            make_it()
    if not h5py.get_config().mpi:
        with pytest.raises(ConfigError, match='built with MPI, and this one is not: use layout="mpi"'):
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
    with pytest.raises(ConfigError, match=r"cannot go on with .*a.vtkhdf.partial.*remove it to start anew"):
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
        with pytest.raises(HpckitError, match=f"rank {comm.size - 1}: cannot write|^cannot write"), file:
            file.write(1, 0.0, "u", u)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.partial.exists() and not file.path.exists()


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
        assert np.array_equal(file["VTKHDF/Steps/Values"], [0, 0.5, np.nan, np.nan, np.nan], equal_nan=True)
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
            assert array.size == values[step].size and numpy.array_equal(array, values[step].ravel())
print([image.GetDimensions(), image.GetSpacing(), image.GetOrigin()])
"""


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [*SHAPES[:3], (1, 4), (3, 1, 5)], ids=str)
def test_vtk_reads_it(comm, shared_path, shape, layout):
    pytest.importorskip("vtkmodules.vtkIOHDF", reason="needs the vtk package (pip install vtk)")
    grid, arrays = make(comm, shape, process_shape=[comm.size if n == max(shape) else 1 for n in shape])
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
