"""Global positioning: centres and points from the directions in which images see points.

A ray of image i to point j, of direction v (a unit vector of the world), has the residual
r = v - s d with d = x_j - c_i and a scale s of its own. With weight w (that of the image times
Huber's), s is eliminated from the normal equations of a step first, damped as the rest by l:

    h = (1 + l) w d.d,  M = w s^2 (I - w d d^T / h) = a I - b d d^T,  g = w s r - w s d (w d.r) / h

(M, g) is what d itself would have as matrix and right-hand side; points are eliminated next,
V_j = sum M + damping, so that of image i and k remains  - sum over j of M_ij V_j^-1 M_kj.
Arrays are flat; rays of point j are start[j]:start[j + 1]; a symmetric 3 x 3 matrix is its xx, xy,
xz, yy, yz, zz.
"""

from __future__ import annotations

import math

from numba import njit

from hpckit.native import export

LEAST = 1e-5  # the least scale: points stay in front of images


@njit(inline="always")
def _from(centre, i, x, y, z):
    return x - centre[3 * i], y - centre[3 * i + 1], z - centre[3 * i + 2]


@njit(inline="always")
def _times(q, at, x, y, z):
    """A symmetric matrix times a vector."""
    k = 6 * at
    return (
        q[k] * x + q[k + 1] * y + q[k + 2] * z,
        q[k + 1] * x + q[k + 3] * y + q[k + 4] * z,
        q[k + 2] * x + q[k + 4] * y + q[k + 5] * z,
    )


@export("f8(i8, i8*, i4*, f8*, f8*, f8*, f8*, f8*, f8, f8*)")
def weigh(n, start, image, ray, prior, centre, point, scale, huber, weight):
    """The cost 1/2 sum prior rho(|r|^2) of all rays, and the weight of each in the next step.

    Rays that fit get their best scale on the way.
    """
    cost = 0.0
    for j in range(n):
        x, y, z = point[3 * j], point[3 * j + 1], point[3 * j + 2]
        for k in range(start[j], start[j + 1]):
            dx, dy, dz = _from(centre, image[k], x, y, z)
            s = scale[k]
            rx, ry, rz = ray[3 * k] - s * dx, ray[3 * k + 1] - s * dy, ray[3 * k + 2] - s * dz
            square = rx * rx + ry * ry + rz * rz
            slope, rho = 1.0, square
            along = ray[3 * k] * dx + ray[3 * k + 1] * dy + ray[3 * k + 2] * dz
            if square <= huber * huber and along > 0.0:
                # The best scale of a ray that fits: far points cannot move on with an old one.
                s = max(along / (dx * dx + dy * dy + dz * dz), LEAST)
                scale[k] = s
                rx, ry, rz = ray[3 * k] - s * dx, ray[3 * k + 1] - s * dy, ray[3 * k + 2] - s * dz
                square = rx * rx + ry * ry + rz * rz
                rho = square
            elif square > huber * huber:
                length = math.sqrt(square)
                slope, rho = huber / length, 2.0 * huber * length - huber * huber
            weight[k] = prior[image[k]] * slope
            cost += 0.5 * prior[image[k]] * rho
    return cost


@export("void(i8, i8*, i4*, f8*, f8*, f8*, f8*, f8*, f8, f8*, f8*, f8*, f8*)")
def prepare(n, start, image, ray, weight, centre, point, scale, damping, ab, inverse, right, sums):
    """a and b of each ray, V^-1 and the right-hand side of each point.

    Of each image, sums has 16 numbers: sum M (6), right-hand side (3), sum w s^2, and the sum of
    M V^-1 M (6), which is what points take from the image's own block.
    """
    for j in range(n):
        x, y, z = point[3 * j], point[3 * j + 1], point[3 * j + 2]
        vxx = vxy = vxz = vyy = vyz = vzz = 0.0
        gx = gy = gz = total = 0.0
        for k in range(start[j], start[j + 1]):
            dx, dy, dz = _from(centre, image[k], x, y, z)
            s, w = scale[k], weight[k]
            rx, ry, rz = ray[3 * k] - s * dx, ray[3 * k + 1] - s * dy, ray[3 * k + 2] - s * dz
            dd = dx * dx + dy * dy + dz * dz
            h = (1.0 + damping) * w * dd + 1e-300
            a = w * s * s
            b = a * w / h
            c = w * s * w * (dx * rx + dy * ry + dz * rz) / h
            ab[2 * k], ab[2 * k + 1] = a, b
            ex, ey, ez = w * s * rx - c * dx, w * s * ry - c * dy, w * s * rz - c * dz
            mxx, mxy, mxz = a - b * dx * dx, -b * dx * dy, -b * dx * dz
            myy, myz, mzz = a - b * dy * dy, -b * dy * dz, a - b * dz * dz
            vxx += mxx
            vxy += mxy
            vxz += mxz
            vyy += myy
            vyz += myz
            vzz += mzz
            gx += ex
            gy += ey
            gz += ez
            total += a
            i = 16 * image[k]
            sums[i] += mxx
            sums[i + 1] += mxy
            sums[i + 2] += mxz
            sums[i + 3] += myy
            sums[i + 4] += myz
            sums[i + 5] += mzz
            sums[i + 6] -= ex
            sums[i + 7] -= ey
            sums[i + 8] -= ez
            sums[i + 9] += a
        more = damping * total + 1e-300
        vxx += more
        vyy += more
        vzz += more
        cxx, cxy, cxz = vyy * vzz - vyz * vyz, vxz * vyz - vxy * vzz, vxy * vyz - vxz * vyy
        cyy, cyz, czz = vxx * vzz - vxz * vxz, vxy * vxz - vxx * vyz, vxx * vyy - vxy * vxy
        over = 1.0 / (vxx * cxx + vxy * cxy + vxz * cxz)
        q = 6 * j
        inverse[q], inverse[q + 1], inverse[q + 2] = cxx * over, cxy * over, cxz * over
        inverse[q + 3], inverse[q + 4], inverse[q + 5] = cyy * over, cyz * over, czz * over
        right[3 * j], right[3 * j + 1], right[3 * j + 2] = gx, gy, gz
        px, py, pz = _times(inverse, j, gx, gy, gz)
        for k in range(start[j], start[j + 1]):
            dx, dy, dz = _from(centre, image[k], x, y, z)
            a, b = ab[2 * k], ab[2 * k + 1]
            i = 16 * image[k]
            along = b * (dx * px + dy * py + dz * pz)
            sums[i + 6] += a * px - along * dx
            sums[i + 7] += a * py - along * dy
            sums[i + 8] += a * pz - along * dz
            # M V^-1 M = a^2 V^-1 - a b (d u^T + u d^T) + b^2 (d.u) d d^T with u = V^-1 d
            ux, uy, uz = _times(inverse, j, dx, dy, dz)
            aa, ab1, bb = a * a, a * b, b * b * (dx * ux + dy * uy + dz * uz)
            sums[i + 10] += aa * inverse[q] - 2.0 * ab1 * dx * ux + bb * dx * dx
            sums[i + 11] += aa * inverse[q + 1] - ab1 * (dx * uy + dy * ux) + bb * dx * dy
            sums[i + 12] += aa * inverse[q + 2] - ab1 * (dx * uz + dz * ux) + bb * dx * dz
            sums[i + 13] += aa * inverse[q + 3] - 2.0 * ab1 * dy * uy + bb * dy * dy
            sums[i + 14] += aa * inverse[q + 4] - ab1 * (dy * uz + dz * uy) + bb * dy * dz
            sums[i + 15] += aa * inverse[q + 5] - 2.0 * ab1 * dz * uz + bb * dz * dz


@export("void(i8, i8*, i4*, f8*, f8*, f8*, f8*, f8*, f8*)")
def product(n, start, image, centre, point, ab, inverse, x, y):
    """y -= sum over points of M V^-1 M x: the reduced matrix but for its blocks sum M + damping."""
    for j in range(n):
        px, py, pz = point[3 * j], point[3 * j + 1], point[3 * j + 2]
        sx = sy = sz = 0.0
        for k in range(start[j], start[j + 1]):
            i = image[k]
            dx, dy, dz = _from(centre, i, px, py, pz)
            a = ab[2 * k]
            x0, x1, x2 = x[3 * i], x[3 * i + 1], x[3 * i + 2]
            along = ab[2 * k + 1] * (dx * x0 + dy * x1 + dz * x2)
            sx += a * x0 - along * dx
            sy += a * x1 - along * dy
            sz += a * x2 - along * dz
        sx, sy, sz = _times(inverse, j, sx, sy, sz)
        for k in range(start[j], start[j + 1]):
            i = image[k]
            dx, dy, dz = _from(centre, i, px, py, pz)
            a = ab[2 * k]
            along = ab[2 * k + 1] * (dx * sx + dy * sy + dz * sz)
            y[3 * i] -= a * sx - along * dx
            y[3 * i + 1] -= a * sy - along * dy
            y[3 * i + 2] -= a * sz - along * dz


@export("void(i8, i8*, i4*, f8*, f8*, f8*, f8*, i8, f8*)")
def matrix(n, start, image, centre, point, ab, inverse, stride, s):
    """The lower blocks of the same as a matrix: s[3 i:, 3 k:] -= M_ij V_j^-1 M_kj for i >= k."""
    for j in range(n):
        x, y, z = point[3 * j], point[3 * j + 1], point[3 * j + 2]
        q = 6 * j
        qxx, qxy, qxz = inverse[q], inverse[q + 1], inverse[q + 2]
        qyy, qyz, qzz = inverse[q + 3], inverse[q + 4], inverse[q + 5]
        for k in range(start[j], start[j + 1]):
            i = image[k]
            dx, dy, dz = _from(centre, i, x, y, z)
            a, b = ab[2 * k], ab[2 * k + 1]
            # N = M V^-1 = a V^-1 - b d (V^-1 d)^T
            ux, uy, uz = _times(inverse, j, dx, dy, dz)
            bx, by, bz = b * dx, b * dy, b * dz
            n0, n1, n2 = a * qxx - bx * ux, a * qxy - bx * uy, a * qxz - bx * uz
            n3, n4, n5 = a * qxy - by * ux, a * qyy - by * uy, a * qyz - by * uz
            n6, n7, n8 = a * qxz - bz * ux, a * qyz - bz * uy, a * qzz - bz * uz
            for t in range(start[j], start[j + 1]):
                o = image[t]
                if o > i:
                    continue
                ex, ey, ez = _from(centre, o, x, y, z)
                a, b = ab[2 * t], ab[2 * t + 1]
                c0 = b * (n0 * ex + n1 * ey + n2 * ez)
                c1 = b * (n3 * ex + n4 * ey + n5 * ez)
                c2 = b * (n6 * ex + n7 * ey + n8 * ez)
                at = 3 * i * stride + 3 * o
                s[at] -= a * n0 - c0 * ex
                s[at + 1] -= a * n1 - c0 * ey
                s[at + 2] -= a * n2 - c0 * ez
                at += stride
                s[at] -= a * n3 - c1 * ex
                s[at + 1] -= a * n4 - c1 * ey
                s[at + 2] -= a * n5 - c1 * ez
                at += stride
                s[at] -= a * n6 - c2 * ex
                s[at + 1] -= a * n7 - c2 * ey
                s[at + 2] -= a * n8 - c2 * ez


@export("void(i8, i8*, i4*, f8*, f8*, f8*, f8*, i8*, f8*, i8, f8*, i8*, f8*)")
def coarse(
    n, start, image, centre, point, ab, inverse, piece, offset, stride, matrix, found, rows
):  # fmt: skip
    """matrix -= Z^T (sum over points of M V^-1 M) Z, where Z has four columns for each piece of
    images: its moves along x, y and z, and its growth from its middle (`offset` is from there).

    `found` has room for as many numbers as the longest track has rays, `rows` for 12 times that:
    M Z summed over the images of each piece that sees a point.
    """
    for j in range(n):
        x, y, z = point[3 * j], point[3 * j + 1], point[3 * j + 2]
        count = 0
        for k in range(start[j], start[j + 1]):
            i = image[k]
            if piece[i] < 0:
                continue
            at = 0
            while at < count and found[at] != piece[i]:
                at += 1
            if at == count:
                found[at] = piece[i]
                for c in range(12):
                    rows[12 * at + c] = 0.0
                count += 1
            dx, dy, dz = _from(centre, i, x, y, z)
            a, b = ab[2 * k], ab[2 * k + 1]
            ox, oy, oz = offset[3 * i], offset[3 * i + 1], offset[3 * i + 2]
            along = b * (dx * ox + dy * oy + dz * oz)
            at *= 12
            rows[at] += a - b * dx * dx
            rows[at + 1] -= b * dx * dy
            rows[at + 2] -= b * dx * dz
            rows[at + 3] -= b * dx * dy
            rows[at + 4] += a - b * dy * dy
            rows[at + 5] -= b * dy * dz
            rows[at + 6] -= b * dx * dz
            rows[at + 7] -= b * dy * dz
            rows[at + 8] += a - b * dz * dz
            rows[at + 9] += a * ox - along * dx
            rows[at + 10] += a * oy - along * dy
            rows[at + 11] += a * oz - along * dz
        for s in range(count):
            for c in range(4):
                at = 12 * s + 3 * c
                ux, uy, uz = _times(inverse, j, rows[at], rows[at + 1], rows[at + 2])
                row = (4 * found[s] + c) * stride
                for t in range(count):
                    for e in range(4):
                        o = 12 * t + 3 * e
                        matrix[row + 4 * found[t] + e] -= (
                            ux * rows[o] + uy * rows[o + 1] + uz * rows[o + 2]
                        )


@export("f8(i8, i8*, i4*, f8*, f8*, f8*, f8*, f8*, f8*, f8*, f8*, f8, f8*, f8*, f8*)")
def step(
    n, start, image, ray, weight, centre, point, scale, ab, inverse, right, damping, move,
    new_point, new_scale,
):  # fmt: skip
    """Points and scales after centres move; by how much the linear model's cost falls."""
    fall = 0.0
    for j in range(n):
        x, y, z = point[3 * j], point[3 * j + 1], point[3 * j + 2]
        gx, gy, gz = right[3 * j], right[3 * j + 1], right[3 * j + 2]
        for k in range(start[j], start[j + 1]):
            i = image[k]
            dx, dy, dz = _from(centre, i, x, y, z)
            a = ab[2 * k]
            m0, m1, m2 = move[3 * i], move[3 * i + 1], move[3 * i + 2]
            along = ab[2 * k + 1] * (dx * m0 + dy * m1 + dz * m2)
            gx += a * m0 - along * dx
            gy += a * m1 - along * dy
            gz += a * m2 - along * dz
        px, py, pz = _times(inverse, j, gx, gy, gz)
        new_point[3 * j], new_point[3 * j + 1], new_point[3 * j + 2] = x + px, y + py, z + pz
        for k in range(start[j], start[j + 1]):
            i = image[k]
            dx, dy, dz = _from(centre, i, x, y, z)
            tx, ty, tz = px - move[3 * i], py - move[3 * i + 1], pz - move[3 * i + 2]
            s, w = scale[k], weight[k]
            rx, ry, rz = ray[3 * k] - s * dx, ray[3 * k + 1] - s * dy, ray[3 * k + 2] - s * dz
            h = (1.0 + damping) * (dx * dx + dy * dy + dz * dz) + 1e-300
            ds = (dx * (rx - s * tx) + dy * (ry - s * ty) + dz * (rz - s * tz)) / h
            new_scale[k] = max(s + ds, LEAST)
            jx, jy, jz = -s * tx - ds * dx, -s * ty - ds * dy, -s * tz - ds * dz
            fall -= w * (jx * (rx + 0.5 * jx) + jy * (ry + 0.5 * jy) + jz * (rz + 0.5 * jz))
    return fall


@njit(inline="always")
def _loss(vx, vy, vz, s, dx, dy, dz, huber):
    rx, ry, rz = vx - s * dx, vy - s * dy, vz - s * dz
    square = rx * rx + ry * ry + rz * rz
    if square <= huber * huber:
        return square
    return 2.0 * huber * math.sqrt(square) - huber * huber


@njit(inline="always")
def _best_scale(vx, vy, vz, dx, dy, dz):
    return max((vx * dx + vy * dy + vz * dz) / (dx * dx + dy * dy + dz * dz + 1e-300), LEAST)


@export("i8(i8, i8*, i4*, f8*, f8*, f8*, f8*, f8*, f8, i8)")
def rescue(n, start, image, ray, prior, centre, point, scale, huber, every):
    """Points that ended behind an image, which no step brings back, or where `every` is 1 all that
    miss a ray by more than Huber's limit: put where their rays are nearest to each other, if that
    costs less; how many.

    (sum of I - v v^T) x = sum of (I - v v^T) c.
    """
    count = 0
    for j in range(n):
        wrong = False
        for k in range(start[j], start[j + 1]):
            i = image[k]
            dx, dy, dz = _from(centre, i, point[3 * j], point[3 * j + 1], point[3 * j + 2])
            loss = _loss(ray[3 * k], ray[3 * k + 1], ray[3 * k + 2], scale[k], dx, dy, dz, huber)
            wrong |= scale[k] <= LEAST or (every == 1 and loss > huber * huber)
        if not wrong:
            continue
        x, y, z = point[3 * j], point[3 * j + 1], point[3 * j + 2]
        xx = xy = xz = yy = yz = zz = 1e-12
        bx = by = bz = cost = 0.0
        for k in range(start[j], start[j + 1]):
            i = image[k]
            vx, vy, vz = ray[3 * k], ray[3 * k + 1], ray[3 * k + 2]
            dx, dy, dz = _from(centre, i, x, y, z)
            cost += prior[i] * _loss(vx, vy, vz, scale[k], dx, dy, dz, huber)
            along = dx * vx + dy * vy + dz * vz
            bx -= dx - along * vx
            by -= dy - along * vy
            bz -= dz - along * vz
            xx += 1.0 - vx * vx
            xy -= vx * vy
            xz -= vx * vz
            yy += 1.0 - vy * vy
            yz -= vy * vz
            zz += 1.0 - vz * vz
        cxx, cxy, cxz = yy * zz - yz * yz, xz * yz - xy * zz, xy * yz - xz * yy
        cyy, cyz, czz = xx * zz - xz * xz, xy * xz - xx * yz, xx * yy - xy * xy
        over = 1.0 / (xx * cxx + xy * cxy + xz * cxz)
        x += over * (cxx * bx + cxy * by + cxz * bz)
        y += over * (cxy * bx + cyy * by + cyz * bz)
        z += over * (cxz * bx + cyz * by + czz * bz)
        new = 0.0
        for k in range(start[j], start[j + 1]):
            i = image[k]
            vx, vy, vz = ray[3 * k], ray[3 * k + 1], ray[3 * k + 2]
            dx, dy, dz = _from(centre, i, x, y, z)
            s = _best_scale(vx, vy, vz, dx, dy, dz)
            new += prior[i] * _loss(vx, vy, vz, s, dx, dy, dz, huber)
        if new < cost:
            count += 1
            point[3 * j], point[3 * j + 1], point[3 * j + 2] = x, y, z
            for k in range(start[j], start[j + 1]):
                dx, dy, dz = _from(centre, image[k], x, y, z)
                vx, vy, vz = ray[3 * k], ray[3 * k + 1], ray[3 * k + 2]
                scale[k] = _best_scale(vx, vy, vz, dx, dy, dz)
    return count
