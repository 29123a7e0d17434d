"""What pictures and tables need of a distributed reconstruction: few numbers, and some points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mpi4py import MPI

from hpckit.sfm import rotations
from hpckit.sfm.projection import residuals
from hpckit.sfm.reconstruction import Reconstruction

_DRAWN = 60_000  # points in a picture, of all ranks
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


def cloud(reconstruction: Reconstruction) -> Cloud | None:
    """Of its present state, on rank 0; None on the others (collective).

    At most so many points that they stay legible, the same ones whenever it is called.
    """
    comm, points, images = reconstruction.comm, reconstruction.points, reconstruction.images
    total = comm.allreduce(len(points))
    each = max(1, -(-total // _DRAWN))
    parts = comm.gather((points.xyz[::each], points.rgb[::each]))
    if parts is None:
        return None
    rows = rotations.to_matrix(images.quaternion)
    bal = reconstruction.cameras.model[images.camera] == -1
    signs = np.where(bal[:, None], [1.0, 1.0, -1.0], [1.0, -1.0, 1.0])
    return Cloud(
        np.concatenate([xyz for xyz, _ in parts]),
        np.concatenate([rgb for _, rgb in parts]),
        centres(reconstruction),
        rows * signs[:, :, None],
    )


def track_lengths(reconstruction: Reconstruction) -> np.ndarray:
    """How many points have 0, 1, 2 ... views: (longest + 1,) (collective)."""
    comm, lengths = reconstruction.comm, np.diff(reconstruction.observations.start)
    longest = comm.allreduce(int(lengths.max(initial=0)), MPI.MAX)
    return comm.allreduce(np.bincount(lengths, minlength=longest + 1))


def components(reconstruction: Reconstruction) -> list[int]:
    """How many images each component has that points join, largest first (collective).

    Images that see nothing are in none. Ranks find the components of their own points; that an
    image is in the same one as another, on any rank, is all that they need to tell each other.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    comm, seen = reconstruction.comm, reconstruction.observations
    n = len(reconstruction.images)
    used = comm.allreduce(np.bincount(seen.image, minlength=n)) > 0

    def labels(a: np.ndarray, b: np.ndarray, size: int) -> np.ndarray:
        graph = coo_array((np.ones(len(a), np.int8), (a, b)), (size, size))
        return connected_components(graph, directed=False)[1]

    mine = labels(seen.image, n + seen.point, n + len(reconstruction.points))[:n]
    first = np.full(mine.max(initial=0) + 1, n)
    np.minimum.at(first, mine, np.arange(n))
    all_of_them = np.array(comm.allgather(first[mine])).ravel()
    whole = labels(np.tile(np.arange(n), comm.size), all_of_them, n)
    return sorted(np.unique(whole[used], return_counts=True)[1].tolist(), reverse=True)


def centres(reconstruction: Reconstruction) -> np.ndarray:
    """Where images were taken: (images, 3)."""
    images = reconstruction.images
    return rotations.rotate(rotations.conjugate(images.quaternion), -images.translation)
