"""The examples in the docstrings of all public names run, on any number of ranks."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest

import hpckit
from hpckit import cluster, surrogate

PUBLIC = sorted({*hpckit._MAP, *cluster.__all__, *surrogate.__all__})


def found(name):
    rooms = (hpckit, hpckit._MAP), (cluster, cluster.__all__), (surrogate, surrogate.__all__)
    return next(getattr(room, name) for room, names in rooms if name in names)


def examples(thing):
    """The indented blocks after `::` in a docstring."""
    text = inspect.getdoc(thing) or ""
    blocks = re.findall(r"::\n\n((?:    .*\n|\n)+)", text + "\n")
    return [textwrap.dedent(block) for block in blocks]


def names(comm, path):
    """What readers of the examples have at hand: a grid and two fields, points, a folder."""
    from mpi4py import MPI

    from hpckit import trace
    from hpckit.comm.grid import Grid
    from hpckit.comm.strided import from_slice
    from hpckit.io.fields import FieldFile

    grid = Grid(comm, (16, 20))
    points = np.random.default_rng(0).normal(size=(120, 3))
    distances = np.abs(points[:, None] - points).sum(axis=2)
    u, v, h = (grid.zeros() for _ in range(3))
    if comm.rank == 0:
        np.save(path / "relief.npy", np.ones((16, 20)))
        np.savetxt(path / "table.txt", points)
    with FieldFile(path / "out.vtkhdf", grid, {"h": float}, times=1) as file:
        file.write(0, 0.0, "h", h)
    comm.Barrier()
    values = {name: found(name) for name in PUBLIC}
    values |= {"MPI": MPI, "np": np, "hpckit": hpckit, "trace": trace, "Path": Path}
    values |= {"comm": comm, "grid": grid, "u": u, "v": v, "h": h, "from_slice": from_slice}
    values |= {"points": points, "others": points[:5], "poses": np.eye(4), "distances": distances}
    values |= {"gradient": np.ones(10), "matrix": distances, "path": path, "n": 1, "count": 1}
    values |= {"step": 1, "time": 0.5, "dt": 0.1, "signalled": False, "__name__": "example"}
    nothing = lambda thing: None  # noqa: E731
    return values | {"work": nothing, "advance": nothing, "assemble": nothing}


def adapted(code, path):
    """For the test: files are where the test has some, and communicators are its own."""
    code = code.replace("MPI.COMM_WORLD", "comm").replace("relief.nc", f"{path}/relief.npy")
    code = code.replace("result.surrogate", 'Surrogate.load("model")')  # which only trainers have
    code = re.sub(r'"(checkpoints|model|out\.vtkhdf|results/tape)"', rf'"{path}/\1"', code)
    code = code.replace('f"part-{comm.rank}.txt"', f'"{path}/table.txt"')
    return code.replace(', "elevation",', ",")


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_an_example(name):
    assert examples(found(name)), f"{name} has no `::` block in its docstring"


@pytest.mark.parametrize("name", PUBLIC)
def test_examples_run(comm, shared_path, name):
    if name == "abort_on_exception":
        pytest.skip("it changes how the process ends: test_abort.py runs scripts with it")
    if name == "split" and comm.size == 1:
        pytest.skip("one rank trains, another one has to solve")
    values = names(comm, shared_path)
    if name == "ring_map":
        values["distances"] = lambda a, b: np.abs(a[:, None] - b).sum(axis=2)
    codes = examples(found(name))
    if name in ("Surrogate", "Tape"):
        study = examples(surrogate.Study)[0]
        codes = [study + 'solver = study.solver\nstudy.record("results/tape", 4)\n', *codes]
    for code in codes:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(adapted(code, shared_path), name, "exec"), values)
