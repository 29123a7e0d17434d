"""Which solver `solver="auto"` takes: the one that is estimated to take least time.

Few unknowns are factored as a dense matrix. Else the pattern of S says what a sparse factorisation
costs, whose one rank does not get faster with more ranks, and the numbers of observations what
conjugate gradients cost. Where factor and matrix do not fit in memory, only the latter is left.
"""

from __future__ import annotations

import numpy as np
from mpi4py import MPI

from hpckit.errors import together
from hpckit.sfm.bundle.problem import Problem
from hpckit.sfm.bundle.solvers import SOLVERS, fronts
from hpckit.sfm.bundle.system import Shape, joined

_DENSE = 1000  # unknowns up to which factorising takes less than assembling
_PAIR = 4e-8  # seconds to add a pair of observations of a point to S
_PRODUCT = 3e-8  # seconds of an observation in a product by S
_ITERATIONS = {"two_level": 60, "pcg": 250}  # for one step of long scenes
_BANDWIDTH = 2e9  # bytes per second of a sum over ranks


def choose(comm: MPI.Intracomm, problem: Problem, shape: Shape, room: float) -> tuple[str, str]:
    """Its name, and why, in half a sentence (collective).

    room : bytes that it may take
    """
    if shape.size <= _DENSE and SOLVERS["dense"].memory(shape) <= room:
        return "dense", f"{shape.size} unknowns are no more than {_DENSE}"
    iterative = "pcg" if SOLVERS["two_level"].possible(shape) else "two_level"
    if fault := SOLVERS["sparse"].possible(shape):
        return iterative, f"a sparse factorisation is not possible: {fault}"
    factor, entries, pairs = _factorisation(comm, problem)
    needed = 8 * (entries + pairs * shape.width**2)
    if needed > room:
        return iterative, f"a sparse factor of {entries:.2g} numbers does not fit in memory"
    products = comm.allreduce(_products(problem)) / shape.ranks
    direct = factor + _PAIR * products
    if shape.ranks > 1:
        direct += 8 * pairs * shape.width**2 / _BANDWIDTH
    by_iterations = _ITERATIONS[iterative] * _PRODUCT * shape.observations / shape.ranks
    why = f"about {direct:.2g} s a step by sparse factors, {by_iterations:.2g} s by iterations"
    return ("sparse" if direct <= by_iterations else iterative), why


def _factorisation(comm: MPI.Intracomm, problem: Problem) -> tuple[float, int, int]:
    """Seconds, numbers in the factor, and blocks in the matrix."""
    columns = problem.layout.columns
    keys = joined(comm, problem.table, len(columns))
    found = None
    with together(comm):
        if comm.rank == 0:
            pairs = np.stack(np.divmod(keys, len(columns)), axis=1)
            symbolic = fronts.analyse(columns, pairs, problem.layout.size)
            found = symbolic.seconds, symbolic.entries
    return *comm.bcast(found), len(keys)


def _products(problem: Problem) -> int:
    """Pairs of observations of a point, of this rank."""
    lengths = np.diff(problem.table.start)
    return int((lengths * (lengths + 1) // 2).sum())
