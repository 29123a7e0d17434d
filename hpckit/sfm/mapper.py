"""The global mapper: from a database of matches to models, every stage over all ranks.

    view graph       pairs of images and their inliers, from the database
    focal lengths    of cameras that are only guessed, from the pairs' F
    relative poses   of pairs, from E, F or H
    rotations        of all images at once; pairs that disagree go, and once more
    tracks           keypoints that matches join
    positions        of all images and points at once, from random ones
    adjustment       triangulation and bundle adjustment in turn, with tighter and tighter limits

The idea of solving for all images at once is that of GLOMAP (Pan et al., "Global structure from
motion revisited", ECCV 2024); what connected images see becomes one model each.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from mpi4py import MPI

from hpckit.errors import ConfigError, check_comm, same, together
from hpckit.sfm import rotations
from hpckit.sfm.bundle.adjust import bundle_adjust
from hpckit.sfm.filters import filter_points, of_images, well_seen
from hpckit.sfm.formats.database import read_database
from hpckit.sfm.losses import Huber
from hpckit.sfm.positioning import PositioningReport, position_globally
from hpckit.sfm.projection import centres, residuals
from hpckit.sfm.reconstruction import Reconstruction
from hpckit.sfm.relative import focal_lengths, relative_poses
from hpckit.sfm.rotation_averaging import average_rotations
from hpckit.sfm.stages import Stage, Stages
from hpckit.sfm.tracks import build_tracks
from hpckit.sfm.triangulation import triangulate
from hpckit.sfm.viewgraph import Config, ViewGraph

MIN_INLIERS = 15  # matches of a pair: fewer may be chance
MAX_ROTATION = 10.0  # degrees that a pair may disagree with the averaged rotations
MIN_ANGLE = 1.5  # degrees between rays of a point
MIN_OBSERVATIONS = 10  # of points, that an image needs
ROUNDS = (6.0, 2.0)  # times max_error: what agrees, adjustment after adjustment
LOSS = Huber(2.0)  # pixels
_LOOSE = 1e-4  # ftol of adjustments after which others come
_TIGHT = 1e-8  # of the last ones: focal length and distortion nearly make up for each other
_STARTS = 3  # of positions, from random ones
_AVERAGINGS = 2  # of rotations, each without the pairs that the last found wrong
_FOCAL_CHANGE = 0.05  # of a focal length, from which on rotations and positions are found again
_PASSES = 3  # of all that, at most
_MAX_ROUNDS = 5  # with all tracks, after these
_NO_POSE = (Config.UNDEFINED, Config.DEGENERATE, Config.WATERMARK, Config.MULTIPLE)


def global_mapper(
    database: str | os.PathLike[str] | ViewGraph,
    comm: MPI.Intracomm = MPI.COMM_WORLD,
    *,
    min_images: int = 3,
    min_views: int = 3,
    max_error: float = 4.0,
    max_tracks: int | None = None,
    seed: int = 0,
    callback: Callable[[Stage], object] | None = None,
) -> list[Reconstruction]:
    """Models of the images of a COLMAP database, one per connected component (collective).

    ::

        for i, model in enumerate(global_mapper("database.db")):
            write(model, f"sparse/{i}")

    database : path of COLMAP's database, or a view graph over the ranks of `comm`
    min_images : components of fewer are left out
    min_views : images that must see a track; in the end two of them must agree on its point
    max_error : pixels that an observation may be off in the end
    max_tracks : no more than so many tracks of a model, to bound memory; None, all
    seed : of the random start of positions, which is the same on any number of ranks
    callback : called with each `Stage` on all ranks

    Returns models distributed over ranks, that of most images first, in frames of their own: the
    first image is not turned, centres have mean 0 and are 1 from it in the root mean square. Images
    that see too little are in none. On another number of ranks sums differ in the last digits, by
    which a few observations (below 1 %) may be in or out, and centres move by less than 1e-3 of the
    extent. Raises `ConfigError` on all ranks for a database that `read_database` refuses, and where
    there is no model of `min_images`.
    """
    check_comm(comm)
    limits = _Limits(min_images, min_views, max_error, max_tracks, seed)
    same(comm, "arguments of global_mapper", limits)
    with together(comm):
        _check(limits)
    stages = Stages(comm, callback)
    graph = database if isinstance(database, ViewGraph) else read_database(database, comm)
    graph = _calibrated(_usable(graph, stages), stages)
    models = _models(graph, limits, stages)
    for _ in range(1, _PASSES):
        if not _corrected(graph, models):
            break
        again = _models(graph, limits, stages)
        models = max(again, models, key=lambda each: sum(stages.count(m)[1] for m in each))
    if not models:
        raise ConfigError(
            f"no {min_images} of the {len(graph.images)} images are connected by matches of points "
            "that they see from different places: match more pairs, or lower min_images or "
            "min_views (at least 2)"
        )
    return models


@dataclass(frozen=True)
class _Limits:
    """The arguments of `global_mapper` of these names."""

    min_images: int
    min_views: int
    max_error: float
    max_tracks: int | None
    seed: int


def _check(limits: _Limits) -> None:
    counts = {name: getattr(limits, name) for name in ("min_images", "min_views")}
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 2:
            raise ConfigError(f"{name} is {value!r}, but must be an integer of at least 2")
    if not 0 < limits.max_error < np.inf:
        raise ConfigError(f"max_error is {limits.max_error}, but must be above 0 pixels")
    if limits.max_tracks is not None and limits.max_tracks < 1:
        raise ConfigError(f"max_tracks is {limits.max_tracks}, but must be at least 1, or None")


def _usable(graph: ViewGraph, stages: Stages) -> ViewGraph:
    """Pairs that have a geometry, with enough inliers; cameras of its own."""
    left = graph.select(~np.isin(graph.config, _NO_POSE) & (graph.inliers >= MIN_INLIERS))
    pairs, inliers = stages.total(len(left), len(left.matches))
    stages.tell("view graph", images=len(graph.images), pairs=pairs, matches=inliers)
    return replace(left, cameras=graph.cameras.copy(), images=graph.images.copy())


def _calibrated(graph: ViewGraph, stages: Stages) -> ViewGraph:
    """With the focal lengths that F of all pairs ask for, of cameras whose own is only guessed."""
    if graph.prior_focal.all():
        return graph
    old, new = graph.cameras.focal, focal_lengths(graph)
    for i in np.flatnonzero(~graph.prior_focal).tolist():
        graph.cameras.parameters[i, graph.cameras.model_of(i).focal] *= new[i] / old[i]
    changes = new[~graph.prior_focal] / old[~graph.prior_focal]
    stages.tell(
        "focal lengths", cameras=len(changes), least_factor=changes.min(), most=changes.max()
    )
    return graph


def _models(graph: ViewGraph, limits: _Limits, stages: Stages) -> list[Reconstruction]:
    """All stages after the view graph, with the focal lengths as they are."""
    stages.model = -1
    oriented = _oriented(_related(graph, stages), stages)
    models: list[Reconstruction] = []
    for images in oriented.components():
        if len(images) >= limits.min_images:
            for tracks in _positioned(oriented.restrict(images), limits, stages):
                stages.model = len(models)
                model = _adjusted(tracks, _all_tracks(graph, tracks, limits), limits, stages)
                if len(model.images) >= limits.min_images:
                    models.append(_finished(model, graph))
    return sorted(models, key=lambda model: len(model.images), reverse=True)


def _corrected(graph: ViewGraph, models: list[Reconstruction]) -> bool:
    """Take over the intrinsics that adjustments found; whether a focal length was far off.

    Where it was, relative poses, rotations and positions were found with a wrong one.
    """
    changed = False
    for model in reversed(models):  # the largest model has the last word
        places = np.searchsorted(graph.cameras.ids, model.cameras.ids)
        old, new = graph.cameras.parameters[places], model.cameras.parameters
        focal = [model.cameras.model_of(i).focal for i in range(len(model.cameras))]
        changes = [abs(new[i, f] / old[i, f] - 1).max() for i, f in enumerate(focal)]
        changed = changed or bool(max(changes) > _FOCAL_CHANGE)
        graph.cameras.parameters[places] = new
    return changed


def _related(graph: ViewGraph, stages: Stages) -> ViewGraph:
    """With relative poses, and only the pairs that have one."""
    quaternion, translation, good = relative_poses(graph)
    graph = replace(graph, quaternion=quaternion, translation=translation).select(good)
    pairs, inliers = stages.total(len(graph), len(graph.matches))
    stages.tell("relative poses", pairs=pairs, matches=inliers)
    return graph


def _oriented(graph: ViewGraph, stages: Stages) -> ViewGraph:
    """With the images' rotations, and without pairs that disagree with them."""
    for _ in range(_AVERAGINGS):
        n, weights = len(graph.images), graph.inliers.astype(float)
        graph.images.quaternion, report = average_rotations(
            graph.comm, n, graph.pairs, graph.quaternion, weights
        )
        good = report.angle <= np.radians(MAX_ROTATION)
        graph = graph.select(good)
        (pairs,) = stages.total(len(graph))
        error = stages.mean(np.degrees(report.angle[good]))
        stages.tell("rotations", pairs=pairs, mean_degrees=error)
    return graph


def _positioned(graph: ViewGraph, limits: _Limits, stages: Stages) -> list[Reconstruction]:
    """Tracks and poses of images that pairs connect: apart where tracks do not connect them."""
    tracks = build_tracks(graph, min_length=limits.min_views, max_tracks=limits.max_tracks)
    tracks = of_images(tracks, well_seen(tracks, MIN_OBSERVATIONS))
    points, seen = stages.count(tracks)
    images = len(tracks.images)
    stages.tell("tracks", images=images, tracks=points, observations=seen)
    if images < limits.min_images:
        return []
    known = graph.prior_focal[np.searchsorted(graph.cameras.ids, tracks.cameras.ids)]
    report = _best_of_starts(tracks, known, limits.seed)
    stages.tell("positions", iterations=report.iterations, cost=report.cost)
    parts = [np.flatnonzero(report.component == first) for first in np.unique(report.component)]
    return [of_images(tracks, part) for part in parts if len(part) >= limits.min_images]


def _best_of_starts(tracks: Reconstruction, known: np.ndarray, seed: int) -> PositioningReport:
    """Positions from random starts: the one that ends at the least cost. Few end elsewhere."""
    best = None
    for start in range(_STARTS):
        report = position_globally(
            tracks, known_focal=known, min_views=2, seed=_STARTS * seed + start
        )
        if best is None or report.cost < best[0].cost:
            best = report, tracks.images.translation.copy(), tracks.points.xyz.copy()
    assert best is not None
    report, tracks.images.translation, tracks.points.xyz = best
    return report


def _all_tracks(graph: ViewGraph, tracks: Reconstruction, limits: _Limits) -> Reconstruction:
    """Tracks of all matches of these images, also of pairs and keypoints that were left out before:
    where images stand is known better than what matches, so that rays decide.
    """
    places = np.searchsorted(graph.images.ids, tracks.images.ids)
    inside = graph.restrict(places)
    most = limits.max_tracks
    every = build_tracks(inside, min_length=limits.min_views, max_tracks=most, consistent=False)
    return replace(every, cameras=tracks.cameras, images=tracks.images)


def _adjusted(
    tracks: Reconstruction, every: Reconstruction, limits: _Limits, stages: Stages
) -> Reconstruction:
    """Bundle adjustment of all that positions left, then of observations that agree; in the end
    with `every` track.
    """
    _adjust(tracks, stages, fix={"intrinsics": True}, ftol=_LOOSE)
    _adjust(tracks, stages, ftol=_LOOSE)  # moves the images of all: they are the same
    for times in ROUNDS:
        model = triangulate(tracks, max_error=times * limits.max_error, min_angle=MIN_ANGLE)
        _adjust(model, stages, ftol=_LOOSE)
    model, before = tracks, None
    for _ in range(_MAX_ROUNDS):
        model = triangulate(every, max_error=limits.max_error, min_angle=MIN_ANGLE, split=True)
        _adjust(model, stages, ftol=_TIGHT)
        seen = stages.count(model)
        if seen == before:
            break
        before = seen
    model = filter_points(model, max_error=limits.max_error, min_angle=MIN_ANGLE)
    return of_images(model, well_seen(model, MIN_OBSERVATIONS))


def _adjust(model: Reconstruction, stages: Stages, **options: Any) -> None:
    result = bundle_adjust(model, loss=LOSS, max_iterations=100, **options)
    points, seen = stages.count(model)
    stages.tell(
        "adjustment",
        points=points,
        observations=seen,
        iterations=len(result.history),
        cost=result.cost,
        mean_pixels=stages.mean(np.linalg.norm(residuals(model)[0], axis=1)),
    )


def _finished(model: Reconstruction, graph: ViewGraph) -> Reconstruction:
    """In its own frame, points numbered from 1, with all keypoints of its images on rank 0."""
    _normalise(model)
    before = model.comm.exscan(len(model.points)) or 0
    model.points.ids = np.arange(len(model.points)) + before + 1
    if model.comm.rank == 0:
        places = np.searchsorted(graph.images.ids, model.images.ids)
        start = graph.keypoint_start
        model.keypoints = [graph.keypoints[start[i] : start[i + 1]] for i in places]
    return model


def _normalise(model: Reconstruction) -> None:
    """The frame in which the first image is not turned and centres have mean 0 and spread 1."""
    centre, quaternion = centres(model.images), model.images.quaternion
    first, middle = quaternion[0].copy(), centre.mean(0)
    size = float(np.sqrt(((centre - middle) ** 2).sum(1).mean())) or 1.0
    turned = rotations.rotate(first, (centre - middle) / size)
    model.points.xyz = rotations.rotate(first, (model.points.xyz - middle) / size)
    model.images.quaternion = rotations.normalise(
        rotations.multiply(quaternion, rotations.conjugate(first))
    )
    model.images.translation = -rotations.rotate(model.images.quaternion, turned)
