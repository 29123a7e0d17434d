"""Problems of libmv, as Ceres' examples have them: one camera for all frames of a film.

All numbers are little-endian ("v" first) or big-endian ("V"), 32 bits each:

    v, P                                   markers: byte order, and that observations are pixels
    f cx cy k1 k2 k3 p1 p2                 float
    count; frame, R (columns first), t     int; int, 9 and 3 float
    count; track, x y z                    int; int, 3 float
    count; frame, track, x y               int; 2 int, 2 float
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mpi4py import MPI

from hpckit.errors import ConfigError
from hpckit.sfm import rotations
from hpckit.sfm.cameras import Cameras
from hpckit.sfm.distribute import by_point, make_points
from hpckit.sfm.reconstruction import Images, Reconstruction

MARKERS = (b"vP", b"VP", b"vN", b"VN")  # what a file begins with
_INTRINSICS = 8


def read_libmv(path: Path, data: bytes) -> Reconstruction:
    """The whole reconstruction of a libmv problem, with `behind="zero"`.

    ::

        read_libmv(path, path.read_bytes())

    The camera is RADIAL, or FULL_OPENCV where k3, p1 or p2 is not 0, of a size that is not known.
    Ids are the file's; frames are called "frame00001" and so on.

    Raises `ConfigError` where the file is not whole, or a frame or track is not there or twice.
    """
    take = _Take(path, data)
    f, cx, cy, k1, k2, k3, p1, p2 = take.floats(_INTRINSICS).astype(float).tolist()
    if k3 or p1 or p2:
        values = [f, f, cx, cy, k1, k2, p1, p2, k3, 0.0, 0.0, 0.0]
        cameras = Cameras.of(("FULL_OPENCV", 0, 0, values))
    else:
        cameras = Cameras.of(("RADIAL", 0, 0, [f, cx, cy, k1, k2]))
    frames, poses = take.table("frames", 1, 12)
    tracks, xyz = take.table("tracks", 1, 3)
    seen, xy = take.table("observations", 2, 2)
    take.finish()
    matrix = poses[:, :9].reshape(-1, 3, 3).transpose(0, 2, 1).astype(float)
    images = Images.of(
        [f"frame{i:05d}" for i in frames[:, 0]],
        np.zeros(len(frames)),
        rotations.from_matrix(matrix),
        poses[:, 9:],
        frames[:, 0],
    )
    image = _place(path, "frame", frames[:, 0], seen[:, 0])
    point = _place(path, "track", tracks[:, 0], seen[:, 1])
    points = make_points(xyz.astype(float), ids=tracks[:, 0].astype(np.int64))
    observations = by_point(len(points), point, image, xy.astype(float))
    return Reconstruction(MPI.COMM_SELF, cameras, images, points, observations)


class _Take:
    """Reads on, in the byte order that the first byte says."""

    def __init__(self, path: Path, data: bytes) -> None:
        self._path, self._data, self._at = path, data, 2
        self._order = "<" if data[:1] == b"v" else ">"
        if data[1:2] != b"P":
            raise ConfigError(
                f"{path}: observations are marked {data[1:2]!r}, not in pixels (b'P'): they cannot "
                "be weighed against each other"
            )

    def _words(self, count: int) -> np.ndarray:
        size = 4 * count
        if self._at + size > len(self._data):
            raise ConfigError(
                f"{self._path} is not whole: it should have {self._at + size - len(self._data)} "
                f"bytes more than {len(self._data)}"
            )
        words = np.frombuffer(self._data, f"{self._order}u4", count, self._at)
        self._at += size
        return words

    def floats(self, count: int) -> np.ndarray:
        return self._words(count).view(f"{self._order}f4")

    def table(self, what: str, integers: int, floats: int) -> tuple[np.ndarray, np.ndarray]:
        """A count, and as many rows: their integers (int64) and floats."""
        count = int(self._words(1).view(f"{self._order}i4")[0])
        if count < 0:
            raise ConfigError(f"{self._path}: the number of {what} is {count}")
        rows = self._words(count * (integers + floats)).reshape(count, integers + floats)
        whole, values = (
            np.ascontiguousarray(rows[:, :integers]),
            np.ascontiguousarray(rows[:, integers:]),
        )
        values = values.view(f"{self._order}f4")
        for i in np.flatnonzero(~np.isfinite(values).all(1))[:1]:
            raise ConfigError(f"{self._path}: number {i} of the {what} is not finite")
        return whole.view(f"{self._order}i4").astype(np.int64), values

    def finish(self) -> None:
        if self._at != len(self._data):
            raise ConfigError(
                f"{self._path} has {len(self._data) - self._at} bytes after its observations: it is"
                " damaged"
            )


def _place(path: Path, what: str, ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    order = np.argsort(ids, kind="stable")
    at = np.minimum(np.searchsorted(ids[order], wanted), max(len(ids) - 1, 0))
    missing = ids[order][at] != wanted if len(ids) else np.ones(len(wanted), bool)
    for i in np.flatnonzero(missing)[:1]:
        raise ConfigError(f"{path}: observation {i} is of {what} {wanted[i]}, which is not there")
    return order[at] if len(ids) else wanted
