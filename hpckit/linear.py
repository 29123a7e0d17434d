"""Linear systems by PETSc: of stencils on our grids, and of operators that only multiply.

The only file that imports PETSc, and only when a system is made. Rows of a grid are numbered as
PETSc wants them: rank after rank, each rank's owned cells in C order.
"""

from __future__ import annotations

import contextlib
import itertools
import shlex
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hpckit.comm import partition
from hpckit.errors import ConfigError, HpckitError, together

if TYPE_CHECKING:
    from hpckit.comm.grid import Grid

_DEFAULTS = "-ksp_type cg -ksp_rtol 1e-10 -pc_type gamg"
_count = itertools.count()


def petsc() -> Any:
    """The module `petsc4py.PETSc`; `ConfigError` that says how to get it where it is missing."""
    with contextlib.suppress(ImportError):
        import dolfinx_solver  # noqa: F401  (the wheel that brings petsc4py: its libraries must be loaded first)
    try:
        import petsc4py
        from mpi4py import MPI

        # Not our program's arguments; and of this rank alone, or all ranks would have to begin and
        # end PETSc together, also those that solve nothing.
        petsc4py.init([], comm=MPI.COMM_SELF)
        from petsc4py import PETSc
    except ImportError as error:
        raise ConfigError(
            f"implicit solvers need petsc4py ({error}): pip install 'hpckit[mpich,petsc]' (Python "
            "3.12 or newer), or use your site's, built with the same MPI as mpi4py; the explicit"
            " solvers need none"
        ) from error
    if np.dtype(PETSc.ScalarType).kind != "f":
        raise ConfigError(
            f"this PETSc computes with {np.dtype(PETSc.ScalarType)}: hpckit needs one for real "
            "numbers"
        )
    return PETSc


def numbering(grid: Grid) -> np.ndarray:
    """Row of each cell of the owned box and one layer around it: int64, -1 beyond borders."""
    blocks, inside, extent = zip(*(_along(grid, d) for d in range(grid.ndim)), strict=True)
    sizes = partition.owned_cells(grid.shape, grid.process_shape)
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]]).reshape(grid.process_shape)
    row: np.ndarray = np.zeros((1,) * grid.ndim, np.int64)
    exists: np.ndarray = np.ones((1,) * grid.ndim, bool)
    for d in range(grid.ndim):
        shape = [-1 if i == d else 1 for i in range(grid.ndim)]
        row = row * extent[d].reshape(shape) + inside[d].reshape(shape)
        exists = exists & (blocks[d] >= 0).reshape(shape)
    return np.where(exists, row + first[np.ix_(*blocks)], -1)


def stencil(
    grid: Grid, offsets: Sequence[tuple[int, ...]], values: Sequence
) -> tuple[np.ndarray, ...]:
    """Row pointers, columns and entries (CSR) of this rank's rows, without those over a border.

    offsets : of the columns from the row's cell, each -1, 0 or 1 per dimension.
    values : per offset a number, or an array of the owned shape.
    """
    if any(wrap and n < 3 for wrap, n in zip(grid.periodic, grid.shape, strict=True)):
        raise ConfigError(
            f"grid {grid.shape}: a periodic dimension needs 3 cells, else both neighbours are the "
            "same one"
        )
    shape, rows = grid.owned_shape(), numbering(grid)
    around = [
        tuple(slice(1 + o, 1 + o + n) for o, n in zip(offset, shape, strict=True))
        for offset in offsets
    ]
    columns = np.stack([rows[box] for box in around], axis=-1)
    entries = np.stack([np.broadcast_to(np.asarray(v, float), shape) for v in values], axis=-1)
    kept = columns >= 0
    pointers = np.concatenate([[0], np.cumsum(kept.reshape(-1, len(offsets)).sum(axis=1))])
    return pointers, columns[kept], entries[kept]


class System:
    """A x = b for a symmetric positive definite stencil: assembled once, solved many times.

    Parameters (collective): those of `stencil`, and PETSc options, `"-ksp_type cg -pc_type
    jacobi"`, which come on top of CG with algebraic multigrid (GAMG) to a relative residual of
    1e-10. An option nobody reads is a `ConfigError`.

    ::

        system = System(grid, [(0,), (-1,), (1,)], [2.0, -1.0, -1.0])
        system.rhs[...] = 1.0
        iterations = system.solve(guess, x)
    """

    def __init__(
        self, grid: Grid, offsets: Sequence[tuple[int, ...]], values: Sequence, options: str = ""
    ) -> None:
        self._grid = grid
        with together(grid.comm):
            PETSc = petsc()
            total = int(np.prod(grid.shape))
            if total > np.iinfo(PETSc.IntType).max:
                raise ConfigError(f"{total} unknowns need a PETSc with 64-bit indices")
            chosen = {**_parse(_DEFAULTS), **_parse(options)}
            pointers, columns, entries = stencil(grid, offsets, values)
        csr = pointers.astype(PETSc.IntType), columns.astype(PETSc.IntType), entries
        size = (int(np.prod(grid.owned_shape())), total)
        self._matrix = PETSc.Mat().createAIJ((size, size), csr=csr, comm=grid.comm)
        self._x, self._b = self._matrix.createVecs()
        self._solver = PETSc.KSP().create(grid.comm)
        self._solver.setOperators(self._matrix)
        self._solver.setInitialGuessNonzero(True)
        _configure(PETSc, self._solver, chosen)
        self._reasons = {
            v: k for k, v in vars(PETSc.KSP.ConvergedReason).items() if isinstance(v, int)
        }

    @property
    def rhs(self) -> np.ndarray:
        """The right-hand side to write to, anew for each solve: PETSc's memory, owned shape."""
        return self._b.array_w.reshape(self._grid.owned_shape())

    def solve(self, guess: np.ndarray, x: np.ndarray) -> int:
        """Solve for `rhs` into `x`, starting from `guess`.

        guess, x : owned shape, float64, any strides, maybe the same array.

        Returns the iterations; raises `HpckitError` on all ranks where the solver diverges.
        """
        shape = self._grid.owned_shape()
        self._x.array_w.reshape(shape)[...] = guess
        self._solver.solve(self._b, self._x)
        reason, iterations = self._solver.getConvergedReason(), self._solver.getIterationNumber()
        if reason < 0:
            raise HpckitError(
                f"the linear solver stopped after {iterations} iterations with residual "
                f"{self._solver.getResidualNorm():.3g} ({self._reasons.get(reason, reason)}): take "
                "smaller steps, or other options, such as -ksp_max_it 1000 -pc_type jacobi"
            )
        x[...] = self._x.array_r.reshape(shape)
        return iterations


class Operator:
    """A x = b for an A that only multiplies, by one of PETSc's Krylov methods.

    Vectors are whole on each rank, and PETSc does the same on all of them: where `multiply`
    communicates, all ranks call it alike.

    Parameters: `size` of x; `multiply(x, y)` and `precondition(r, z)` write what A and about its
    inverse make of one (size,) float64 array into the other; PETSc `options` come on top of CG. An
    option nobody reads is a `ConfigError`. A SciPy CSR array of A, given to `solve`, is there for
    options that name one of PETSc's preconditioners (-pc_type) instead of ours.

    ::

        operator = Operator(3, lambda x, y: np.multiply(x, 2.0, out=y), np.copyto)
        iterations = operator.solve(b, x, 1e-8)
    """

    def __init__(
        self,
        size: int,
        multiply: Callable[[np.ndarray, np.ndarray], object],
        precondition: Callable[[np.ndarray, np.ndarray], object],
        options: str = "",
    ) -> None:
        self._PETSc = PETSc = petsc()
        self._chosen = {"ksp_type": "cg", **_parse(options)}
        self.needs_matrix = "pc_type" in self._chosen
        self._shell = PETSc.Mat().createPython(size, _Callback(multiply), comm=PETSc.COMM_SELF)
        self._shell.setUp()
        self._x, self._b = self._shell.createVecs()
        self._precondition = _Callback(precondition)
        self._solver = None if self.needs_matrix else self._made(None)

    def solve(
        self, b: np.ndarray, x: np.ndarray, tolerance: float, matrix: Any = None
    ) -> int | None:
        """Improve x until |b - A x| <= tolerance |b|; the iterations, None where A is indefinite.

        matrix : a SciPy CSR array of A, if `needs_matrix`
        """
        if self.needs_matrix:
            self._solver = self._made(matrix)
        solver = self._solver
        assert solver is not None
        solver.setTolerances(rtol=tolerance)
        solver.setInitialGuessNonzero(bool(x.any()))  # direct solvers refuse to start from one
        self._x.array_w[...] = x
        self._b.array_w[...] = b
        solver.solve(self._b, self._x)
        reason, reasons = solver.getConvergedReason(), self._PETSc.KSP.ConvergedReason
        x[...] = self._x.array_r
        if reason < 0 and reason != reasons.DIVERGED_MAX_IT:
            return None
        return solver.getIterationNumber() if np.isfinite(x).all() else None

    def _made(self, matrix: Any) -> Any:
        PETSc = self._PETSc
        solver = PETSc.KSP().create(PETSc.COMM_SELF)
        if matrix is None:
            solver.setOperators(self._shell)
            solver.getPC().setType("python")
            solver.getPC().setPythonContext(self._precondition)
        else:
            csr = (*(a.astype(PETSc.IntType) for a in (matrix.indptr, matrix.indices)), matrix.data)
            given = PETSc.Mat().createAIJ(matrix.shape, csr=csr, comm=PETSc.COMM_SELF)
            solver.setOperators(self._shell, given)
        solver.setNormType(PETSc.KSP.NormType.UNPRECONDITIONED)
        _configure(PETSc, solver, self._chosen)
        return solver


class _Callback:
    """What PETSc calls for a matrix, or for a preconditioner, that is a function."""

    def __init__(self, function: Callable[[np.ndarray, np.ndarray], object]) -> None:
        self._function = function

    def mult(self, _: Any, x: Any, y: Any) -> None:
        self._function(x.array_r, y.array_w)

    apply = mult


def _configure(PETSc: Any, solver: Any, chosen: dict[str, str | None]) -> None:
    """Give a KSP these options and set it up; they are taken out of PETSc's global table again."""
    prefix = f"hpckit_{next(_count)}_"
    table = PETSc.Options(prefix)
    for name, value in chosen.items():
        table.setValue(name, value)
    solver.setOptionsPrefix(prefix)
    solver.setFromOptions()
    solver.setUp()
    used = getattr(table, "used", lambda _: True)  # old releases of petsc4py cannot tell
    unread = [name for name in chosen if not used(prefix + name)]
    for name in chosen:
        table.delValue(name)
    if unread:
        raise ConfigError(
            f"PETSc does not know the option{'s' * (len(unread) > 1)} -{', -'.join(unread)}"
        )


def _parse(options: str) -> dict[str, str | None]:
    """`"-a 1 -b"` as {"a": "1", "b": None}; a negative number is a value."""
    found: dict[str, str | None] = {}
    name = None
    for word in shlex.split(options):
        if word.startswith("-") and word[1:2].isalpha():
            name = word[1:]
            found[name] = None
        elif name is None or found[name] is not None:
            raise ConfigError(
                f"PETSc options {options!r}: {word!r} must follow an option, as in -ksp_rtol 1e-8"
            )
        else:
            found[name] = word
    return found


def _along(grid: Grid, d: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each owned cell along d, and one beyond each end: block or -1, place in it, its length."""
    n = grid.shape[d]
    starts = np.asarray(partition.starts(n, grid.process_shape[d]))
    cell = np.arange(grid.start[d] - 1, grid.stop[d] + 1)
    if grid.periodic[d]:
        cell = cell % n
    block = np.searchsorted(starts, cell, side="right") - 1
    block[(cell < 0) | (cell >= n)] = -1
    return block, cell - starts[block], np.diff(starts)[block]
