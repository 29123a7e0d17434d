"""Where the world is, how it is turned and how large: what images alone cannot say.

A scene may be shifted, turned and scaled with its cameras, and projects to the same pixels: seven
directions G in which normal equations are singular. A *gauge* B x = 0 says which of all solutions
is meant, and so what a covariance is relative to. From that in any one gauge follows that in
another, by x -> x - G (B G)^-1 B x (Baarda, "S-transformations and criterion matrices", 1973;
Triggs et al., "Bundle Adjustment - A Modern Synthesis", 2000, section 9).
"""

from __future__ import annotations

import numpy as np

FREEDOMS = 7
GAUGES = ("first+scale", "inner", "priors")


def cross_matrices(v: np.ndarray) -> np.ndarray:
    """[v]x of each vector: (..., 3) to (..., 3, 3). ::

    cross_matrices(np.array([0.0, 0.0, 1.0])) @ [1, 0, 0]  # [0, 1, 0]
    """
    found = np.zeros((*v.shape, 3))
    found[..., 2, 1], found[..., 0, 2], found[..., 1, 0] = v[..., 0], v[..., 1], v[..., 2]
    return found - np.swapaxes(found, -1, -2)


def pose_modes(rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """How poses change where the world is shifted along x, y, z, turned about them, and scaled.

    rotation (n, 3, 3), translation (n, 3); (n, 6, 7) float64: rotation vector, then translation.
    X + a, exp(w) X and (1 + s) X project to the same pixels as X did, where R becomes R exp(-w) =
    exp(-R w) R and t becomes t - R a and (1 + s) t.
    """
    modes = np.zeros((len(rotation), 6, FREEDOMS))
    modes[:, 3:, 0:3] = -rotation
    modes[:, :3, 3:6] = -rotation
    modes[:, 3:, 6] = translation
    return modes


def point_modes(points: np.ndarray) -> np.ndarray:
    """The same of points: (n, 3) to (n, 3, 7)."""
    modes = np.zeros((len(points), 3, FREEDOMS))
    modes[:, :, 0:3] = np.eye(3)
    modes[:, :, 3:6] = -cross_matrices(points)
    modes[:, :, 6] = points
    return modes


def centre_jacobians(rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """How centres C = -R't change with poses: (n, 3, 6)."""
    back = -np.swapaxes(rotation, 1, 2)
    return np.concatenate([back @ cross_matrices(translation), back], axis=2)


def second_image(rotation: np.ndarray, translation: np.ndarray, seen: np.ndarray) -> int:
    """The next image after the first of `seen` that stands elsewhere; -1 if none does."""
    centres = -np.einsum("kji,kj->ki", rotation, translation)[seen]
    away = np.linalg.norm(centres - centres[0], axis=1)
    apart = np.flatnonzero(away > 1e-6 * away.max())
    return int(seen[apart[0]]) if len(apart) and away.max() > 0 else -1


def baseline(rotation: np.ndarray, translation: np.ndarray, first: int, second: int) -> int:
    """The longest coordinate of where the first camera stands, as the second one sees it."""
    between = translation[second] - rotation[second] @ rotation[first].T @ translation[first]
    return int(np.abs(between).argmax())


def first_and_scale(to_world: np.ndarray, first: int, second: int, axis: int) -> np.ndarray:
    """B of "first+scale": the first image's pose stays, and one coordinate of the second's
    translation.

    to_world : (n, 6, 6), changes of the caller's poses per change of ours; (7, n, 6)
    """
    rows = np.zeros((FREEDOMS, *to_world.shape[:2]))
    rows[:6, first] = to_world[first]
    rows[6, second] = to_world[second, 3 + axis]
    return rows


def inner(rotation: np.ndarray, translation: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """B of "inner": no similarity brings moved centres nearer to where they were: (7, n, 6)."""
    centres = -np.einsum("kji,kj->ki", rotation, translation)
    modes = point_modes(centres - centres[seen].mean(axis=0))
    rows = np.einsum("kab,kac->bkc", modes, centre_jacobians(rotation, translation))
    rows[:, ~np.isin(np.arange(len(rotation)), seen)] = 0
    return rows
