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
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from mpi4py import MPI

from hpckit.errors import ConfigError, check_comm, same, together
from hpckit.log import get_logger
from hpckit.sfm.bundle.adjust import bundle_adjust
from hpckit.sfm.formats.database import read_database
from hpckit.sfm.losses import Huber
from hpckit.sfm.positioning import position_globally
from hpckit.sfm.projection import residuals
from hpckit.sfm.reconstruction import Points, Reconstruction
from hpckit.sfm.rotation_averaging import average_rotations
from hpckit.sfm.tracks import build_tracks
from hpckit.sfm.triangulation import centres, filter_points, focal_lengths, keep, triangulate
from hpckit.sfm.viewgraph import Config, ViewGraph

MIN_INLIERS = 15  # matches of a pair that may be chance
MAX_ROTATION = 10.0  # degrees that a pair may disagree with the averaged rotations
MIN_ANGLE = 1.5  # degrees between rays of a point
ROUNDS = (24.0, 12.0, 6.0, 4.0)  # pixels that observations may be off, adjustment after adjustment
_NO_POSE = (Config.UNDEFINED, Config.DEGENERATE, Config.WATERMARK, Config.MULTIPLE)
_LOG = get_logger(__name__)


@dataclass(frozen=True)
class Stage:
    """What a stage did; `global_mapper` passes one to its callback after each.

    ::

        global_mapper("database.db", callback=lambda stage: comm.rank or print(stage))
    """

    name: str
    model: int  # counted from 0; -1 before images are split into models
    seconds: float  # of wall time, this rank's
    numbers: dict[str, float]  # over all ranks: how many pairs, tracks, ..., errors

    def __str__(self) -> str:
        numbers = ", ".join(f"{value:.6g} {name}" for name, value in self.numbers.items())
        where = "" if self.model < 0 else f" of model {self.model}"
        return f"{self.name}{where}: {numbers} ({self.seconds:.2f} s)"


def global_mapper(
    database: str | os.PathLike[str] | ViewGraph,
    comm: MPI.Intracomm = MPI.COMM_WORLD,
    *,
    min_images: int = 3,
    min_views: int = 3,
    max_error: float = 4.0,
    max_tracks: int | None = None,
    seed: int = 0,
    reproducible: bool = False,
    callback: Callable[[Stage], object] | None = None,
) -> list[Reconstruction]:
    """Models of the images of a COLMAP database, one per connected component (collective).

    ::

        for i, model in enumerate(global_mapper("database.db")):
            write(model, f"sparse/{i}")

    database : path of COLMAP's database, or a view graph over ranks
    min_images : components of fewer are left out
    min_views : images that must see a track
    max_error : pixels that an observation may be off in the end
    max_tracks : no more than so many tracks of a model, to bound memory; None, all
    seed : of the random start of positions, which is the same on any number of ranks
    reproducible : the same bits on any number of ranks in bundle adjustment, a little slower
    callback : called with each `Stage` on all ranks

    Returns models distributed over ranks, the largest first, in frames of their own: centres have
    mean 0 and are 1 apart from it in the root mean square. Images without enough points are in
    none. Raises `ConfigError` on all ranks for a database that `read_database` refuses, and where
    no `min_images` images are connected.
    """
    check_comm(comm)
    limits = min_images, min_views, max_error, max_tracks, seed, reproducible
    same(comm, "arguments of global_mapper", limits)
    with together(comm):
        _check(min_images, min_views, max_error, max_tracks)
    stages = _Stages(comm, callback)
    graph = database if isinstance(database, ViewGraph) else read_database(database, comm)
    graph = _usable(graph)
    stages.tell("view graph", images=len(graph.images), pairs=len(graph), matches=graph.matches)
    graph = _oriented(_related(graph, stages), stages)
    parts = [images for images in graph.components() if len(images) >= min_images]
    if not parts:
        raise ConfigError(
            f"no {min_images} of the {len(graph.images)} images are connected by pairs with a "
            "relative pose: match more pairs, or lower min_images (at least 2)"
        )
    models = []
    for images in parts:
        stages.model = len(models)
        track_limits = {"min_length": min_views, "max_tracks": max_tracks}
        model = _mapped(graph.restrict(images), track_limits, max_error, seed, reproducible, stages)
        if len(model.images) >= min_images:
            models.append(model)
    if not models:
        raise ConfigError(
            f"no {min_images} images see enough points in common: match more pairs, or lower "
            "min_views (at least 2)"
        )
    return sorted(models, key=lambda model: len(model.images), reverse=True)
