"""Camera models: from a point in the frame of a camera to pixels, with derivatives.

With s = -1 for BAL and 1 for all others, (a, b) = (x, y) / (s z) and q = a^2 + b^2, all models are

    u = fx (g(q) a + 2 p1 a b + p2 (q + 2 a^2)) + cx
    v = fy (g(q) b + 2 p2 a b + p1 (q + 2 b^2)) + cy

where g is a polynomial (1 + k1 q + k2 q^2), a quotient of two (FULL_OPENCV), or for fisheyes
m h(m^2 q) with m = atan(r) / r, r = sqrt(q), and h(t) = 1 + k1 t + k2 t^2 + k3 t^3 + k4 t^4, smooth
at r = 0. Parameters stand in the order of `hpckit.sfm.cameras`, `c` is where they begin.
"""

from __future__ import annotations

import math

from numba import njit

from hpckit.native import export
from hpckit.sfm.kernels.stack import doubles

MAX = 12  # parameters of a camera
OPTIONS = {"fastmath": {"contract", "nsz", "arcp", "reassoc"}}
fast = njit(inline="always", error_model="numpy", **OPTIONS)

# Numbers of models, as in `hpckit.sfm.cameras`.
BAL = -1
SIMPLE_PINHOLE = 0
PINHOLE = 1
SIMPLE_RADIAL = 2
RADIAL = 3
OPENCV = 4
OPENCV_FISHEYE = 5
FULL_OPENCV = 6
SIMPLE_RADIAL_FISHEYE = 8
RADIAL_FISHEYE = 9


@fast
def is_fisheye(model):
    """Whether angles are distorted, not tangents."""
    return model == OPENCV_FISHEYE or model >= SIMPLE_RADIAL_FISHEYE


@fast
def is_plain(model):
    """Whether it is one focal length and a polynomial of at most two terms."""
    return model <= RADIAL and model != PINHOLE


@fast
def plain(model, k, c):
    """f, cx, cy, k1, k2 of such a model."""
    if model == BAL:
        return k[c], 0.0, 0.0, k[c + 1], k[c + 2]
    if model == RADIAL:
        return k[c], k[c + 1], k[c + 2], k[c + 3], k[c + 4]
    if model == SIMPLE_RADIAL:
        return k[c], k[c + 1], k[c + 2], k[c + 3], 0.0
    return k[c], k[c + 1], k[c + 2], 0.0, 0.0


@fast
def affine(model, k, c):
    """fx, fy, cx, cy of any other, and where its distortion begins."""
    if model >= SIMPLE_RADIAL_FISHEYE:
        return k[c], k[c], k[c + 1], k[c + 2], c + 3
    return k[c], k[c + 1], k[c + 2], k[c + 3], c + 4


@fast
def fisheye(model, k, c):
    """k1 ... k4 of a fisheye whose distortion begins at `c`."""
    if model == OPENCV_FISHEYE:
        return k[c], k[c + 1], k[c + 2], k[c + 3]
    if model == RADIAL_FISHEYE:
        return k[c], k[c + 1], 0.0, 0.0
    return k[c], 0.0, 0.0, 0.0


@fast
def rational(model, k, c):
    """k1, k2, p1, p2, k3 ... k6 of PINHOLE, OPENCV or FULL_OPENCV."""
    if model == FULL_OPENCV:
        return k[c], k[c + 1], k[c + 2], k[c + 3], k[c + 4], k[c + 5], k[c + 6], k[c + 7]
    if model == OPENCV:
        return k[c], k[c + 1], k[c + 2], k[c + 3], 0.0, 0.0, 0.0, 0.0
    return 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0


@fast
def angle(q):
    """m = atan(r) / r for r = sqrt(q), and dm/dq; by their series near 0."""
    if q < 1e-3:
        m = 1 + q * (-1 / 3 + q * (1 / 5 + q * (-1 / 7 + q * (1 / 9 - q / 11))))
        dm = -1 / 3 + q * (2 / 5 + q * (-3 / 7 + q * (4 / 9 + q * (-5 / 11 + q * 6 / 13))))
        return m, dm
    r = math.sqrt(q)
    m = math.atan(r) / r
    return m, (1 / (1 + q) - m) / (2 * q)


@fast
def pixel(model, x, y, z, k, c):
    """Where a camera sees the point: u, v."""
    w = -1 / z if model == BAL else 1 / z
    a, b = x * w, y * w
    q = a * a + b * b
    if is_plain(model):
        f, cx, cy, k1, k2 = plain(model, k, c)
        g = f * (1 + q * (k1 + q * k2))
        return g * a + cx, g * b + cy
    fx, fy, cx, cy, c = affine(model, k, c)
    if is_fisheye(model):
        k1, k2, k3, k4 = fisheye(model, k, c)
        m, _ = angle(q)
        t = m * m * q
        g = m * (1 + t * (k1 + t * (k2 + t * (k3 + t * k4))))
        return fx * g * a + cx, fy * g * b + cy
    k1, k2, p1, p2, k3, k4, k5, k6 = rational(model, k, c)
    g = (1 + q * (k1 + q * (k2 + q * k3))) / (1 + q * (k4 + q * (k5 + q * k6)))
    u = g * a + 2 * p1 * a * b + p2 * (q + 2 * a * a)
    v = g * b + 2 * p2 * a * b + p1 * (q + 2 * b * b)
    return fx * u + cx, fy * v + cy


@fast
def differentiate(model, x, y, z, k, c, di):
    """u, v, their six derivatives by x, y, z; those by the parameters to di[0:12] and di[12:24]."""
    sign = -1.0 if model == BAL else 1.0
    w = sign / z
    a, b = x * w, y * w
    q = a * a + b * b
    cx = cy = u = v = ua = ub = va = vb = 0.0
    fx = fy = 1.0
    if is_plain(model):
        fx, cx, cy, k1, k2 = plain(model, k, c)
        fy = fx
        g, dg = 1 + q * (k1 + q * k2), 2 * (k1 + 2 * q * k2)
        u, v = g * a, g * b
        ua, ub, vb = g + dg * a * a, dg * a * b, g + dg * b * b
        va = ub
        di[0], di[MAX] = u, v
        i = 1
        if model != BAL:
            di[1], di[2], di[MAX + 1], di[MAX + 2] = 1.0, 0.0, 0.0, 1.0
            i = 3
        fa, fb = fx * q * a, fx * q * b
        di[i], di[MAX + i] = fa, fb
        di[i + 1], di[MAX + i + 1] = q * fa, q * fb
    else:
        fx, fy, cx, cy, at = affine(model, k, c)
        i = at - c
        if is_fisheye(model):
            k1, k2, k3, k4 = fisheye(model, k, at)
            m, dm = angle(q)
            t = m * m * q
            h = 1 + t * (k1 + t * (k2 + t * (k3 + t * k4)))
            dh = k1 + t * (2 * k2 + t * (3 * k3 + t * 4 * k4))
            g, dg = m * h, 2 * (dm * h + m * dh * m / (1 + q))
            u, v = g * a, g * b
            ua, ub, vb = g + dg * a * a, dg * a * b, g + dg * b * b
            va = ub
            fa, fb = fx * m * a, fy * m * b
            for j in range(4):
                fa, fb = fa * t, fb * t
                di[i + j], di[MAX + i + j] = fa, fb
        else:
            k1, k2, p1, p2, k3, k4, k5, k6 = rational(model, k, at)
            below = 1 / (1 + q * (k4 + q * (k5 + q * k6)))
            g = (1 + q * (k1 + q * (k2 + q * k3))) * below
            over, under = k1 + q * (2 * k2 + q * 3 * k3), k4 + q * (2 * k5 + q * 3 * k6)
            dg = 2 * (over - g * under) * below
            ab, qa, qb = 2 * a * b, q + 2 * a * a, q + 2 * b * b
            u, v = g * a + p1 * ab + p2 * qa, g * b + p2 * ab + p1 * qb
            cross = dg * a * b + 2 * (p1 * a + p2 * b)
            ua = g + dg * a * a + 2 * p1 * b + 6 * p2 * a
            vb = g + dg * b * b + 2 * p2 * a + 6 * p1 * b
            ub = va = cross
            if model != PINHOLE:
                fa, fb = fx * q * a * below, fy * q * b * below
                di[4], di[5], di[MAX + 4], di[MAX + 5] = fa, fa * q, fb, fb * q
                di[6], di[7], di[MAX + 6], di[MAX + 7] = fx * ab, fx * qa, fy * qb, fy * ab
            if model == FULL_OPENCV:
                di[8], di[MAX + 8] = fa * q * q, fb * q * q
                for j in range(9, 12):
                    fa, fb = -g * fa if j == 9 else fa * q, -g * fb if j == 9 else fb * q
                    di[j], di[MAX + j] = fa, fb
        if i == 3:  # one focal length
            di[0], di[1], di[2] = u, 1.0, 0.0
            di[MAX], di[MAX + 1], di[MAX + 2] = v, 0.0, 1.0
        else:
            di[0], di[1], di[2], di[3] = u, 0.0, 1.0, 0.0
            di[MAX], di[MAX + 1], di[MAX + 2], di[MAX + 3] = 0.0, v, 0.0, 1.0
    fw, gw = fx * w, fy * w
    ux, uy, vx, vy = fw * ua, fw * ub, gw * va, gw * vb
    s = -sign
    uz, vz = s * (ux * a + uy * b), s * (vx * a + vy * b)
    return fx * u + cx, fy * v + cy, ux, uy, uz, vx, vy, vz


@export("void(i8, i4*, i4*, f8*, f8*, f8*, f8*, f8*)")
def project(n, model, camera, parameters, x, xy, by_point, by_parameter):
    """Pixels of `n` points (3 each) in the frames of their cameras, and all derivatives.

    by_point is (n, 2, 3), by_parameter (n, 2, MAX), both cleared before.
    """
    di = doubles(24)
    for i in range(n):
        c = camera[i]
        for j in range(24):
            di[j] = 0.0
        m = model[c]
        _, _, ux, uy, uz, vx, vy, vz = differentiate(
            m, x[3 * i], x[3 * i + 1], x[3 * i + 2], parameters, MAX * c, di
        )
        value = pixel(m, x[3 * i], x[3 * i + 1], x[3 * i + 2], parameters, MAX * c)
        xy[2 * i], xy[2 * i + 1] = value
        by_point[6 * i], by_point[6 * i + 1], by_point[6 * i + 2] = ux, uy, uz
        by_point[6 * i + 3], by_point[6 * i + 4], by_point[6 * i + 5] = vx, vy, vz
        for j in range(24):
            by_parameter[24 * i + j] = di[j]
