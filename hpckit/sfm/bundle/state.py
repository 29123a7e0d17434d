"""What is adjusted, in the frame of the solver: poses, intrinsics and points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpckit.sfm import rotations
from hpckit.sfm.bundle.layout import Layout


@dataclass
class State:
    """Poses and intrinsics of all images and cameras, and points: this rank's, or all of them.

    Where poses are eliminated, only this rank's poses are up to date.
    """

    quaternion: np.ndarray  # (images, 4) float64
    translation: np.ndarray  # (images, 3) float64
    parameters: np.ndarray  # (cameras, PARAMETERS) float64
    points: np.ndarray  # (n, 3) float64
    rotation: np.ndarray  # (images, 3, 3) float64, of the quaternions

    def moved(
        self, layout: Layout, x: np.ndarray, step: np.ndarray, mine: slice, camera: np.ndarray
    ) -> State:
        """After a step x of the kept unknowns and `step`, (blocks, d), of this rank's eliminated.

        mine : the eliminated images; camera : of each image
        """
        parameters = _added(self.parameters, layout.cameras, x, layout.lens)
        if layout.side == "points":
            assert layout.poses is not None
            pose = _taken(layout.poses, x)
            turn = rotations.exp(pose[:, :3])
            quaternion = rotations.normalise(rotations.multiply(turn, self.quaternion))
            translation = self.translation + pose[:, 3:]
            return _state(quaternion, translation, parameters, self.points + step)
        assert layout.points is not None
        quaternion, translation = self.quaternion.copy(), self.translation.copy()
        turn = rotations.exp(step[:, :3])
        quaternion[mine] = rotations.normalise(rotations.multiply(turn, quaternion[mine]))
        translation[mine] += step[:, 3:6]
        if step.shape[1] > 6:
            at = camera[mine]
            row, column = np.nonzero(layout.lens[at] >= 0)
            parameters = parameters.copy()
            parameters[at[row], layout.lens[at][row, column]] += step[row, 6 + column]
        points = self.points + _taken(layout.points, x)
        return _state(quaternion, translation, parameters, points)


def state(
    quaternion: np.ndarray, translation: np.ndarray, parameters: np.ndarray, points: np.ndarray
) -> State:
    """A state of these arrays, which are not copied."""
    whole = np.ascontiguousarray
    return _state(whole(quaternion), whole(translation), whole(parameters), whole(points))


def _state(
    quaternion: np.ndarray, translation: np.ndarray, parameters: np.ndarray, points: np.ndarray
) -> State:
    rotation = np.ascontiguousarray(rotations.to_matrix(quaternion))
    return State(quaternion, translation, parameters, points, rotation)


def _taken(unknowns: np.ndarray, x: np.ndarray) -> np.ndarray:
    """x of each, 0 where there is none."""
    return np.where(unknowns >= 0, x[unknowns] if len(x) else 0.0, 0.0)


def _added(
    parameters: np.ndarray, unknowns: np.ndarray | None, x: np.ndarray, lens: np.ndarray
) -> np.ndarray:
    """Parameters of all cameras after this step."""
    if unknowns is None or not unknowns.size:
        return parameters
    row, column = np.nonzero(unknowns >= 0)
    changed = parameters.copy()
    changed[row, lens[row, column]] += x[unknowns[row, column]]
    return changed
