"""Rotations against those of SciPy, which are another's."""

import numpy as np
import pytest

from hpckit.errors import ConfigError
from hpckit.sfm import rotations

Rotation = pytest.importorskip("scipy.spatial.transform").Rotation


def _vectors() -> np.ndarray:
    """Random ones, and those of angles at 0 and pi and near them."""
    rng = np.random.default_rng(1)
    axes = rng.normal(size=(60, 3))
    axes /= np.linalg.norm(axes, axis=1)[:, None]
    axes[:3] = np.eye(3)
    axes[3:6] = -np.eye(3)
    angles = [0, 1e-300, 1e-12, 1e-8, 1e-4, 0.1, 1, 3, np.pi - 1e-6, np.pi - 1e-9, np.pi]
    return (np.array(angles)[:, None, None] * axes).reshape(-1, 3)


def _same(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distance between quaternions, of which q and -q are equal."""
    return np.minimum(np.abs(a - b).max(-1), np.abs(a + b).max(-1))


def test_exp_log():
    w = _vectors()
    q = rotations.exp(w)
    assert _same(q, Rotation.from_rotvec(w).as_quat(scalar_first=True)).max() < 1e-15
    back = rotations.log(q)
    below = np.linalg.norm(w, axis=1) < np.pi - 1e-7
    np.testing.assert_allclose(back[below], w[below], atol=1e-15, rtol=1e-12)
    np.testing.assert_allclose(rotations.log(-q)[below], w[below], atol=1e-15, rtol=1e-12)
    near = np.minimum(np.abs(back - w).max(1), np.abs(back + w).max(1))
    assert near.max() < 1e-8  # at pi both signs are right
    assert np.linalg.norm(back, axis=1).max() <= np.pi + 1e-15


def test_beyond_half_a_turn():
    w = np.array([[0, 0, 4.0], [7.0, 0, 0]])
    expected = Rotation.from_rotvec(w).as_rotvec()
    np.testing.assert_allclose(rotations.log(rotations.exp(w)), expected, atol=1e-14)


def test_matrices():
    w = _vectors()
    q = rotations.exp(w)
    expected = Rotation.from_rotvec(w).as_matrix()
    np.testing.assert_allclose(rotations.to_matrix(q), expected, atol=5e-16)
    back = rotations.from_matrix(expected)
    assert _same(back, q).max() < 1e-15
    first = back[np.arange(len(back)), np.argmax(back != 0, axis=1)]
    assert (first > 0).all()


def test_algebra():
    rng = np.random.default_rng(2)
    a, b = (rotations.normalise(rng.normal(size=(50, 4))) for _ in range(2))
    x = rng.normal(size=(50, 3))
    ra, rb = (Rotation.from_quat(q, scalar_first=True) for q in (a, b))
    expected = (ra * rb).as_quat(scalar_first=True)
    assert _same(rotations.multiply(a, b), expected).max() < 1e-15
    np.testing.assert_allclose(rotations.rotate(a, x), ra.apply(x), atol=1e-14)
    np.testing.assert_allclose(rotations.rotate(rotations.conjugate(a), x), ra.inv().apply(x))
    np.testing.assert_allclose(rotations.rotate(a[0], x), ra[0].apply(x), atol=1e-14)


def test_shapes():
    q = rotations.exp(np.zeros((2, 3, 3)))
    assert q.shape == (2, 3, 4) and rotations.log(q).shape == (2, 3, 3)
    assert rotations.from_matrix(rotations.to_matrix(q)).shape == (2, 3, 4)
    assert rotations.rotate(q[:, :1], np.zeros((3, 3))).shape == (2, 3, 3)
    none = np.empty((0, 4))
    assert rotations.normalise(none).shape == rotations.from_matrix(np.empty((0, 3, 3))).shape


def test_normalise():
    q = np.array([[3, 0, 4, 0], [1e-200, 0, 0, -1e-200], [1e200, 0, 0, 0]])
    expected = [[0.6, 0, 0.8, 0], [0.5**0.5, 0, 0, -(0.5**0.5)], [1, 0, 0, 0]]
    np.testing.assert_allclose(rotations.normalise(q), expected)
    with pytest.raises(ConfigError, match=r"quaternion 1 is \(0, 0, 0, 0\)"):
        rotations.normalise([[1, 0, 0, 0], [0, 0, 0, 0]])
    with pytest.raises(ConfigError, match="quaternion 0"):
        rotations.normalise([[1, np.nan, 0, 0]])
    with pytest.raises(ConfigError, match="quaternion 0"):
        rotations.normalise([[np.inf, 0, 0, 0]])
