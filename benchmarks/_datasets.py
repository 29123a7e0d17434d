"""Points and distances for the k-medoids benchmarks: generated, or from HPCKIT_DATA."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

FOLDER = Path(os.environ.get("HPCKIT_DATA", Path(__file__).parents[2] / "shared/data")) / "kmedoids"


def mixture(n: int) -> np.ndarray:
    """(n, 16) float64 from 200 normal distributions, the same on all ranks."""
    rng = np.random.default_rng(0)
    return rng.normal(scale=5, size=(200, 16))[rng.integers(0, 200, n)] + rng.normal(size=(n, 16))


def leaves() -> np.ndarray:
    """(1599, 64) textures of leaves of a hundred species, without the one that is there twice."""
    return np.unique(np.loadtxt(FOLDER / "tex.txt", delimiter=",", usecols=range(1, 65)), axis=0)


def optdigits() -> np.ndarray:
    """(3823, 64) handwritten digits in 8 x 8 pixels, the training part."""
    return np.loadtxt(FOLDER / "optdigits.tra", delimiter=",", skiprows=1)[:, :64]


def letter() -> np.ndarray:
    """(20000, 16) features of printed letters: whole numbers, so that many distances are equal."""
    return np.loadtxt(FOLDER / "letter.data", delimiter=",", skiprows=1)[:, 1:]


def euclidean(points: np.ndarray) -> np.ndarray:
    """(n, n) float32, symmetric, in C order."""
    n, squares = len(points), (points**2).sum(axis=1)
    result = np.empty((n, n), np.float32)
    for start in range(0, n, 500):
        rows = slice(start, start + 500)
        square = squares[rows, None] + squares - 2 * points[rows] @ points.T
        result[rows] = np.sqrt(np.maximum(square, 0))
        result[:start, rows] = result[rows, :start].T
        result[rows, rows] = np.maximum(result[rows, rows], result[rows, rows].T)
    np.fill_diagonal(result, 0)
    return result
