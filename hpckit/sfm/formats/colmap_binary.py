"""COLMAP's binary files: cameras.bin, images.bin, points3D.bin, rigs.bin, frames.bin.

https://colmap.github.io/format.html says what they hold: little-endian, a count first. Records of
images and points differ in length, so their places are found one by one; what is in them is then
read and written all at once.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from hpckit.errors import ConfigError
from hpckit.sfm.cameras import Cameras
from hpckit.sfm.formats.colmap_tables import (
    NONE,
    CameraTable,
    ImageTable,
    PointTable,
    model_numbered,
)
from hpckit.sfm.formats.colmap_text import refuse_rig
from hpckit.sfm.reconstruction import Reconstruction

_POINT = np.dtype(
    [("id", "<i8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("n", "<u8")]
)
_KEYPOINT = np.dtype([("xy", "<f8", 2), ("point", "<i8")])
_TRACK = np.dtype("<u4")
_COUNT = struct.Struct("<Q")


class _Bytes:
    """A file's bytes and how far they are read; `ConfigError` where they end too early."""

    def __init__(self, path: Path) -> None:
        self.path, self.at, self.what = path, 0, "the count"
        try:
            self.data = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror or error}") from None

    def __call__(self, form: str) -> tuple:
        size = struct.calcsize("<" + form)
        self.need(size)
        values = struct.unpack_from("<" + form, self.data, self.at)
        self.at += size
        return values

    def need(self, size: int) -> None:
        if self.at + size > len(self.data):
            raise ConfigError(
                f"{self.path} ends within {self.what}, after {len(self.data)} bytes: it is not "
                "whole"
            )

    def finish(self) -> None:
        if self.at != len(self.data):
            raise ConfigError(
                f"{self.path} has {len(self.data) - self.at} bytes after its last record: it is "
                "damaged, or written by a program that this version does not know"
            )


def read_cameras(path: Path) -> Cameras:
    """The cameras of a cameras.bin. ::

    read_cameras(Path("sparse/0/cameras.bin"))
    """
    take, table = _Bytes(path), CameraTable()
    (count,) = take("Q")
    for i in range(count):
        take.what = f"camera {i + 1} of {count}"
        number, model_number, width, height = take("IiQQ")
        where = f"{path}, {take.what}"
        model = model_numbered(where, model_number)
        values = list(take(f"{len(model.parameters)}d"))
        if max(width, height) >= 2**31:
            raise ConfigError(f"{where}: its size is {width} x {height} pixels, which is too large")
        table.add(where, number, model, [width, height], values)
    take.finish()
    return table.cameras()


def read_images(path: Path) -> ImageTable:
    """The images of an images.bin. ::

    read_images(Path("sparse/0/images.bin"))
    """
    take = _Bytes(path)
    (count,) = take("Q")
    ids, names, cameras, poses, keypoints, points = [], [], [], [], [], []
    for i in range(count):
        take.what = f"image {i + 1} of {count}"
        number, *pose, camera = take("I7dI")
        end = take.data.find(b"\0", take.at)
        take.need(end + 1 - take.at if end >= 0 else len(take.data))
        names.append(take.data[take.at : end].decode("utf-8", "surrogateescape"))
        take.at = end + 1
        (k,) = take("Q")
        take.need(k * _KEYPOINT.itemsize)
        table = np.frombuffer(take.data, _KEYPOINT, k, take.at)
        take.at += k * _KEYPOINT.itemsize
        ids.append(number)
        cameras.append(camera)
        poses.append(pose)
        keypoints.append(table["xy"].copy())
        points.append(np.where(table["point"] < 0, NONE, table["point"]))
    take.finish()
    return ImageTable(
        ids,
        names,
        cameras,
        np.array(poses).reshape(len(ids), 7),
        keypoints,
        points,
        lambda i: f"{path}, image {ids[i]}",
    )


def read_points(path: Path) -> PointTable:
    """The points of a points3D.bin: a million in about a second. ::

    read_points(Path("sparse/0/points3D.bin"))
    """
    take = _Bytes(path)
    (count,) = take("Q")
    take.need(count * _POINT.itemsize)
    lengths, at, size = _track_lengths(take.data, count)
    take.at, take.what = at, "a track"
    take.need(0 if len(lengths) == count else size)
    take.finish()
    rows = np.frombuffer(take.data, np.uint8, at - _COUNT.size, _COUNT.size)
    is_head = _is_head(lengths)
    head = rows[is_head].view(_POINT)
    ids = head["id"].copy()
    return PointTable(
        ids,
        np.ascontiguousarray(head["xyz"]),
        np.ascontiguousarray(head["rgb"]),
        lengths,
        rows[~is_head].view(_TRACK).reshape(-1, 2).astype(np.int64),
        lambda i: f"{path}, point {ids[i]}",
    )


def check_rigs(folder: Path) -> None:
    """`ConfigError` where rigs.bin or frames.bin have rigs of several sensors. ::

    check_rigs(Path("sparse/0"))
    """
    if (folder / "rigs.bin").exists():
        take = _Bytes(folder / "rigs.bin")
        for i in range(take("Q")[0]):
            take.what = f"rig {i + 1}"
            number, sensors = take("II")
            if sensors > 1:
                refuse_rig(str(take.path), "rig", number, sensors)
            take("iI" * sensors)
    if (folder / "frames.bin").exists():
        take = _Bytes(folder / "frames.bin")
        for i in range(take("Q")[0]):
            take.what = f"frame {i + 1}"
            number, _, *_, data = take("II7dI")
            if data > 1:
                refuse_rig(str(take.path), "frame", number, data)
            take("iIQ" * data)


def write_binary(
    whole: Reconstruction, keypoints: list, points: list, errors: np.ndarray, to: Path
) -> None:
    """Write cameras.bin, images.bin and points3D.bin of a whole reconstruction to a folder.

    ::

        write_binary(whole, keypoints, points, errors, folder)

    keypoints, points, errors : as for `write_text`.
    """
    (to / "cameras.bin").write_bytes(_cameras(whole.cameras))
    with (to / "images.bin").open("wb") as file:
        file.write(_COUNT.pack(len(whole.images)))
        for i, name in enumerate(whole.images.names):
            file.write(_image(whole, i, name))
            table = np.empty(len(keypoints[i]), _KEYPOINT)
            table["xy"], table["point"] = keypoints[i], points[i]
            file.write(_COUNT.pack(len(table)))
            file.write(table.tobytes())
    (to / "points3D.bin").write_bytes(_points(whole, errors))


def _cameras(cameras: Cameras) -> bytes:
    parts = [_COUNT.pack(len(cameras))]
    for i in range(len(cameras)):
        model = cameras.model_of(i)
        parts.append(struct.pack("<IiQQ", cameras.ids[i], model.number, *cameras.size[i]))
        parts.append(cameras.parameters[i, : len(model.parameters)].astype("<f8").tobytes())
    return b"".join(parts)


def _image(whole: Reconstruction, i: int, name: str) -> bytes:
    images = whole.images
    pose = *images.quaternion[i], *images.translation[i]
    camera = whole.cameras.ids[images.camera[i]]
    head = struct.pack("<I7dI", images.ids[i], *pose, camera)
    return head + name.encode("utf-8", "surrogateescape") + b"\0"


def _points(whole: Reconstruction, errors: np.ndarray) -> bytes:
    points, seen = whole.points, whole.observations
    lengths = np.diff(seen.start)
    head = np.empty(len(points), _POINT)
    head["id"], head["xyz"], head["rgb"] = points.ids, points.xyz, points.rgb
    head["error"], head["n"] = errors, lengths
    track = np.empty((len(seen), 2), _TRACK)
    track[:, 0], track[:, 1] = whole.images.ids[seen.image], seen.keypoint
    is_head = _is_head(lengths)
    rows = np.empty(len(is_head), np.uint8)
    rows[is_head] = head.view(np.uint8)
    rows[~is_head] = track.view(np.uint8).ravel()
    return _COUNT.pack(len(points)) + rows.tobytes()


def _track_lengths(data: bytes, count: int) -> tuple[np.ndarray, int, int]:
    """Elements of each track, where the last ends, and how many bytes one lacks that is cut."""
    at, lengths = _COUNT.size, []
    head, unpack, end = _POINT.itemsize, _COUNT.unpack_from, len(data)
    offset = head - _COUNT.size
    for _ in range(count):
        if at + head > end:
            return np.array(lengths, np.int64), at, head
        (n,) = unpack(data, at + offset)
        if at + head + 8 * n > end:
            return np.array(lengths, np.int64), at, head + 8 * n
        lengths.append(n)
        at += head + 8 * n
    return np.array(lengths, np.int64), at, 0


def _is_head(lengths: np.ndarray) -> np.ndarray:
    """Which bytes of all records are of heads; the others are of tracks."""
    sizes = np.column_stack([np.full(len(lengths), _POINT.itemsize), 8 * lengths]).ravel()
    return np.repeat(np.tile([True, False], len(lengths)), sizes)
