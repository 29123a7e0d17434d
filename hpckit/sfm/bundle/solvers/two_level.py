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

from typing import TYPE_CHECKING

import numpy as np

from hpckit import native
from hpckit.native import address
from hpckit.sfm.bundle.solvers.clusters import clusters

if TYPE_CHECKING:
    from hpckit.sfm.bundle.system import ReducedSystem, Shape

CLUSTER = 4  # kept blocks in a cluster ...
CLUSTERS = 256  # ... or more, so that there are not more clusters
ITERATIONS = 500
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

    def bind(self, system: ReducedSystem) -> _Deflated:
        """Cut the cameras into clusters (collective)."""
        return _Deflated(system)


def _count(blocks: int) -> int:
    """Of clusters."""
    return min(CLUSTERS, -(-blocks // CLUSTER))


class _Deflated:
    def __init__(self, system: ReducedSystem) -> None:
        self._system = system
        self._coarse = CoarseSpace(system)
        self._jacobi = BlockJacobi(system)

    def solve(self, tolerance: float) -> tuple[np.ndarray, int] | None:
        """By A-DEF2 from x = Z A0^-1 Z'b, at most ITERATIONS of them."""
        system, coarse, jacobi = self._system, self._coarse, self._jacobi
        if not (jacobi.update() and coarse.update()):
            return None
        b = system.right
        x = coarse.correct(b)
        product = np.empty_like(b)
        system.multiply(x, product)
        r = b - product
        least, rz, p = tolerance * np.linalg.norm(b), 0.0, np.zeros_like(b)
        for iteration in range(ITERATIONS):
            if np.linalg.norm(r) <= least:
                return x, iteration
            y = jacobi.apply(r)
            z = y + coarse.remaining(y, r)
            before, rz = rz, float(r @ z)
            p = z + (rz / before if before else 0.0) * p
            system.multiply(p, product)
            curvature = float(p @ product)
            if not (curvature > 0 and rz > 0):  # not definite, or as exact as it gets
                return (x, iteration) if iteration and np.isfinite(x).all() else None
            x += rz / curvature * p
            r -= rz / curvature * product
        return x, ITERATIONS


class CoarseSpace:
    """Z, S Z and the inverse of A0 = Z'S Z (collective)."""

    def __init__(self, system: ReducedSystem) -> None:
        from scipy.sparse import csr_array

        self._system = system
        shape = system.shape
        pairs = system.pattern()
        cluster = clusters(pairs, shape.blocks, -(-shape.blocks // _count(shape.blocks)))
        n = int(cluster.max()) + 1
        i, j = pairs.astype(np.int64).T
        joins = np.unique(np.concatenate([i * n + cluster[j], j * n + cluster[i]]))
        self._slot = np.full((shape.blocks, n), -1, np.int32)
        self._slot.reshape(-1)[joins] = np.arange(len(joins))
        self._cluster, self._joins, self._n = cluster, joins, n
        self._kernels = native.load(
            "hpckit.sfm.kernels.coarse", D=shape.width, d=shape.eliminated_width
        )
        self._seen = np.zeros(2 * n, np.int64)
        self._sums = np.empty(n * shape.eliminated_width * _M)
        self._image = np.empty((len(joins), shape.width, _M))
        self._sparse = csr_array
        private = np.bincount(system.columns[system.columns >= 0], minlength=shape.size) == 1
        self._moves = (system.columns >= 0) & np.append(private, False)[system.columns]
        home = np.arange(shape.blocks) * n + cluster
        self._z_at = self._entries(home)
        self._sz_at = self._entries(joins)

    def update(self) -> bool:
        """For the present linearisation and damping; False where S is not positive definite."""
        from scipy.linalg import LinAlgError, cho_factor

        system = self._system
        shape = system.shape
        modes = np.zeros((shape.blocks, shape.width, _M))
        modes[..., :7] = system.modes()
        modes[~self._moves] = 0.0
        self._multiply(modes)
        self.z = self._matrix(self._z_at, modes)
        self.sz = self._matrix(self._sz_at, self._image) + self.z * system.damping[:, None]
        small = (self.z.T @ self.sz).toarray()
        small = (small + small.T) / 2
        scale = np.sqrt(np.maximum(np.diag(small), 0.0))
        scale[scale == 0] = 1.0
        small /= scale[:, None] * scale
        dead = np.diag(small) == 0
        for more in (1e-14, 1e-12, 1e-10, 1e-8):
            small[np.diag_indices_from(small)] += more + dead
            dead = False
            try:
                self._factor = cho_factor(small, lower=True, check_finite=True)
            except (LinAlgError, ValueError):
                continue
            self._scale = scale
            return True
        return False

    def correct(self, r: np.ndarray) -> np.ndarray:
        """Z A0^-1 Z'r."""
        return self.z @ self._solve(self.z.T @ r)

    def remaining(self, y: np.ndarray, r: np.ndarray) -> np.ndarray:
        """Z A0^-1 Z'(r - S y): what y leaves to the clusters."""
        return self.z @ self._solve(self.z.T @ r - self.sz.T @ y)

    def _solve(self, b: np.ndarray) -> np.ndarray:
        from scipy.linalg import cho_solve

        return cho_solve(self._factor, b / self._scale, check_finite=False) / self._scale

    def _multiply(self, modes: np.ndarray) -> None:
        """The blocks of S Z, summed over ranks."""
        lin = self._system.linearisation
        self._image[:] = 0
        self._kernels.times_coarse(
            0,
            len(lin.start) - 1,
            *map(address, (lin.start, lin.kept, lin.jacobian, lin.factor, modes, self._cluster)),
            self._n,
            *map(address, (self._slot, self._seen, self._sums, self._image)),
        )
        from mpi4py import MPI

        self._system.comm.Allreduce(MPI.IN_PLACE, self._image)

    def _entries(self, joins: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where (block, cluster) blocks have entries: which of theirs, rows and columns."""
        block, cluster = joins // self._n, joins % self._n
        row = np.broadcast_to(
            self._system.columns[block][:, :, None], (len(joins), self._system.shape.width, 7)
        )
        column = np.broadcast_to((7 * cluster[:, None] + np.arange(7))[:, None, :], row.shape)
        there = row >= 0
        return there, row[there], column[there]

    def _matrix(self, at: tuple[np.ndarray, np.ndarray, np.ndarray], values: np.ndarray):
        there, rows, columns = at
        shape = (self._system.shape.size, 7 * self._n)
        return self._sparse((values[..., :7][there], (rows, columns)), shape=shape)


class BlockJacobi:
    """Inverses of the diagonal blocks of S: of each kept block's own unknowns, and of each that
    blocks share by itself.
    """

    def __init__(self, system: ReducedSystem) -> None:
        self._system = system
        columns = system.columns
        private = np.bincount(columns[columns >= 0], minlength=system.shape.size) == 1
        self._own = (columns >= 0) & np.append(private, False)[columns]
        self._shared = np.flatnonzero(~private)

    def update(self) -> bool:
        """For the present linearisation and damping; False where a block is not positive."""
        system, own = self._system, self._own
        blocks = system.diagonal()
        damping = np.append(system.damping, 0.0)[system.columns]
        diagonal = np.einsum("kii->ki", blocks)
        total = np.empty(system.shape.size)
        system.collect(diagonal, total)
        self._single = 1 / (total + system.damping)[self._shared]
        blocks = np.where(own[:, :, None] & own[:, None, :], blocks, 0.0)
        np.einsum("kii->ki", blocks)[...] += np.where(own, damping, 1.0)
        try:
            half = np.linalg.inv(np.linalg.cholesky(blocks))
        except np.linalg.LinAlgError:
            return False
        self._inverse = np.where(own[:, :, None], half.transpose(0, 2, 1) @ half, 0.0)
        return bool(np.isfinite(self._inverse).all() and (self._single > 0).all())

    def apply(self, r: np.ndarray) -> np.ndarray:
        """y of block-diagonal(S) y = r."""
        system = self._system
        blocks, y = np.empty(system.columns.shape), np.empty_like(r)
        system.expand(r, blocks)
        system.collect((self._inverse @ blocks[:, :, None])[:, :, 0], y)
        y[self._shared] = self._single * r[self._shared]
        return y
