"""Levenberg-Marquardt for global positioning: centres, points and a scale for each ray.

Scales are eliminated first, in closed form, then points; what is left is 3 equations per image,
S c = b. From a random start the scene finds its shape in a few long steps. Two things bring it to
the end soon: rays that fit get their best scale after each step (else far points creep, as a linear
step cannot move them and shrink their scales), and points that miss a ray are put where their rays
meet, if that costs less (no step brings a point back through the image that it is behind). The
second waits until the shape has settled, for it would fix what is still folded.

The preconditioner of conjugate gradients is the diagonal of S, and a coarse matrix of pieces of the
spanning forest, each of which may move along three axes and grow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from mpi4py import MPI

from hpckit import native
from hpckit.collectives import Allreduce
from hpckit.native import address
from hpckit.sfm.spanning import Graph, Tree, pieces_of, spanning

_DENSE = 250  # images up to which the reduced matrix is dense
_EXTENT = 100.0  # of the random start, where scales are 1: rays are short of everything at first
_RADIUS = 1e6  # of the first trust region: small ones fold long loops of images
_SETTLED = 0.1  # part of the cost that a step saves before the scene has found its shape
_SOLVER_TOLERANCE = 1e-6  # relative residual of conjugate gradients: loose ones end in folds
_SOLVER_ITERATIONS = 1000
_PIECES = 200, 8  # of the coarse matrix: about how many, and of how many images at least


class Rays(NamedTuple):
    """This rank's points and rays."""

    start: np.ndarray  # (p + 1,) int64
    image: np.ndarray  # (m,) int32
    ray: np.ndarray  # (m, 3) float64, of length one
    weights: np.ndarray  # (n,) float64, of images


def joined(comm: MPI.Intracomm, n: int, rays: Rays) -> Tree:
    """A spanning forest of images that see the same points, along those that share most.

    Images that are neighbours in a point's list are joined, which is enough to connect them.
    """
    inside = np.ones(len(rays.image), bool)
    inside[rays.start[:-1][np.diff(rays.start) > 0]] = False
    second = np.flatnonzero(inside)
    ends = np.sort(np.stack([rays.image[second - 1], rays.image[second]], axis=1), axis=1)
    keys, counts = np.unique(ends[:, 0].astype(np.int64) * n + ends[:, 1], return_counts=True)
    edges = np.stack([keys // n, keys % n], axis=1)
    nothing = np.tile([1.0, 0.0, 0.0, 0.0], (len(edges), 1))
    return spanning(comm, n, Graph(edges, nothing, counts.astype(float)))[1]


class RaySolver:
    """The steps, from a random start: `run`, then `centres` and `points`."""

    def __init__(
        self, comm: MPI.Intracomm, rays: Rays, seed: int, huber: float, tree: Tree
    ) -> None:
        n, p, m = len(rays.weights), len(rays.start) - 1, len(rays.image)
        self._comm, self._rays, self._huber = comm, rays, huber
        self._kernels = native.load("hpckit.sfm.kernels.positioning")
        self._n, self._p = n, p
        self.centres, self.points = _random_start(comm, seed, n, p)
        self._scale, self._weight = np.ones(m), np.empty(m)
        self._new_points, self._new_scale = np.empty((p, 3)), np.empty(m)
        self._ab, self._inverse, self._right = np.empty((m, 2)), np.empty((p, 6)), np.empty((p, 3))
        self._dense = n <= _DENSE
        self._piece, pieces = (
            (np.empty(0, np.int64), 0) if self._dense else pieces_of(tree, *_PIECES)
        )
        self._pieces = pieces
        longest = int(np.diff(rays.start).max(initial=1))
        self._rooms = np.empty(longest, np.int64), np.empty((longest, 12))
        size = 16 * n + (9 * n * n if self._dense else 16 * pieces * pieces)
        self._sums = np.empty(size)
        self._y = np.empty((n, 3))
        self._scalars = np.empty(2)
        self._sum_up, self._sum_product = _plan(comm, self._sums), _plan(comm, self._y)
        self._sum_scalars = _plan(comm, self._scalars)
        self.rays = int(comm.allreduce(m))
        self.history, self.solver_iterations = [], 0
        self.cost = self.initial_cost = self._evaluate(0.0)[0]

    def run(self, max_iterations: int, tolerance: float) -> str:
        """Take steps to the end; why that is."""
        radius, shrink, settled = _RADIUS, 2.0, False
        if not self.rays:
            return "no_rays"
        for _ in range(max_iterations):
            self._prepare(1.0 / radius)
            move = self._solve(1.0 / radius)
            kept = self.centres, self.points, self._scale
            fall = self._step(move, 1.0 / radius)
            if settled:
                self._rescue(True)
            cost, fall = self._evaluate(fall)
            if cost <= self.cost and fall <= 1e-3 * tolerance * self.cost:
                self.history.append(cost)
                self.cost = cost
                return "converged"
            quality = (self.cost - cost) / fall if fall > 0.0 else -1.0
            if not quality > 1e-3:
                self.centres, self.points, self._scale = kept
                self._new_points, self._new_scale = self._spare
                self._evaluate(0.0)
                radius, shrink = radius / shrink, 2.0 * shrink
                self.history.append(self.cost)
                if radius < 1e-32:
                    return "radius"
                continue
            radius, shrink = radius / max(1.0 / 3.0, 1.0 - (2.0 * quality - 1.0) ** 3), 2.0
            radius = min(radius, 1e16)
            if not settled and self._rescue(False):
                cost = self._evaluate(0.0)[0]
            settled = settled or self.cost - cost <= _SETTLED * cost
            change, self.cost = self.cost - cost, cost
            self.history.append(cost)
            if change <= tolerance * cost:
                return "converged"
        return "max_iterations"

    def _evaluate(self, fall: float) -> tuple[float, float]:
        """Cost where we are, and the sum of `fall`, over all ranks; the weights of a next step."""
        rays = self._rays
        arrays = rays.start, rays.image, rays.ray, rays.weights
        state = self.centres, self.points, self._scale
        cost = self._kernels.weigh(
            self._p, *map(address, (*arrays, *state)), self._huber, address(self._weight)
        )
        self._scalars[:] = cost, fall
        self._sum_scalars()
        return float(self._scalars[0]), float(self._scalars[1])

    def _rescue(self, every: bool) -> bool:
        """Move points that ended behind an image, or `every` one that misses a ray; whether any
        rank has one that moved.
        """
        rays = self._rays
        arrays = rays.start, rays.image, rays.ray, rays.weights
        state = self.centres, self.points, self._scale
        arrays = map(address, (*arrays, *state))
        self._scalars[0] = self._kernels.rescue(self._p, *arrays, self._huber, every)
        self._sum_scalars()
        return bool(self._scalars[0] > 0)

    def _prepare(self, damping: float) -> None:
        """What is left of points and scales for the equations of the centres."""
        rays, n, p = self._rays, self._n, self._p
        self._sums[:] = 0.0
        state = self.centres, self.points, self._scale
        arrays = rays.start, rays.image, rays.ray, self._weight, *state
        out = self._ab, self._inverse, self._right, self._sums
        self._kernels.prepare(p, *map(address, arrays), damping, *map(address, out))
        if self._dense:
            arrays = rays.start, rays.image, *state[:2], self._ab, self._inverse
            matrix = self._sums[16 * n :]
            self._kernels.matrix(p, *map(address, arrays), 3 * n, address(matrix))
        else:
            self._offset = _from_middles(self._piece, self._pieces, self.centres)
            arrays = rays.start, rays.image, *state[:2], self._ab, self._inverse
            arrays += self._piece, self._offset
            out = self._sums[16 * n :], *self._rooms
            self._kernels.coarse(p, *map(address, arrays), 4 * self._pieces, *map(address, out))
        self._sum_up()

    def _solve(self, damping: float) -> np.ndarray:
        """(n, 3): how the centres move."""
        n = self._n
        own = self._sums[: 16 * n].reshape(n, 16)
        blocks = own[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(n, 3, 3).copy()
        # Images that see nothing stay where they are.
        more = damping * own[:, 9] + np.where(own[:, 9] > 0.0, 0.0, 1.0)
        blocks[:, range(3), range(3)] += more[:, None]
        right = own[:, 6:9]
        if self._dense:
            return self._solve_dense(blocks, right)
        taken = own[:, [10, 11, 12, 11, 13, 14, 12, 14, 15]].reshape(n, 3, 3)
        inverse = np.linalg.inv(blocks - taken)
        return self._solve_by_gradients(blocks, right, self._preconditioner(blocks, inverse))

    def _preconditioner(self, blocks: np.ndarray, inverse: np.ndarray):
        """r -> D^-1 r + Z (Z^T S Z)^-1 Z^T r, D the diagonal blocks of S."""
        if not self._pieces:
            return lambda r: np.einsum("nij,nj->ni", inverse, r)
        member = np.flatnonzero(self._piece >= 0)
        piece, offset = self._piece[member], self._offset[member]
        modes = np.zeros((len(member), 3, 4))
        modes[:, range(3), range(3)], modes[:, :, 3] = 1.0, offset
        matrix = self._sums[16 * self._n :].reshape(self._pieces, 4, self._pieces, 4).copy()
        own = np.einsum("nia,nij,njb->nab", modes, blocks[member], modes)
        place = np.arange(self._pieces)
        matrix[place, :, place, :] += _by_piece(piece, own.reshape(-1, 16), self._pieces).reshape(
            -1, 4, 4
        )
        flat = matrix.reshape(4 * self._pieces, -1)
        # Damping alone holds the scene's place and size: what rounding left of it may be negative.
        flat[np.diag_indices_from(flat)] *= 1.0 + 1e-10
        coarse = np.linalg.pinv(flat, rcond=1e-14, hermitian=True)

        def both(r: np.ndarray) -> np.ndarray:
            z = np.einsum("nij,nj->ni", inverse, r)
            sums = _by_piece(piece, np.einsum("nia,ni->na", modes, r[member]), self._pieces)
            correction = (coarse @ sums.ravel()).reshape(-1, 4)
            z[member] += np.einsum("nia,na->ni", modes, correction[piece])
            return z

        return both

    def _solve_dense(self, blocks: np.ndarray, right: np.ndarray) -> np.ndarray:
        from scipy.linalg import LinAlgError, cho_factor, cho_solve

        n = self._n
        matrix = self._sums[16 * n :].reshape(n, 3, n, 3)
        matrix[range(n), :, range(n), :] += blocks
        flat = matrix.reshape(3 * n, 3 * n)
        try:
            factor = cho_factor(flat, lower=True, overwrite_a=True, check_finite=False)
        except LinAlgError:
            return np.zeros((n, 3))  # no step: the radius shrinks
        return cho_solve(factor, right.ravel(), check_finite=False).reshape(n, 3)

    def _solve_by_gradients(
        self,
        blocks: np.ndarray,
        right: np.ndarray,
        precondition: Callable[[np.ndarray], np.ndarray],
    ) -> np.ndarray:
        x, r = np.zeros_like(right), right.copy()
        z = precondition(r)
        p = z.copy()
        rz = first = float((r * z).sum())
        for _ in range(_SOLVER_ITERATIONS):
            if rz <= _SOLVER_TOLERANCE**2 * first:
                break
            self.solver_iterations += 1
            product = self._product(blocks, p)
            curvature = float((p * product).sum())
            if not curvature > 0.0:
                break
            alpha = rz / curvature
            x += alpha * p
            r -= alpha * product
            z = precondition(r)
            new = float((r * z).sum())
            p *= new / rz
            p += z
            rz = new
        return x

    def _product(self, blocks: np.ndarray, x: np.ndarray) -> np.ndarray:
        rays = self._rays
        self._y[:] = 0.0
        arrays = rays.start, rays.image, self.centres, self.points, self._ab, self._inverse
        self._kernels.product(self._p, *map(address, (*arrays, x, self._y)))
        self._sum_product()
        return self._y + np.einsum("nij,nj->ni", blocks, x)

    def _step(self, move: np.ndarray, damping: float) -> float:
        """Go there; by how much this rank's cost of the linear model falls."""
        rays = self._rays
        state = self.centres, self.points, self._scale
        arrays = rays.start, rays.image, rays.ray, self._weight, *state
        arrays += self._ab, self._inverse, self._right
        out = move, self._new_points, self._new_scale
        fall = self._kernels.step(self._p, *map(address, arrays), damping, *map(address, out))
        self._spare = self._new_points, self._new_scale
        old = self.points, self._scale
        self.centres = self.centres + move
        self.points, self._scale = self._spare
        self._new_points, self._new_scale = old
        return fall


def _by_piece(piece: np.ndarray, values: np.ndarray, pieces: int) -> np.ndarray:
    """(pieces, k): sums of rows."""
    return np.stack([np.bincount(piece, column, pieces) for column in values.T], axis=1)


def _from_middles(piece: np.ndarray, pieces: int, centres: np.ndarray) -> np.ndarray:
    """(n, 3): from the middle of each image's piece, in units of the piece's size."""
    member = piece >= 0
    own, offset = piece[member], np.zeros_like(centres)
    count = np.maximum(np.bincount(own, minlength=pieces), 1)[:, None]
    offset[member] = centres[member] - (_by_piece(own, centres[member], pieces) / count)[own]
    square = _by_piece(own, (offset[member] ** 2).sum(1)[:, None], pieces) / count
    offset[member] /= np.sqrt(np.maximum(square, 1e-300))[own]
    return offset


def _random_start(comm: MPI.Intracomm, seed: int, n: int, p: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres and this rank's points in a cube, independent of the number of ranks."""
    before = sum(comm.allgather(p)[: comm.rank])
    centres = np.random.Generator(np.random.Philox(seed)).random((n, 3))
    # One step of the counter makes four numbers: those of point j begin at n + j.
    points = np.random.Generator(np.random.Philox(seed).advance(n + before)).random((p, 4))
    return _EXTENT * (2.0 * centres - 1.0), _EXTENT * (2.0 * points[:, :3] - 1.0)


def _plan(comm: MPI.Intracomm, array: np.ndarray):
    return (lambda: None) if comm.size == 1 else Allreduce(comm, array)
