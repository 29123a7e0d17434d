"""Which observations, points and images stay. Each rank looks at its own points."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from mpi4py import MPI

from hpckit import native
from hpckit.errors import ConfigError, same, together
from hpckit.native import address
from hpckit.sfm.projection import NEAREST, centres, residuals
from hpckit.sfm.reconstruction import Observations, Points, Reconstruction


def keep(reconstruction: Reconstruction, good: np.ndarray, min_views: int = 2) -> Reconstruction:
    """Only good observations, and the points that at least so many images still see.

    ::

        keep(reconstruction, np.linalg.norm(residuals(reconstruction)[0], axis=1) < 4)

    good : (n,) bool, of this rank's. No other rank is asked, and none gets points of another.
    """
    points, seen = reconstruction.points, reconstruction.observations
    point = seen.point
    stays = seen.views(good) >= min_views
    good = good & stays[point]
    lengths = np.bincount(point[good], minlength=len(points))[stays]
    return replace(
        reconstruction,
        points=Points(points.ids[stays], points.xyz[stays], points.rgb[stays]),
        observations=Observations(
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            seen.image[good],
            seen.xy[good],
            seen.keypoint[good],
        ),
    )


def filter_points(
    reconstruction: Reconstruction,
    *,
    max_error: float = 4.0,
    min_angle: float = 1.5,
    min_views: int = 2,
) -> Reconstruction:
    """Without observations that are off or behind, and points seen too little (collective).

    ::

        reconstruction = filter_points(reconstruction, max_error=2.0)

    max_error : pixels between an observation and the projection of its point
    min_angle, min_views : as in `triangulate`

    Returns another reconstruction. Raises `ConfigError` on all ranks for impossible limits.
    """
    same(reconstruction.comm, "the limits of a filter", (max_error, min_angle, min_views))
    with together(reconstruction.comm):
        check_limits(max_error, min_angle, min_views)
        difference, depth = residuals(reconstruction)
        with np.errstate(over="ignore", invalid="ignore"):
            good = (depth > NEAREST) & (np.linalg.norm(difference, axis=1) <= max_error)
        left = keep(reconstruction, good, min_views)
        wide = angles(left) >= min_angle
    return keep(left, wide[left.observations.point], min_views)


def of_images(reconstruction: Reconstruction, images: np.ndarray) -> Reconstruction:
    """Only these images, (n,) ascending places, their cameras, and points that two of them see.

    ::

        of_images(reconstruction, np.array([0, 1, 4]))
    """
    place = np.full(len(reconstruction.images), -1, np.int32)
    place[images] = np.arange(len(images))
    left = keep(reconstruction, place[reconstruction.observations.image] >= 0)
    used = np.unique(reconstruction.images.camera[images])
    return replace(
        left,
        cameras=reconstruction.cameras.select(used),
        images=reconstruction.images.select(images, used),
        observations=replace(left.observations, image=place[left.observations.image]),
    )


def well_seen(reconstruction: Reconstruction, least: int) -> np.ndarray:
    """Images with at least so many observations of points that two of them see (collective).

    ::

        of_images(reconstruction, well_seen(reconstruction, 10))

    Without an image, points that only one other sees go, and with them perhaps that one: what is
    left when nothing changes any more; (n,) ascending places, the same on all ranks.
    """
    images = np.arange(len(reconstruction.images))
    left = keep(reconstruction, np.ones(len(reconstruction.observations), bool))
    while len(images):
        counts = np.bincount(left.observations.image, minlength=len(images))
        reconstruction.comm.Allreduce(MPI.IN_PLACE, counts)
        if (counts >= least).all():
            break
        images = images[counts >= least]
        left = of_images(left, np.flatnonzero(counts >= least))
    return images


def angles(reconstruction: Reconstruction) -> np.ndarray:
    """The widest angle between two rays of each of this rank's points: (points,) degrees.

    ::

        angles(reconstruction).min()
    """
    points, seen = reconstruction.points, reconstruction.observations
    centre = centres(reconstruction.images)
    cosine = np.empty(len(points))
    good = np.ones(len(seen), np.uint8)
    arrays = seen.start, seen.image, centre, good, np.ascontiguousarray(points.xyz), cosine
    native.load("hpckit.sfm.kernels.triangulation").widest(len(points), *map(address, arrays))
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def check_limits(max_error: float, min_angle: float, min_views: int) -> None:
    """`ConfigError` unless such limits can be met."""
    if not max_error > 0:
        raise ConfigError(f"max_error is {max_error}, but must be above 0 pixels")
    if not 0 <= min_angle < 180:
        raise ConfigError(f"min_angle is {min_angle}, but must be from 0 to below 180 degrees")
    if min_views < 2:
        raise ConfigError(f"min_views is {min_views}, but one image shows no depth: give 2 or more")
