"""From a reconstruction to blocks of two sides on the ranks that own them, and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mpi4py import MPI

from hpckit.sfm.bundle import table as tables
from hpckit.sfm.bundle.fixing import Free
from hpckit.sfm.bundle.frame import Frame
from hpckit.sfm.bundle.layout import (
    Layout,
    eliminate_points,
    eliminate_poses,
    eliminate_poses_with_cameras,
    lens_columns,
)
from hpckit.sfm.bundle.state import State, state
from hpckit.sfm.bundle.sums import LEAVES
from hpckit.sfm.bundle.survey import Survey
from hpckit.sfm.bundle.table import Table
from hpckit.sfm.reconstruction import Reconstruction


@dataclass
class Problem:
    """What a solve works on.

    owned : (ranks + 1,) which points each rank of the reconstruction holds
    held : (blocks, d) float64, 0 where a column of an eliminated block is fixed; None: nowhere
    """

    layout: Layout
    table: Table
    start: State
    held: np.ndarray | None
    owned: np.ndarray
    camera: np.ndarray  # (images,) int32

    rank: int

    @property
    def mine(self) -> slice:
        """This rank's eliminated blocks."""
        return slice(*map(int, self.table.edges[self.rank : self.rank + 2]))

    def points_of(self, comm: MPI.Intracomm, of: State) -> np.ndarray:
        """The points of the reconstruction's ranks, (n, 3) (collective)."""
        if self.layout.side == "points":
            if np.array_equal(self.owned, self.table.edges):
                return of.points
            return tables.recut(comm, of.points, self.table.edges, self.owned)
        return of.points[self.owned[comm.rank] : self.owned[comm.rank + 1]]

    def whole(self, comm: MPI.Intracomm, of: State) -> State:
        """With all poses and intrinsics up to date, rank 0's on all ranks (collective)."""
        quaternion, translation = of.quaternion, of.translation
        parameters = of.parameters
        if self.layout.side == "poses":
            quaternion, translation = (
                _everyone(comm, a[self.mine]) for a in (quaternion, translation)
            )
            if self.layout.eliminated_width > 6:
                rows = _everyone(comm, parameters[self.camera[self.mine]])
                parameters = parameters.copy()
                parameters[self.camera] = rows
        copies = [np.array(a) for a in (quaternion, translation, parameters)]
        for array in copies:
            comm.Bcast(array)
        return state(copies[0], copies[1], copies[2], of.points)


def problem(
    reconstruction: Reconstruction,
    free: Free,
    frame: Frame,
    survey: Survey,
    side: str,
    reproducible: bool,
) -> Problem:
    """The problem with that side eliminated, in that frame (collective)."""
    comm, images = reconstruction.comm, reconstruction.images
    counts = comm.allgather(len(reconstruction.points))
    owned = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    seen = survey.observations_of_image > 0
    used = np.bincount(images.camera[seen], minlength=len(reconstruction.cameras))
    lens = lens_columns(free.intrinsics, used > 0)
    start = state(
        images.quaternion,
        frame.translations_in(images.quaternion, images.translation),
        reconstruction.cameras.parameters,
        frame.points_in(reconstruction.points.xyz),
    )
    poses = free.poses & seen[:, None]
    build = _points_eliminated if side == "points" else _poses_eliminated
    return build(
        _Given(comm, survey, start, poses, free.points, images.camera, lens, owned, reproducible)
    )


@dataclass
class _Given:
    """What both ways to make a problem begin with.

    poses : (images, 6) bool, points : (this rank's,) bool, what is free; start : in the frame
    """

    comm: MPI.Intracomm
    survey: Survey
    start: State
    poses: np.ndarray
    points: np.ndarray
    camera: np.ndarray
    lens: np.ndarray
    owned: np.ndarray
    reproducible: bool


def _points_eliminated(given: _Given) -> Problem:
    comm, survey, start, owned = given.comm, given.survey, given.start, given.owned
    seen = survey.observations_of_image > 0
    layout = eliminate_points(given.poses, given.camera, seen, given.lens)
    counts = np.diff(survey.start)
    kept, xy, fixed = survey.image, survey.xy, ~given.points
    edges, ranges = owned, [(0, len(counts))]
    if given.reproducible:
        leaves = tables.leaves_of(comm, counts)
        edges, ranges = tables.of_ranks(leaves, comm.size), tables.ranges_of(leaves, comm)
        if not np.array_equal(edges, owned):
            old = tables.positions(comm, counts, owned)
            new = tables.positions(comm, tables.recut(comm, counts, owned, edges), edges)
            kept, xy = (tables.recut(comm, a, old, new) for a in (kept, xy))
            counts, fixed, start.points = (
                tables.recut(comm, a, owned, edges) for a in (counts, fixed, start.points)
            )
    first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    held = None
    if comm.allreduce(bool(fixed.any()), MPI.LOR):
        held = np.repeat(np.where(fixed, 0.0, 1.0), 3).reshape(-1, 3)
    table = Table(edges, first, kept, xy, ranges)
    return Problem(layout, table, start, held, owned, given.camera, comm.rank)


def _poses_eliminated(given: _Given) -> Problem:
    comm, survey, start, owned = given.comm, given.survey, given.start, given.owned
    camera, lens = given.camera, given.lens
    start.points = _everyone(comm, start.points)
    points = _everyone(comm, given.points) & (_everyone(comm, np.diff(survey.start)) > 0)
    point = np.repeat(np.arange(owned[comm.rank], owned[comm.rank + 1]), np.diff(survey.start))
    used = np.bincount(camera[survey.observations_of_image > 0], minlength=len(lens))
    if lens.size and used.max(initial=0) > 1:
        keys = point * len(lens) + camera[survey.image]
        pairs = np.unique(np.concatenate(comm.allgather(np.unique(keys))))
        kept = np.searchsorted(pairs, keys)
        layout = eliminate_poses(points, pairs % len(lens), pairs // len(lens), lens)
    else:
        kept = point
        layout = eliminate_poses_with_cameras(points, lens)
    total = comm.allreduce(np.bincount(survey.image, minlength=len(camera)))
    parts = tables.cut(total, LEAVES if given.reproducible else comm.size)
    edges = tables.of_ranks(parts, comm.size)
    order = np.argsort(survey.image, kind="stable")
    image = survey.image[order]
    to = np.searchsorted(image, edges)
    image, kept, xy = (
        tables.send_rows(comm, a, to)
        for a in (image, kept[order].astype(np.int32), survey.xy[order])
    )
    order = np.argsort(image, kind="stable")
    mine = np.arange(edges[comm.rank], edges[comm.rank + 1] + 1)
    first = np.searchsorted(image[order], mine).astype(np.int64)
    kept, xy = tables.in_order(first, kept[order], xy[order])
    table = Table(edges, first, kept, xy, tables.ranges_of(parts, comm))
    fixed = ~given.poses[edges[comm.rank] : edges[comm.rank + 1]]
    held = None
    if comm.allreduce(bool(fixed.any()), MPI.LOR):
        held = np.ones((len(fixed), layout.eliminated_width))
        held[:, :6][fixed] = 0
    return Problem(layout, table, start, held, owned, camera, comm.rank)


def _everyone(comm: MPI.Intracomm, rows: np.ndarray) -> np.ndarray:
    """All ranks' rows, on all ranks."""
    return rows if comm.size == 1 else np.concatenate(comm.allgather(rows))
