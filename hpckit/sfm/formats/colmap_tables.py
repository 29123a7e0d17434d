"""What COLMAP's three files say, text or binary alike, made into a reconstruction.

A model says twice who sees what: `images` list keypoints with the id of the point that each shows,
and `points3D` list tracks, pairs of an image and the number of its keypoint. Both must agree. Where
they do not, `trust` says which to believe.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mpi4py import MPI

from hpckit.errors import ConfigError
from hpckit.sfm import rotations
from hpckit.sfm.cameras import BY_NUMBER, MODELS, PARAMETERS, CameraModel, Cameras
from hpckit.sfm.distribute import by_point, make_points
from hpckit.sfm.reconstruction import Images, Observations, Reconstruction

NONE = -1  # the point of a keypoint that shows none
TRUST = ("tracks", "images")


@dataclass
class ImageTable:
    """Images as in the file, and where in it each of them is."""

    ids: list[int]
    names: list[str]
    cameras: list[int]  # ids
    poses: np.ndarray  # (n, 7): quaternion and translation
    keypoints: list[np.ndarray]  # (k, 2) float64 each
    points: list[np.ndarray]  # (k,) int64 each: ids, or NONE
    where: Callable[[int], str]  # of image i, for messages


@dataclass
class PointTable:
    """Points as in the file, and where in it each of them is."""

    ids: np.ndarray  # (n,) int64
    xyz: np.ndarray  # (n, 3) float64
    rgb: np.ndarray  # (n, 3) uint8
    lengths: np.ndarray  # (n,) int64: elements of each track
    tracks: np.ndarray  # (elements, 2) int64: image's id, number of its keypoint
    where: Callable[[int], str]


class CameraTable:
    """Cameras, added one after the other."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, CameraModel, list[int], list[float]]] = []
        self._where: dict[int, str] = {}

    def add(
        self, where: str, number: int, model: CameraModel, size: list[int], values: list[float]
    ) -> None:
        """A camera that the file has at `where`. ::

        table.add("cameras.txt, line 2", 1, camera_model("RADIAL"), [640, 480], parameters)

        Raises `ConfigError` with the place: an id that was there, a wrong number of parameters,
        one that is not finite, or a focal length that is not positive.
        """
        if number in self._where:
            raise ConfigError(f"{where}: camera {number} was there before, {self._where[number]}")
        names = model.parameters
        if len(values) != len(names):
            raise ConfigError(
                f"{where}: {model.name} has {len(names)} parameters ({', '.join(names)}), not "
                f"{len(values)}"
            )
        for name, value in zip(names, values, strict=True):
            if not np.isfinite(value) or (name in ("f", "fx", "fy") and value <= 0):
                raise ConfigError(
                    f"{where}: camera {number} has {name} = {value:g}, but it must be "
                    f"{'positive' if name in ('f', 'fx', 'fy') else 'a finite number'}"
                )
        self._where[number] = where
        self._rows.append((number, model, size, values))

    def cameras(self) -> Cameras:
        """All of them. ::

        table.cameras()
        """
        n = len(self._rows)
        parameters = np.zeros((n, PARAMETERS))
        for i, row in enumerate(self._rows):
            parameters[i, : len(row[3])] = row[3]
        return Cameras(
            np.array([row[0] for row in self._rows], np.int64),
            np.array([row[1].number for row in self._rows], np.int32),
            np.array([row[2] for row in self._rows], np.int64).reshape(n, 2),
            parameters,
        )


def model_named(where: str, name: str) -> CameraModel:
    """COLMAP's model of this name; `ConfigError` with the place and the names that there are. ::

    model_named("cameras.txt, line 2", "RADIAL")
    """
    model = MODELS.get(name)
    if model is None or model.number < 0:
        raise ConfigError(f"{where}: camera model {name!r} is not known: there are {_known()}")
    return model


def model_numbered(where: str, number: int) -> CameraModel:
    """COLMAP's model of this number; `ConfigError` with the place. ::

    model_numbered("cameras.bin, camera 1", 3)  # RADIAL
    """
    if number < 0 or number not in BY_NUMBER:
        raise ConfigError(f"{where}: camera model {number} is not known: there are {_known(True)}")
    return BY_NUMBER[number]


def assemble(
    folder: Path, cameras: Cameras, images: ImageTable, points: PointTable, trust: str
) -> Reconstruction:
    """The whole reconstruction of these tables, all of which is checked, with `behind="zero"`.

    ::

        assemble(folder, cameras, images, points, "tracks")

    trust : "tracks", of `points3D`, with which `images` must agree where they name a point; or
        "images", then tracks are not looked at.

    Raises `ConfigError` with file and line (of binary files: which image or point).
    """
    placed = _images(images, cameras)
    _no_second(points.ids, points.where, "point")
    bad = ~np.isfinite(points.xyz).all(1)
    for i in np.flatnonzero(bad)[:1]:
        raise ConfigError(f"{points.where(int(i))}: point {points.ids[i]} is not at a finite place")
    keypoints = _Keypoints(images)
    known = _Lookup(points.ids)
    shown = known(keypoints.point)
    for k in np.flatnonzero((keypoints.point != NONE) & (shown < 0))[:1]:
        raise ConfigError(
            f"{images.where(keypoints.image_of(int(k)))}: keypoint {keypoints.number(int(k))} shows"
            f" point {keypoints.point[k]}, which is not in {folder}/points3D"
        )
    if trust == "images":
        chosen = np.flatnonzero(shown >= 0)
        seen = keypoints.observations(len(points.ids), shown[chosen], chosen)
    else:
        seen = _by_tracks(images, points, keypoints, shown)
    return Reconstruction(
        MPI.COMM_SELF,
        cameras,
        placed,
        make_points(points.xyz, points.rgb, points.ids),
        seen,
        "zero",
        images.keypoints,
    )


class _Lookup:
    """Places of ids: -1 of those that are not there."""

    def __init__(self, ids: np.ndarray) -> None:
        self._order = np.argsort(ids, kind="stable")
        self._sorted = ids[self._order]

    def __call__(self, wanted: np.ndarray) -> np.ndarray:
        if not len(self._sorted):
            return np.full(len(wanted), -1)
        at = np.minimum(np.searchsorted(self._sorted, wanted), len(self._sorted) - 1)
        return np.where(self._sorted[at] == wanted, self._order[at], -1)


class _Keypoints:
    """Those of all images, one after the other."""

    def __init__(self, images: ImageTable) -> None:
        counts = [len(each) for each in images.keypoints]
        self.start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.xy = np.concatenate([np.zeros((0, 2)), *images.keypoints])
        self.point = np.concatenate([np.zeros(0, np.int64), *images.points])

    def image_of(self, k: int) -> int:
        return int(np.searchsorted(self.start, k, side="right")) - 1

    def number(self, k: int) -> int:
        return k - int(self.start[self.image_of(k)])

    def observations(self, points: int, point: np.ndarray, chosen: np.ndarray) -> Observations:
        """Those at the places `chosen`, each of the point of this place."""
        image = np.searchsorted(self.start, chosen, side="right") - 1
        return by_point(points, point, image, self.xy[chosen], chosen - self.start[image])


def _images(table: ImageTable, cameras: Cameras) -> Images:
    """Checked, with unit quaternions and places of cameras."""
    _no_second(np.array(table.ids, np.int64), table.where, "image")
    names: dict[str, int] = {}
    for i, name in enumerate(table.names):
        if names.setdefault(name, i) != i:
            raise ConfigError(
                f"{table.where(i)}: the name {name!r} is that of image {table.ids[names[name]]} too"
            )
    camera = _Lookup(cameras.ids)(np.array(table.cameras, np.int64))
    for i in np.flatnonzero(camera < 0)[:1]:
        raise ConfigError(
            f"{table.where(int(i))}: image {table.ids[i]} has camera {table.cameras[i]}, which is "
            "not in cameras"
        )
    quaternion, translation = table.poses[:, :4], table.poses[:, 4:]
    fine = np.isfinite(table.poses).all(1) & (np.abs(quaternion).max(1, initial=0) > 0)
    for i in np.flatnonzero(~fine)[:1]:
        shown = " ".join(f"{float(v):g}" for v in table.poses[i])
        raise ConfigError(
            f"{table.where(int(i))}: image {table.ids[i]} has the pose {shown}, which is none: "
            "a quaternion that is not 0, and a translation, all finite"
        )
    for i, xy in enumerate(table.keypoints):
        if not np.isfinite(xy).all():
            raise ConfigError(f"{table.where(i)}: image {table.ids[i]} has a keypoint not finite")
    return Images(
        np.array(table.ids, np.int64),
        table.names,
        camera.astype(np.int32),
        rotations.normalise(quaternion),
        translation.copy(),
    )


def _by_tracks(
    images: ImageTable, points: PointTable, keypoints: _Keypoints, shown: np.ndarray
) -> Observations:
    """Observations as the tracks say, where images do not say otherwise."""
    point = np.repeat(np.arange(len(points.ids)), points.lengths)
    image = _Lookup(np.array(images.ids, np.int64))(points.tracks[:, 0])
    for k in np.flatnonzero(image < 0)[:1]:
        raise ConfigError(
            f"{points.where(int(point[k]))}: image {points.tracks[k, 0]} of the track is not in "
            "images"
        )
    number = points.tracks[:, 1]
    counts = np.diff(keypoints.start)
    for k in np.flatnonzero((number < 0) | (number >= counts[image]))[:1]:
        raise ConfigError(
            f"{points.where(int(point[k]))}: keypoint {number[k]} of image {points.tracks[k, 0]} "
            f"is in the track, but that image has {counts[image[k]]}, counted from 0"
        )
    chosen = keypoints.start[image] + number
    advice = '; if images are right, read with trust="images"'
    claimed = shown[chosen]
    for k in np.flatnonzero((claimed >= 0) & (claimed != point))[:1]:
        raise ConfigError(
            f"{points.where(int(point[k]))}: the track has keypoint {number[k]} of image "
            f"{points.tracks[k, 0]}, but that shows point {points.ids[claimed[k]]}{advice}"
        )
    uses = np.bincount(chosen, minlength=len(shown))
    for k in np.flatnonzero(uses[chosen] > 1)[:1]:
        raise ConfigError(
            f"{points.where(int(point[k]))}: keypoint {number[k]} of image {points.tracks[k, 0]} "
            f"is in tracks {uses[chosen[k]]} times{advice}"
        )
    left = np.flatnonzero((shown >= 0) & (uses == 0))
    left = left[points.lengths[shown[left]] > 0]  # a point without any track is kept so
    for k in left[:1]:
        raise ConfigError(
            f"{images.where(keypoints.image_of(int(k)))}: keypoint {keypoints.number(int(k))} shows"
            f" point {keypoints.point[k]}, but its track does not have it{advice}"
        )
    return keypoints.observations(len(points.ids), point, chosen)


def _no_second(ids: np.ndarray, where: Callable[[int], str], what: str) -> None:
    order = np.argsort(ids, kind="stable")
    for i in np.flatnonzero(np.diff(ids[order]) == 0)[:1]:
        first, second = int(order[i]), int(order[i + 1])
        raise ConfigError(f"{where(second)}: {what} {ids[second]} was there before, {where(first)}")


def _known(numbers: bool = False) -> str:
    return ", ".join(
        f"{number} {model.name}" if numbers else model.name
        for number, model in sorted(BY_NUMBER.items())
        if number >= 0
    )
