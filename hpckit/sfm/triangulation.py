"""Points from tracks and poses, and filters of points and observations. Each rank does its own.

`triangulate` starts from the pair of rays with which most others agree, not from a random one, so
that results are the same in every run and on any number of ranks; then Gauss-Newton on the tangents
of the angles between rays and point (Hartley & Zisserman, "Multiple view geometry", 12.3, by rays
instead of pixels, so that fisheyes are no exception).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hpckit import native
from hpckit.errors import ConfigError, same, together
from hpckit.native import address
from hpckit.sfm import rotations
from hpckit.sfm.cameras import Cameras
from hpckit.sfm.projection import NEAREST, residuals, unproject
from hpckit.sfm.reconstruction import Images, Observations, Points, Reconstruction

_KERNELS = "hpckit.sfm.kernels.triangulation"


def triangulate(
    tracks: Reconstruction, *, max_error: float = 4.0, min_angle: float = 1.5, min_views: int = 2
) -> Reconstruction:
    """Points where the rays of tracks meet, with the observations that agree (collective).

    ::

        points = triangulate(build_tracks(graph), max_error=2.0)

    tracks : cameras and poses are used, coordinates of points are not
    max_error : pixels that an observation may be off, by the focal length times the tangent of the
        angle between its ray and the point
    min_angle : degrees between two of its rays that a point needs
    min_views : images that a point needs; of an image that sees it twice the better one counts

    Returns a reconstruction of what was found; `tracks` stays as it is, so that after an
    adjustment all observations have another chance. Observations in which a camera's distortion
    shows nothing never agree. Raises `ConfigError` on all ranks for impossible limits.
    """
    same(tracks.comm, "the limits of triangulation", (max_error, min_angle, min_views))
    with together(tracks.comm):
        _check(max_error, min_angle, min_views)
        seen = _by_image(tracks.observations)
        xyz, good = _triangulated(tracks, seen, max_error, min_angle, min_views)
    points = Points(tracks.points.ids, xyz, tracks.points.rgb)
    return keep(replace(tracks, points=points, observations=seen), good, 1)


def keep(reconstruction: Reconstruction, good: np.ndarray, min_views: int = 2) -> Reconstruction:
    """Only good observations, and the points that at least so many images still see.

    ::

        keep(reconstruction, np.linalg.norm(residuals(reconstruction)[0], axis=1) < 4)

    good : (n,) bool, of this rank's. No other rank is asked, and none gets points of another.
    """
    points, seen = reconstruction.points, reconstruction.observations
    point = seen.point
    pairs = np.unique(point[good] * np.int64(len(reconstruction.images)) + seen.image[good])
    views = np.bincount(pairs // max(1, len(reconstruction.images)), minlength=len(points))
    stays = views >= min_views
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
        _check(max_error, min_angle, min_views)
        difference, depth = residuals(reconstruction)
        with np.errstate(over="ignore", invalid="ignore"):
            good = (depth > NEAREST) & (np.linalg.norm(difference, axis=1) <= max_error)
        left = keep(reconstruction, good, min_views)
        wide = angles(left) >= min_angle
    return keep(left, wide[left.observations.point], min_views)


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
    native.load(_KERNELS).widest(len(points), *map(address, arrays))
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def centres(images: Images) -> np.ndarray:
    """Where the images' centres are in the world: -R^T t, (n, 3) float64. ::

    centres(reconstruction.images)
    """
    return -rotations.rotate(rotations.conjugate(images.quaternion), images.translation)


def world_rays(cameras: Cameras, images: Images, seen: Observations) -> np.ndarray:
    """Unit vectors of the world along which observations look: (n, 3), NaN where none does. ::

    world_rays(reconstruction.cameras, reconstruction.images, reconstruction.observations)
    """
    ray = unproject(cameras, images.camera[seen.image], seen.xy)
    return rotations.rotate(rotations.conjugate(images.quaternion)[seen.image], ray)


def _check(max_error: float, min_angle: float, min_views: int) -> None:
    if not max_error > 0:
        raise ConfigError(f"max_error is {max_error}, but must be above 0 pixels")
    if not 0 <= min_angle < 180:
        raise ConfigError(f"min_angle is {min_angle}, but must be from 0 to below 180 degrees")
    if min_views < 2:
        raise ConfigError(f"min_views is {min_views}, but one image shows no depth: give 2 or more")


def _by_image(seen: Observations) -> Observations:
    """The same, those of each point sorted by image, as the kernel wants them."""
    order = np.lexsort((seen.image, seen.point))
    return Observations(seen.start, seen.image[order], seen.xy[order], seen.keypoint[order])


def _triangulated(
    tracks: Reconstruction, seen: Observations, max_error: float, min_angle: float, min_views: int
) -> tuple[np.ndarray, np.ndarray]:
    """Points and which observations agree with them: (points, 3) and (n,) bool."""
    n = len(tracks.points)
    ray = world_rays(tracks.cameras, tracks.images, seen)
    ray[np.isnan(ray)] = 0.0  # is behind every point
    focal = focal_lengths(tracks.cameras)[tracks.images.camera[seen.image]]
    xyz, good, work = np.zeros((n, 3)), np.zeros(len(seen), np.uint8), np.empty(12)
    rays = seen.start, seen.image, centres(tracks.images), ray, (max_error / focal) ** 2
    cosine = float(np.cos(np.radians(min_angle)))
    kernel = native.load(_KERNELS).triangulate
    kernel(n, *map(address, rays), min_views, cosine, *map(address, (xyz, good, work)))
    return xyz, good > 0


def focal_lengths(cameras: Cameras) -> np.ndarray:
    """The mean focal length of each camera: (n,) float64, pixels. ::

    focal_lengths(cameras)
    """
    means = [
        np.abs(cameras.parameters[i, cameras.model_of(i).focal]).mean() for i in range(len(cameras))
    ]
    return np.array(means)
