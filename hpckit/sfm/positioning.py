"""Global positioning: where images stand, and points, once the images' rotations are known.

An image at c_i sees point x_j in the direction v_ij of the world: r = v_ij - s_ij (x_j - c_i), with
a scale s_ij > 0 for each ray; minimised is 1/2 sum w rho(|r|^2), rho Huber's, over all of them.
That is bilinear, and is solved from random positions to the same end (Pan et al., "Global
structure-from-motion revisited", ECCV 2024; Zhuang et al., "Baseline desensitizing in translation
averaging", CVPR 2018). Each step of Levenberg-Marquardt eliminates the scales, in closed form, and
then the points, so that 3 numbers per image remain.

Points and their rays are distributed over ranks, centres replicated. Few images are solved by
Cholesky of a dense matrix, which ranks sum up; many by conjugate gradients, with one allreduce of 3
numbers per image and iteration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from mpi4py import MPI

from hpckit import native
from hpckit.collectives import Allreduce
from hpckit.errors import ConfigError, same, together
from hpckit.native import address
from hpckit.sfm import rotations
from hpckit.sfm.projection import unproject
from hpckit.sfm.reconstruction import Reconstruction
from hpckit.sfm.spanning import Graph, Tree, pieces_of, spanning

HUBER = 0.1  # of residuals of unit vectors: about 6 degrees
_DENSE = 250  # images up to which the reduced matrix is dense
_RADIUS = 1e6  # of the first trust region: small ones fold long loops of images
_EXTENT = 100.0  # of the random start, where scales are 1: rays are short of everything at first
_SOLVER_TOLERANCE = 1e-6  # relative residual of conjugate gradients: loose ones end in folds
_PIECES = 200, 8  # of the coarse matrix: about how many, and of how many images at least
_SOLVER_ITERATIONS = 1000


@dataclass
class PositioningReport:
    """What global positioning did. ::

    report = position_globally(reconstruction)
    print(report.termination, report.cost, report.history)
    """

    component: np.ndarray  # (n,) int64: the first image of the component that each image is in
    initial_cost: float
    cost: float  # 1/2 sum w rho(|r|^2), over all ranks
    iterations: int  # steps tried
    solver_iterations: int  # of conjugate gradients; 0 where the matrix was dense
    rays: int  # that counted, over all ranks
    termination: str  # "converged", "max_iterations", "radius" or "no_rays"
    history: list[float] = field(default_factory=list)  # cost after each step


def position_globally(
    reconstruction: Reconstruction,
    *,
    known_focal: np.ndarray | None = None,
    min_views: int = 3,
    seed: int = 0,
    loss_scale: float = HUBER,
    max_iterations: int = 200,
    tolerance: float = 3e-4,
) -> PositioningReport:
    """Find translations and points from rotations and observations (collective).

    reconstruction : quaternions and cameras are used and stay; translations and xyz become new
    known_focal : (cameras,) bool, whether the focal length is known: rays of others count half;
        None, all are
    min_views : points that fewer images see are left as they are; at least 2
    seed : of the random start, which is the same on any number of ranks

    Other arguments, components and gauge as for `solve_positions`; an image without a ray that
    counts keeps its translation. Raises `ConfigError` on all ranks for bad input. ::

        report = position_globally(reconstruction, seed=1)
    """
    images, points, seen = (
        reconstruction.images,
        reconstruction.points,
        reconstruction.observations,
    )
    comm = reconstruction.comm
    with together(comm):
        if isinstance(min_views, bool) or min_views < 2:
            raise ConfigError(f"min_views must be a number of images of at least 2: {min_views!r}")
        weights = _focal_weights(reconstruction, known_focal)
        ray = rotations.rotate(
            rotations.conjugate(images.quaternion[seen.image]),
            unproject(reconstruction.cameras, images.camera[seen.image], seen.xy),
        )
        taken, start, kept = _long_enough(seen.start, np.isfinite(ray[:, 0]), seen.image, min_views)
    centres, xyz, report = solve_positions(
        comm,
        len(images),
        start,
        seen.image[kept],
        ray[kept],
        weights,
        seed=seed,
        loss_scale=loss_scale,
        max_iterations=max_iterations,
        tolerance=tolerance,
    )
    found = np.isfinite(centres[:, 0])
    turned = rotations.rotate(images.quaternion[found], centres[found])
    images.translation[found] = -turned
    points.xyz[taken] = xyz
    return report


def _focal_weights(reconstruction: Reconstruction, known: np.ndarray | None) -> np.ndarray:
    """Of each image: 1, or 1/2 where the focal length is a guess."""
    if known is None:
        return np.ones(len(reconstruction.images))
    known = np.asarray(known, bool)
    if known.shape != (len(reconstruction.cameras),):
        raise ConfigError(
            f"known_focal must have one entry for each of {len(reconstruction.cameras)} cameras, "
            f"got shape {known.shape}"
        )
    return np.where(known[reconstruction.images.camera], 1.0, 0.5)


def _long_enough(
    start: np.ndarray, usable: np.ndarray, image: np.ndarray, min_views: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points that enough images see: which, their new `start`, and the observations to take."""
    point = np.repeat(np.arange(len(start) - 1), np.diff(start))
    pairs = np.unique(point[usable] * (int(image.max(initial=0)) + 1) + image[usable])
    views = np.bincount(pairs // (int(image.max(initial=0)) + 1), minlength=len(start) - 1)
    taken = np.flatnonzero(views >= min_views)
    kept = np.flatnonzero(usable & (views >= min_views)[point])
    counts = np.bincount(point[kept], minlength=len(start) - 1)[taken]
    return taken, np.concatenate([[0], np.cumsum(counts)]), kept


def solve_positions(
    comm: MPI.Intracomm,
    n: int,
    start: np.ndarray,
    image: np.ndarray,
    ray: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    seed: int = 0,
    loss_scale: float = HUBER,
    max_iterations: int = 200,
    tolerance: float = 3e-4,
) -> tuple[np.ndarray, np.ndarray, PositioningReport]:
    """Centres of `n` images and this rank's points from rays of known direction (collective).

    start : (p + 1,) int64, rays of this rank's point j are start[j]:start[j + 1]
    image : (m,) integers, the image of each ray; ray : (m, 3) float64, from its centre to the
        point, in the frame of the world
    weights : (n,) float64, positive, of all rays of an image, the same on all ranks; None, 1
    loss_scale : of Huber's loss, where unit vectors are compared
    tolerance : ends when a step lowers the cost by less than this fraction

    Returns (n, 3) centres, the same on all ranks, (p, 3) points, and a report. Centres of each
    connected component have median 0 and median distance 1 from it; components are positioned
    apart, an image of no ray has NaN. Raises `ConfigError` on all ranks for bad input. ::

        centres, points, report = solve_positions(comm, n, start, image, ray)
    """
    with together(comm):
        rays = _checked(n, start, image, ray, weights)
        _check_options(seed, loss_scale, max_iterations, tolerance)
    options = n, rays.weights, seed, loss_scale, max_iterations, tolerance
    same(comm, "n, weights and options of global positioning", options)
    tree = _joined(comm, n, rays)
    component = tree.component
    solver = _Positioning(comm, rays, seed, loss_scale, tree)
    termination = solver.run(max_iterations, tolerance)
    centres, points = solver.centres, solver.points
    _normalise(component, _seen(comm, n, rays), centres, points, rays)
    report = PositioningReport(
        component,
        solver.initial_cost,
        solver.cost,
        len(solver.history),
        solver.solver_iterations,
        solver.rays,
        termination,
        solver.history,
    )
    return centres, points, report


class _Rays(NamedTuple):
    """This rank's points and rays."""

    start: np.ndarray  # (p + 1,) int64
    image: np.ndarray  # (m,) int32
    ray: np.ndarray  # (m, 3) float64, of length one
    weights: np.ndarray  # (n,) float64, of images


def _checked(n: int, start: object, image: object, ray: object, weights: object) -> _Rays:
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise ConfigError(f"n must be a number of images of at least 1, got {n!r}")
    starts, seen = np.asarray(start), np.asarray(image)
    if starts.ndim != 1 or not starts.size or starts[0] != 0 or (np.diff(starts) < 0).any():
        raise ConfigError("start must begin with 0 and not decrease")
    v = np.array(ray, np.float64).reshape(-1, 3)
    if not starts[-1] == len(seen) == len(v):
        raise ConfigError(
            f"start ends at {starts[-1]}, but there are {len(seen)} images and {len(v)} rays"
        )
    if seen.size and (seen.dtype.kind not in "iu" or seen.min() < 0 or seen.max() >= n):
        raise ConfigError(f"image must hold integers of 0 to {n - 1}")
    length = np.linalg.norm(v, axis=1)
    wrong = ~((length > 0.0) & np.isfinite(length))
    if wrong.any():
        k = int(wrong.argmax())
        raise ConfigError(f"a ray has a length, and no NaN, but ray {k} is {v[k].tolist()}")
    w = np.ones(n) if weights is None else np.array(weights, np.float64)
    if w.shape != (n,) or not ((w > 0.0) & np.isfinite(w)).all():
        raise ConfigError(f"weights must be {n} positive numbers, one for each image")
    return _Rays(
        np.ascontiguousarray(starts, np.int64),
        np.ascontiguousarray(seen, np.int32),
        v / length[:, None],
        w,
    )


def _check_options(seed: int, loss_scale: float, max_iterations: int, tolerance: float) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ConfigError(f"seed must be an integer of at least 0, got {seed!r}")
    if not 0.0 < loss_scale < np.inf:
        raise ConfigError(f"loss_scale must be a positive number, got {loss_scale}")
    if max_iterations < 0:
        raise ConfigError(f"max_iterations must not be negative, got {max_iterations}")
    if not tolerance >= 0.0:
        raise ConfigError(f"tolerance must be a number of at least 0, got {tolerance}")


def _joined(comm: MPI.Intracomm, n: int, rays: _Rays) -> Tree:
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


def _seen(comm: MPI.Intracomm, n: int, rays: _Rays) -> np.ndarray:
    counts = np.bincount(rays.image, minlength=n)
    comm.Allreduce(MPI.IN_PLACE, counts)
    return counts > 0


def _normalise(
    component: np.ndarray, seen: np.ndarray, centres: np.ndarray, points: np.ndarray, rays: _Rays
) -> None:
    """Centres of each component: median 0, median distance 1; of what is not seen NaN."""
    shift, size = np.zeros_like(centres), np.ones(len(centres))
    for first in np.unique(component[seen]):
        own = component == first
        middle = np.median(centres[own], axis=0)
        distance = np.linalg.norm(centres[own] - middle, axis=1)
        shift[own] = middle
        size[own] = np.median(distance) or distance.max() or 1.0
    lonely = np.diff(rays.start) == 0
    image = rays.image[np.minimum(rays.start[:-1], max(len(rays.image) - 1, 0))]
    if len(rays.image):
        points -= shift[image]
        points /= size[image][:, None]
    points[lonely] = np.nan
    centres -= shift
    centres /= size[:, None]
    centres[~seen] = np.nan


class _Positioning:
    """Levenberg-Marquardt on centres, points and scales."""

    def __init__(
        self, comm: MPI.Intracomm, rays: _Rays, seed: int, huber: float, tree: Tree
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
        self._piece, pieces = (np.empty(0, np.int64), 0) if self._dense else pieces_of(tree, *_PIECES)
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
        radius, shrink = _RADIUS, 2.0
        if not self.rays:
            return "no_rays"
        for _ in range(max_iterations):
            self._prepare(1.0 / radius)
            move = self._solve(1.0 / radius)
            kept = self.centres, self.points, self._scale
            fall = self._step(move, 1.0 / radius)
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
            if self._rescue():
                cost = self._evaluate(0.0)[0]
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

    def _rescue(self) -> bool:
        """Move points that ended behind an image; whether any rank has one that moved."""
        rays = self._rays
        arrays = rays.start, rays.image, rays.ray, rays.weights
        state = self.centres, self.points, self._scale
        arrays = map(address, (*arrays, *state))
        self._scalars[0] = self._kernels.rescue(self._p, *arrays, self._huber)
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
