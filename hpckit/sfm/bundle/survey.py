"""What of a reconstruction is adjusted: the observations that say something, checked and sorted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpckit.errors import ConfigError, together
from hpckit.sfm import projection, rotations
from hpckit.sfm.bundle.fixing import Free
from hpckit.sfm.bundle.table import in_order
from hpckit.sfm.reconstruction import Reconstruction


@dataclass
class Dropped:
    """What a solve leaves out.

    points : ids of this rank's points that are not fixed and that one image alone sees; their
        observations are left out, and they stay where they are
    images : ids of images without observations: they stay where they are
    behind : observations of points behind their camera, of all ranks, that `behind="drop"` leaves
        out
    one_view : how many points of all ranks one image alone sees
    """

    points: np.ndarray
    images: np.ndarray
    behind: int
    one_view: int


@dataclass
class Survey:
    """Observations of this rank's points, sorted by point, then by image."""

    start: np.ndarray  # (points + 1,) int64
    image: np.ndarray  # (n,) int32
    xy: np.ndarray  # (n, 2) float64
    observations_of_image: np.ndarray  # (images,) int64, of all ranks
    total: int  # observations of all ranks
    dropped: Dropped


def survey(reconstruction: Reconstruction, free: Free, behind: str) -> Survey:
    """Check and sort; leave out what says nothing (collective)."""
    comm = reconstruction.comm
    with together(comm):
        check(reconstruction)
        start = np.ascontiguousarray(reconstruction.observations.start, np.int64)
        image = np.asarray(reconstruction.observations.image, np.int32)
        image, xy = in_order(start, image, np.asarray(reconstruction.observations.xy, float))
        away = 0
        if behind == "drop":
            in_front = ~_behind(reconstruction, start, image)
            away = int(np.count_nonzero(~in_front))
            start, image, xy = _only(in_front, start, image, xy)
        lonely = _lonely(start, image) & free.points
        if lonely.any():
            start, image, xy = _only(~np.repeat(lonely, np.diff(start)), start, image, xy)
    images = len(reconstruction.images)
    sums = np.empty(images + 2, np.int64)
    sums[:images] = np.bincount(image, minlength=images)
    sums[images:] = away, np.count_nonzero(lonely)
    sums = comm.allreduce(sums)
    seen = sums[:images]
    dropped = Dropped(
        reconstruction.points.ids[lonely],
        reconstruction.images.ids[seen == 0],
        int(sums[images]),
        int(sums[images + 1]),
    )
    return Survey(start, image, xy, seen, int(seen.sum()), dropped)


def check(reconstruction: Reconstruction) -> None:
    """`ConfigError` where the parts of this rank's do not fit, or numbers are not finite."""
    images, observations = reconstruction.images, reconstruction.observations
    start, image = observations.start, observations.image
    lengths = len(image), len(observations.xy), int(start[-1])
    if len(start) != len(reconstruction.points) + 1 or len(set(lengths)) > 1:
        raise ConfigError(
            f"observations: {len(start) - 1} ranges that end at {lengths[2]}, {lengths[0]} images "
            f"and {lengths[1]} pixels, for {len(reconstruction.points)} points"
        )
    _in_range("observation", "image", image, len(images))
    _in_range("image", "camera", images.camera, len(reconstruction.cameras))
    for what, array in (
        ("pixels of an observation", observations.xy),
        ("coordinates of a point", reconstruction.points.xyz),
        ("quaternion of an image", images.quaternion),
        ("translation of an image", images.translation),
        ("parameters of a camera", reconstruction.cameras.parameters),
    ):
        if not np.isfinite(array).all():
            row = int(np.argwhere(~np.isfinite(array).all(axis=1))[0, 0])
            raise ConfigError(f"{what} are not finite: number {row} is {array[row].tolist()}")


def _in_range(what: str, of: str, index: np.ndarray, n: int) -> None:
    if len(index) and not (index.min() >= 0 and index.max() < n):
        wrong = int(np.flatnonzero((index < 0) | (index >= n))[0])
        raise ConfigError(f"{what} {wrong} is of {of} {index[wrong]}, but there are {n}")


def _behind(reconstruction: Reconstruction, start: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Which observations are of points behind their camera."""
    images = reconstruction.images
    point = np.repeat(np.arange(len(start) - 1), np.diff(start))
    x = rotations.rotate(images.quaternion[image], reconstruction.points.xyz[point])
    x += images.translation[image]
    depths = projection.depths(reconstruction.cameras, images.camera[image], x)
    return depths < projection.NEAREST


def _lonely(start: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Which points are seen, but by one image only."""
    counts = np.diff(start)
    again = np.flatnonzero(image[1:] == image[:-1]) + 1  # also of the point before
    point = np.searchsorted(start, again, side="right") - 1
    same = again > start[point]
    several = counts - np.bincount(point[same], minlength=len(counts))
    return (counts > 0) & (several < 2)


def _only(
    keep: np.ndarray, start: np.ndarray, image: np.ndarray, xy: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Those observations alone."""
    before = np.concatenate([[0], np.cumsum(keep)])
    return before[start], image[keep], xy[keep]
