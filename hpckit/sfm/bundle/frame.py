"""The frame of the solver: the caller's world, centred and scaled."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from mpi4py import MPI

from hpckit.sfm import rotations

_SAMPLE = 200_000  # points, of all ranks, whose median is the centre
_SIZE = 100.0  # median distance from it in the frame of the solver, as Ceres' BAL example has it


class Frame(NamedTuple):
    """x_solver = scale (x_world - centre).

    Coordinates of millions, as of UTM, leave few digits for what is adjusted, and steps are damped
    alike along all axes: so both are brought to the same size first. Residuals are the same.
    """

    centre: np.ndarray  # (3,)
    scale: float

    def points_in(self, xyz: np.ndarray) -> np.ndarray:
        """Points of the world in the frame of the solver: (n, 3)."""
        return self.scale * (xyz - self.centre)

    def points_out(self, xyz: np.ndarray) -> np.ndarray:
        """The inverse."""
        return xyz / self.scale + self.centre

    def translations_in(self, quaternion: np.ndarray, translation: np.ndarray) -> np.ndarray:
        """Translations of poses: R x + t = (R x_solver + t_solver) / scale."""
        return self.scale * (translation + rotations.rotate(quaternion, self.centre))

    def translations_out(self, quaternion: np.ndarray, translation: np.ndarray) -> np.ndarray:
        """The inverse."""
        return translation / self.scale - rotations.rotate(quaternion, self.centre)


def frame(comm: MPI.Intracomm, xyz: np.ndarray, moves: bool) -> Frame:
    """The same on all ranks and for any cut of the points (collective).

    moves : whether the centre may move
    """
    counts = comm.allgather(len(xyz))
    before, total = sum(counts[: comm.rank]), sum(counts)
    stride = -(-total // _SAMPLE) or 1
    sample = comm.gather(xyz[-before % stride :: stride])
    found = None
    if sample:
        points = np.concatenate(sample)
        found = _frame(points, moves) if len(points) else Frame(np.zeros(3), 1.0)
    return comm.bcast(found)


def _frame(points: np.ndarray, moves: bool) -> Frame:
    centre = np.median(points, axis=0)
    deviation = float(np.median(np.abs(points - centre).sum(axis=1)))
    scale = _SIZE / deviation if deviation > 0 else 1.0
    return Frame(centre if moves else np.zeros(3), scale)
