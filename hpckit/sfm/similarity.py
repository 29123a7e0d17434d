"""The similarity that brings points nearest to others: how models are compared."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hpckit.errors import ConfigError


class Similarity(NamedTuple):
    """x becomes scale * rotation x + translation. ::

    near = align(centres, others).apply(centres)
    """

    scale: float
    rotation: np.ndarray  # (3, 3)
    translation: np.ndarray  # (3,)

    def apply(self, x: np.ndarray) -> np.ndarray:
        """Points there: (n, 3) to (n, 3)."""
        return self.scale * x @ self.rotation.T + self.translation


def align(source: np.ndarray, target: np.ndarray) -> Similarity:
    """The one that minimises sum |target - (scale R source + t)|^2. ::

        errors = np.linalg.norm(align(found, truth).apply(found) - truth, axis=1)

    source, target : (n, 3), the same points in both; n >= 1. Of one point, or where all are at one
    place, only the translation is found.

    Raises `ConfigError` for other shapes. Source: Umeyama, "Least-squares estimation of
    transformation parameters between two point patterns", 1991: of the singular values of the
    covariance, U diag(1, 1, det) V' is the rotation.
    """
    source, target = np.asarray(source, float), np.asarray(target, float)
    if source.ndim != 2 or source.shape[1:] != (3,) or source.shape != target.shape:
        raise ConfigError(
            f"source {source.shape} and target {target.shape} must be of the same shape (n, 3)"
        )
    if not len(source):
        raise ConfigError("there is no point to align: give at least one")
    from_middle, to_middle = source - source.mean(axis=0), target - target.mean(axis=0)
    spread = float((from_middle**2).sum())
    u, singular, vt = np.linalg.svd(to_middle.T @ from_middle)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = (u * sign) @ vt
    scale = float(singular @ sign) / spread if spread > 0 else 1.0
    return Similarity(scale, rotation, target.mean(axis=0) - scale * rotation @ source.mean(axis=0))
