"""What is in a reconstruction: how many of everything, how long tracks are, what hangs together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mpi4py import MPI

from hpckit.sfm.components import by_points
from hpckit.sfm.reconstruction import Observations, Reconstruction


@dataclass(frozen=True)
class Summary:
    """Numbers of a whole reconstruction, the same on all ranks."""

    cameras: int
    images: int
    points: int
    observations: int
    track_lengths: np.ndarray  # (longest + 1,) int64: how many points have 0, 1, ... observations
    one_view_points: int  # all their observations are in one image
    unobserved_images: np.ndarray  # ids
    components: list[np.ndarray]  # ids of images that hang together by points, largest first

    @property
    def unobserved_points(self) -> int:
        """Points without any observation."""
        return int(self.track_lengths[0])

    @property
    def mean_track_length(self) -> float:
        """Observations of each point that has any; 0 where none has. ::

        summarise(reconstruction).mean_track_length
        """
        return self.observations / max(self.points - self.unobserved_points, 1)


def summarise(reconstruction: Reconstruction) -> Summary:
    """Count what is in it; nothing is projected (collective).

    ::

        summary = summarise(reconstruction)
        [len(each) for each in summary.components]

    Two images hang together where both see a point, or both hang together with a third. Images
    that see nothing are in no component.
    """
    comm, seen, n = reconstruction.comm, reconstruction.observations, len(reconstruction.images)
    views = _sum(comm, np.bincount(seen.image, minlength=n))
    lengths = np.diff(seen.start)
    longest = comm.allreduce(int(lengths.max(initial=0)), MPI.MAX)
    ids = reconstruction.images.ids
    together = by_points(comm, seen.start, seen.image, n)
    return Summary(
        len(reconstruction.cameras),
        n,
        comm.allreduce(len(reconstruction.points)),
        int(views.sum()),
        _sum(comm, np.bincount(lengths, minlength=longest + 1)),
        comm.allreduce(_one_view(seen)),
        ids[views == 0],
        [ids[places] for places in together if views[places[0]] > 0],
    )


def _sum(comm: MPI.Intracomm, counts: np.ndarray) -> np.ndarray:
    total = counts.astype(np.int64)
    comm.Allreduce(MPI.IN_PLACE, total)
    return total


def _one_view(seen: Observations) -> int:
    starts = seen.start[:-1][np.diff(seen.start) > 0]
    if not len(starts):
        return 0
    first, last = (f.reduceat(seen.image, starts) for f in (np.minimum, np.maximum))
    return int(np.count_nonzero(first == last))
