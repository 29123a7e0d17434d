"""Camera models: what their parameters are called, and which of them may be adjusted.

A camera is one set of intrinsics, which several images may share. Images look along +z, x to the
right and y down, in pixels, as in COLMAP; `BAL` alone looks along -z, as in Bundler and "Bundle
Adjustment in the Large" (Agarwal et al., ECCV 2010). What the models compute is in
`hpckit/sfm/kernels/cameras.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hpckit.errors import ConfigError

PARAMETERS = 12  # columns of `Cameras.parameters`: as many as the longest model has


class CameraModel(NamedTuple):
    """A way to project, and the names of its parameters, in COLMAP's order."""

    name: str
    number: int  # COLMAP's id of it; BAL has none there
    parameters: tuple[str, ...]

    @property
    def focal(self) -> list[int]:
        """Columns of the focal lengths."""
        return [i for i, name in enumerate(self.parameters) if name in ("f", "fx", "fy")]

    @property
    def principal_point(self) -> list[int]:
        """Columns of the principal point."""
        return [i for i, name in enumerate(self.parameters) if name in ("cx", "cy")]

    @property
    def distortion(self) -> list[int]:
        """Columns of all that is neither."""
        others = {*self.focal, *self.principal_point}
        return [i for i in range(len(self.parameters)) if i not in others]


_MODELS = [
    CameraModel("BAL", -1, ("f", "k1", "k2")),
    CameraModel("SIMPLE_PINHOLE", 0, ("f", "cx", "cy")),
    CameraModel("PINHOLE", 1, ("fx", "fy", "cx", "cy")),
    CameraModel("SIMPLE_RADIAL", 2, ("f", "cx", "cy", "k")),
    CameraModel("RADIAL", 3, ("f", "cx", "cy", "k1", "k2")),
    CameraModel("OPENCV", 4, ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2")),
    CameraModel("OPENCV_FISHEYE", 5, ("fx", "fy", "cx", "cy", "k1", "k2", "k3", "k4")),
    CameraModel(
        "FULL_OPENCV",
        6,
        ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"),
    ),
    CameraModel("SIMPLE_RADIAL_FISHEYE", 8, ("f", "cx", "cy", "k")),
    CameraModel("RADIAL_FISHEYE", 9, ("f", "cx", "cy", "k1", "k2")),
]
MODELS = {model.name: model for model in _MODELS}
BY_NUMBER = {model.number: model for model in _MODELS}


def camera_model(name: str) -> CameraModel:
    """The model of that name; `ConfigError` with the names that there are. ::

    camera_model("RADIAL").parameters  # ("f", "cx", "cy", "k1", "k2")
    """
    if name not in MODELS:
        raise ConfigError(f"camera model {name!r} is not known: there are {', '.join(MODELS)}")
    return MODELS[name]


@dataclass
class Cameras:
    """The intrinsics of all cameras, the same on all ranks.

    ::

        Cameras.of(("SIMPLE_RADIAL", 1920, 1080, [1500.0, 960.0, 540.0, 0.0]))
    """

    ids: np.ndarray  # (n,) int64, unique
    model: np.ndarray  # (n,) int32, `CameraModel.number`
    size: np.ndarray  # (n, 2) int64, width and height in pixels; 0 where they are not known
    parameters: np.ndarray  # (n, PARAMETERS) float64, zeros after the model's own

    @classmethod
    def of(cls, *cameras: tuple[str, int, int, list[float]]) -> Cameras:
        """From (model's name, width, height, parameters) of each; ids count from 1."""
        n = len(cameras)
        made = cls(
            np.arange(1, n + 1),
            np.empty(n, np.int32),
            np.empty((n, 2), np.int64),
            np.zeros((n, PARAMETERS)),
        )
        for i, (name, width, height, parameters) in enumerate(cameras):
            model = camera_model(name)
            if len(parameters) != len(model.parameters):
                raise ConfigError(
                    f"camera {i + 1}: {name} has {len(model.parameters)} parameters "
                    f"({', '.join(model.parameters)}), not {len(parameters)}"
                )
            made.model[i] = model.number
            made.size[i] = width, height
            made.parameters[i, : len(parameters)] = parameters
        return made

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def focal(self) -> np.ndarray:
        """Focal length of each, the mean of fx and fy without their signs: (n,) pixels."""
        means = [
            np.abs(self.parameters[i, self.model_of(i).focal]).mean() for i in range(len(self))
        ]
        return np.array(means)

    def model_of(self, i: int) -> CameraModel:
        """The model of camera `i`, counted from 0."""
        return BY_NUMBER[int(self.model[i])]

    def select(self, places: np.ndarray) -> Cameras:
        """Some of them, by a mask or places."""
        return Cameras(
            self.ids[places], self.model[places], self.size[places], self.parameters[places]
        )

    def copy(self) -> Cameras:
        """Another one, with arrays of its own."""
        return Cameras(self.ids.copy(), self.model.copy(), self.size.copy(), self.parameters.copy())
