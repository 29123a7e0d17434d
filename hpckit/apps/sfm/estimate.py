"""`--dry-run` of `hpckit.apps.sfm`: memory and time of a bundle adjustment; arithmetic, no MPI."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpckit.apps.sfm.data import Counts, generated_counts
from hpckit.program.report import PROCESS

if TYPE_CHECKING:
    from hpckit.apps.sfm.config import Config

_OBSERVED = 28  # bytes of an observation in a reconstruction: start's share, image, xy, keypoint
_POINT = 43  # of a point: id, xyz, rgb, start
_IMAGE = 300  # of an image: pose, name, camera
_MAKING = 2  # copies while it is generated, scattered or written


@dataclass
class Estimate:
    """Bytes of a rank."""

    reconstruction: float
    generated: float

    @classmethod
    def of(cls, counts: Counts, ranks: int) -> Estimate:
        """Of a problem of that size."""
        shared = counts.observations * _OBSERVED + counts.points * _POINT
        data = shared / ranks + counts.images * _IMAGE
        return cls(data, PROCESS + _MAKING * data)


def problem_counts(config: Config, ranks: int) -> Counts:
    """How large the problem of a case is."""
    return generated_counts(config.generate, ranks)


def estimate(config: Config, ranks: int) -> str:
    """What a run on so many ranks would be like, for people."""
    return str(problem_counts(config, ranks))
