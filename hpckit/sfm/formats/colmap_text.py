"""COLMAP's text files: cameras.txt, images.txt, points3D.txt, rigs.txt, frames.txt.

https://colmap.github.io/format.html says what they hold. An image has two lines, and its name is
the rest of the first one, blanks within it too. Lines that begin with # are left out anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hpckit.errors import ConfigError
from hpckit.sfm.cameras import Cameras
from hpckit.sfm.formats.colmap_tables import (
    NONE,
    CameraTable,
    ImageTable,
    PointTable,
    model_named,
)
from hpckit.sfm.formats.text import content, data_lines, no_number, rows
from hpckit.sfm.reconstruction import Reconstruction

_EXACT = 2.0**53  # float64 holds all whole numbers up to here
_LARGEST = 2.0**63  # ids from here on mean: none
_TRACK = 8  # the numbers of a point before its track
_INTEGER = re.compile(rb"[+-]?\d{1,18}")  # that int64 can hold
_HEAD = 10  # the fields of an image, the name being one


def read_cameras(path: Path) -> Cameras:
    """The cameras of a cameras.txt. ::

    read_cameras(Path("sparse/0/cameras.txt"))
    """
    table = CameraTable()
    for number, line in data_lines(content(path)):
        where = f"{path}, line {number}"
        words = line.split()
        if len(words) < 4:
            raise ConfigError(f"{where}: a camera has an id, model, width, height and parameters")
        model = model_named(where, words[1].decode("utf-8", "backslashreplace"))
        size = [_integer(path, number, word) for word in words[2:4]]
        values = rows(path, [(number, b" ".join(words[4:]))])[0].tolist()
        table.add(where, _integer(path, number, words[0]), model, size, values)
    return table.cameras()


def read_images(path: Path) -> ImageTable:
    """The images of an images.txt. ::

    read_images(Path("sparse/0/images.txt"))
    """
    heads: list[tuple[int, list[bytes]]] = []
    lines: list[tuple[int, bytes]] = []
    for (number, head), second in _pairs(content(path)):
        fields = head.split(None, _HEAD - 1)
        if len(fields) < _HEAD:
            raise ConfigError(
                f"{path}, line {number}: {head[:40].decode('utf-8', 'backslashreplace')!r} should "
                "be an image: its id, quaternion (4), translation (3), camera and name"
            )
        heads.append((number, fields))
        lines.append(second)
    poses = rows(path, [(number, b" ".join(fields[1:8])) for number, fields in heads])
    keypoints, points = [], []
    for (number, _), values in zip(lines, rows(path, lines), strict=True):
        if len(values) % 3:
            raise ConfigError(
                f"{path}, line {number}: keypoints are triplets x, y, id of point, but there are "
                f"{len(values)} numbers"
            )
        triplets = values.reshape(-1, 3)
        keypoints.append(triplets[:, :2].copy())
        points.append(_ids(f"{path}, line {number}", triplets[:, 2], unset=True))
    return ImageTable(
        [_integer(path, number, fields[0]) for number, fields in heads],
        [fields[9].decode("utf-8", "surrogateescape") for _, fields in heads],
        [_integer(path, number, fields[8]) for number, fields in heads],
        np.array(poses).reshape(len(heads), 7),
        keypoints,
        points,
        lambda i: f"{path}, line {heads[i][0]}",
    )


def read_points(path: Path) -> PointTable:
    """The points of a points3D.txt, which may have none. ::

    read_points(Path("sparse/0/points3D.txt"))
    """
    lines = list(data_lines(content(path, empty=True)))
    values = rows(path, lines)
    lengths = np.array([len(row) for row in values], np.int64) - _TRACK
    for i in np.flatnonzero((lengths < 0) | (lengths % 2 != 0))[:1]:
        raise ConfigError(
            f"{path}, line {lines[i][0]}: a point has an id, x y z, red green blue, an error, and "
            f"pairs of image and keypoint, but there are {lengths[i] + _TRACK} numbers"
        )
    flat = np.concatenate([np.zeros(0), *values])
    is_head = np.repeat(
        np.tile([True, False], len(lines)),
        np.column_stack([np.full(len(lines), _TRACK), lengths]).ravel(),
    )
    head, track = flat[is_head].reshape(-1, _TRACK), flat[~is_head].reshape(-1, 2)
    rgb = head[:, 4:7]
    for i in np.flatnonzero(((rgb != np.floor(rgb)) | (rgb < 0) | (rgb > 255)).any(1))[:1]:
        raise ConfigError(f"{path}, line {lines[i][0]}: colours are whole numbers from 0 to 255")
    bad = (track != np.floor(track)) | (track < 0) | (track >= _EXACT)
    owner = np.repeat(np.arange(len(lines)), lengths // 2)
    for k in np.flatnonzero(bad.any(1))[:1]:
        raise ConfigError(
            f"{path}, line {lines[owner[k]][0]}: {track[k, 0]:g} {track[k, 1]:g} is no image and "
            "keypoint of a track: whole numbers from 0"
        )

    def where(i: int) -> str:
        return f"{path}, line {lines[i][0]}"

    return PointTable(
        _ids(path, head[:, 0], where=where),
        head[:, 1:4].copy(),
        rgb.astype(np.uint8),
        lengths // 2,
        track.astype(np.int64),
        where,
    )


def check_rigs(folder: Path) -> None:
    """`ConfigError` where rigs.txt or frames.txt have rigs of several sensors. ::

    check_rigs(Path("sparse/0"))
    """
    for name, what, count in (("rigs.txt", "rig", 1), ("frames.txt", "frame", 9)):
        path = folder / name
        for number, line in data_lines(content(path, empty=True)) if path.exists() else ():
            words = line.split()
            if len(words) <= count:
                raise ConfigError(f"{path}, line {number}: this is no {what}, it is too short")
            sensors = _integer(path, number, words[count])
            if sensors > 1:
                refuse_rig(
                    f"{path}, line {number}", what, _integer(path, number, words[0]), sensors
                )


def refuse_rig(where: str, what: str, number: int, sensors: int) -> None:
    """Raise the `ConfigError` about cameras that are mounted together. ::

    refuse_rig("rigs.txt, line 4", "rig", 1, 2)
    """
    raise ConfigError(
        f"{where}: {what} {number} has {sensors} sensors, but rigs of several cameras cannot be "
        "solved: remove rigs and frames from the folder to have its images stand alone"
    )


def write_text(whole: Reconstruction, keypoints: list, points: list, errors: np.ndarray, to: Path):
    """Write cameras.txt, images.txt and points3D.txt of a whole reconstruction to a folder.

    ::

        write_text(whole, keypoints, points, errors, folder)

    keypoints, points : of each image, (k, 2) pixels and (k,) ids of points or -1; the observations'
        `keypoint` counts in them. errors : (points,) pixels, or -1.
    """
    for name in whole.images.names:
        if name != name.strip() or name.startswith("#"):
            raise ConfigError(
                f"the image name {name!r} begins or ends with a blank, or is a comment: text files "
                "cannot hold it, but binary ones can"
            )
    (to / "cameras.txt").write_bytes("".join(_camera_lines(whole.cameras)).encode())
    lines = _image_lines(whole, keypoints, points)
    (to / "images.txt").write_bytes("".join(lines).encode("utf-8", "surrogateescape"))
    (to / "points3D.txt").write_bytes("".join(_point_lines(whole, errors)).encode())


def _camera_lines(cameras: Cameras) -> Iterator[str]:
    yield "# Cameras: CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]\n"
    for i in range(len(cameras)):
        model = cameras.model_of(i)
        width, height = cameras.size[i].tolist()
        values = _joined(cameras.parameters[i, : len(model.parameters)])
        yield f"{cameras.ids[i]} {model.name} {width} {height} {values}\n"


def _image_lines(whole: Reconstruction, keypoints: list, points: list) -> Iterator[str]:
    yield "# Images, two lines each: IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME\n"
    yield "#   and POINTS2D[] as X, Y, POINT3D_ID\n"
    images = whole.images
    for i in range(len(images)):
        pose = _joined(np.concatenate([images.quaternion[i], images.translation[i]]))
        camera = whole.cameras.ids[images.camera[i]]
        yield f"{images.ids[i]} {pose} {camera} {images.names[i]}\n"
        x, y = keypoints[i].T.tolist()
        shown = zip(x, y, points[i].tolist(), strict=True)
        yield " ".join([f"{x!r} {y!r} {p}" for x, y, p in shown]) + "\n"


def _point_lines(whole: Reconstruction, errors: np.ndarray) -> Iterator[str]:
    yield "# Points: POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[] as IMAGE_ID, POINT2D_IDX\n"
    points, seen = whole.points, whole.observations
    elements = zip(whole.images.ids[seen.image].tolist(), seen.keypoint.tolist(), strict=True)
    words = [f" {image} {keypoint}" for image, keypoint in elements]
    start = seen.start.tolist()
    columns = points.ids.tolist(), points.xyz.tolist(), points.rgb.tolist(), errors.tolist()
    for i, (number, (x, y, z), (r, g, b), error) in enumerate(zip(*columns, strict=True)):
        track = "".join(words[start[i] : start[i + 1]])
        yield f"{number} {x!r} {y!r} {z!r} {r} {g} {b} {error!r}{track}\n"


def _joined(values: np.ndarray) -> str:
    return " ".join(map(repr, values.tolist()))


def _pairs(text: bytes) -> Iterator[tuple[tuple[int, bytes], tuple[int, bytes]]]:
    """First and second line of each image; the second may be blank, and miss at the very end."""
    first: tuple[int, bytes] | None = None
    number = 0
    for number, line in enumerate(text.split(b"\n"), 1):
        stripped = line.strip()
        if stripped[:1] == b"#" or (first is None and not stripped):
            continue
        if first is None:
            first = number, stripped
        else:
            yield first, (number, stripped)
            first = None
    if first is not None:
        yield first, (number, b"")


def _integer(path: Path, number: int, word: bytes) -> int:
    if not _INTEGER.fullmatch(word):
        raise ConfigError(no_number(path, number, word).replace("no number", "no whole number"))
    return int(word)


def _ids(where_or_path: str | Path, values: np.ndarray, unset: bool = False, where=None):
    """Ids of points, written as numbers: (n,) int64; -1, or the largest, is NONE where `unset`."""
    none = ((values == NONE) | (values >= _LARGEST)) & unset
    bad = ~none & ((values != np.floor(values)) | (values < 0) | (values >= _EXACT))
    for i in np.flatnonzero(bad)[:1]:
        at = where(int(i)) if where else where_or_path
        raise ConfigError(
            f"{at}: {values[i]:g} is no id of a point: whole numbers from 0 to 2^53"
            + (", or -1 for none" if unset else "")
        )
    return np.where(none, NONE, values).astype(np.int64)
