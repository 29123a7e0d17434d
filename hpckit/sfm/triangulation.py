"""Points from tracks and poses; each rank does its own.

`triangulate` starts from the pair of rays with which most others agree, not from a random one, so
that results are the same in every run and on any number of ranks; then Gauss-Newton on the tangents
of the angles between rays and point (Hartley & Zisserman, "Multiple view geometry", 12.3, by rays
instead of pixels, so that fisheyes are no exception).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from mpi4py import MPI

from hpckit import native
from hpckit.errors import same, together
from hpckit.native import address
from hpckit.sfm.distribute import by_point
from hpckit.sfm.filters import check_limits, keep
from hpckit.sfm.projection import centres, world_rays
from hpckit.sfm.reconstruction import Observations, Points, Reconstruction

_KERNELS = "hpckit.sfm.kernels.triangulation"


def triangulate(
    tracks: Reconstruction,
    *,
    max_error: float = 4.0,
    min_angle: float = 1.5,
    min_views: int = 2,
    split: bool = False,
) -> Reconstruction:
    """Points where the rays of tracks meet, with the observations that agree (collective).

    ::

        points = triangulate(build_tracks(graph), max_error=2.0)

    tracks : cameras and poses are used, coordinates of points are not
    max_error : pixels that an observation may be off, by the focal length times the tangent of the
        angle between its ray and the point
    min_angle : degrees between two of its rays that a point needs
    min_views : images that a point needs; of an image that sees it twice the better one counts
    split : what does not agree may be another point, which a wrong match joined to the first: it
        needs 3 images at least, and comes after the first, with an id above those of all tracks

    Returns a reconstruction of what was found; `tracks` stays as it is, so that after an
    adjustment all observations have another chance. Observations in which a camera's distortion
    shows nothing never agree. Raises `ConfigError` on all ranks for impossible limits.
    """
    same(tracks.comm, "the limits of triangulation", (max_error, min_angle, min_views, split))
    with together(tracks.comm):
        check_limits(max_error, min_angle, min_views)
        seen = _by_image(tracks.observations)
        xyz, good = _triangulated(tracks, seen, max_error, min_angle, min_views)
    points = Points(tracks.points.ids, xyz, tracks.points.rgb)
    found = keep(replace(tracks, points=points, observations=seen), good, 1)
    if not split:
        return found
    rest = keep(replace(tracks, observations=seen), ~good)
    least = max(3, min_views)
    others = triangulate(rest, max_error=max_error, min_angle=min_angle, min_views=least)
    return _joined(found, others, tracks)


def _joined(
    found: Reconstruction, others: Reconstruction, tracks: Reconstruction
) -> Reconstruction:
    """The points of both, track after track, so that their order depends on no number of ranks."""
    largest = tracks.comm.allreduce(int(tracks.points.ids.max(initial=0)), op=MPI.MAX)
    parts, seen = (found.points, others.points), (found.observations, others.observations)
    ids = np.concatenate([found.points.ids, others.points.ids + largest])
    order = np.argsort(np.concatenate([part.ids for part in parts]), kind="stable")
    place = np.argsort(order)  # of each point, when they are in order
    point = place[np.concatenate([seen[0].point, seen[1].point + len(found.points)])]
    return replace(
        found,
        points=Points(
            ids[order],
            np.concatenate([part.xyz for part in parts])[order],
            np.concatenate([part.rgb for part in parts])[order],
        ),
        observations=by_point(
            len(order),
            point,
            np.concatenate([each.image for each in seen]),
            np.concatenate([each.xy for each in seen]),
            np.concatenate([each.keypoint for each in seen]),
        ),
    )


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
    focal = tracks.cameras.focal[tracks.images.camera[seen.image]]
    xyz, good, work = np.zeros((n, 3)), np.zeros(len(seen), np.uint8), np.empty(12)
    rays = seen.start, seen.image, centres(tracks.images), ray, (max_error / focal) ** 2
    cosine = float(np.cos(np.radians(min_angle)))
    kernel = native.load(_KERNELS).triangulate
    kernel(n, *map(address, rays), min_views, cosine, *map(address, (xyz, good, work)))
    return xyz, good > 0
