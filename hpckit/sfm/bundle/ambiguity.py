"""What images alone leave open in a solve that ended well: said in a sentence each."""

from __future__ import annotations

import numpy as np

from hpckit.sfm.bundle.survey import Survey
from hpckit.sfm.components import by_points
from hpckit.sfm.projection import centres
from hpckit.sfm.reconstruction import Reconstruction

_FAR = 1000.0  # times the distances between images: rays to such points meet at 0.06 degrees
_MOST = 0.9  # of the points


def ambiguities(reconstruction: Reconstruction, surveyed: Survey, placed: bool) -> list[str]:
    """Sentences, the same on all ranks; none where all is well (collective).

    placed : whether priors, or what is fixed, say where images are
    """
    comm, n = reconstruction.comm, len(reconstruction.images)
    found = []
    parts = by_points(comm, surveyed.start, surveyed.image, n)
    sizes = [len(part) for part in parts if surveyed.observations_of_image[part[0]]]
    if len(sizes) > 1 and not placed:
        found.append(
            f"the images fall into {len(sizes)} parts that share no point, of "
            f"{', '.join(map(str, sizes[:10]))} images: nothing says where they are to each other, "
            "or how large; adjust them apart, or fix or give priors to images of each"
        )
    points, distant = comm.allreduce(_distant(reconstruction, surveyed)).tolist()
    if points and distant >= _MOST * points:
        found.append(
            f"the images stand at one place: {distant} of {points} points are over {_FAR:g} times "
            "as far away as images are from each other, and their depths say nothing (a camera "
            "that only turned); add images from other places"
        )
    return found


def _distant(reconstruction: Reconstruction, surveyed: Survey) -> np.ndarray:
    """How many of this rank's points are observed, and how many of these are far away."""
    seen = centres(reconstruction.images)[surveyed.observations_of_image > 0]
    observed = reconstruction.points.xyz[np.diff(surveyed.start) > 0]
    if not len(observed):
        return np.zeros(2, np.int64)
    middle = np.median(seen, axis=0)
    spread = np.linalg.norm(seen - middle, axis=1).max()
    distance = np.linalg.norm(observed - middle, axis=1)
    return np.array([len(observed), np.count_nonzero(distance > _FAR * spread)])
