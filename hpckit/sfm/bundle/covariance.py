"""How well images say what bundle adjustment finds: covariance of poses, intrinsics and points.

At a solution x changes by (J'J)^-1 J' times the noise of the pixels, so its covariance is sigma^2
(J'J)^-1; that of the kept side is the inverse of the Schur complement S, and of a point V^-1 +
V^-1 W' S^-1 W V^-1 (Triggs et al., "Bundle Adjustment - A Modern Synthesis", 2000, sections 3.4 and
9). Only what is asked for is computed: S is factored once, then solved for the columns of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mpi4py import MPI

from hpckit.errors import ConfigError, same, together
from hpckit.sfm.bundle import gauge as gauges
from hpckit.sfm.bundle.fixing import free
from hpckit.sfm.bundle.frame import frame
from hpckit.sfm.bundle.inverse import UNDAMPED, Inverse
from hpckit.sfm.bundle.priors import Prior, Priors
from hpckit.sfm.bundle.problem import problem
from hpckit.sfm.bundle.rank import check_connected, check_depths
from hpckit.sfm.bundle.survey import survey
from hpckit.sfm.bundle.system import ReducedSystem
from hpckit.sfm.losses import Loss, robust
from hpckit.sfm.reconstruction import Reconstruction


@dataclass
class Covariance:
    """Covariances in the caller's frame and units, the same on all ranks but for points.

    What is fixed has zeros. A pose's six are a rotation vector in the camera's frame (R becomes
    exp(w) R, radians) and the translation.

    images : (n,) int64 ids; poses : (n, 6, 6); centres : (n, 3, 3) of camera centres -R't
    intrinsics : by camera's id, its free parameters and their (k, k)
    points : (m,) int64 ids of this rank's that were asked for; xyz : (m, 3, 3)
    """

    gauge: str
    sigma: float
    images: np.ndarray
    poses: np.ndarray
    centres: np.ndarray
    intrinsics: dict[int, tuple[tuple[str, ...], np.ndarray]]
    points: np.ndarray
    xyz: np.ndarray


def covariance(
    reconstruction: Reconstruction,
    images: Iterable[int] | None = None,
    points: Iterable[int] | bool = False,
    *,
    gauge: str | None = None,
    sigma: float = 1.0,
    loss: Loss | None = None,
    fix: Mapping[str, Any] | None = None,
    priors: Sequence[Prior] = (),
    behind: str | None = None,
) -> Covariance:
    """Of a reconstruction that `bundle_adjust` has brought to its solution (collective).

    images : ids, all that are observed if None
    points : ids, True for all; points with one view have no covariance and are left out
    gauge : "first+scale", the pose of the image of least id stays, and of the next one that stands
        elsewhere the longest coordinate of the baseline, as in COLMAP; "inner", relative to the
        best fit of all camera centres; "priors", what `priors` and fixed poses or points say. By
        default "priors" where there are any of these, else "first+scale"
    sigma : standard deviation of a pixel coordinate; those of priors are their own
    loss, fix, priors, behind : as they were for `bundle_adjust`

    Raises `ConfigError` on all ranks where the images leave something undetermined, and says what.

    ::

        found = covariance(reconstruction, images=[3], gauge="inner")
        np.sqrt(np.diagonal(found.centres[0]))  # metres, if the scene is in metres
    """
    comm = reconstruction.comm
    with together(comm):
        behind = behind or reconstruction.behind
        masks = free(reconstruction, fix)
        _check(reconstruction, gauge, sigma)
    all_points = comm.allreduce(bool(masks.points.all()), MPI.LAND)
    held = not (masks.poses.all() and all_points)
    gauge = gauge or ("priors" if held or priors else "first+scale")
    same(comm, "arguments of covariance", (gauge, sigma, loss, tuple(priors), behind, masks[:2]))
    if gauge != "priors" and (held or priors):
        raise ConfigError(
            f"covariance: gauge {gauge!r} is for scenes that may move, but priors, or fixed poses "
            "or points, say where this one is: give gauge='priors'"
        )
    surveyed = survey(reconstruction, masks, behind)
    space = frame(comm, reconstruction.points.xyz, not held)
    posed = problem(reconstruction, masks, space, surveyed, "points", False)
    known = Priors(comm, priors, reconstruction.images, space) if priors else None
    system = ReducedSystem(
        comm, posed, reconstruction.cameras, robust=robust(loss), behind=behind, priors=known
    )
    system.linearise(posed.start)
    system.damp(UNDAMPED)
    seen = np.flatnonzero(surveyed.observations_of_image > 0)
    seen = seen[np.argsort(reconstruction.images.ids[seen])]  # the first is that of the least id
    with together(comm):
        if not len(seen):
            raise ConfigError("covariance: there are no observations of points with two views")
    check_depths(system)
    if gauge != "priors":
        check_connected(system)
    chosen = _chosen(comm, reconstruction.images.ids, seen, images)
    mine = _mine(reconstruction, surveyed.start, points)
    inverse = Inverse(system, posed, space, gauge, seen)
    inverse.solve(chosen, mine)
    poses, centres = inverse.poses(chosen)
    xyz = inverse.points(mine)
    scale = sigma**2
    return Covariance(
        gauge,
        sigma,
        reconstruction.images.ids[chosen],
        scale * poses,
        scale * centres,
        inverse.intrinsics(reconstruction, scale),
        reconstruction.points.ids[mine],
        scale * xyz,
    )


def _check(reconstruction: Reconstruction, gauge: str | None, sigma: float) -> None:
    if gauge not in (None, *gauges.GAUGES):
        raise ConfigError(f"gauge {gauge!r}: give {', '.join(gauges.GAUGES)}")
    if not (np.isfinite(sigma) and sigma > 0):
        raise ConfigError(f"sigma {sigma}: give a positive number of pixels")


def _chosen(
    comm: MPI.Intracomm, ids: np.ndarray, seen: np.ndarray, images: Iterable[int] | None
) -> np.ndarray:
    """Places of the images that are asked for."""
    with together(comm):
        if images is None:
            return seen
        place = {int(number): i for i, number in enumerate(ids)}
        wanted = [int(number) for number in images]
        for number in wanted:
            if number not in place:
                raise ConfigError(f"covariance: there is no image of id {number}")
            if place[number] not in seen:
                raise ConfigError(f"covariance: no point is observed in image {number}")
    return np.array([place[number] for number in wanted], int)


def _mine(
    reconstruction: Reconstruction, start: np.ndarray, points: Iterable[int] | bool
) -> np.ndarray:
    """Places of this rank's points that are asked for and that two images see."""
    comm, ids = reconstruction.comm, reconstruction.points.ids
    observed = np.diff(start) > 0
    if isinstance(points, bool):
        return np.flatnonzero(observed & points)
    with together(comm):
        wanted = np.unique(np.array([int(number) for number in points], np.int64))
    found = comm.allreduce(np.isin(wanted, ids).astype(int))
    if not found.all():
        raise ConfigError(f"covariance: there is no point of id {wanted[found == 0][0]}")
    return np.flatnonzero(observed & np.isin(ids, wanted))
