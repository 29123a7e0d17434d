"""Reference solutions of `tests/data/pde`, and how far a computed field is from one."""

from pathlib import Path

import numpy as np

from hpckit.errors import together

FOLDER = Path(__file__).parents[2] / "data/pde"


def reference(name):
    """Its arrays by name; numbers as floats."""
    with np.load(FOLDER / f"{name}.npz") as file:
        return {key: each if each.ndim else float(each) for key, each in file.items()}


def relative(computed, exact):
    """Relative L2 error over all cells and times."""
    return float(np.linalg.norm(computed - exact) / np.linalg.norm(exact))


def at_times(solver, name, times, safe=0.9):
    """The field at these times, (times, *shape), in equal steps from each to the next; one rank."""
    fields = []
    time = 0.0
    for following in times:
        count = int(np.ceil((following - time) / (safe * solver.dt_max)))
        if count:
            solver.advance((following - time) / count, count)
        time = following
        fields.append(solver.fields[name][solver.grid.owned].copy())
    return np.array(fields)


def thinned(fields, times, shift=0):
    """Every so many-th cell of each dimension of space: the coarser grid's."""
    cells = (slice(shift, None, times),) * (fields.ndim - 1)
    return fields[(slice(None), *cells)]


def on_one_rank(comm, compute):
    """What `compute()` gives, on all ranks; rank 0 alone computes it."""
    result = None
    with together(comm):
        if comm.rank == 0:
            result = compute()
    return comm.bcast(result)
