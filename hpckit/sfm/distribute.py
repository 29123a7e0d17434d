"""Whole reconstructions on rank 0, and their parts on all ranks: `scatter`, `gather`, and arrays of
users.

A *whole* reconstruction has all points on rank 0, and `MPI.COMM_SELF`. Of a distributed one, rank r
has the points from `weighted_starts(track lengths)[r]` on: contiguous, in the order of the whole,
about equally many observations each. With more ranks than points, some have none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mpi4py import MPI
from numpy.typing import ArrayLike

from hpckit.comm.partition import weighted_starts
from hpckit.errors import ConfigError, same, together
from hpckit.sfm.cameras import Cameras
from hpckit.sfm.checks import check
from hpckit.sfm.reconstruction import Images, Observations, Points, Reconstruction


def from_arrays(
    cameras: Cameras | None,
    images: Images | None,
    xyz: ArrayLike | None,
    point: ArrayLike | None,
    image: ArrayLike | None,
    xy: ArrayLike | None,
    *,
    rgb: ArrayLike | None = None,
    ids: ArrayLike | None = None,
    keypoint: ArrayLike | None = None,
    behind: str = "zero",
    comm: MPI.Intracomm = MPI.COMM_WORLD,
) -> Reconstruction:
    """A distributed reconstruction from rank 0's arrays; other ranks pass None (collective).

    ::

        cameras = Cameras.of(("SIMPLE_RADIAL", 1920, 1080, [1500.0, 960.0, 540.0, 0.0]))
        images = Images.of(["a.jpg", "b.jpg"], camera=[0, 0], quaternion=q, translation=t)
        reconstruction = from_arrays(cameras, images, xyz, point, image, xy)

    Parameters
    ----------
    xyz : (points, 3) in units of the world
    point, image, xy : (n,), (n,) and (n, 2): observation k sees point `point[k]`, counted from 0,
        in image `image[k]` at `xy[k]` pixels; in any order
    rgb : (points, 3) uint8, by default grey
    ids : (points,) unique integers, by default from 1
    keypoint : (n,) which of the image's keypoints it is, by default -1, not known
    behind : see `Reconstruction`

    Raises `ConfigError` on all ranks, in one sentence, for shapes that do not fit, indices out of
    range, ids or names twice, and numbers that are not finite.
    """
    whole = None
    with together(comm):
        if comm.rank == 0:
            if cameras is None or images is None or any(a is None for a in (xyz, point, image, xy)):
                raise ConfigError("rank 0 must pass cameras, images, xyz, point, image and xy")
            points = make_points(_floats("xyz", xyz, 3), rgb, ids)
            seen = by_point(
                len(points),
                _integers("point", point),
                _integers("image", image),
                _floats("xy", xy, 2),
                None if keypoint is None else _integers("keypoint", keypoint),
            )
            whole = Reconstruction(MPI.COMM_SELF, cameras, images, points, seen, behind)
    return scatter(whole, comm)


def make_points(
    xyz: np.ndarray, rgb: ArrayLike | None = None, ids: ArrayLike | None = None
) -> Points:
    """Points of these coordinates, by default grey and with ids from 1. ::

    make_points(np.zeros((2, 3))).ids  # (1, 2)
    """
    n = len(xyz)
    colours = np.full((n, 3), 128, np.uint8) if rgb is None else np.asarray(rgb)
    if colours.dtype != np.uint8:
        raise ConfigError(f"rgb must be uint8, 0 to 255, but is {colours.dtype}")
    numbers = np.arange(1, n + 1) if ids is None else _integers("ids", ids)
    return Points(numbers, xyz, colours)


def by_point(
    points: int,
    point: np.ndarray,
    image: np.ndarray,
    xy: np.ndarray,
    keypoint: np.ndarray | None = None,
) -> Observations:
    """Observations in any order, sorted by point; those of one point stay in their order.

    ::

        by_point(2, np.array([1, 0, 1]), image, xy).start  # (0, 1, 3)

    point, image : (n,) integers from 0; xy : (n, 2); keypoint : (n,), by default -1. Raises
    `ConfigError` where lengths differ, or a point is not in `range(points)`.
    """
    n = len(point)
    keypoint = np.full(n, -1, np.int32) if keypoint is None else keypoint
    if {len(image), len(xy), len(keypoint)} != {n}:
        raise ConfigError(
            f"observations have {n} points, {len(image)} images, {len(xy)} xy and {len(keypoint)} "
            "keypoints: there must be as many of each"
        )
    for i in np.flatnonzero((point < 0) | (point >= points))[:1]:
        raise ConfigError(
            f"observation {i} is of point {point[i]}, but there are {points}, counted from 0"
        )
    for i in np.flatnonzero((image < -(2**31)) | (image >= 2**31))[:1]:
        raise ConfigError(f"observation {i} is in image {image[i]}, which is out of range")
    start = np.concatenate([[0], np.cumsum(np.bincount(point, minlength=points))])
    if (np.diff(point) < 0).any():
        order = np.argsort(point, kind="stable")
        image, xy, keypoint = image[order], xy[order], keypoint[order]
    return Observations(
        start.astype(np.int64),
        np.ascontiguousarray(image, np.int32),
        np.ascontiguousarray(xy, np.float64),
        np.ascontiguousarray(keypoint, np.int32),
    )


def scatter(whole: Reconstruction | None, comm: MPI.Intracomm = MPI.COMM_WORLD) -> Reconstruction:
    """The parts of rank 0's whole reconstruction, after a `check`; others pass None (collective).

    ::

        reconstruction = scatter(whole if comm.rank == 0 else None, comm)

    Raises `ConfigError` on all ranks where something of the whole does not fit.
    """
    with together(comm):
        if comm.rank == 0:
            if whole is None:
                raise ConfigError("rank 0 must pass the whole reconstruction")
            check(whole)
    source = whole if whole is not None and comm.rank == 0 else _nothing()
    cameras, images, behind = _replicate(source, comm)
    points, seen = source.points, source.observations
    lengths = np.diff(seen.start)
    points_cut = comm.bcast(np.array(weighted_starts(lengths, comm.size)))
    seen_cut = comm.bcast(seen.start[points_cut] if comm.rank == 0 else None)
    mine = Points(
        _scatter_rows(comm, points.ids, np.int64, points_cut),
        _scatter_rows(comm, points.xyz, np.float64, points_cut),
        _scatter_rows(comm, points.rgb, np.uint8, points_cut),
    )
    my_lengths = _scatter_rows(comm, lengths, np.int64, points_cut)
    observations = Observations(
        np.concatenate([[0], np.cumsum(my_lengths)]).astype(np.int64),
        _scatter_rows(comm, seen.image, np.int32, seen_cut),
        _scatter_rows(comm, seen.xy, np.float64, seen_cut),
        _scatter_rows(comm, seen.keypoint, np.int32, seen_cut),
    )
    return Reconstruction(comm, cameras, images, mine, observations, behind, source.keypoints)


def gather(reconstruction: Reconstruction) -> Reconstruction | None:
    """The whole reconstruction on rank 0, None on the others (collective).

    ::

        whole = gather(reconstruction)

    What `scatter` was given comes back bit for bit, unless it was changed in between. Raises
    `ConfigError` on all ranks where ranks have different numbers of cameras or images.
    """
    comm = reconstruction.comm
    counts = len(reconstruction.cameras), len(reconstruction.images)
    same(comm, "the numbers of cameras and images", counts)
    points, seen = reconstruction.points, reconstruction.observations
    lengths = _gather_rows(comm, np.diff(seen.start))
    parts = [
        _gather_rows(comm, each)
        for each in (points.ids, points.xyz, points.rgb, seen.image, seen.xy, seen.keypoint)
    ]
    if lengths is None:
        return None
    ids, xyz, rgb, image, xy, keypoint = (np.asarray(each) for each in parts)
    start = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Reconstruction(
        MPI.COMM_SELF,
        reconstruction.cameras.copy(),
        reconstruction.images.copy(),
        Points(ids, xyz, rgb),
        Observations(start, image, xy, keypoint),
        reconstruction.behind,
        reconstruction.keypoints,
    )


def _nothing() -> Reconstruction:
    """What ranks without the whole pass on: arrays of no rows."""
    cameras = Cameras.of()
    images = Images.of([], [], np.zeros((0, 4)), np.zeros((0, 3)))
    xyz = np.zeros((0, 3))
    seen = by_point(0, np.zeros(0, int), np.zeros(0, int), np.zeros((0, 2)))
    return Reconstruction(MPI.COMM_SELF, cameras, images, make_points(xyz), seen)


def _replicate(source: Reconstruction, comm: MPI.Intracomm) -> tuple[Cameras, Images, str]:
    """Cameras, images and `behind` of rank 0, on all ranks."""
    c, i = source.cameras, source.images
    names = "\0".join(i.names).encode("utf-8", "surrogateescape")
    arrays = [
        c.ids.astype(np.int64),
        c.model.astype(np.int32),
        c.size.astype(np.int64),
        np.array(c.parameters, order="C"),
        i.ids.astype(np.int64),
        i.camera.astype(np.int32),
        np.array(i.quaternion, order="C"),
        np.array(i.translation, order="C"),
        np.frombuffer(names, np.uint8).copy(),
    ]
    shapes = comm.bcast([(each.shape, each.dtype) for each in arrays])
    if comm.rank > 0:
        arrays = [np.empty(shape, kind) for shape, kind in shapes]
    for each in arrays:
        with _Row(each.dtype, each.shape[1:]) as row:
            comm.Bcast([each, len(each), row])
    text = arrays[8].tobytes().decode("utf-8", "surrogateescape")
    images = Images(arrays[4], text.split("\0") if len(arrays[4]) else [], *arrays[5:8])
    return Cameras(*arrays[:4]), images, comm.bcast(source.behind)


class _Row:
    """MPI's type of one row: counts of rows stay small where those of bytes exceed 2^31."""

    def __init__(self, dtype: np.dtype, columns: Sequence[int]) -> None:
        nbytes = int(np.prod(columns, dtype=np.int64)) * dtype.itemsize
        self.type = MPI.BYTE.Create_contiguous(nbytes)

    def __enter__(self) -> MPI.Datatype:
        return self.type.Commit()

    def __exit__(self, *_: object) -> None:
        self.type.Free()


def _scatter_rows(
    comm: MPI.Intracomm, array: np.ndarray, kind: type, cut: np.ndarray
) -> np.ndarray:
    """Rows `cut[rank]:cut[rank + 1]` of rank 0's array."""
    counts = np.diff(cut)
    mine = np.empty((int(counts[comm.rank]), *array.shape[1:]), kind)
    whole = np.ascontiguousarray(array, kind)
    with _Row(mine.dtype, mine.shape[1:]) as row:
        sent = [whole, (counts, cut[:-1]), row] if comm.rank == 0 else None
        comm.Scatterv(sent, [mine, len(mine), row])
    return mine


def _gather_rows(comm: MPI.Intracomm, mine: np.ndarray) -> np.ndarray | None:
    """All ranks' rows, one after the other, on rank 0."""
    counts = comm.gather(len(mine))
    mine = np.ascontiguousarray(mine)
    whole = None if counts is None else np.empty((sum(counts), *mine.shape[1:]), mine.dtype)
    with _Row(mine.dtype, mine.shape[1:]) as row:
        received = None
        if whole is not None and counts is not None:
            received = [whole, (counts, np.concatenate([[0], np.cumsum(counts)[:-1]])), row]
        comm.Gatherv([mine, len(mine), row], received)
    return whole


def _floats(what: str, values: ArrayLike | None, columns: int) -> np.ndarray:
    array = np.array(values, order="C")
    if array.ndim != 2 or array.shape[1] != columns or array.dtype.kind not in "iuf":
        raise ConfigError(
            f"{what} must be numbers of shape (n, {columns}), but is {array.dtype} of shape "
            f"{array.shape}"
        )
    return array.astype(np.float64, copy=False)


def _integers(what: str, values: ArrayLike | None) -> np.ndarray:
    array = np.array(values, order="C")
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ConfigError(
            f"{what} must be integers of shape (n,), but is {array.dtype} of shape {array.shape}"
        )
    return array.astype(np.int64, copy=False)
