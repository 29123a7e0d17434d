"""What a picture shows of a scene, and from where: chosen by what most points do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpckit.sfm import rotations
from hpckit.sfm.projection import centres
from hpckit.sfm.reconstruction import Reconstruction

_DRAWN = 60_000  # points in a picture, of all ranks
_INSIDE = (2.0, 98.0)  # percent of the points that a picture holds
_MARGIN = 0.04  # around them, in parts of the width
_THINNEST = 0.15  # height of a picture by its width, and the other way round
_TILT = 0.6  # radians above the horizon, for scenes that are seen from outside


@dataclass
class Cloud:
    """What a picture of a scene shows.

    xyz, rgb : (s, 3) some of the points; centre : (images, 3)
    axes : (images, 3, 3), right, up and ahead of each image, as rows
    """

    xyz: np.ndarray
    rgb: np.ndarray
    centre: np.ndarray
    axes: np.ndarray


def cloud(reconstruction: Reconstruction, min_views: int = 0) -> Cloud | None:
    """Of its present state, on rank 0; None on the others (collective).

    min_views : of points that are shown; at most so many that they stay legible, the same ones
        whenever it is called
    """
    comm, points, images = reconstruction.comm, reconstruction.points, reconstruction.images
    total = comm.allreduce(len(points))
    each = max(1, -(-total // _DRAWN))
    shown = np.flatnonzero(np.diff(reconstruction.observations.start) >= min_views)[::each]
    parts = comm.gather((points.xyz[shown], points.rgb[shown]))
    if parts is None:
        return None
    rows = rotations.to_matrix(images.quaternion)
    bal = reconstruction.cameras.model[images.camera] == -1
    signs = np.where(bal[:, None], [1.0, 1.0, -1.0], [1.0, -1.0, 1.0])
    return Cloud(
        np.concatenate([xyz for xyz, _ in parts]),
        np.concatenate([rgb for _, rgb in parts]),
        centres(images),
        rows * signs[:, :, None],
    )


@dataclass
class View:
    """A parallel projection.

    middle : (3,); right, up, towards : (3,) unit vectors, those of the paper and of the looker
    low, high : (2,) what of the paper is shown; unit : length of a camera, in units of the world
    """

    middle: np.ndarray
    right: np.ndarray
    up: np.ndarray
    towards: np.ndarray
    low: np.ndarray
    high: np.ndarray
    unit: float

    @property
    def ratio(self) -> float:
        """Width by height."""
        width, height = self.high - self.low
        return float(width / height)

    def project(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, 2) on paper, and how far away, (n,)."""
        d = x - self.middle
        return np.column_stack([d @ self.right, d @ self.up]), -(d @ self.towards)


def best_view(cloud: Cloud) -> View:
    """Obliquely from above, the longest horizontal direction across the paper.

    Above is where most images have their upper edge. The scene is what lies between percentiles:
    a few points of any reconstruction are near infinity.
    """
    vertical = _unit(cloud.axes[:, 1].sum(axis=0), np.array([0.0, 0.0, 1.0]))
    seen = cloud.xyz if len(cloud.xyz) else cloud.centre
    both = np.concatenate([_core(seen), cloud.centre])
    middle = np.median(both, axis=0)
    flat = both - middle
    flat = flat - np.outer(flat @ vertical, vertical)
    right = _unit(np.linalg.svd(flat, full_matrices=False)[2][0], np.array([1.0, 0.0, 0.0]))
    right = _unit(right - vertical * (right @ vertical), right)
    depth = np.cross(vertical, right)  # away from the looker
    looks = cloud.axes[:, 2].mean(axis=0)
    if looks @ depth < 0:  # see what the cameras see: from behind them
        right, depth = -right, -depth
    towards = np.sin(_TILT) * vertical - np.cos(_TILT) * depth
    up = np.cos(_TILT) * vertical + np.sin(_TILT) * depth
    view = View(middle, right, up, towards, np.zeros(2), np.ones(2), 1.0)
    paper, core = view.project(cloud.centre)[0], view.project(_core(seen))[0]
    low = np.minimum(*(np.percentile(each, _INSIDE[0], axis=0) for each in (paper, core)))
    high = np.maximum(*(np.percentile(each, _INSIDE[1], axis=0) for each in (paper, core)))
    width = float(max((high - low).max(), 1e-300))
    lacking = np.maximum(_THINNEST * width - (high - low), 0) / 2
    view.low = low - lacking - _MARGIN * width
    view.high = high + lacking + _MARGIN * width
    view.unit = float(np.clip(_spacing(cloud.centre), 0.01 * width, 0.035 * width))
    return view


def _spacing(centre: np.ndarray) -> float:
    """From an image to the next, as a rule."""
    steps = np.linalg.norm(np.diff(centre, axis=0), axis=1)
    return float(np.median(steps)) if len(steps) else 0.0


def _core(x: np.ndarray) -> np.ndarray:
    """Points within the percentiles of each coordinate; all where nothing would be left."""
    if len(x) < 3:
        return x
    low, high = np.percentile(x, _INSIDE, axis=0)
    inside = ((x >= low) & (x <= high)).all(axis=1)
    return x[inside] if inside.any() else x


def _unit(x: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(x)
    return x / length if length > 1e-12 else otherwise
