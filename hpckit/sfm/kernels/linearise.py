"""Reprojection errors and their Jacobians, of observations sorted by eliminated block: a template.

The widths D of kept and d of eliminated blocks say what is in them, K free intrinsics among it:

    points eliminated                   D = 6 + K: rotation, translation, intrinsics    d = 3: point
    poses eliminated                    D = 3 + K: point, intrinsics                    d = 6: pose
    poses eliminated, own intrinsics    D = 3: point                                    d = 6 + K

With q = R x and P = q + t, and A = dr/dP, the columns are A [-q]x (of the rotation exp(w) R),
A (of the translation), A R (of the point). What else the state is: rotation 9, translation 3 and
camera of each image; model, parameters (MAX) and columns (K: which parameter, -1 none) of each
camera; 3 of each point.
"""

from __future__ import annotations

import math

from hpckit.native import export
from hpckit.sfm.kernels.cameras import BAL, MAX, OPTIONS, differentiate, fast, pixel
from hpckit.sfm.kernels.losses import rho
from hpckit.sfm.kernels.sizes import SIZES  # noqa: F401  (hpckit.native reads them)
from hpckit.sfm.kernels.stack import doubles

OPTIONS = OPTIONS
D, d = 9, 3  # constants of the template, one of SIZES
NEAREST = 2.220446049250313e-16  # depths below are behind the camera, as in COLMAP
KEEP, ZERO = 0, 1


@fast
def places(block, kept, point_of):
    """The image and the point of an observation."""
    if d == 3 and D >= 6:
        return kept, block
    return block, point_of[kept]


@fast
def in_camera(i, p, rotation, translation, points):
    """R x, and the depth's sign apart R x + t."""
    x, y, z = points[3 * p], points[3 * p + 1], points[3 * p + 2]
    i9, i3 = 9 * i, 3 * i
    qx = rotation[i9] * x + rotation[i9 + 1] * y + rotation[i9 + 2] * z
    qy = rotation[i9 + 3] * x + rotation[i9 + 4] * y + rotation[i9 + 5] * z
    qz = rotation[i9 + 6] * x + rotation[i9 + 7] * y + rotation[i9 + 8] * z
    return qx, qy, qz, qx + translation[i3], qy + translation[i3 + 1], qz + translation[i3 + 2]


@fast
def is_behind(model, z):
    """Whether a point of this depth is behind the camera."""
    return (-z if model == BAL else z) < NEAREST


@export(
    "f8(i8, i8, i8*, i4*, i4*, f8*, f8*, f8*, i4*, i4*, f8*, f8*, i8, f8, i8)",
)
def cost(
    first,
    last,
    start,
    kept,
    point_of,
    xy,
    rotation,
    translation,
    camera,
    model,
    parameters,
    points,
    loss,
    scale,
    behind,
):
    """1/2 sum rho(|r|^2) over the observations of eliminated blocks first:last."""
    total = 0.0
    for e in range(first, last):
        for o in range(start[e], start[e + 1]):
            i, p = places(e, kept[o], point_of)
            _, _, _, x, y, z = in_camera(i, p, rotation, translation, points)
            c = camera[i]
            if behind == ZERO and is_behind(model[c], z):
                continue
            u, v = pixel(model[c], x, y, z, parameters, MAX * c)
            u -= xy[2 * o]
            v -= xy[2 * o + 1]
            total += rho(loss, scale, u * u + v * v)[0]
    return 0.5 * total


@export(
    "f8(i8, i8, i8*, i4*, i4*, f8*, f8*, f8*, i4*, i4*, f8*, i4*, f8*, i8, f8, i8,"
    " f8*, f8*, f8*, f8*, f8*, f8*)",
)
def linearise(
    first,
    last,
    start,
    kept,
    point_of,
    xy,
    rotation,
    translation,
    camera,
    model,
    parameters,
    columns,
    points,
    loss,
    scale,
    behind,
    jacobian,
    residual,
    v_blocks,
    g_eliminated,
    g_kept,
    u_diagonal,
):
    """The cost, and r, J, V (packed lower), g of both sides and the diagonal of U.

    The last two are added to; r and J are scaled by sqrt(rho').
    """
    w = D + d
    by_points = d == 3 and D >= 6
    pose = 0 if by_points else D
    point = D if by_points else 0
    lens = 6 if by_points else (3 if d == 6 else D + 6)
    k = D - 6 if by_points else (D - 3 if d == 6 else d - 6)
    packed = d * (d + 1) // 2
    di = doubles(24)
    v = doubles(171)
    g = doubles(18)
    total = 0.0
    for e in range(first, last):
        for a in range(packed):
            v[a] = 0.0
        for a in range(d):
            g[a] = 0.0
        for o in range(start[e], start[e + 1]):
            i, p = places(e, kept[o], point_of)
            qx, qy, qz, x, y, z = in_camera(i, p, rotation, translation, points)
            c = camera[i]
            j, n = 2 * w * o, 2 * w * o + w
            if behind == ZERO and is_behind(model[c], z):
                residual[2 * o], residual[2 * o + 1] = 0.0, 0.0
                for a in range(2 * w):
                    jacobian[j + a] = 0.0
                continue
            pu, pv, ux, uy, uz, vx, vy, vz = differentiate(
                model[c], x, y, z, parameters, MAX * c, di
            )
            ru, rv = pu - xy[2 * o], pv - xy[2 * o + 1]
            value, slope = rho(loss, scale, ru * ru + rv * rv)
            total += value
            s = 1.0
            if loss != 0:
                s = math.sqrt(slope)
                ru, rv = s * ru, s * rv
                ux, uy, uz, vx, vy, vz = s * ux, s * uy, s * uz, s * vx, s * vy, s * vz
            residual[2 * o], residual[2 * o + 1] = ru, rv
            at = j + pose
            jacobian[at] = uz * qy - uy * qz
            jacobian[at + 1] = ux * qz - uz * qx
            jacobian[at + 2] = uy * qx - ux * qy
            jacobian[at + 3], jacobian[at + 4], jacobian[at + 5] = ux, uy, uz
            at = n + pose
            jacobian[at] = vz * qy - vy * qz
            jacobian[at + 1] = vx * qz - vz * qx
            jacobian[at + 2] = vy * qx - vx * qy
            jacobian[at + 3], jacobian[at + 4], jacobian[at + 5] = vx, vy, vz
            for a in range(k):
                column = columns[k * c + a]
                there = column >= 0
                jacobian[j + lens + a] = s * di[column] if there else 0.0
                jacobian[n + lens + a] = s * di[MAX + column] if there else 0.0
            m = 9 * i
            for a in range(3):
                r0, r1, r2 = rotation[m + a], rotation[m + 3 + a], rotation[m + 6 + a]
                jacobian[j + point + a] = ux * r0 + uy * r1 + uz * r2
                jacobian[n + point + a] = vx * r0 + vy * r1 + vz * r2
            at = D * kept[o]
            for a in range(D):
                ju, jv = jacobian[j + a], jacobian[n + a]
                g_kept[at + a] += ju * ru + jv * rv
                u_diagonal[at + a] += ju * ju + jv * jv
            at = 0
            for a in range(d):
                ju, jv = jacobian[j + D + a], jacobian[n + D + a]
                g[a] += ju * ru + jv * rv
                for b in range(a + 1):
                    v[at + b] += ju * jacobian[j + D + b] + jv * jacobian[n + D + b]
                at += a + 1
        for a in range(packed):
            v_blocks[packed * e + a] = v[a]
        for a in range(d):
            g_eliminated[d * e + a] = g[a]
    return 0.5 * total
