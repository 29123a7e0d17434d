"""Pairs of images and the rotations between them: from a file of a pose graph, or generated."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hpckit.comm.partition import block
from hpckit.errors import ConfigError
from hpckit.sfm import rotations

if TYPE_CHECKING:
    from mpi4py import MPI

    from hpckit.apps.sfm.config import Generate, Rotations

_EULER, _QUATERNION = "EDGE3", "EDGE_SE3:QUAT"
_REACH = 5  # images that a generated pair is apart, at most


class PoseGraph(NamedTuple):
    """Pairs (i, j) with R_j = R_ij R_i, world to camera.

    ids : (n,) what the images are called; pairs : (m, 2), places in `ids`
    relative : (m, 4) quaternions of R_ij; weights : (m,), how much each counts
    truth : (n, 4), where it is known
    """

    ids: np.ndarray
    pairs: np.ndarray
    relative: np.ndarray
    weights: np.ndarray
    truth: np.ndarray | None = None


def read_pose_graph(path: Path) -> PoseGraph:
    """From lines "EDGE3 i j x y z roll pitch yaw" or "EDGE_SE3:QUAT i j x y z qx qy qz qw ...".

    There a pose takes a body to the world, and an edge holds that of j as i sees it; other lines
    are passed over. Raises `ConfigError`, with the line, for one that cannot be read.
    """
    pairs, vectors = [], []
    for number, line in enumerate(_text(path).splitlines(), 1):
        words = line.split()
        if not words or words[0] not in (_EULER, _QUATERNION):
            continue
        count = 3 if words[0] == _EULER else 4
        try:
            pairs.append((int(words[1]), int(words[2])))
            turn = np.array([float(word) for word in words[6 : 6 + count]])
            vectors.append(_rotation(turn))
        except (ValueError, IndexError) as error:
            raise ConfigError(f"{path}, line {number}: {line[:60]!r} is no edge: {error}") from None
    if not pairs:
        raise ConfigError(
            f"{path} has no lines that begin with {_EULER} or {_QUATERNION}: it is no pose graph"
        )
    ids, places = np.unique(np.array(pairs), return_inverse=True)
    relative = rotations.conjugate(np.array(vectors))
    return PoseGraph(ids, places.reshape(-1, 2), relative, np.ones(len(relative)))


def database_pose_graph(path: Path, comm: MPI.Intracomm) -> PoseGraph:
    """Of the pairs of a COLMAP database that have a relative pose (collective).

    Each rank works on its own pairs; a pair counts by its inliers.
    """
    from hpckit.sfm.formats.database import read_database
    from hpckit.sfm.relative import relative_poses

    view = read_database(path, comm)
    quaternion, _, good = relative_poses(view)
    inliers = view.inliers.astype(float)
    parts = comm.allgather((view.pairs[good], quaternion[good], inliers[good]))
    pairs, relative, weights = (np.concatenate([part[k] for part in parts]) for k in range(3))
    if not len(pairs):
        raise ConfigError(f"no pair of {path} has a relative pose: match more images")
    return PoseGraph(view.images.ids, pairs, relative, weights)


def generate_pose_graph(scene: Generate, made: Rotations, truth: np.ndarray) -> PoseGraph:
    """Pairs of neighbours in a ring of images, with noise, of which some are quite wrong.

    truth : (n, 4), the rotations of the images
    """
    n = len(truth)
    random = np.random.default_rng([scene.seed, 5])
    i, step = (each.ravel() for each in np.meshgrid(np.arange(n), 1 + np.arange(_REACH)))
    pairs = np.unique(np.sort(np.column_stack([i, (i + step) % n]), axis=1), axis=0)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    noise = np.radians(made.noise) / np.sqrt(3) * random.standard_normal((len(pairs), 3))
    wrong = random.random(len(pairs)) < made.outliers
    noise[wrong] = np.pi * random.uniform(-1, 1, (int(wrong.sum()), 3))
    exact = rotations.multiply(truth[pairs[:, 1]], rotations.conjugate(truth[pairs[:, 0]]))
    relative = rotations.multiply(rotations.exp(noise), exact)
    return PoseGraph(np.arange(1, n + 1), pairs, relative, np.ones(len(pairs)), truth)


def mine(graph: PoseGraph, comm: MPI.Intracomm) -> slice:
    """The pairs of this rank."""
    return slice(*block(len(graph.pairs), comm.size, comm.rank))


def off_truth(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Radians by which rotations are off, (n,), once the world is turned as fits best."""
    turn = rotations.multiply(rotations.conjugate(found), truth)
    _, vectors = np.linalg.eigh(turn.T @ turn)
    near = rotations.multiply(found, vectors[:, -1])
    off = rotations.multiply(rotations.conjugate(near), truth)
    return np.linalg.norm(rotations.log(off), axis=1)


def _rotation(turn: np.ndarray) -> np.ndarray:
    """Quaternion of roll, pitch, yaw, R = Rz Ry Rx, or of qx, qy, qz, qw."""
    if not np.isfinite(turn).all():
        raise ValueError("numbers must be finite")
    if len(turn) == 4:
        return rotations.normalise(np.roll(turn, 1))
    if len(turn) != 3:
        raise ValueError("there are too few numbers")
    x, y, z = (rotations.exp(angle * axis) for angle, axis in zip(turn, np.eye(3), strict=True))
    return rotations.multiply(z, rotations.multiply(y, x))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path} as text: {error}") from None
