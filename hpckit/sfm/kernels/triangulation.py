"""Points from rays, one track after the other: consensus of pairs of rays, then Gauss-Newton.

A ray from centre c along the unit vector d misses the point X by e = |y x d| / (y . d), y = X - c,
the tangent of the angle between them. A ray with e^2 < limit, and X in front, agrees; limit is that
of the ray, so that e^2 / limit compares errors in pixels.
"""

from __future__ import annotations

from numba import carray, njit, types

from hpckit.native import export

_PAIRS = 64  # most pairs of rays that are tried in a track
_STEPS = 8  # of Gauss-Newton
_ROUNDS = 3  # of them, each with the rays that agree with the last


@njit(inline="always")
def _miss(x, y, z, c, d, o, i):
    """e^2 of ray o of image i; infinite where the point is behind."""
    a, b, g = x - c[3 * i], y - c[3 * i + 1], z - c[3 * i + 2]
    u, v, w = d[3 * o], d[3 * o + 1], d[3 * o + 2]
    depth = a * u + b * v + g * w
    if not depth > 0.0:
        return types.float64(1e300)
    p, q, r = b * w - g * v, g * u - a * w, a * v - b * u
    return (p * p + q * q + r * r) / (depth * depth)


@njit
def _between(c, d, o, i, q, j, out):
    """The point in the middle of where two rays are nearest; whether there is one, in front."""
    u, v, w = d[3 * o], d[3 * o + 1], d[3 * o + 2]
    k, m, n = d[3 * q], d[3 * q + 1], d[3 * q + 2]
    a, b, g = c[3 * j] - c[3 * i], c[3 * j + 1] - c[3 * i + 1], c[3 * j + 2] - c[3 * i + 2]
    cosine = u * k + v * m + w * n
    sine = 1.0 - cosine * cosine
    if sine < 1e-12:
        return False
    along, across = u * a + v * b + w * g, k * a + m * b + n * g
    s = (along - cosine * across) / sine
    t = (cosine * along - across) / sine
    if not (s > 0.0 and t > 0.0):
        return False
    out[0] = 0.5 * (c[3 * i] + s * u + c[3 * j] + t * k)
    out[1] = 0.5 * (c[3 * i + 1] + s * v + c[3 * j + 1] + t * m)
    out[2] = 0.5 * (c[3 * i + 2] + s * w + c[3 * j + 2] + t * n)
    return True


@njit
def _cost(x, y, z, first, last, image, c, d, limit, enough):
    """Sum of min(e^2 / limit, 1) over a track's rays; it may stop above `enough`."""
    total = 0.0
    for o in range(first, last):
        e = _miss(x, y, z, c, d, o, image[o]) / limit[o]
        total += e if e < 1.0 else 1.0
        if total > enough:
            break
    return total


@njit
def _consensus(first, last, image, c, d, limit, point, trial):
    """The best point of two rays, and its cost; the number of rays + 1 where there is none.

    Pairs lie half a track apart first: images that follow each other lie close together.
    """
    n = last - first
    best, tried = n + 1.0, 0
    shift = n // 2
    while shift > 0 and tried < _PAIRS:
        for a in range(n):
            if tried == _PAIRS:
                break
            o, q = first + a, first + (a + shift) % n
            i, j = image[o], image[q]
            tried += 1
            if i != j and _between(c, d, o, i, q, j, trial):
                cost = _cost(trial[0], trial[1], trial[2], first, last, image, c, d, limit, best)
                if cost < best:
                    best = cost
                    point[0], point[1], point[2] = trial[0], trial[1], trial[2]
        shift -= 1
    return best


@njit
def _step(first, last, image, c, d, limit, good, point, s):
    """One step of Gauss-Newton on sum e^2 / limit of good rays; s = (h (6), g (3)), new in `point`.

    e is the length of r = (y - (y . d) d) / (y . d), dr/dX = (I - d d^T - r d^T) / (y . d).
    """
    for k in range(9):
        s[k] = 0.0
    for o in range(first, last):
        if good[o]:
            i = image[o]
            a, b, g = point[0] - c[3 * i], point[1] - c[3 * i + 1], point[2] - c[3 * i + 2]
            u, v, w = d[3 * o], d[3 * o + 1], d[3 * o + 2]
            depth = a * u + b * v + g * w
            k = 1.0 / depth
            p, q, r = a * k - u, b * k - v, g * k - w
            ee = p * p + q * q + r * r
            # r . d = 0: J^T J = (I - dd^T + e^2 dd^T - rd^T - dr^T) k^2, J^T r = (r - e^2 d) k
            wt = k * k / limit[o]
            s[0] += wt * (1.0 - u * u + ee * u * u - 2.0 * u * p)
            s[1] += wt * (-u * v + ee * u * v - u * q - v * p)
            s[2] += wt * (-u * w + ee * u * w - u * r - w * p)
            s[3] += wt * (1.0 - v * v + ee * v * v - 2.0 * v * q)
            s[4] += wt * (-v * w + ee * v * w - v * r - w * q)
            s[5] += wt * (1.0 - w * w + ee * w * w - 2.0 * w * r)
            s[6] += wt * depth * (p - ee * u)
            s[7] += wt * depth * (q - ee * v)
            s[8] += wt * depth * (r - ee * w)
    return _solve(s, point)


@njit
def _solve(s, point):
    """point -= H^-1 g by cofactors; the relative size of the step, or -1 where H is singular."""
    a, b, e, f, g, h = s[0], s[1], s[2], s[3], s[4], s[5]
    m0, m1, m2 = f * h - g * g, e * g - b * h, b * g - e * f
    det = a * m0 + b * m1 + e * m2
    if not det > 1e-14 * a * f * h:
        return -1.0
    m3, m4, m5 = a * h - e * e, b * e - a * g, a * f - b * b
    x = (m0 * s[6] + m1 * s[7] + m2 * s[8]) / det
    y = (m1 * s[6] + m3 * s[7] + m4 * s[8]) / det
    z = (m2 * s[6] + m4 * s[7] + m5 * s[8]) / det
    point[0] -= x
    point[1] -= y
    point[2] -= z
    return x * x + y * y + z * z


@njit
def _agree(first, last, image, c, d, limit, point, good):
    """Mark the rays that agree, one per image, the best (they are sorted by image); how many."""
    count, before = 0, -1
    for o in range(first, last):
        i = image[o]
        e = _miss(point[0], point[1], point[2], c, d, o, i) / limit[o]
        good[o] = 1 if e < 1.0 else 0
        if good[o]:
            if before >= 0 and image[before] == i:
                other = _miss(point[0], point[1], point[2], c, d, before, i) / limit[before]
                if other <= e:
                    good[o] = 0
                    continue
                good[before] = 0
                count -= 1
            before = o
            count += 1
    return count


@njit
def _refine(first, last, image, c, d, limit, good, point, trial, s):
    """Gauss-Newton while the cost of all rays falls."""
    cost = _cost(point[0], point[1], point[2], first, last, image, c, d, limit, 1e300)
    for _ in range(_STEPS):
        trial[0], trial[1], trial[2] = point[0], point[1], point[2]
        moved = _step(first, last, image, c, d, limit, good, trial, s)
        if moved < 0.0:
            return
        new = _cost(trial[0], trial[1], trial[2], first, last, image, c, d, limit, 1e300)
        if not new < cost:
            return
        point[0], point[1], point[2] = trial[0], trial[1], trial[2]
        if cost - new < 1e-9 * cost:
            return
        cost = new


@njit
def _cosine(x, c, i, j):
    """Of the angle at which a point sees two centres."""
    ab, aa, bb = 0.0, 0.0, 0.0
    for k in range(3):
        a, b = x[k] - c[3 * i + k], x[k] - c[3 * j + k]
        ab += a * b
        aa += a * a
        bb += b * b
    return ab / (aa * bb) ** 0.5 if aa > 0.0 and bb > 0.0 else 1.0


@njit
def _widest(first, last, image, c, good, x):
    """The least cosine between the good rays of a track."""
    least = 1.0
    for o in range(first, last):
        if good[o]:
            for q in range(o + 1, last):
                if good[q]:
                    least = min(least, _cosine(x, c, image[o], image[q]))
    return least


@export("i8(i8, i8*, i4*, f8*, f8*, f8*, i8, f8, f8*, u1*, f8*)")
def triangulate(tracks, start, image, c, d, limit, views, cosine, xyz, good, work):
    """Points of tracks, and which rays agree with them; how many points there are.

    Of a track without a point seen by `views` rays, two of them at an angle whose cosine is at most
    `cosine`, no ray is good. c : (images, 3) centres; d : (n, 3) unit rays in the world;
    limit : (n,); xyz : (tracks, 3); good : (n,); work : (12,).
    """
    found = 0
    s, trial = carray(work, 9), carray(work, 12)[9:]
    for t in range(tracks):
        first, last = start[t], start[t + 1]
        point = carray(xyz, 3 * (t + 1))[3 * t :]
        for o in range(first, last):
            good[o] = 0
        if _consensus(first, last, image, c, d, limit, point, trial) > last - first:
            continue
        count = 0
        for _ in range(_ROUNDS):
            count = _agree(first, last, image, c, d, limit, point, good)
            if count < 2:
                break
            _refine(first, last, image, c, d, limit, good, point, trial, s)
        count = _agree(first, last, image, c, d, limit, point, good)
        if count < views or _widest(first, last, image, c, good, point) > cosine:
            for o in range(first, last):
                good[o] = 0
        else:
            found += 1
    return found


@export("void(i8, i8*, i4*, f8*, u1*, f8*, f8*)")
def widest(points, start, image, c, good, xyz, cosine):
    """The least cosine between the good rays of each point; 1 where there are not two."""
    for t in range(points):
        x = carray(xyz, 3 * (t + 1))[3 * t :]
        cosine[t] = _widest(start[t], start[t + 1], image, c, good, x)
