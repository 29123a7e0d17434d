"""Sparse Cholesky of blocks, beside NumPy's dense solver."""

import numpy as np
import pytest

from hpckit.sfm.bundle.solvers import fronts
from hpckit.sfm.bundle.solvers.cholesky import Cholesky


def ring(n, neighbours, D=9, shared=0, missing=()):
    """Columns, pairs and blocks of a loop of n blocks; how many scalars; and the matrix itself."""
    rng = np.random.default_rng(n)
    pairs = {tuple(sorted((i, (i + s) % n))) for i in range(n) for s in range(neighbours + 1)}
    pairs = np.array(sorted(pairs))
    blocks = rng.standard_normal((len(pairs), D, D))
    own = pairs[:, 0] == pairs[:, 1]
    blocks[own] += blocks[own].transpose(0, 2, 1) + 2 * (neighbours + 1) * D * np.eye(D)
    columns = np.arange(n * D).reshape(n, D)
    columns[:, D - shared :] = columns[0, D - shared :]
    for block, column in missing:
        columns[block, column] = -1
    there = columns >= 0
    columns[there] = np.unique(columns[there], return_inverse=True)[1]
    full = np.zeros((n, D, n, D))
    for (i, j), block in zip(pairs, blocks, strict=True):
        full[i, :, j, :] = block
        full[j, :, i, :] = block.T
    P = np.zeros((n * D, columns.max() + 1))
    P[np.flatnonzero(there), columns[there]] = 1
    return columns, pairs, blocks, P.shape[1], P.T @ full.reshape(n * D, n * D) @ P


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"shared": 3},
        {"shared": 9},
        {"missing": [(0, a) for a in range(9)] + [(5, 2)]},
        {"shared": 1, "missing": [(3, 8), (3, 0)]},
        {"D": 15, "shared": 6},
    ],
)
@pytest.mark.parametrize("small", [False, True])
def test_solves_as_numpy(kind, small, monkeypatch):
    if small:  # every node a front of its own
        monkeypatch.setattr(fronts, "_seconds", lambda k, m: float(k * k))
    columns, pairs, blocks, size, matrix = ring(60, 4, **kind)
    cholesky = Cholesky(columns, pairs, size)
    assert (len(cholesky.symbolic.fronts) > 10) == (small and kind.get("shared") != 9)
    b = np.random.default_rng(1).standard_normal((size, 2))
    for damping in (0.0, np.linspace(1, 2, size)):
        assert cholesky.factor(blocks, damping)
        expected = np.linalg.solve(matrix + np.diag(damping * np.ones(size)), b)
        np.testing.assert_allclose(cholesky.solve(b), expected, rtol=0, atol=1e-13)
        np.testing.assert_allclose(cholesky.solve(b[:, 0]), expected[:, 0], rtol=0, atol=1e-13)


def test_long_loop_has_little_fill(monkeypatch):
    monkeypatch.setattr(fronts, "_seconds", lambda k, m: float(k * m * m))
    columns, pairs, _, size, _ = ring(300, 3, D=2)
    symbolic = Cholesky(columns, pairs, size).symbolic
    assert symbolic.entries < 0.25 * size * (size + 1) / 2
    assert sorted(symbolic.position) == list(range(size))


def test_grid_in_random_order():
    rng = np.random.default_rng(3)
    places = np.argwhere(np.ones((12, 12), bool))
    near = np.abs(places[:, None] - places[None]).max(axis=2) <= 1
    shuffled = rng.permutation(144)
    near = near[np.ix_(shuffled, shuffled)]
    pairs = np.argwhere(np.triu(near))
    blocks = rng.standard_normal((len(pairs), 3, 3))
    own = pairs[:, 0] == pairs[:, 1]
    blocks[own] = blocks[own] + blocks[own].transpose(0, 2, 1) + 60 * np.eye(3)
    full = np.zeros((144, 3, 144, 3))
    for (i, j), block in zip(pairs, blocks, strict=True):
        full[i, :, j, :], full[j, :, i, :] = block, block.T
    cholesky = Cholesky(np.arange(432).reshape(144, 3), pairs, 432)
    assert cholesky.factor(blocks)
    b = rng.standard_normal(432)
    np.testing.assert_allclose(full.reshape(432, 432) @ cholesky.solve(b), b, atol=1e-11)


def test_says_no_to_what_is_not_positive_definite():
    columns, pairs, blocks, size, matrix = ring(30, 3)
    cholesky = Cholesky(columns, pairs, size)
    least = np.linalg.eigvalsh(matrix)[0]
    assert cholesky.factor(blocks, -0.999 * least)
    assert not cholesky.factor(blocks, -1.001 * least)
    for bad in (np.nan, np.inf):
        broken = blocks.copy()
        broken[40, 2, 1] = bad
        assert not cholesky.factor(broken) or not np.isfinite(cholesky.solve(np.ones(size))).all()
    assert cholesky.factor(blocks)


def test_one_scalar():
    cholesky = Cholesky(np.array([[-1, 0]]), np.array([[0, 0]]), 1)
    assert cholesky.factor(np.full((1, 2, 2), 4.0))
    assert cholesky.solve(np.array([2.0])) == [0.5]
