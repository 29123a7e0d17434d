"""Cholesky factorisation of the whole reduced matrix, by LAPACK on the first rank."""

from __future__ import annotations

import numpy as np

from hpckit import native
from hpckit.native import address
from hpckit.sfm.bundle.system import ReducedSystem, Shape


class Dense:
    """For up to a few hundred kept blocks, of which most pairs are joined."""

    name = "dense"

    def possible(self, shape: Shape) -> str | None:
        return None

    def memory(self, shape: Shape) -> int:
        return 8 * (shape.size**2 + shape.pairs * shape.width**2)

    def bind(self, system: ReducedSystem) -> _Bound:
        return _Bound(system)


class _Bound:
    def __init__(self, system: ReducedSystem) -> None:
        self._system = system
        self._setup = native.load("hpckit.sfm.kernels.setup")
        self._pairs = system.pattern()
        first, size = system.comm.rank == 0, system.shape.size
        self._matrix = np.zeros((size, size), order="F") if first else None
        self._x = np.empty(size + 1)

    def solve(self, tolerance: float) -> tuple[np.ndarray, int] | None:
        """The step, exact but for rounding; None where the matrix is not positive definite."""
        blocks = self._system.assemble(root=0)
        if blocks is not None:
            self._x[-1] = self._factor(blocks)
        self._system.comm.Bcast(self._x)
        return None if self._x[-1] else (self._x[:-1].copy(), 1)

    def _factor(self, blocks: np.ndarray) -> int:
        """Solve on this rank, 0; else why LAPACK could not."""
        from scipy.linalg import get_lapack_funcs

        matrix, system = self._matrix, self._system
        assert matrix is not None
        if not len(matrix):
            return 0
        matrix[:] = 0
        arrays = address(self._pairs), address(system.columns), system.shape.width
        self._setup.scatter(
            len(self._pairs), *arrays, address(blocks), len(matrix), address(matrix)
        )
        matrix[np.diag_indices(len(matrix))] += system.damping
        if not np.isfinite(matrix.diagonal()).all():
            return 1
        factorise, solve = get_lapack_funcs(("potrf", "potrs"), (matrix,))
        factor, fault = factorise(matrix, lower=1, overwrite_a=1, clean=0)
        if not fault:
            self._x[:-1], fault = solve(factor, system.right, lower=1)
        return fault or int(not np.isfinite(self._x[:-1]).all())
