"""Conjugate gradients with two levels: cameras one by one, and clusters of them as rigid bodies.

Long scenes are soft where many cameras move together, which block Jacobi sees only after as many
iterations as there are cameras in a row. So clusters of neighbours get seven modes each, those of
a similarity of the world: shift, turn, scale. Z has them as columns, A0 = Z'S Z is small and dense,
and each iteration solves for them exactly (deflation: Tang, Nabben, Vuik & Erlangga, "Comparison of
two-level preconditioners derived from deflation, domain decomposition and multigrid methods",
Journal of Scientific Computing 39, 2009, where this form is A-DEF2). S Z is formed once, so that an
iteration has one product by S as without.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from hpckit import native
from hpckit.native import address
from hpckit.sfm.bundle.solvers.clusters import clusters
from hpckit.sfm.bundle.solvers.pcg import ConjugateGradients, SchurJacobi

if TYPE_CHECKING:
    from hpckit.sfm.bundle.system import ReducedSystem, Shape

CLUSTER = 4  # kept blocks in a cluster ...
CLUSTERS = 128  # ... or more, so that there are not more clusters
_LIFTS = (1e-13, 1e-11, 1e-9)  # of the diagonal of A0
_M = 8  # modes as kernels see them: seven, and one that is zero


class TwoLevel:
    """Preconditioned by clusters of cameras (see `hpckit.sfm.bundle.solvers.solver`). ::

    solution = TwoLevel().bind(system)
    x, iterations = solution.solve(0.01)
    """

    name = "two_level"

    def possible(self, shape: Shape) -> str | None:
        """Where poses are kept, and more than a few clusters of them."""
        if shape.eliminated_width != 3:
            return "its modes are those of poses, which are eliminated here"
        if shape.blocks < 4 * CLUSTER:
            return f"it needs {4 * CLUSTER} kept blocks, these are {shape.blocks}"
        return None

    def memory(self, shape: Shape) -> int:
        """Coarse matrix, S Z, and vectors."""
        n = _count(shape.blocks)
        return 8 * ((7 * n) ** 2 * 2 + 20 * shape.blocks * shape.width * _M + shape.blocks * n // 2)

    def bind(self, system: ReducedSystem) -> ConjugateGradients:
        """Cut the cameras into clusters (collective)."""
        return ConjugateGradients(system, Deflation(system))


def _count(blocks: int) -> int:
    """Of clusters."""
    return min(CLUSTERS, -(-blocks // CLUSTER))


class Deflation:
    """Clusters exactly, what is left of each camera by Schur-Jacobi: a `Preconditioner`."""

    def __init__(self, system: ReducedSystem) -> None:
        self._jacobi = SchurJacobi(system)
        self._coarse = CoarseSpace(system)

    def update(self) -> None:
        """For the system's linearisation and damping of now."""
        self._jacobi.update()
        self._coarse.update()

    def start(self, b: np.ndarray, x: np.ndarray, r: np.ndarray) -> float:
        """x = Z A0^-1 Z'b, and r = b - S x without a product by S."""
        size = self._jacobi.start(b, x, r)
        y = self._coarse.solve(self._coarse.z.T @ b)
        x[:] = self._coarse.z @ y
        r -= self._coarse.sz @ y
        return size

    def __call__(self, r: np.ndarray, out: np.ndarray) -> None:
        self._jacobi(r, out)
        coarse = self._coarse
        out += coarse.z @ coarse.solve(coarse.z.T @ r - coarse.sz.T @ out)


class CoarseSpace:
    """Z, S Z and the inverse of A0 = Z'S Z (collective)."""

    def __init__(self, system: ReducedSystem) -> None:
        self._system = system
        shape, pairs = system.shape, system.pattern()
        cluster = clusters(pairs, shape.blocks, -(-shape.blocks // _count(shape.blocks)))
        n = int(cluster.max()) + 1
        i, j = pairs.astype(np.int64).T
        joins = np.unique(np.concatenate([i * n + cluster[j], j * n + cluster[i]]))
        slot = np.full((shape.blocks, n), -1, np.int32)
        slot.reshape(-1)[joins] = np.arange(len(joins))
        self._cluster, self._slot, self._n = cluster, slot, n
        self._home = slot[np.arange(shape.blocks), cluster]
        constants = {"D": shape.width, "d": shape.eliminated_width}
        self._kernels = native.load("hpckit.sfm.kernels.coarse", **constants)
        self._seen = np.zeros(2 * n, np.int64)
        self._sums = np.empty(n * shape.eliminated_width * _M)
        self._image = (len(joins), shape.width, _M)
        self._sum = system.new_sum(math.prod(self._image))
        columns = system.columns
        private = np.bincount(columns[columns >= 0], minlength=shape.size) == 1
        self._moves = (columns >= 0) & np.append(private, False)[columns]
        self._z_at = self._entries(np.arange(shape.blocks) * n + cluster)
        self._sz_at = self._entries(joins)
        self._inverse = np.empty((7 * n, 7 * n))

    def update(self) -> None:
        """For the present linearisation and damping; NaN where S is not positive definite."""
        system = self._system
        modes = np.zeros((*self._moves.shape, _M))
        modes[..., :7] = system.modes()
        modes[~self._moves] = 0.0
        image = self._multiplied(modes)
        self.z = self._matrix(self._z_at, modes)
        self.sz = self._matrix(self._sz_at, image) + self.z * system.damping[:, None]
        if system.comm.rank == 0:
            small = (self.z.T @ self.sz).toarray()
            self._inverse[:] = _inverse((small + small.T) / 2)
        # One rank's, for libraries may round differently from process to process.
        system.comm.Bcast(self._inverse)

    def solve(self, b: np.ndarray) -> np.ndarray:
        """A0^-1 b."""
        x = np.empty_like(b)
        self._kernels.times(len(b), *map(address, (self._inverse, b, x)))
        return x

    def _multiplied(self, modes: np.ndarray) -> np.ndarray:
        """The blocks of S Z, without damping, summed over ranks."""
        at = self._system.linearisation
        arrays = (at.start, at.kept, at.jacobian, at.factor, modes, self._cluster)
        first = [address(a) for a in arrays]
        scratch = [address(a) for a in (self._slot, self._seen, self._sums)]

        def add(begin: int, end: int, out: np.ndarray) -> None:
            self._kernels.times_coarse(begin, end, *first, self._n, *scratch, address(out))

        def once(out: np.ndarray) -> None:
            own = np.zeros(modes.shape)
            self._system.add_priors(modes, own)
            out.reshape(self._image)[self._home] += own

        return self._sum(add, once).reshape(self._image)

    def _entries(self, joins: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of blocks (block, cluster): which of their values there are; their rows and columns."""
        columns = self._system.columns[joins // self._n]
        row = np.broadcast_to(columns[:, :, None], (*columns.shape, 7))
        column = np.broadcast_to(
            (7 * (joins % self._n)[:, None] + np.arange(7))[:, None, :], row.shape
        )
        there = row >= 0
        return there, row[there], column[there]

    def _matrix(self, at: tuple[np.ndarray, np.ndarray, np.ndarray], values: np.ndarray) -> Any:
        from scipy.sparse import csr_array

        there, rows, columns = at
        shape = (self._system.shape.size, 7 * self._n)
        return csr_array((values[..., :7][there], (rows, columns)), shape=shape)


def _inverse(matrix: np.ndarray) -> np.ndarray:
    """Of a matrix that is positive definite but for rounding, after scaling it to a unit diagonal;
    modes that move nothing stay 0. NaN where it is not.
    """
    diagonal = np.diag(matrix)
    there = diagonal > 0
    scale = np.where(there, 1 / np.sqrt(np.where(there, diagonal, 1.0)), 0.0)
    matrix = matrix * scale * scale[:, None] + np.diag(~there)
    for more in _LIFTS:  # clusters of few cameras have dependent modes
        lifted = matrix + more * np.eye(len(matrix))
        try:
            np.linalg.cholesky(lifted)
        except np.linalg.LinAlgError:
            continue
        return np.linalg.inv(lifted) * scale * scale[:, None]
    return np.full_like(matrix, np.nan)
