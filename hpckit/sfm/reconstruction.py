"""A reconstruction: cameras, images and where they stand, points, and where images see them.

Cameras and images are the same on all ranks. Points are cut into contiguous ranges, one per rank,
with about as many observations each; an observation lies on the rank of its point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from mpi4py import MPI
from numpy.typing import ArrayLike

from hpckit.sfm.cameras import Cameras
from hpckit.sfm.rotations import normalise


@dataclass
class Images:
    """Images and their poses, the same on all ranks: x_camera = R(quaternion) x + translation."""

    ids: np.ndarray  # (n,) int64, unique
    names: list[str]  # bytes that are no UTF-8 are kept by "surrogateescape"
    camera: np.ndarray  # (n,) int32, its place in `Cameras`
    quaternion: np.ndarray  # (n, 4) float64, w x y z, of length one
    translation: np.ndarray  # (n, 3) float64, in units of the world

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        camera: ArrayLike,
        quaternion: ArrayLike,
        translation: ArrayLike,
        ids: ArrayLike | None = None,
    ) -> Images:
        """From sequences; quaternions are made unit ones, ids count from 1. ::

        Images.of(["a.jpg"], camera=[0], quaternion=[[1, 0, 0, 0]], translation=[[0, 0, 0]])
        """
        return cls(
            np.arange(1, len(names) + 1) if ids is None else np.array(ids, np.int64),
            list(names),
            np.array(camera, np.int32),
            normalise(quaternion),
            np.array(translation, np.float64),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, places: np.ndarray, cameras: np.ndarray) -> Images:
        """Those of these places, of cameras of which those of `cameras` (ascending) are left."""
        return Images(
            self.ids[places],
            [self.names[i] for i in places],
            np.searchsorted(cameras, self.camera[places]).astype(np.int32),
            self.quaternion[places],
            self.translation[places],
        )

    def copy(self) -> Images:
        """Another one, with arrays of its own."""
        return Images(
            self.ids.copy(),
            list(self.names),
            self.camera.copy(),
            self.quaternion.copy(),
            self.translation.copy(),
        )


@dataclass
class Points:
    """Points of the world: those of this rank."""

    ids: np.ndarray  # (n,) int64, unique over all ranks
    xyz: np.ndarray  # (n, 3) float64
    rgb: np.ndarray  # (n, 3) uint8

    def __len__(self) -> int:
        return len(self.ids)


@dataclass
class Observations:
    """Where images see this rank's points: those of point p are `start[p]:start[p + 1]`."""

    start: np.ndarray  # (points + 1,) int64
    image: np.ndarray  # (n,) int32, its place in `Images`; an image may see a point several times
    xy: np.ndarray  # (n, 2) float64, pixels
    keypoint: np.ndarray  # (n,) int32, which of the image's keypoints it is; -1 where not known

    def __len__(self) -> int:
        return len(self.image)

    @property
    def point(self) -> np.ndarray:
        """Place of each one's point among this rank's: (n,) int64."""
        return np.repeat(np.arange(len(self.start) - 1), np.diff(self.start))

    def views(self, good: np.ndarray) -> np.ndarray:
        """How many images see each point, (points,) int64, by observations that are good: (n,)."""
        images = int(self.image.max(initial=0)) + 1
        pairs = np.unique(self.point[good] * images + self.image[good])
        return np.bincount(pairs // images, minlength=len(self.start) - 1)


@dataclass
class Reconstruction:
    """What `read` gives, `bundle_adjust` improves and `write` takes.

    comm : whose ranks share it
    behind : what becomes of observations of points behind their camera: "keep", their residual
        counts as it is (Bundle Adjustment in the Large); "zero", it is 0 (COLMAP); "drop", they
        are left out of the whole solve
    keypoints : rank 0's, of formats that list more than what is observed: (k, 2) float64 per image
    """

    comm: MPI.Intracomm
    cameras: Cameras
    images: Images
    points: Points
    observations: Observations
    behind: str = "zero"
    keypoints: list[np.ndarray] | None = field(default=None, repr=False)
