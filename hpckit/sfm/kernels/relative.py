"""Relative poses of pairs of images: which matches lie in front, and Sampson errors made small.

Matches of pair k are start[k]:start[k + 1]; x and y are unit vectors from the first and the second
image, and y ~ R x + t / depth. With q = R x the epipolar constraint is n = t . (q x y) = 0, and the
Sampson error of unit vectors, an angle to first order, n / sqrt(|E x|^2 + |E^T y|^2), E = [t]x R.
"""

from __future__ import annotations

import math

from numba import njit

from hpckit.native import export

_ROUNDS = 20


@njit(inline="always")
def _turned(rotation, at, x, k):
    """q = R x."""
    r, i = 9 * at, 3 * k
    a, b, c = x[i], x[i + 1], x[i + 2]
    return (
        rotation[r] * a + rotation[r + 1] * b + rotation[r + 2] * c,
        rotation[r + 3] * a + rotation[r + 4] * b + rotation[r + 5] * c,
        rotation[r + 6] * a + rotation[r + 7] * b + rotation[r + 8] * c,
    )


@export("void(i8, i8*, f8*, f8*, f8*, f8*, i8*, f8*)")
def front(m, start, x, y, rotation, translation, count, parallax):
    """How many matches of each pair are in front of both images, and the angle between q and y of
    each match.

    s q + t = u y has the depths s and u of the point between the rays.
    """
    for k in range(m):
        tx, ty, tz = translation[3 * k], translation[3 * k + 1], translation[3 * k + 2]
        total = 0
        for i in range(start[k], start[k + 1]):
            qx, qy, qz = _turned(rotation, k, x, i)
            vx, vy, vz = y[3 * i], y[3 * i + 1], y[3 * i + 2]
            cosine = qx * vx + qy * vy + qz * vz
            cx, cy, cz = qy * vz - qz * vy, qz * vx - qx * vz, qx * vy - qy * vx
            parallax[i] = math.atan2(math.sqrt(cx * cx + cy * cy + cz * cz), cosine)
            tq, tv = tx * qx + ty * qy + tz * qz, tx * vx + ty * vy + tz * vz
            if cosine * tv > tq and tv > cosine * tq:
                total += 1
        count[k] = total


@njit(inline="always")
def _sampson(rotation, k, x, i, vx, vy, vz, tx, ty, tz):
    """q, n and one over the length that divides it."""
    qx, qy, qz = _turned(rotation, k, x, i)
    # E x = t x q; E^T y = -R^T (t x y), as long as t x y
    ax, ay, az = ty * qz - tz * qy, tz * qx - tx * qz, tx * qy - ty * qx
    bx, by, bz = ty * vz - tz * vy, tz * vx - tx * vz, tx * vy - ty * vx
    n = vx * ax + vy * ay + vz * az
    square = ax * ax + ay * ay + az * az + bx * bx + by * by + bz * bz
    return qx, qy, qz, n, 1.0 / math.sqrt(square + 1e-300)


@njit(inline="always")
def _cost(rotation, k, begin, end, x, y, tx, ty, tz, scale):
    """Sum of Cauchy's loss, scale^2 log(1 + r^2 / scale^2)."""
    total = 0.0
    for i in range(begin, end):
        _, _, _, n, over = _sampson(
            rotation, k, x, i, y[3 * i], y[3 * i + 1], y[3 * i + 2], tx, ty, tz
        )
        r = n * over / scale
        total += math.log1p(r * r)
    return scale * scale * total


@njit(inline="always")
def _basis(tx, ty, tz):
    """Two directions across t."""
    if abs(tx) < 0.6:
        ax, ay, az = 0.0, tz, -ty
    else:
        ax, ay, az = -tz, 0.0, tx
    over = 1.0 / math.sqrt(ax * ax + ay * ay + az * az)
    ax, ay, az = ax * over, ay * over, az * over
    return ax, ay, az, ty * az - tz * ay, tz * ax - tx * az, tx * ay - ty * ax


@njit
def _solve(a, g, damping, factor, step):
    """(A + damping diag A) step = -g of five unknowns by Cholesky; whether it is possible."""
    for i in range(5):
        for j in range(i + 1):
            value = a[5 * i + j]
            if i == j:
                value += damping * value + 1e-300
            for k in range(j):
                value -= factor[5 * i + k] * factor[5 * j + k]
            if i == j:
                if not value > 0.0:
                    return False
                factor[5 * i + i] = math.sqrt(value)
            else:
                factor[5 * i + j] = value / factor[5 * j + j]
    for i in range(5):
        value = -g[i]
        for k in range(i):
            value -= factor[5 * i + k] * step[k]
        step[i] = value / factor[5 * i + i]
    for i in range(4, -1, -1):
        value = step[i]
        for k in range(i + 1, 5):
            value -= factor[5 * k + i] * step[k]
        step[i] = value / factor[5 * i + i]
    return True


@njit
def _turn(rotation, k, ax, ay, az, out):
    """out = exp(a) R of pair k, by Rodrigues' formula."""
    angle2 = ax * ax + ay * ay + az * az
    angle = math.sqrt(angle2)
    s = math.sin(angle) / angle if angle > 1e-8 else 1.0
    c = (1.0 - math.cos(angle)) / angle2 if angle > 1e-8 else 0.5
    for j in range(3):
        x, y, z = rotation[9 * k + j], rotation[9 * k + 3 + j], rotation[9 * k + 6 + j]
        px, py, pz = ay * z - az * y, az * x - ax * z, ax * y - ay * x
        out[j] = x + s * px + c * (ay * pz - az * py)
        out[3 + j] = y + s * py + c * (az * px - ax * pz)
        out[6 + j] = z + s * pz + c * (ax * py - ay * px)


@njit
def _accumulate(rotation, k, begin, end, x, y, tx, ty, tz, scale, row, a, g):
    """Normal equations of a turn (3) of the rotation and a move (2) across t."""
    for c in range(25):
        a[c] = 0.0
    for c in range(5):
        g[c] = 0.0
    ax, ay, az, bx, by, bz = _basis(tx, ty, tz)
    for i in range(begin, end):
        vx, vy, vz = y[3 * i], y[3 * i + 1], y[3 * i + 2]
        qx, qy, qz, n, over = _sampson(rotation, k, x, i, vx, vy, vz, tx, ty, tz)
        r = n * over
        weight = 1.0 / (1.0 + (r / scale) ** 2)
        tq, vq = tx * qx + ty * qy + tz * qz, vx * qx + vy * qy + vz * qz
        cx, cy, cz = qy * vz - qz * vy, qz * vx - qx * vz, qx * vy - qy * vx
        row[0] = over * (vx * tq - tx * vq)
        row[1] = over * (vy * tq - ty * vq)
        row[2] = over * (vz * tq - tz * vq)
        row[3] = over * (ax * cx + ay * cy + az * cz)
        row[4] = over * (bx * cx + by * cy + bz * cz)
        for c in range(5):
            g[c] += weight * r * row[c]
            for d in range(c + 1):
                a[5 * c + d] += weight * row[c] * row[d]


@export("void(i8, i8*, f8*, f8*, f8*, f8*, f8*, f8*, f8*, f8*, f8*, f8*, f8*)")
def refine(m, start, x, y, scale, rotation, translation, a, g, factor, step, row, trial):
    """Levenberg-Marquardt of each pair on its Sampson errors, under Cauchy's loss of its scale.

    rotation and translation (of length one) are changed in place; the last six have room for 25, 5,
    25, 5, 5 and 9 numbers. The divisor counts as constant in derivatives: errors are small.
    """
    for k in range(m):
        begin, end = start[k], start[k + 1]
        tx, ty, tz = translation[3 * k], translation[3 * k + 1], translation[3 * k + 2]
        cost = _cost(rotation, k, begin, end, x, y, tx, ty, tz, scale[k])
        damping, moved = 1e-4, end > begin
        for _ in range(_ROUNDS):
            if not moved:
                break
            moved = False
            _accumulate(rotation, k, begin, end, x, y, tx, ty, tz, scale[k], row, a, g)
            ax, ay, az, bx, by, bz = _basis(tx, ty, tz)
            for _ in range(6):
                if _solve(a, g, damping, factor, step):
                    _turn(rotation, k, step[0], step[1], step[2], trial)
                    ux = tx + step[3] * ax + step[4] * bx
                    uy = ty + step[3] * ay + step[4] * by
                    uz = tz + step[3] * az + step[4] * bz
                    over = 1.0 / math.sqrt(ux * ux + uy * uy + uz * uz)
                    ux, uy, uz = ux * over, uy * over, uz * over
                    new = _cost(trial, 0, begin, end, x, y, ux, uy, uz, scale[k])
                    if new <= cost:
                        moved = cost - new > 1e-9 * cost
                        for c in range(9):
                            rotation[9 * k + c] = trial[c]
                        tx, ty, tz, cost = ux, uy, uz, new
                        damping = max(0.1 * damping, 1e-10)
                        break
                damping = 10.0 * damping
        translation[3 * k], translation[3 * k + 1], translation[3 * k + 2] = tx, ty, tz
