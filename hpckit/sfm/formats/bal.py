"""Text files of "Bundle Adjustment in the Large" (Agarwal, Snavely, Seitz, Szeliski, ECCV 2010).

    cameras points observations
    camera point x y                     of each observation
    rotation vector (3), t (3), f, k1, k2    of each camera
    x y z                                of each point

Numbers are separated by blanks or line ends of any kind. Each camera is an image with intrinsics of
its own, looks along -z, and pixels count from the centre, x to the right and y up.
"""

from __future__ import annotations

import bz2
import gzip
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from mpi4py import MPI

from hpckit.errors import ConfigError
from hpckit.log import get_logger
from hpckit.sfm import rotations
from hpckit.sfm.cameras import MODELS, PARAMETERS, Cameras
from hpckit.sfm.distribute import by_point, make_points
from hpckit.sfm.formats.convert import to_bal
from hpckit.sfm.formats.text import line_of_word, numbers
from hpckit.sfm.reconstruction import Images, Observations, Reconstruction

_HEADER, _CAMERA = 3, 9
_LINES = 1 << 17  # written at once
_log = get_logger(__name__)


def read_bal(path: Path, text: bytes) -> Reconstruction:
    """The whole reconstruction that a BAL file's text holds, with `behind="keep"`.

    ::

        read_bal(path, content(path))

    Ids are the file's numbers, from 0; images are called "image-00000" and so on. Observations are
    sorted by point, and stay in the file's order within each. Observations that repeat another,
    number by number, count as often as they stand there, with a warning.

    Raises `ConfigError` naming the line: words that are no numbers, numbers of values that do not
    fit the first line, indices out of range, NaN, infinite, a focal length of 0.
    """
    values = numbers(path, text)
    n, p, m = _counts(path, text, values)
    cuts = np.cumsum([_HEADER, 4 * m, _CAMERA * n])
    _, seen, cameras, xyz = np.split(values, cuts)
    _no_infinite(path, text, values)
    seen, cameras = seen.reshape(m, 4), cameras.reshape(n, _CAMERA)
    image = _indices(path, text, seen[:, 0], n, "camera", 0)
    point = _indices(path, text, seen[:, 1], p, "point", 1)
    for i in np.flatnonzero(cameras[:, 6] == 0)[:1]:
        line = line_of_word(text, int(cuts[1]) + _CAMERA * int(i) + 6)
        raise ConfigError(f"{path}, line {line}: camera {i} has the focal length 0")
    observations = by_point(p, point, image, seen[:, 2:])
    repeated = _repeated(observations, n)
    if repeated:
        _log.warning("%s: observations that repeat another exactly, and count: %d", path, repeated)
    ids = np.arange(n)
    names = [f"image-{i:05d}" for i in range(n)]
    parameters = np.zeros((n, PARAMETERS))
    parameters[:, :3] = cameras[:, 6:]
    return Reconstruction(
        MPI.COMM_SELF,
        Cameras(ids, np.full(n, MODELS["BAL"].number, np.int32), np.zeros((n, 2), int), parameters),
        Images(
            ids.copy(),
            names,
            ids.astype(np.int32),
            rotations.exp(cameras[:, :3]),
            cameras[:, 3:6].copy(),
        ),
        make_points(xyz.reshape(p, 3).copy(), ids=np.arange(p)),
        observations,
        "keep",
    )


def write_bal(whole: Reconstruction, path: Path, draft: Path) -> None:
    """Write a whole reconstruction to `draft`, packed as the suffix of `path` says (.gz, .bz2).

    ::

        write_bal(whole, path, draft)

    Observations are sorted by point, all numbers written so that they are read back bit for bit.
    Raises `ConfigError` where BAL cannot hold a camera (`to_bal`).
    """
    pack = {".gz": partial(gzip.GzipFile, mtime=0), ".bz2": bz2.BZ2File}
    with pack.get(path.suffix.lower(), open)(draft, "wb") as file:
        for block in _blocks(to_bal(whole)):
            file.write(block.encode())


def _blocks(bal: Reconstruction) -> Iterator[str]:
    """The text of the file, some hundred thousand lines at a time."""
    seen, images = bal.observations, bal.images
    yield f"{len(images)} {len(bal.points)} {len(seen)}\n"
    point = seen.point
    for at in range(0, len(seen), _LINES):
        piece = slice(at, at + _LINES)
        x, y = seen.xy[piece].T.tolist()
        columns = seen.image[piece].tolist(), point[piece].tolist(), x, y
        yield "".join([f"{i} {p}     {x!r} {y!r}\n" for i, p, x, y in zip(*columns, strict=True)])
    poses = rotations.log(images.quaternion), images.translation
    intrinsics = bal.cameras.parameters[images.camera, :3]
    for table in (np.concatenate([*poses, intrinsics], axis=1), bal.points.xyz):
        values = table.ravel()
        for at in range(0, len(values), _LINES):
            yield "".join([f"{value!r}\n" for value in values[at : at + _LINES].tolist()])


def _counts(path: Path, text: bytes, values: np.ndarray) -> tuple[int, int, int]:
    """Cameras, points, observations, as the first three numbers say."""
    head = values[:_HEADER]
    if len(head) < _HEADER or (head != np.floor(head)).any() or (head < 0).any():
        shown = text.split(b"\n", 1)[0][:40].decode("ascii", "backslashreplace").strip()
        raise ConfigError(
            f"{path}, line 1: {shown!r} should be the numbers of cameras, points and observations"
        )
    n, p, m = (int(each) for each in head)
    wanted = _HEADER + 4 * m + _CAMERA * n + 3 * p
    if len(values) != wanted:
        raise ConfigError(
            f"{path}: {n} cameras, {p} points and {m} observations, as line 1 says, are {wanted} "
            f"numbers, but the file has {len(values)}: it is not whole, or line 1 is wrong"
        )
    return n, p, m


def _no_infinite(path: Path, text: bytes, values: np.ndarray) -> None:
    for k in np.flatnonzero(~np.isfinite(values))[:1]:
        line = line_of_word(text, int(k))
        raise ConfigError(f"{path}, line {line}: {values[k]} is no finite number")


def _indices(
    path: Path, text: bytes, column: np.ndarray, count: int, what: str, place: int
) -> np.ndarray:
    """A column of whole numbers, also where written as 1.0."""
    bad = (column != np.floor(column)) | (column < 0) | (column >= count)
    for i in np.flatnonzero(bad)[:1]:
        line = line_of_word(text, _HEADER + 4 * int(i) + place)
        raise ConfigError(
            f"{path}, line {line}: observation {i} is of {what} {column[i]:g}, but there are "
            f"{count}, counted from 0"
        )
    return column.astype(np.int64)


def _repeated(seen: Observations, images: int) -> int:
    """How many observations have a twin before them: same point, image and pixels."""
    key = seen.point * images + seen.image
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    twice = np.flatnonzero(ordered[1:] == ordered[:-1])
    if not len(twice):
        return 0
    those = order[np.unique(np.concatenate([twice, twice + 1]))]
    rows = np.column_stack([key[those].astype(float), seen.xy[those]])
    return len(rows) - len(np.unique(rows, axis=0))
