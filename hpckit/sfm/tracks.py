"""Tracks: keypoints of many images that matches say are one point.

Matches are edges between keypoints; a track is a connected component. Each rank unites what its own
pairs match, in a union-find whose roots are smallest members; then ranks take the minimum of all
ranks' roots, each unites every keypoint with it, and so on until nothing changes. The result is
exact, and the same for any number of ranks; rounds are few, one 8-byte number per keypoint each.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from mpi4py import MPI

from hpckit import native
from hpckit.comm.partition import weighted_starts
from hpckit.errors import ConfigError, same, together
from hpckit.native import address
from hpckit.sfm.distribute import make_points
from hpckit.sfm.reconstruction import Observations, Reconstruction
from hpckit.sfm.viewgraph import ViewGraph

_KERNELS = "hpckit.sfm.kernels.tracks"


def build_tracks(
    graph: ViewGraph,
    *,
    min_length: int = 2,
    max_length: int | None = None,
    max_tracks: int | None = None,
    max_distance: float = 10.0,
    consistent: bool = True,
) -> Reconstruction:
    """Tracks of a view graph as observations of points at the origin, over ranks (collective).

    ::

        tracks = build_tracks(graph, min_length=3)
        len(tracks.points), len(tracks.observations)    # of this rank

    min_length, max_length : images that must, and may at most, see a track
    max_tracks : no more than so many in all: long ones first, such that all images see some
    max_distance : pixels. A track with keypoints of one image further apart than this is wrong
        somewhere and is dropped; of closer ones the first stays (COLMAP's global mapper)
    consistent : False keeps all such tracks and keypoints, for `triangulate` to choose

    Tracks are numbered from 1 in the order of their first keypoints, and cut over ranks by lengths;
    the same for any number of ranks. Raises `ConfigError` on all ranks for impossible limits.
    """
    limits = min_length, max_length, max_tracks, max_distance, consistent
    same(graph.comm, "the limits of tracks", limits)
    with together(graph.comm):
        _check(min_length, max_length, max_tracks, max_distance)
    tracks = _tracks(graph, track_of(graph))
    if consistent:
        tracks = _consistent(graph, tracks, max_distance)
    views = _views(tracks)
    most = math.inf if max_length is None else max_length
    tracks = _chosen(tracks, (views >= min_length) & (views <= most))
    if max_tracks is not None and len(tracks.start) - 1 > max_tracks:
        tracks = _chosen(tracks, _covering(graph, tracks, max_tracks))
    return _own(graph, tracks)


def track_of(graph: ViewGraph) -> np.ndarray:
    """The first keypoint of the track that each keypoint is in: (k,) int64, on all ranks.

    ::

        label = track_of(graph)
        label[a] == label[b]    # whether keypoints a and b are one point

    Keypoints count over all images, as `ViewGraph.keypoints` does. Collective.
    """
    kernels = native.load(_KERNELS)
    n, edges = len(graph.keypoints), np.ascontiguousarray(graph.global_matches(), np.int64)
    parent = np.arange(n)
    kernels.unite(len(edges), address(edges), address(parent))
    kernels.flatten(n, address(parent))
    united = graph.comm.size > 1
    while united:
        label = parent.copy()
        graph.comm.Allreduce(MPI.IN_PLACE, label, op=MPI.MIN)
        united = bool(graph.comm.allreduce(kernels.hook(n, address(label), address(parent))))
        kernels.flatten(n, address(parent))
    return parent


class _Tracks(NamedTuple):
    """Keypoints of tracks: those of track t are start[t]:start[t + 1], ascending."""

    start: np.ndarray  # (tracks + 1,) int64
    keypoint: np.ndarray  # (n,) int64, over all images
    image: np.ndarray  # (n,) int32

    @property
    def track(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.start) - 1), np.diff(self.start))


def _check(
    min_length: int, max_length: int | None, max_tracks: int | None, max_distance: float
) -> None:
    if min_length < 2:
        raise ConfigError(
            f"min_length is {min_length}, but one image shows no depth: give at least 2"
        )
    if max_length is not None and max_length < min_length:
        raise ConfigError(f"max_length is {max_length}, below min_length, which is {min_length}")
    if max_tracks is not None and max_tracks < 1:
        raise ConfigError(f"max_tracks is {max_tracks}, but must be at least 1, or None for all")
    if not max_distance >= 0:
        raise ConfigError(f"max_distance is {max_distance}, but must be at least 0 pixels")


def _tracks(graph: ViewGraph, label: np.ndarray) -> _Tracks:
    """Sets of two keypoints and more."""
    size = np.bincount(label, minlength=len(label))
    keypoint = np.flatnonzero(size[label] > 1)
    keypoint = keypoint[np.argsort(label[keypoint], kind="stable")]
    first = np.flatnonzero(size > 1)
    start = np.concatenate([[0], np.cumsum(size[first])])
    image = np.searchsorted(graph.keypoint_start, keypoint, side="right") - 1
    return _Tracks(start, keypoint, image.astype(np.int32))


def _firsts(tracks: _Tracks) -> np.ndarray:
    """Which keypoints are the first of their image in their track: (n,) bool."""
    first = np.ones(len(tracks.image), bool)
    first[1:] = tracks.image[1:] != tracks.image[:-1]
    first[tracks.start[:-1]] = True
    return first


def _views(tracks: _Tracks) -> np.ndarray:
    """How many images see each track."""
    return np.bincount(tracks.track[_firsts(tracks)], minlength=len(tracks.start) - 1)


def _consistent(graph: ViewGraph, tracks: _Tracks, max_distance: float) -> _Tracks:
    """Tracks whose keypoints of one image are close, and of these only the first."""
    first = _firsts(tracks)
    xy = graph.keypoints[tracks.keypoint]
    of_first = np.maximum.accumulate(np.where(first, np.arange(len(first)), 0))
    far = np.linalg.norm(xy - xy[of_first], axis=1) > max_distance
    wrong = np.bincount(tracks.track[far], minlength=len(tracks.start) - 1) > 0
    return _chosen(tracks, ~wrong, first)


def _chosen(tracks: _Tracks, which: np.ndarray, keypoints: np.ndarray | None = None) -> _Tracks:
    """Some tracks, (tracks,) bool, and of these some keypoints, (n,) bool."""
    track = tracks.track
    kept = which[track] if keypoints is None else which[track] & keypoints
    lengths = np.bincount(track[kept], minlength=len(which))[which]
    start = np.concatenate([[0], np.cumsum(lengths)])
    return _Tracks(start, tracks.keypoint[kept], tracks.image[kept])


def _covering(graph: ViewGraph, tracks: _Tracks, most: int) -> np.ndarray:
    """Which tracks to take: the longest, such that all images see some: (tracks,) bool."""
    n = len(tracks.start) - 1
    order = np.argsort(-np.diff(tracks.start), kind="stable")
    seen, chosen = np.zeros(len(graph.images), np.int64), np.zeros(n, np.int64)
    image = np.ascontiguousarray(tracks.image)
    arrays = order, tracks.start, image, seen, chosen
    native.load(_KERNELS).cover(n, *map(address, arrays), most)
    return chosen > 0


def _own(graph: ViewGraph, tracks: _Tracks) -> Reconstruction:
    """This rank's tracks."""
    cut = weighted_starts(np.diff(tracks.start), graph.comm.size)
    first, last = cut[graph.comm.rank], cut[graph.comm.rank + 1]
    begin, end = tracks.start[first], tracks.start[last]
    keypoint, image = tracks.keypoint[begin:end], tracks.image[begin:end].copy()
    seen = Observations(
        tracks.start[first : last + 1] - begin,
        image,
        graph.keypoints[keypoint],
        (keypoint - graph.keypoint_start[image]).astype(np.int32),
    )
    points = make_points(np.zeros((last - first, 3)), ids=np.arange(first + 1, last + 1))
    return Reconstruction(graph.comm, graph.cameras.copy(), graph.images.copy(), points, seen)
