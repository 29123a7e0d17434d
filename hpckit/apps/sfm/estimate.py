"""`--dry-run` of `hpckit.apps.sfm`: memory and time of a bundle adjustment; arithmetic, no MPI."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from hpckit.apps.sfm.data import Counts, existing, generated_counts, is_database
from hpckit.errors import ConfigError
from hpckit.machine.memory import available
from hpckit.program.offline import offline
from hpckit.program.report import PROCESS
from hpckit.units import amount, period

if TYPE_CHECKING:
    from hpckit.apps.sfm.config import Config
    from hpckit.sfm.bundle.system import Shape

_OBSERVED = 28  # bytes of an observation in a reconstruction: image, xy, keypoint, start
_POINT = 43  # of a point: id, xyz, rgb
_IMAGE = 500  # of an image: pose, name, camera, and the solver's vectors
_KEYPOINT, _MATCH = 40, 60  # of keypoints, on all ranks, and of matches, on one
_COPIES = 2.5  # of those, while they are generated, read, sorted or written
_LENS = 3  # intrinsics that are free, as a rule: f, k1, k2
# Nanoseconds of one core of 2024: for an observation in each iteration (linearise, eliminate,
# substitute, cost), and in each product of conjugate gradients; for a pair of images that see the
# same point, where the matrix is assembled; and for a product of two numbers in its factorisation.
_ITERATION, _PRODUCT, _PAIR, _FLOP = 165e-9, 20e-9, 45e-9, 0.1e-9
_PRODUCTS = {"two_level": 60, "pcg": 250, "petsc": 250}  # in an iteration of a long scene
_FILL = 4  # numbers in a sparse factor by those in the matrix
_NEIGHBOURS = 35  # images of a generated street that see the same points as an image
_DENSE = 1000  # unknowns up to which the matrix is formed and factored whole
_LATENCY, _BYTE = 2e-6, 1e-10  # seconds, of a usual cluster's network


def problem_counts(config: Config, ranks: int) -> Counts:
    """How large the problem of a case is; reads the input, if there is one, without MPI."""
    said = config.size
    if said.images or said.points or said.observations:
        if not (said.images and said.points and said.observations):
            raise ConfigError("size needs all three: images, points and observations")
        return Counts(said.images, said.images, said.points, said.observations)
    if not config.input:
        return generated_counts(config.generate, ranks)
    existing(config.input)
    with offline():
        from hpckit.sfm.formats.files import read_whole

        found = read_whole(Path(config.input), config.trust)
    return Counts(len(found.images), len(found.cameras), len(found.points), len(found.observations))


def making(counts: Counts, ranks: int) -> float:
    """Bytes of a rank while a problem of that size is generated."""
    return PROCESS + _COPIES * _data(counts, ranks)


def estimate(config: Config, ranks: int) -> str:
    """What a run on so many ranks would be like, for people."""
    if config.input and config.task in ("map", "rotations"):
        rows = _pairs(config, ranks)
    else:
        counts = problem_counts(config, ranks)
        rows = {"data": f"{counts} on {ranks} ranks"}
        if config.task == "ba":
            with offline():
                rows |= _adjustment(config, counts, ranks)
        else:
            need = making(counts, ranks)
            rows["memory"] = f"about {amount(need)} per rank, {amount(need * ranks)} in all"
    return "\n".join(f"{name:<11}{text}" for name, text in rows.items())


def _pairs(config: Config, ranks: int) -> dict[str, str]:
    """What stages that begin with pairs of images have to do."""
    existing(config.input)
    path = Path(config.input)
    if config.task == "map" or is_database(path):
        images, keypoints, pairs, matches = database_counts(path)
        need = PROCESS + keypoints * _KEYPOINT + matches * _MATCH / ranks
        what = f"{images:,} images, {keypoints:,} keypoints, {pairs:,} pairs, {matches:,} matches"
    else:
        with offline():
            from hpckit.apps.sfm.pose_graph import read_pose_graph

            graph = read_pose_graph(path)
        need = PROCESS + 200 * len(graph.pairs)
        what = f"{len(graph.ids):,} images, {len(graph.pairs):,} pairs"
    return {
        "data": f"{what} on {ranks} ranks",
        "memory": f"about {amount(need)} per rank, {amount(need * ranks)} in all",
    }


def database_counts(path: Path) -> tuple[int, int, int, int]:
    """Images, keypoints, pairs with matches, and matches of a COLMAP database."""
    import sqlite3

    asked = (
        "SELECT COUNT(*) FROM images",
        "SELECT TOTAL(rows) FROM keypoints",
        "SELECT COUNT(*) FROM two_view_geometries WHERE rows > 0",
        "SELECT TOTAL(rows) FROM two_view_geometries",
    )
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        ) as db:
            images, keypoints, pairs, matches = (int(db.execute(a).fetchone()[0]) for a in asked)
    except sqlite3.Error as error:
        raise ConfigError(f"{path} cannot be read as a COLMAP database: {error}") from None
    return images, keypoints, pairs, matches


def _adjustment(config: Config, counts: Counts, ranks: int) -> dict[str, str]:
    from hpckit.sfm.bundle.solvers import SOLVERS
    from hpckit.sfm.bundle.solvers.auto import expect

    known = not config.input and not config.size.images and config.generate.scene != "turntable"
    shape = shape_of(counts, ranks, _NEIGHBOURS if known else None)
    own = system(shape)
    name, why = config.solver, "as asked for"
    if name == "auto":
        name, why, *_ = expect(shape, available() - own)
    elif name not in SOLVERS:
        raise ConfigError(f"solver {name!r}: give {', '.join(SOLVERS)} or auto")
    data, solver = _data(counts, ranks), SOLVERS[name].memory(shape)
    need = PROCESS + max(_COPIES * data, data + own + solver)
    compute, talk = seconds(shape, name)
    each = (need - PROCESS) * ranks / max(counts.observations, 1)
    return {
        "system": f"{shape.size:,} unknowns when {_side(counts)} are eliminated, of which each "
        f"rank has {shape.eliminated / ranks:,.0f}",
        "solver": f"{name}: {why}",
        "memory": f"about {amount(need)} per rank, {amount(need * ranks)} in all, {each:.0f} bytes "
        f"per observation; the largest parts are {amount(own)} of Jacobians and {amount(solver)} "
        "of the solver",
        "time": f"about {period(compute + talk)} per iteration, of which {period(talk)} are sums "
        f"over ranks: a core of 2024 for each rank, a network of {period(_LATENCY)} and "
        f"{amount(1 / _BYTE)}/s"
        + (f", {_PRODUCTS[name]} products of the solver" if name in _PRODUCTS else ""),
    }


def shape_of(counts: Counts, ranks: int, neighbours: int | None = None) -> Shape:
    """The reduced system's, as far as counts tell.

    neighbours : images that see the same points as an image, where that is known; None: all may
    """
    from hpckit.sfm.bundle.system import Shape

    lenses = _LENS * counts.cameras
    if _side(counts) == "points":
        blocks, width, eliminated, d = counts.images, 6 + _LENS, counts.points, 3
        size = 6 * counts.images + lenses
    else:
        blocks, width, eliminated, d = counts.points, 3, counts.images, 6 + _LENS
        size = 3 * counts.points
    length = counts.observations / max(eliminated, 1)
    most = blocks * (blocks + 1) // 2 if neighbours is None else blocks * neighbours
    pairs = min(int(counts.observations * (length + 1) / 2) + blocks, most)
    return Shape(size, blocks, width, eliminated, d, counts.observations, pairs, ranks)


def system(shape: Shape) -> float:
    """Bytes of a rank's Jacobians, and of what belongs to its eliminated blocks."""
    wide, packed = shape.width + shape.eliminated_width, shape.eliminated_width + 1
    observed = 8 * (2 * wide + 2) + 20
    blocks = 8 * (shape.eliminated_width * packed + 2 * shape.eliminated_width + 1)
    whole = shape.observations * observed + shape.eliminated * blocks
    return whole / shape.ranks + 40 * shape.blocks * shape.width


def seconds(shape: Shape, solver: str) -> tuple[float, float]:
    """Of an iteration: of this rank's own work, and of sums over ranks."""
    own = shape.observations / shape.ranks
    vector, blocks = 8 * shape.size, 8 * shape.blocks * shape.width**2
    compute, sums = own * _ITERATION, _sum(blocks, shape.ranks) + 2 * _sum(vector, shape.ranks)
    if solver not in _PRODUCTS:
        length = shape.observations / max(shape.eliminated, 1)
        compute += own * (length + 1) / 2 * _PAIR
        matrix = 8 * shape.pairs * shape.width**2
        factor = shape.size * (shape.size + 1) / 2
        if solver == "sparse":
            factor = min(_FILL * matrix / 8, factor)
        work = factor**2 / max(shape.size, 1)  # as of a band
        return compute + work * _FLOP, sums + _sum(matrix, shape.ranks)
    products = _PRODUCTS[solver]
    return compute + products * own * _PRODUCT, sums + products * _sum(vector, shape.ranks)


def _sum(nbytes: float, ranks: int) -> float:
    """Seconds of an allreduce, by the best algorithm, one rank per node."""
    import numpy as np

    from hpckit.collectives.algorithms import predict
    from hpckit.machine.links import Links

    if ranks == 1:
        return 0.0
    alpha, beta = np.full((2, 2), _LATENCY), np.full((2, 2), _BYTE)
    usual = Links.of_tables((0, 1), alpha, beta, overhead=3e-7, crowd=1.0, gamma=1e-10)
    return min(predict(usual, int(nbytes), ranks).values())


def _side(counts: Counts) -> str:
    return "poses" if counts.images > counts.points else "points"


def _data(counts: Counts, ranks: int) -> float:
    """Bytes of a rank's part of a reconstruction."""
    shared = counts.observations * _OBSERVED + counts.points * _POINT
    return shared / ranks + counts.images * _IMAGE
