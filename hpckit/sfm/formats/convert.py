"""Cameras that look along -z (BAL, Bundler) and along +z (COLMAP): the same scene for both.

Turning a camera by half a turn about its x axis, F = diag(1, -1, -1), makes it look the other way:
R' = F R, t' = F t, and y of pixels changes its sign. F is the quaternion (0, 1, 0, 0), so that all
numbers of quaternions only change place and sign: nothing is rounded.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hpckit.errors import ConfigError
from hpckit.log import get_logger
from hpckit.sfm import rotations
from hpckit.sfm.cameras import MODELS, PARAMETERS, Cameras
from hpckit.sfm.reconstruction import Reconstruction

_HALF_TURN = np.array([0.0, 1.0, 0.0, 0.0])  # about x
_log = get_logger(__name__)


def to_colmap(whole: Reconstruction) -> Reconstruction:
    """The same scene with cameras that all look along +z: of BAL ones become RADIAL ones.

    ::

        to_colmap(read_bal(path, text))

    Their principal point is (0, 0), and their size, where not known, stays 0. What needs no change
    is returned itself.
    """
    cameras = whole.cameras
    bal = cameras.model == MODELS["BAL"].number
    if not bal.any():
        return whole
    made = cameras.copy()
    made.model[bal] = MODELS["RADIAL"].number
    made.parameters[bal] = 0
    made.parameters[bal, 0] = cameras.parameters[bal, 0]
    made.parameters[bal, 3:5] = cameras.parameters[bal, 1:3]
    for i in np.flatnonzero(bal & (cameras.parameters[:, 0] < 0))[:1]:
        raise ConfigError(
            f"camera {cameras.ids[i]} has the focal length {cameras.parameters[i, 0]:g}: only BAL "
            "files can hold negative ones"
        )
    return _turned(whole, made, bal, np.zeros((len(cameras), 2)))


def to_bal(whole: Reconstruction) -> Reconstruction:
    """The same scene with BAL cameras, one for each image, as BAL and Bundler files have them.

    ::

        to_bal(whole)

    SIMPLE_PINHOLE, SIMPLE_RADIAL and RADIAL can be held, and PINHOLE with fx = fy; pixels then
    count from the principal point. Cameras that images share are no longer tied: a warning.

    Raises `ConfigError` naming the first camera that BAL cannot hold.
    """
    cameras, n = whole.cameras, len(whole.cameras)
    parameters, centre = np.zeros((n, PARAMETERS)), np.zeros((n, 2))
    for i in range(n):
        parameters[i, :3], centre[i] = _as_bal(cameras, i)
    made = Cameras(
        cameras.ids.copy(),
        np.full(n, MODELS["BAL"].number, np.int32),
        cameras.size.copy(),
        parameters,
    )
    turn = cameras.model != MODELS["BAL"].number
    result = _turned(whole, made, turn, centre) if turn.any() else whole
    shared = len(whole.images) - len(np.unique(whole.images.camera))
    if shared:
        _log.warning("%d images share a camera, and each gets one of its own", shared + 1)
    return result


def _as_bal(cameras: Cameras, i: int) -> tuple[list[float], tuple[float, float]]:
    """f, k1, k2 and the principal point of camera `i`."""
    p = cameras.parameters[i].tolist()
    match cameras.model_of(i).name:
        case "BAL":
            return p[:3], (0.0, 0.0)
        case "SIMPLE_PINHOLE":
            return [p[0], 0.0, 0.0], (p[1], p[2])
        case "PINHOLE" if p[0] == p[1]:
            return [p[0], 0.0, 0.0], (p[2], p[3])
        case "SIMPLE_RADIAL" | "RADIAL":
            return [p[0], p[3], p[4]], (p[1], p[2])
        case name:
            raise ConfigError(
                f"camera {cameras.ids[i]} is {name}, which BAL and Bundler files cannot hold: they "
                "have one focal length and k1, k2 (SIMPLE_PINHOLE, SIMPLE_RADIAL, RADIAL, PINHOLE "
                "with fx = fy); write COLMAP's format instead"
            )


def _turned(
    whole: Reconstruction, cameras: Cameras, turn: np.ndarray, centre: np.ndarray
) -> Reconstruction:
    """With these cameras; images of those marked in `turn` look the other way, about `centre`."""
    images, seen = whole.images.copy(), whole.observations
    those = turn[images.camera]
    images.quaternion[those] = rotations.multiply(_HALF_TURN, images.quaternion[those])
    images.translation[those] *= [1, -1, -1]
    flip = np.where(those[:, None], [1.0, -1.0], 1.0)
    shift = centre[images.camera]
    xy = (seen.xy - shift[seen.image]) * flip[seen.image]
    keypoints = whole.keypoints and [
        (each - shift[i]) * flip[i] for i, each in enumerate(whole.keypoints)
    ]
    observations = replace(seen, xy=xy)
    return replace(
        whole, cameras=cameras, images=images, observations=observations, keypoints=keypoints
    )
