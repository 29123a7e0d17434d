"""Bundler's files (bundle.out, v0.3), as its manual describes them.

    # Bundle file v0.3
    cameras points
    f k1 k2, R (3 x 3), t (3)                        of each camera
    x y z, red green blue, n and n x (camera key x y)    of each point

Cameras look along -z and pixels count from the centre, y up, as in BAL, which comes from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from mpi4py import MPI

from hpckit.errors import ConfigError
from hpckit.sfm import rotations
from hpckit.sfm.cameras import MODELS, PARAMETERS, Cameras
from hpckit.sfm.distribute import by_point, make_points
from hpckit.sfm.formats.convert import to_bal
from hpckit.sfm.formats.text import numbers
from hpckit.sfm.reconstruction import Images, Reconstruction

FIRST_LINE = b"# Bundle file"
_CAMERA, _POINT, _VIEW = 15, 6, 4  # numbers of each
_ORTHOGONAL = 1e-3  # how far R R^T may be from 1, as files have few digits


def read_bundler(path: Path, text: bytes) -> Reconstruction:
    """The whole reconstruction that a Bundler file's text holds, with `behind="keep"`.

    ::

        read_bundler(path, content(path))

    Ids are the file's numbers, from 0; cameras with f = 0, which Bundler did not place, are left
    out; an observation's `keypoint` is the file's key.

    Raises `ConfigError`: with the line, words that are no numbers; with the camera or point, counts
    that do not fit, indices out of range, numbers that are not finite.
    """
    comment, _, rest = text.partition(b"\n")
    if not comment.startswith(FIRST_LINE + b" v0.3"):
        shown = comment[:40].decode("ascii", "backslashreplace").strip()
        raise ConfigError(f"{path}, line 1: {shown!r} should be '# Bundle file v0.3'")
    values = numbers(path, b"\n" + rest)  # the numbers of lines stay
    if len(values) < 2 or (values[:2] != np.floor(values[:2])).any() or (values[:2] < 0).any():
        raise ConfigError(f"{path}, line 2 should be the numbers of cameras and points")
    n, p = (int(each) for each in values[:2])
    if len(values) < 2 + _CAMERA * n:
        raise ConfigError(f"{path} ends within its {n} cameras: it is not whole")
    cameras = values[2 : 2 + _CAMERA * n].reshape(n, _CAMERA)
    starts, lengths = _points(path, values, 2 + _CAMERA * n, p)
    points = values[starts[:, None] + np.arange(_POINT)].reshape(p, _POINT)
    point = np.repeat(np.arange(p), lengths)
    within = np.arange(len(point)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    first = np.repeat(starts + _POINT + 1, lengths) + _VIEW * within
    views = values[first[:, None] + np.arange(_VIEW)].reshape(-1, _VIEW)
    placed = np.flatnonzero(cameras[:, 0] != 0)
    kept = np.full(n, -1)
    kept[placed] = np.arange(len(placed))
    _check_points(path, points)
    _check_views(path, views, point, kept)
    return Reconstruction(
        MPI.COMM_SELF,
        *_cameras(path, cameras[placed], placed),
        make_points(points[:, :3].copy(), points[:, 3:].astype(np.uint8), np.arange(p)),
        by_point(
            p, point, kept[views[:, 0].astype(np.int64)], views[:, 2:], views[:, 1].astype(np.int32)
        ),
        "keep",
    )


def write_bundler(whole: Reconstruction, draft: Path) -> None:
    """Write a whole reconstruction as Bundler's v0.3.

    ::

        write_bundler(whole, draft)

    Keys are the observations' `keypoint`, or, where one is not known, count in each image. Raises
    `ConfigError` where it cannot hold a camera (`to_bal`).
    """
    draft.write_bytes("".join(_lines(to_bal(whole))).encode())


def _lines(bal: Reconstruction) -> Iterator[str]:
    yield f"# Bundle file v0.3\n{len(bal.images)} {len(bal.points)}\n"
    images, seen = bal.images, bal.observations
    matrices = rotations.to_matrix(images.quaternion)
    for i in range(len(images)):
        for row in (
            bal.cameras.parameters[images.camera[i], :3],
            *matrices[i],
            images.translation[i],
        ):
            yield " ".join(map(repr, row.tolist())) + "\n"
    x, y = seen.xy.T.tolist()
    columns = seen.image.tolist(), _keys(bal).tolist(), x, y
    words = [f" {i} {key} {x!r} {y!r}" for i, key, x, y in zip(*columns, strict=True)]
    start = seen.start.tolist()
    for k, (xyz, rgb) in enumerate(
        zip(bal.points.xyz.tolist(), bal.points.rgb.tolist(), strict=True)
    ):
        views = words[start[k] : start[k + 1]]
        yield " ".join(map(repr, xyz)) + "\n" + " ".join(map(str, rgb)) + "\n"
        yield f"{len(views)}{''.join(views)}\n"


def _keys(bal: Reconstruction) -> np.ndarray:
    image, key = bal.observations.image, bal.observations.keypoint
    if (key >= 0).all():
        return key
    order = np.argsort(image, kind="stable")
    counts = np.bincount(image, minlength=len(bal.images))
    rank = np.empty(len(image), np.int64)
    rank[order] = np.arange(len(image)) - np.repeat(np.cumsum(counts) - counts, counts)
    return rank


def _points(path: Path, values: np.ndarray, at: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each point begins, and how many views it has."""
    starts, lengths = [], []
    for i in range(count):
        n = float(values[at + _POINT]) if at + _POINT < len(values) else 0.0
        end = at + _POINT + 1 + _VIEW * n
        if not end <= len(values):
            raise ConfigError(
                f"{path} ends within point {i} of {count}: it is not whole, or a number is missing"
            )
        if n < 0 or n != int(n):
            raise ConfigError(f"{path}: point {i} has {n:g} views, which is no whole number")
        starts.append(at)
        lengths.append(int(n))
        at = int(end)
    if at != len(values):
        raise ConfigError(
            f"{path} has {len(values) - at} numbers after its {count} points: line 2 is wrong, or "
            "there is a number too many"
        )
    return np.array(starts, np.int64), np.array(lengths, np.int64)


def _cameras(path: Path, rows: np.ndarray, ids: np.ndarray) -> tuple[Cameras, Images]:
    n = len(rows)
    for i in np.flatnonzero(~np.isfinite(rows).all(1))[:1]:
        raise ConfigError(f"{path}: camera {ids[i]} has a number that is not finite")
    matrix = rows[:, 3:12].reshape(n, 3, 3)
    away = np.abs(matrix @ matrix.transpose(0, 2, 1) - np.eye(3)).max((1, 2), initial=0)
    for i in np.flatnonzero((away > _ORTHOGONAL) | (np.linalg.det(matrix) < 0))[:1]:
        raise ConfigError(f"{path}: camera {ids[i]} has a matrix that is no rotation")
    parameters = np.zeros((n, PARAMETERS))
    parameters[:, :3] = rows[:, :3]
    model = np.full(n, MODELS["BAL"].number, np.int32)
    cameras = Cameras(ids.copy(), model, np.zeros((n, 2), int), parameters)
    names = [f"image-{i:05d}" for i in ids]
    quaternion = rotations.from_matrix(matrix)
    return cameras, Images.of(names, np.arange(n), quaternion, rows[:, 12:], ids)


def _check_points(path: Path, points: np.ndarray) -> None:
    rgb = points[:, 3:]
    for i in np.flatnonzero(~np.isfinite(points).all(1))[:1]:
        raise ConfigError(f"{path}: point {i} has a number that is not finite")
    for i in np.flatnonzero(((rgb < 0) | (rgb > 255)).any(1))[:1]:
        raise ConfigError(
            f"{path}: point {i} has a colour out of 0 to 255: {' '.join(f'{c:g}' for c in rgb[i])}"
        )


def _check_views(path: Path, views: np.ndarray, point: np.ndarray, kept: np.ndarray) -> None:
    camera, key = views[:, 0], views[:, 1]
    whole = (camera == np.floor(camera)) & (key == np.floor(key)) & (np.abs(key) < 2**31)
    bad = ~whole | (camera < 0) | (camera >= len(kept)) | ~np.isfinite(views).all(1)
    for i in np.flatnonzero(bad)[:1]:
        raise ConfigError(
            f"{path}: point {point[i]} has the view {' '.join(f'{v:g}' for v in views[i])}, but a "
            f"view is a camera (0 to {len(kept) - 1}), a key and x y"
        )
    for i in np.flatnonzero(kept[camera.astype(np.int64)] < 0)[:1]:
        raise ConfigError(
            f"{path}: point {point[i]} is seen by camera {camera[i]:g}, whose focal length is 0"
        )
