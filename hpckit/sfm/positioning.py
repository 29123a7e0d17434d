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

from dataclasses import dataclass, field

import numpy as np
from mpi4py import MPI

from hpckit.errors import ConfigError, same, together
from hpckit.sfm import rotations
from hpckit.sfm.projection import world_rays
from hpckit.sfm.ray_solver import Rays, RaySolver, joined
from hpckit.sfm.reconstruction import Observations, Reconstruction

HUBER = 0.1  # of residuals of unit vectors: about 6 degrees


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
    tolerance: float = 1e-4,
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
        ray = world_rays(reconstruction.cameras, images, seen)
        taken, start, kept = _long_enough(seen, np.isfinite(ray[:, 0]), min_views)
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
    seen: Observations, usable: np.ndarray, min_views: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points that enough images see: which, their new `start`, and the observations to take."""
    long = seen.views(usable) >= min_views
    taken, kept = np.flatnonzero(long), np.flatnonzero(usable & long[seen.point])
    counts = np.bincount(seen.point[kept], minlength=len(long))[taken]
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
    tolerance: float = 1e-4,
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
    tree = joined(comm, n, rays)
    component = tree.component
    solver = RaySolver(comm, rays, seed, loss_scale, tree)
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


def _checked(n: int, start: object, image: object, ray: object, weights: object) -> Rays:
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
    return Rays(
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


def _seen(comm: MPI.Intracomm, n: int, rays: Rays) -> np.ndarray:
    counts = np.bincount(rays.image, minlength=n)
    comm.Allreduce(MPI.IN_PLACE, counts)
    return counts > 0


def _normalise(
    component: np.ndarray, seen: np.ndarray, centres: np.ndarray, points: np.ndarray, rays: Rays
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
