"""What must hold of a reconstruction, whoever made it; said in one sentence where it does not."""

from __future__ import annotations

import numpy as np

from hpckit.errors import ConfigError
from hpckit.sfm.cameras import BY_NUMBER, PARAMETERS, Cameras
from hpckit.sfm.reconstruction import Images, Observations, Points, Reconstruction

BEHIND = ("keep", "zero", "drop")
_UNIT = 1e-6  # how far from 1 the length of a quaternion may be


def check(reconstruction: Reconstruction) -> None:
    """`ConfigError` unless all arrays of this rank fit together, and hold finite numbers.

    ::

        check(reconstruction)

    Looked at are shapes and kinds of numbers, ids (unique, on this rank), places (in range), focal
    lengths (positive), quaternions (of length one). Only numbers that arithmetic may rely on are
    meant: that a point has one view only, or none, is allowed.
    """
    if reconstruction.behind not in BEHIND:
        raise ConfigError(
            f"behind is {reconstruction.behind!r}, but must be one of {', '.join(BEHIND)}"
        )
    _cameras(reconstruction.cameras)
    _images(reconstruction.images, len(reconstruction.cameras))
    _points(reconstruction.points)
    _observations(
        reconstruction.observations, len(reconstruction.points), len(reconstruction.images)
    )
    keypoints = reconstruction.keypoints
    if keypoints is not None:
        _keypoints(keypoints, reconstruction)


def _cameras(cameras: Cameras) -> None:
    n = len(cameras.ids)
    _array("cameras.ids", cameras.ids, (n,), "iu")
    _array("cameras.model", cameras.model, (n,), "iu")
    _array("cameras.size", cameras.size, (n, 2), "iu")
    _array("cameras.parameters", cameras.parameters, (n, PARAMETERS), "f")
    _unique("camera", cameras.ids)
    for i in np.flatnonzero(~np.isin(cameras.model, list(BY_NUMBER)))[:1]:
        raise ConfigError(
            f"camera {cameras.ids[i]} is of model {cameras.model[i]}, which is not known: there "
            f"are {', '.join(f'{number} {model.name}' for number, model in BY_NUMBER.items())}"
        )
    _finite("camera", cameras.ids, cameras.parameters, "parameters")
    for number in np.unique(cameras.model):
        model = BY_NUMBER[int(number)]
        focal = cameras.parameters[:, model.focal]
        if model.name == "BAL":
            focal = np.abs(focal)  # a negative one is a mirror, and some files have it
        for i in np.flatnonzero((cameras.model == number) & ~(focal > 0).all(1))[:1]:
            raise ConfigError(
                f"camera {cameras.ids[i]} ({model.name}) has the focal length "
                f"{focal[i].min():g}, but it must be positive, in pixels"
            )


def _images(images: Images, cameras: int) -> None:
    n = len(images.ids)
    _array("images.ids", images.ids, (n,), "iu")
    _array("images.camera", images.camera, (n,), "iu")
    _array("images.quaternion", images.quaternion, (n, 4), "f")
    _array("images.translation", images.translation, (n, 3), "f")
    if len(images.names) != n:
        raise ConfigError(f"there are {len(images.names)} names of images, but {n} ids")
    _unique("image", images.ids)
    _names(images)
    _places("image", images.ids, images.camera, cameras, "camera")
    _finite("image", images.ids, images.quaternion, "quaternion")
    _finite("image", images.ids, images.translation, "translation")
    length = np.linalg.norm(images.quaternion, axis=1)
    for i in np.flatnonzero(np.abs(length - 1) > _UNIT)[:1]:
        raise ConfigError(
            f"image {images.ids[i]} has a quaternion of length {length[i]:g}, but it must be 1: "
            "see hpckit.sfm.rotations.normalise"
        )


def _names(images: Images) -> None:
    seen: dict[str, int] = {}
    for i, name in enumerate(images.names):
        if not isinstance(name, str) or not name or "\0" in name or "\n" in name:
            raise ConfigError(
                f"image {images.ids[i]} is called {name!r}, but a name is one line of text"
            )
        if seen.setdefault(name, i) != i:
            raise ConfigError(
                f"images {images.ids[seen[name]]} and {images.ids[i]} are both called {name!r}"
            )


def _points(points: Points) -> None:
    n = len(points.ids)
    _array("points.ids", points.ids, (n,), "iu")
    _array("points.xyz", points.xyz, (n, 3), "f")
    _array("points.rgb", points.rgb, (n, 3), "u")
    _unique("point", points.ids)
    _finite("point", points.ids, points.xyz, "xyz")


def _observations(observations: Observations, points: int, images: int) -> None:
    n = len(observations.image)
    start = observations.start
    _array("observations.start", start, (points + 1,), "iu")
    _array("observations.image", observations.image, (n,), "iu")
    _array("observations.xy", observations.xy, (n, 2), "f")
    _array("observations.keypoint", observations.keypoint, (n,), "iu")
    if start[0] != 0 or start[-1] != n or (np.diff(start) < 0).any():
        raise ConfigError(
            f"observations.start must rise from 0 to the number of observations, {n}: it goes from "
            f"{start[0]} to {start[-1]}, and {'falls' if (np.diff(start) < 0).any() else 'rises'}"
        )
    numbers = np.arange(n)
    _places("observation", numbers, observations.image, images, "image")
    _finite("observation", numbers, observations.xy, "xy")


def _keypoints(keypoints: list[np.ndarray], reconstruction: Reconstruction) -> None:
    images, seen = reconstruction.images, reconstruction.observations
    if len(keypoints) != len(images):
        raise ConfigError(f"there are keypoints of {len(keypoints)} images, but {len(images)} ids")
    for i, each in enumerate(keypoints):
        _array(f"keypoints of image {images.ids[i]}", each, (len(each), 2), "f")
    counts = np.array([len(each) for each in keypoints], np.int64)
    wrong = (seen.keypoint >= counts[seen.image]) if len(seen) else np.zeros(0, bool)
    for i in np.flatnonzero(wrong)[:1]:
        raise ConfigError(
            f"observation {i} is keypoint {seen.keypoint[i]} of image {images.ids[seen.image[i]]}, "
            f"which has {counts[seen.image[i]]}"
        )


def _array(what: str, array: object, shape: tuple[int, ...], kinds: str) -> None:
    words = {"iu": "integers", "f": "float64", "u": "uint8"}
    sizes = {"f": 8, "u": 1}
    if (
        not isinstance(array, np.ndarray)
        or array.shape != shape
        or array.dtype.kind not in kinds
        or array.dtype.itemsize != sizes.get(kinds, array.dtype.itemsize)
    ):
        its = (
            f"of shape {array.shape} and type {array.dtype}"
            if isinstance(array, np.ndarray)
            else f"a {type(array).__name__}"
        )
        raise ConfigError(
            f"{what} must be an array of shape {shape} of {words[kinds]}, but is {its}"
        )


def _unique(what: str, ids: np.ndarray) -> None:
    ordered = np.sort(ids)
    for i in np.flatnonzero(ordered[1:] == ordered[:-1])[:1]:
        raise ConfigError(f"two {what}s have the id {ordered[i]}: ids must differ")


def _places(what: str, ids: np.ndarray, places: np.ndarray, count: int, of: str) -> None:
    for i in np.flatnonzero((places < 0) | (places >= count))[:1]:
        raise ConfigError(
            f"{what} {ids[i]} names {of} {places[i]}, but there are {count}, counted from 0"
        )


def _finite(what: str, ids: np.ndarray, values: np.ndarray, name: str) -> None:
    for i in np.flatnonzero(~np.isfinite(values).all(1))[:1]:
        shown = ", ".join(f"{float(v):g}" for v in values[i])
        raise ConfigError(f"{what} {ids[i]} has the {name} ({shown}), but must have finite numbers")
