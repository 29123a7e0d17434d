"""Rotation averaging: residuals of edges, their weights, and products with the graph's Laplacian.

Quaternions are w x y z and map from the world to an image. Edge (i, j) with relative rotation q_ij
says q_j = q_ij q_i; its residual is e = log(q_j^-1 q_ij q_i), a rotation vector in the world's
frame. A step x moves q_i to q_i exp(x_i), which changes e by x_i - x_j to first order.
"""

from __future__ import annotations

import math

from numba import njit, types

from hpckit.native import export

UNIFORM, L1, GEMAN_MCCLURE = 0, 1, 2  # what `weigh` can do


@njit(inline="always")
def _multiply(aw, ax, ay, az, bw, bx, by, bz):
    return (
        aw * bw - ax * bx - ay * by - az * bz,
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
    )


@njit(inline="always")
def _load(q, i):
    return q[4 * i], q[4 * i + 1], q[4 * i + 2], q[4 * i + 3]


@njit(inline="always")
def _store(q, i, w, x, y, z):
    length = 1.0 / math.sqrt(w * w + x * x + y * y + z * z)
    q[4 * i], q[4 * i + 1] = w * length, x * length
    q[4 * i + 2], q[4 * i + 3] = y * length, z * length


@export("void(i8, i8*, f8*, f8*, f8*)")
def residuals(m, edges, relative, q, e):
    """e[k] = log(q_j^-1 q_ij q_i) of each edge k."""
    for k in range(m):
        iw, ix, iy, iz = _load(q, edges[2 * k])
        jw, jx, jy, jz = _load(q, edges[2 * k + 1])
        rw, rx, ry, rz = _load(relative, k)
        w, x, y, z = _multiply(rw, rx, ry, rz, iw, ix, iy, iz)
        w, x, y, z = _multiply(jw, -jx, -jy, -jz, w, x, y, z)
        if w < 0.0:
            w, x, y, z = -w, -x, -y, -z
        sine = math.sqrt(x * x + y * y + z * z)
        scale = 2.0 * math.atan2(sine, w) / sine if sine > 1e-12 else 2.0
        e[3 * k], e[3 * k + 1], e[3 * k + 2] = scale * x, scale * y, scale * z


@export("f8(i8, f8*, f8*, i8, f8, f8*)")
def weigh(m, e, prior, kind, scale, weight):
    """Weight of each edge in the next step: prior * rho'(|e|^2); the cost 1/2 sum prior rho.

    L1: rho = 2 |e|, cut off below `scale`; Geman-McClure: rho = scale^2 |e|^2 / (scale^2 + |e|^2).
    """
    cost = 0.0
    for k in range(m):
        square = e[3 * k] ** 2 + e[3 * k + 1] ** 2 + e[3 * k + 2] ** 2
        if kind == UNIFORM:
            slope, rho = 1.0, square
        elif kind == L1:
            angle = max(math.sqrt(square), scale)
            slope, rho = 1.0 / angle, 2.0 * angle
        else:
            ratio = scale * scale / (scale * scale + square)
            slope, rho = ratio * ratio, ratio * square
        weight[k] = prior[k] * slope
        cost += 0.5 * prior[k] * rho
    return cost


@export("void(i8, i8*, f8*, f8*, f8*, f8*)")
def gradient(m, edges, weight, e, right, diagonal):
    """right += B^T W e and diagonal += that of B^T W B, where B x = x_j - x_i of each edge."""
    for k in range(m):
        i, j, w = edges[2 * k], edges[2 * k + 1], weight[k]
        for c in range(3):
            right[3 * i + c] -= w * e[3 * k + c]
            right[3 * j + c] += w * e[3 * k + c]
        diagonal[i] += w
        diagonal[j] += w


@export("void(i8, i8*, f8*, f8*, f8*)")
def product(m, edges, weight, x, y):
    """y += B^T W B x, of three columns."""
    for k in range(m):
        i, j, w = 3 * edges[2 * k], 3 * edges[2 * k + 1], weight[k]
        d0, d1, d2 = w * (x[j] - x[i]), w * (x[j + 1] - x[i + 1]), w * (x[j + 2] - x[i + 2])
        y[i] -= d0
        y[i + 1] -= d1
        y[i + 2] -= d2
        y[j] += d0
        y[j + 1] += d1
        y[j + 2] += d2


@export("void(i8, i8*, f8*, i8*, i8, f8*)")
def coarse(m, edges, weight, cluster, n, matrix):
    """matrix += Z^T B^T W B Z, (n, n), where Z spreads a value per cluster over its images."""
    for k in range(m):
        a, b, w = cluster[edges[2 * k]], cluster[edges[2 * k + 1]], weight[k]
        if a != b:
            if a >= 0:
                matrix[a * n + a] += w
            if b >= 0:
                matrix[b * n + b] += w
            if a >= 0 and b >= 0:
                matrix[a * n + b] -= w
                matrix[b * n + a] -= w


@njit(inline="always")
def _quotient(a, b):
    return a / b if b > 0.0 else 0.0


@export("i8(i8, f8*, f8*, f8*, f8*, i8*, i8, f8*, f8*, f8*, f8*, f8)")
def iterate(n, x, r, p, y, cluster, pieces, inverse, diagonal, sums, scalars, limit):
    """An iteration of conjugate gradients, three columns apart: x, r and the direction p, when
    y = L p is known; whether all are good enough. All zero but r: the first direction.

    What preconditions is z = r / diagonal + Z inverse Z^T r, where Z^T sums over pieces; `sums` has
    room for two numbers of each piece and column. y becomes z. scalars[0:3] become r^T z, and [3:6]
    are those of the first time, of which `limit` is good enough.
    """
    a = b = c = 0.0
    for k in range(0, 3 * n, 3):
        a += p[k] * y[k]
        b += p[k + 1] * y[k + 1]
        c += p[k + 2] * y[k + 2]
    a, b, c = _quotient(scalars[0], a), _quotient(scalars[1], b), _quotient(scalars[2], c)
    for k in range(6 * pieces):
        sums[k] = 0.0
    for i in range(n):
        k, at = 3 * i, 3 * cluster[i]
        r0, r1, r2 = r[k] - a * y[k], r[k + 1] - b * y[k + 1], r[k + 2] - c * y[k + 2]
        r[k], r[k + 1], r[k + 2] = r0, r1, r2
        x[k] += a * p[k]
        x[k + 1] += b * p[k + 1]
        x[k + 2] += c * p[k + 2]
        if at >= 0:
            sums[at] += r0
            sums[at + 1] += r1
            sums[at + 2] += r2
    _spread(pieces, inverse, sums)
    a = b = c = 0.0
    for i in range(n):
        k, at = 3 * i, 3 * (pieces + cluster[i])
        scale = _quotient(1.0, diagonal[i])
        z0, z1, z2 = scale * r[k], scale * r[k + 1], scale * r[k + 2]
        if cluster[i] >= 0:
            z0, z1, z2 = z0 + sums[at], z1 + sums[at + 1], z2 + sums[at + 2]
        y[k], y[k + 1], y[k + 2] = z0, z1, z2
        a += z0 * r[k]
        b += z1 * r[k + 1]
        c += z2 * r[k + 2]
    before0, before1, before2 = scalars[0], scalars[1], scalars[2]
    scalars[0], scalars[1], scalars[2] = a, b, c
    good = types.int64(1)
    for column in range(3):
        if scalars[3 + column] == 0.0:
            scalars[3 + column] = scalars[column]
        if scalars[column] > limit * scalars[3 + column]:
            good = 0
    a, b, c = _quotient(a, before0), _quotient(b, before1), _quotient(c, before2)
    for k in range(0, 3 * n, 3):
        p[k] = y[k] + a * p[k]
        p[k + 1] = y[k + 1] + b * p[k + 1]
        p[k + 2] = y[k + 2] + c * p[k + 2]
    return good


@njit
def _spread(pieces, inverse, sums):
    """The second half of `sums` = `inverse`, which is symmetric, times the first."""
    for k in range(pieces):
        a, b, c = sums[3 * k], sums[3 * k + 1], sums[3 * k + 2]
        for row in range(pieces):
            value, at = inverse[k * pieces + row], 3 * (pieces + row)
            sums[at] += value * a
            sums[at + 1] += value * b
            sums[at + 2] += value * c


@export("void(i8, f8*, f8*)")
def move(n, x, q):
    """q_i = q_i exp(x_i)."""
    for i in range(n):
        a, b, c = x[3 * i], x[3 * i + 1], x[3 * i + 2]
        angle = math.sqrt(a * a + b * b + c * c)
        scale = math.sin(0.5 * angle) / angle if angle > 1e-12 else 0.5
        w, x0, y, z = _load(q, i)
        w, x0, y, z = _multiply(w, x0, y, z, math.cos(0.5 * angle), scale * a, scale * b, scale * c)
        _store(q, i, w, x0, y, z)


@njit
def _root(parent, i):
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@export("i8(i8, i8*, i8*, i8*, i8*)")
def forest(m, edges, order, parent, taken):
    """Kruskal: the edges, in this order, that close no loop; how many.

    parent[i] = i at first; at the end each image's root is the first image of its component.
    """
    count = types.int64(0)
    for k in range(m):
        i, j = _root(parent, edges[2 * order[k]]), _root(parent, edges[2 * order[k] + 1])
        if i != j:
            parent[max(i, j)] = min(i, j)
            taken[count] = order[k]
            count += 1
    return count


@export("void(i8, i8*, i8*, i8*, i8*, f8*, i8*, i8*, f8*)")
def spread(n, start, other, edge, direction, relative, order, above, q):
    """Visit a forest breadth first: rotations from each root on, in which the root has none.

    Neighbours of i are other[start[i]:start[i + 1]], by edges of which direction says whether i is
    their first image (1) or the second (0). order[k] is the k-th image visited, and above[i] the
    one that i is reached from (itself: a root); above[i] = -1 at first.
    """
    seen = types.int64(0)
    done = types.int64(0)
    for root in range(n):
        if above[root] >= 0:
            continue
        above[root], order[seen] = root, root
        seen += 1
        _store(q, root, 1.0, 0.0, 0.0, 0.0)
        while done < seen:
            i = order[done]
            done += 1
            iw, ix, iy, iz = _load(q, i)
            for k in range(start[i], start[i + 1]):
                j = other[k]
                if above[j] < 0:
                    rw, rx, ry, rz = _load(relative, edge[k])
                    if direction[k] == 0:
                        rx, ry, rz = -rx, -ry, -rz
                    w, x, y, z = _multiply(rw, rx, ry, rz, iw, ix, iy, iz)
                    _store(q, j, w, x, y, z)
                    above[j], order[seen] = i, j
                    seen += 1


@export("i8(i8, i8*, i8*, i8, i8*, i8*)")
def clusters(n, order, above, size, count, cluster):
    """Cut a forest into connected pieces of `size` images or a few more; how many.

    cluster[i] = number of the piece of i; -1 where a whole component is smaller.
    """
    pieces = types.int64(0)
    for i in range(n):
        count[i], cluster[i] = 1, -1
    for k in range(n - 1, -1, -1):
        i = order[k]
        up = above[i]
        if up == i:
            continue
        if count[i] >= size:
            cluster[i] = pieces
            pieces += 1
            if cluster[up] == -1:
                cluster[up] = -2  # something hangs below it: its component is not small
        else:
            count[up] += count[i]
            if cluster[i] == -2 and cluster[up] == -1:
                cluster[up] = -2
    for k in range(n):
        i = order[k]
        if above[i] == i:
            if count[i] >= size or cluster[i] == -2:
                cluster[i] = pieces
                pieces += 1
        elif cluster[i] < 0:
            cluster[i] = cluster[above[i]]
    return pieces
