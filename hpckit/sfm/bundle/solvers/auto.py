"""Which solver `solver="auto"` takes: the one that is estimated to take least time.

Few unknowns are factored as a dense matrix. Else the pattern of S says what a sparse factorisation
costs, whose one rank does not get faster with more ranks, and the numbers of observations what
conjugate gradients cost. How many iterations those need is a guess: streets that hardly hang
together take ten times as many as a loop. So where a step shows that factors are the quicker way,
they are taken from the next one on. Where factor and matrix do not fit in memory, only conjugate
gradients are left.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from mpi4py import MPI

from hpckit.collectives.channel import Channel
from hpckit.errors import ConfigError, together
from hpckit.log import get_logger
from hpckit.machine.memory import available
from hpckit.sfm.bundle.problem import Problem
from hpckit.sfm.bundle.solvers import SOLVERS, fronts
from hpckit.sfm.bundle.solvers.pcg import MOST
from hpckit.sfm.bundle.system import ReducedSystem, Shape, joined, memory_of, shape_of
from hpckit.units import amount

_DENSE = 1000  # unknowns up to which factorising takes less than assembling
_PAIR = 4e-8  # seconds to add a pair of observations of a point to S
_PRODUCT = 3e-8  # seconds of an observation in a product by S
_ITERATIONS = {"two_level": 60, "pcg": 250}  # for one step of long scenes
_BANDWIDTH = 2e9  # bytes per second of a sum over ranks
_log = get_logger(__name__)


class Choice(NamedTuple):
    """A solver.

    why : in half a sentence
    memory : bytes that it takes on a rank
    worth : iterations of a step from which on sparse factors are the quicker way; infinite where
        they are not possible
    """

    name: str
    why: str
    memory: int
    worth: float = math.inf


class Chosen:
    """The solution by a choice, which is another one when a step was not worth it (collective).

    solver : the name of the one that is used now
    """

    def __init__(self, system: ReducedSystem, choice: Choice) -> None:
        self._system = system
        self._worth = choice.worth if choice.name in _ITERATIONS else math.inf
        self.solver, self.why = choice.name, choice.why
        self._solution = SOLVERS[choice.name].bind(system)

    def solve(self, tolerance: float) -> tuple[np.ndarray, int] | None:
        """As `Solution.solve`."""
        found = self._solution.solve(tolerance)
        if found and found[1] >= self._worth:
            why = f"a step took {found[1]} iterations of {self.solver}"
            self.solver, self.why, self._worth = "sparse", why, math.inf
            self._solution = SOLVERS["sparse"].bind(self._system)
            if self._system.comm.rank == 0:
                _log.info("solver sparse from now on: %s", why)
        return found


def select(
    comm: MPI.Intracomm, problem: Problem, wanted: str, before: str, reproducible: bool
) -> Choice:
    """The solver that is wanted, if it fits in memory; says what it takes (collective).

    before : the one that a solve had when it was stopped, which "auto" keeps; or ""
    reproducible : "auto" may not depend on the number of ranks
    """
    shape = shape_of(comm, problem)
    mine = memory_of(problem)
    room = comm.allreduce(available() / Channel.of(comm).node.comm.size, MPI.MIN)
    most, everyone = comm.allreduce(mine, MPI.MAX), comm.allreduce(mine)
    if wanted == "auto":
        choice = choose(
            comm, problem, shape._replace(ranks=1) if reproducible else shape, room - most
        )
        choice = _kept(choice, before, shape)
    else:
        if fault := SOLVERS[wanted].possible(shape):
            raise ConfigError(f"solver {wanted}: {fault}; use another, or auto")
        choice = Choice(wanted, "as asked for", SOLVERS[wanted].memory(shape))
    if comm.rank == 0:
        _log.info(
            "bundle adjustment of %d observations, %d unknowns and %d eliminated blocks: about %s "
            "of memory, and %s a rank for solver %s (%s)",
            shape.observations,
            shape.size,
            shape.eliminated,
            amount(everyone),
            amount(choice.memory),
            choice.name,
            choice.why,
        )
    if most + choice.memory > room:
        raise ConfigError(
            f"solver {choice.name} needs about {amount(most + choice.memory)} on a rank, of "
            f"{amount(room)} that are left: use more nodes"
            + ("" if choice.name == "pcg" else ", or solver pcg")
        )
    return choice._replace(memory=mine + choice.memory)


def _kept(choice: Choice, before: str, shape: Shape) -> Choice:
    """The choice, or what a solve had before: it goes on with the same bits."""
    if before in ("", choice.name) or before not in SOLVERS or SOLVERS[before].possible(shape):
        return choice
    memory = SOLVERS[before].memory(shape)
    return Choice(before, "as before it was stopped", memory, choice.worth)


def choose(comm: MPI.Intracomm, problem: Problem, shape: Shape, room: float) -> Choice:
    """What "auto" is (collective).

    room : bytes that it may take
    """
    choice = expect(shape, room)
    if choice.name == "dense":
        return choice
    if fault := SOLVERS["sparse"].possible(shape):
        return choice._replace(why=f"a sparse factorisation is not possible: {fault}")
    factor, entries, pairs = _factorisation(comm, problem)
    needed = 8 * (entries + pairs * shape.width**2)
    if needed > room:
        why = f"a sparse factor of {entries:.2g} numbers does not fit in memory"
        return choice._replace(why=why)
    products = comm.allreduce(_products(problem)) / shape.ranks
    direct = factor + _PAIR * products
    if shape.ranks > 1:
        direct += 8 * pairs * shape.width**2 / _BANDWIDTH
    product = _PRODUCT * shape.observations / shape.ranks
    iterations = _ITERATIONS[choice.name]
    why = (
        f"about {direct:.2g} s a step by sparse factors, {iterations * product:.2g} s by "
        f"{iterations} iterations"
    )
    worth = min(direct / product, MOST)
    if direct <= iterations * product:
        return Choice("sparse", why, needed, worth)
    return choice._replace(why=why, worth=worth)


def expect(shape: Shape, room: float) -> Choice:
    """What is taken where nothing but the counts is known, as before a run: never "sparse"."""
    dense = SOLVERS["dense"].memory(shape)
    if shape.size <= _DENSE and dense <= room:
        return Choice("dense", f"{shape.size} unknowns are no more than {_DENSE}", dense)
    name = "pcg" if SOLVERS["two_level"].possible(shape) else "two_level"
    why = f"{shape.size} unknowns, unless their pattern is sparse enough to be factored"
    return Choice(name, why, SOLVERS[name].memory(shape))


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
