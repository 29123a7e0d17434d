"""Reprojection errors of a distributed reconstruction, as few numbers for tables and pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mpi4py import MPI

from hpckit.sfm.projection import residuals
from hpckit.sfm.reconstruction import Reconstruction

_BINS = np.logspace(-3, 4, 141)  # pixels


@dataclass
class Errors:
    """Reprojection errors of all observations, in pixels.

    cost : 1/2 sum |r|^2, without any loss; rms : of |r|
    mean : of |r|, of those in front of their camera, as COLMAP says it
    counts : (bins,) how many have |r| between `edges`, (bins + 1,); smaller and larger ones are in
        the first and the last
    per_image : (images,) root mean square; NaN where an image sees nothing
    """

    cost: float
    rms: float
    mean: float
    behind: int
    counts: np.ndarray
    edges: np.ndarray
    per_image: np.ndarray


def errors(reconstruction: Reconstruction) -> Errors:
    """Of this state of it (collective)."""
    r, depth = residuals(reconstruction)
    squares = np.nan_to_num((r**2).sum(axis=1), nan=np.inf)
    size = np.sqrt(squares)
    image, n = reconstruction.observations.image, len(reconstruction.images)
    counts = np.histogram(np.clip(size, _BINS[0], _BINS[-1]), _BINS)[0]
    front = depth > 0
    numbers = [squares.sum(), size[front].sum(), front.sum(), len(size)]
    mine = [numbers, counts, np.bincount(image, squares, n), np.bincount(image, minlength=n)]
    total = np.concatenate(mine).astype(float)
    reconstruction.comm.Allreduce(MPI.IN_PLACE, total)
    (sum_of_squares, sum_front, in_front, count), counts, square, number = np.split(
        total, np.cumsum([len(each) for each in mine])[:-1]
    )
    with np.errstate(invalid="ignore"):
        per_image = np.sqrt(square / np.where(number, number, np.nan))
    return Errors(
        sum_of_squares / 2,
        float(np.sqrt(sum_of_squares / max(count, 1))),
        float(sum_front / max(in_front, 1)),
        int(count - in_front),
        counts,
        _BINS,
        per_image,
    )
