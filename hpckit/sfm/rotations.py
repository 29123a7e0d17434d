"""Rotations, many at a time: unit quaternions, rotation vectors and matrices.

A rotation vector w turns by |w| radians about w / |w|. A quaternion is (w, x, y, z), Hamilton's, as
in COLMAP: R(q) x = q x q*, and q and -q are the same rotation. All functions take arrays whose last
axis (last two of matrices) is one rotation, of any leading shape, and broadcast as NumPy does.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from hpckit.errors import ConfigError


def exp(vector: ArrayLike) -> np.ndarray:
    """Quaternions of rotation vectors: (..., 3) radians to (..., 4), exact at angle 0. ::

    exp([0, 0, np.pi / 2])  # (0.7071, 0, 0, 0.7071)
    """
    vector = np.asarray(vector, float)
    angle = np.linalg.norm(vector, axis=-1, keepdims=True)
    scale = 0.5 * np.sinc(angle / (2 * np.pi))  # sin(angle / 2) / angle
    return np.concatenate([np.cos(angle / 2), scale * vector], axis=-1)


def log(quaternion: ArrayLike) -> np.ndarray:
    """Rotation vectors of unit quaternions: (..., 4) to (..., 3) radians, of length <= pi. ::

        log([0.7071, 0, 0, 0.7071])  # (0, 0, 1.5708)

    The inverse of `exp` up to angle pi, where the sign of the axis is that of the quaternion.
    """
    quaternion = np.asarray(quaternion, float)
    w = quaternion[..., :1]
    vector = np.where(w < 0, -1.0, 1.0) * quaternion[..., 1:]
    sine = np.linalg.norm(vector, axis=-1, keepdims=True)
    angle = 2 * np.arctan2(sine, np.abs(w))
    tiny = sine == 0
    return np.where(tiny, 2.0, angle / np.where(tiny, 1.0, sine)) * vector


def to_matrix(quaternion: ArrayLike) -> np.ndarray:
    """Matrices of unit quaternions: (..., 4) to (..., 3, 3). ::

    to_matrix([1, 0, 0, 0])  # the unit matrix
    """
    quaternion = np.asarray(quaternion, float)
    w, x, y, z = np.moveaxis(quaternion, -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def from_matrix(matrix: ArrayLike) -> np.ndarray:
    """Unit quaternions of rotation matrices: (..., 3, 3) to (..., 4), first nonzero positive. ::

        from_matrix(np.eye(3))  # (1, 0, 0, 0)

    4 q_i q_j are sums of entries of R. The row of the largest q_i is taken, so that none is divided
    by a small number (Shepperd, "Quaternion from rotation matrix", 1978).
    """
    m = np.asarray(matrix, float)
    diagonal = np.diagonal(m, axis1=-2, axis2=-1)
    trace = diagonal.sum(-1)
    products = np.empty((*m.shape[:-2], 4, 4))
    products[..., 0, 0] = 1 + trace
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        products[..., i + 1, i + 1] = 1 + 2 * diagonal[..., i] - trace
        odd = m[..., k, j] - m[..., j, k]  # 4 q_0 q_i
        even = m[..., j, i] + m[..., i, j]  # 4 q_i q_j
        products[..., 0, i + 1] = products[..., i + 1, 0] = odd
        products[..., i + 1, j + 1] = products[..., j + 1, i + 1] = even
    largest = np.argmax(np.diagonal(products, axis1=-2, axis2=-1), axis=-1)
    row = np.take_along_axis(products, largest[..., None, None], axis=-2)[..., 0, :]
    row = row / np.linalg.norm(row, axis=-1, keepdims=True)
    first = np.argmax(row != 0, axis=-1)[..., None]
    return np.where(np.take_along_axis(row, first, axis=-1) < 0, -row, row)


def multiply(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Quaternions of b's rotation, then a's: (..., 4), (..., 4) to (..., 4). ::

    to_matrix(multiply(a, b))  # to_matrix(a) @ to_matrix(b)
    """
    aw, ax, ay, az = np.moveaxis(np.asarray(a, float), -1, 0)
    bw, bx, by, bz = np.moveaxis(np.asarray(b, float), -1, 0)
    return np.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        axis=-1,
    )


def conjugate(quaternion: ArrayLike) -> np.ndarray:
    """Quaternions of the inverse rotations: (..., 4) to (..., 4). ::

    multiply(q, conjugate(q))  # (1, 0, 0, 0)
    """
    return np.asarray(quaternion, float) * np.array([1.0, -1.0, -1.0, -1.0])


def normalise(quaternion: ArrayLike) -> np.ndarray:
    """Quaternions of length one: (..., 4) to (..., 4); `ConfigError` where one is 0 or NaN. ::

    normalise([2, 0, 0, 0])  # (1, 0, 0, 0)
    """
    quaternion = np.asarray(quaternion, float)
    largest = np.abs(quaternion).max(-1, keepdims=True, initial=0)
    bad = np.argwhere(~((largest > 0) & np.isfinite(largest)).reshape(-1))
    if len(bad):
        row = quaternion.reshape(-1, 4)[bad[0, 0]]
        raise ConfigError(
            f"quaternion {bad[0, 0]} is ({', '.join(f'{float(q):g}' for q in row)}), which is no "
            "rotation: give finite numbers that are not all zero"
        )
    scaled = quaternion / largest  # squares of tiny and of huge numbers would vanish or overflow
    return scaled / np.linalg.norm(scaled, axis=-1, keepdims=True)


def rotate(quaternion: ArrayLike, x: ArrayLike) -> np.ndarray:
    """Vectors turned by unit quaternions: (..., 4), (..., 3) to (..., 3). ::

    rotate(exp([0, 0, np.pi / 2]), [1, 0, 0])  # (0, 1, 0)
    """
    quaternion, x = np.asarray(quaternion, float), np.asarray(x, float)
    w, v = quaternion[..., :1], quaternion[..., 1:]
    twice = 2 * _cross(v, x)
    return x + w * twice + _cross(v, twice)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`np.cross`, in half its time."""
    out = np.empty(np.broadcast_shapes(a.shape, b.shape))
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        out[..., i] = a[..., j] * b[..., k] - a[..., k] * b[..., j]
    return out
