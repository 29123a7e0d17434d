"""The view graph: images, their keypoints, and pairs of images that see the same things.

Cameras, images and keypoints are the same on all ranks; pairs, with what is known of their
geometry and their matches, are dealt to ranks in contiguous ranges with about as many matches each.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import IntEnum
from itertools import pairwise
from typing import Any

import numpy as np
from mpi4py import MPI

from hpckit.errors import agree, together
from hpckit.sfm.cameras import Cameras
from hpckit.sfm.components import by_pairs
from hpckit.sfm.reconstruction import Images


class Config(IntEnum):
    """What COLMAP found of the geometry of a pair."""

    UNDEFINED = 0
    DEGENERATE = 1  # too few inliers of any geometry
    CALIBRATED = 2  # E, from known focal lengths
    UNCALIBRATED = 3  # F
    PLANAR = 4  # H, with parallax
    PANORAMIC = 5  # H, without
    PLANAR_OR_PANORAMIC = 6
    WATERMARK = 7  # the image border moves with the camera: no geometry
    MULTIPLE = 8  # several geometries, none of which is stored
    CALIBRATED_RIG = 9


@dataclass
class ViewGraph:
    """What `read_database` gives and the global stages take.

    ::

        graph = read_database("database.db", comm)
        i, j = graph.pairs[0]
        first, second = graph.matched(0)    # pixels of its matches in images i and j
        good = graph.select(graph.inliers >= 15)
    """

    comm: MPI.Intracomm
    cameras: Cameras
    prior_focal: np.ndarray  # (cameras,) bool: the focal length is known, not guessed
    images: Images  # poses are unknown: identities
    keypoint_start: np.ndarray  # (images + 1,) int64: those of image i are start[i]:start[i + 1]
    keypoints: np.ndarray  # (k, 2) float64, pixels

    pairs: np.ndarray  # (m, 2) int32, this rank's: places of images, the lower first
    config: np.ndarray  # (m,) int8, `Config`
    F: np.ndarray  # (m, 3, 3) float64, x_j^T F x_i = 0 in pixels; NaN where not stored
    E: np.ndarray  # (m, 3, 3) float64, the same for rays; NaN where not stored
    H: np.ndarray  # (m, 3, 3) float64, x_j ~ H x_i in pixels; NaN where not stored
    quaternion: np.ndarray  # (m, 4) float64, x_j = R x_i + t; NaN where not stored
    translation: np.ndarray  # (m, 3) float64, of any length; NaN where not stored
    match_start: np.ndarray  # (m + 1,) int64
    matches: np.ndarray  # (n, 2) int32, inliers: keypoints of image i and of image j, from 0

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def inliers(self) -> np.ndarray:
        """How many matches each pair of this rank has: (m,) int64."""
        return np.diff(self.match_start)

    @property
    def match_pair(self) -> np.ndarray:
        """The pair of this rank that each match is of: (n,) int64."""
        return np.repeat(np.arange(len(self)), self.inliers)

    def global_matches(self) -> np.ndarray:
        """Matches as places in `keypoints`, of all images: (n, 2) int64."""
        return self.keypoint_start[self.pairs[self.match_pair]] + self.matches

    def matched(self, pair: int) -> tuple[np.ndarray, np.ndarray]:
        """Pixels of the matches of one of this rank's pairs, in both images: (n, 2) each."""
        start, stop = self.match_start[pair : pair + 2]
        places = self.keypoint_start[self.pairs[pair]] + self.matches[start:stop]
        return self.keypoints[places[:, 0]], self.keypoints[places[:, 1]]

    def select(self, chosen: np.ndarray) -> ViewGraph:
        """The same graph with some of this rank's pairs: a mask or ascending places."""
        places = np.flatnonzero(chosen) if np.asarray(chosen).dtype == bool else np.asarray(chosen)
        counts = self.inliers[places]
        start = np.concatenate([[0], np.cumsum(counts)])
        rows = np.arange(start[-1]) + np.repeat(self.match_start[places] - start[:-1], counts)
        kept = {name: getattr(self, name)[places] for name in _PER_PAIR}
        return replace(self, **kept, match_start=start, matches=self.matches[rows])

    def keep_matches(self, good: np.ndarray) -> ViewGraph:
        """The same graph with some of this rank's matches: (n,) bool."""
        counts = np.bincount(self.match_pair[good], minlength=len(self))
        start = np.concatenate([[0], np.cumsum(counts)])
        return replace(self, match_start=start, matches=self.matches[good])

    def components(self) -> list[np.ndarray]:
        """Images that pairs of all ranks join: ascending places, the largest first (collective).

        ::

            for images in graph.components():
                model = graph.restrict(images)
        """
        return by_pairs(self.comm, self.pairs, len(self.images))

    def restrict(self, images: np.ndarray) -> ViewGraph:
        """The graph of some images, ascending places: their cameras, keypoints and pairs."""
        place = np.full(len(self.images), -1)
        place[images] = np.arange(len(images))
        inside = self.select((place[self.pairs] >= 0).all(1))
        used = np.unique(self.images.camera[images])
        starts = self.keypoint_start
        keypoints = [self.keypoints[starts[i] : starts[i + 1]] for i in images]
        return replace(
            inside,
            cameras=self.cameras.select(used),
            prior_focal=self.prior_focal[used],
            images=self.images.select(images, used),
            keypoint_start=np.concatenate([[0], np.cumsum(np.diff(starts)[images])]),
            keypoints=np.concatenate([np.empty((0, 2)), *keypoints]),
            pairs=place[inside.pairs].astype(np.int32),
        )


_PER_PAIR = ("pairs", "config", "F", "E", "H", "quaternion", "translation")
_REPLICATED = ("cameras", "prior_focal", "images", "keypoint_start", "keypoints")


def deal(whole: ViewGraph | None, comm: MPI.Intracomm) -> ViewGraph:
    """Rank 0's view graph of all pairs, dealt to all ranks of `comm` (collective).

    ::

        graph = deal(whole if comm.rank == 0 else None, comm)

    Pairs keep their order, so that those of all ranks in turn are the same for any number of
    ranks. Raises `MemoryError` on all ranks where one has no room.
    """
    with together(comm):
        parts = [] if whole is None else _parts(whole, comm.size)
    replicated: dict[str, Any] = {name: _everywhere(comm, whole, name) for name in _REPLICATED}
    own: dict[str, Any] = {
        name: _scattered(comm, [getattr(p, name) for p in parts]) for name in _SCATTERED
    }
    return ViewGraph(comm=comm, **replicated, **own)


_SCATTERED = (*_PER_PAIR, "match_start", "matches")
assert {f.name for f in fields(ViewGraph)} == {"comm", *_REPLICATED, *_SCATTERED}


def _parts(whole: ViewGraph, size: int) -> list[ViewGraph]:
    """One per rank, contiguous: the cuts are nearest to equal shares of matches (and pairs)."""
    load = whole.match_start + np.arange(len(whole) + 1)  # a pair costs a little even without any
    shares = load[-1] * np.arange(size + 1) / size
    cuts = np.searchsorted(load, shares)
    return [whole.select(np.arange(a, b)) for a, b in pairwise(cuts)]


def _everywhere(comm: MPI.Intracomm, whole: ViewGraph | None, name: str) -> Any:
    """A field of rank 0's graph, on all ranks."""
    value = getattr(whole, name, None)
    if name != "keypoints":
        return comm.bcast(value)
    shape = comm.bcast(None if value is None else value.shape)
    array = np.empty(shape) if value is None else np.ascontiguousarray(value)
    row = MPI.DOUBLE.Create_contiguous(2).Commit()  # counts are of rows: 2**31 of them fit
    comm.Bcast([array, shape[0], row])
    row.Free()
    return array


def _scattered(comm: MPI.Intracomm, parts: list[np.ndarray]) -> np.ndarray:
    """Each rank's own array, of which rank 0 has all."""
    heads = [(part.shape, part.dtype) for part in parts] or None
    shape, dtype = comm.scatter(heads)
    error = None
    try:
        own = np.empty(shape, dtype)
    except MemoryError as caught:
        error, own = caught, np.empty(0, dtype)
    agree(comm, error)
    row = MPI.BYTE.Create_contiguous(dtype.itemsize * int(np.prod(shape[1:]))).Commit()
    if comm.rank:
        comm.Recv([own, shape[0], row])
    else:
        own[...] = parts[0]
        for rank, part in enumerate(parts[1:], 1):
            comm.Send([np.ascontiguousarray(part), len(part), row], rank)
    row.Free()
    return own
