"""Kernel source: stages of Runge-Kutta, of which `hpckit.pde.runge_kutta` makes steps.

A stage computes `new = keep base + take (u + dt L(u))`, where L is the right-hand side of the
equation and `base` the state at the step's beginning, which `new` may be. The kernels called
`..._alone` make whole steps on a rank that has the grid to itself: see `hpckit.pde.alone`. What
names mean is told at the top of `hpckit.pde.kernels`; stencils reach three cells far.
"""

from __future__ import annotations

import math

from numba import njit

from hpckit.native import export
from hpckit.pde.alone_kernels import fill_ghosts
from hpckit.pde.line_kernels import CHUNK, fence, number, put, scratch


@njit(inline="always")
def _second(u, k, s):
    """h^2 times the second derivative along stride s, to sixth order; zero where u is uniform."""
    near = (u[k - s] - u[k]) + (u[k + s] - u[k])
    middle = (u[k - 2 * s] - u[k]) + (u[k + 2 * s] - u[k])
    far = (u[k - 3 * s] - u[k]) + (u[k + 3 * s] - u[k])
    return number(u, 1.5) * near - number(u, 0.15) * middle + number(u, 1 / 90) * far


@njit(inline="always")
def _third(u, k):
    """h^3 times the third derivative in a row, to fourth order."""
    near, middle, far = u[k + 1] - u[k - 1], u[k + 2] - u[k - 2], u[k + 3] - u[k - 3]
    return middle - number(u, 1.625) * near - number(u, 0.125) * far


@njit(inline="always")
def _carried(u, v, k, s, most):
    """h times the derivative of v u along stride s, to sixth order, and a damping of the shortest.

    The damping, to which speeds up to `most` would lead upwind, makes the order five.
    """
    near = v[k + s] * u[k + s] - v[k - s] * u[k - s]
    middle = v[k + 2 * s] * u[k + 2 * s] - v[k - 2 * s] * u[k - 2 * s]
    far = v[k + 3 * s] * u[k + 3 * s] - v[k - 3 * s] * u[k - 3 * s]
    central = number(u, 0.75) * near - number(u, 0.15) * middle + number(u, 1 / 60) * far
    pairs = (
        number(u, 15.0) * (u[k - s] + u[k + s])
        - number(u, 6.0) * (u[k - 2 * s] + u[k + 2 * s])
        + (u[k - 3 * s] + u[k + 3 * s])
    )
    return central - most * (number(u, 1 / 60) * (pairs - number(u, 20.0) * u[k]))


@njit(inline="always")
def _weno(like, a, b, c, d, e, least):
    """The value at the far face of the third of five cells: fifth order, and no more at shocks.

    WENO-Z of Borges, Carmona, Costa & Don (2008); `least` keeps the weights finite.
    """
    first, quarter = number(like, 13 / 12), number(like, 0.25)
    two, three, four = number(like, 2.0), number(like, 3.0), number(like, 4.0)
    x, y, z = a - two * b + c, b - two * c + d, c - two * d + e
    left, right = a - four * b + three * c, three * c - four * d + e
    s0 = first * (x * x) + quarter * (left * left)
    s1 = first * (y * y) + quarter * ((b - d) * (b - d))
    s2 = first * (z * z) + quarter * (right * right)
    jump = abs(s0 - s2)
    one, r0, r1, r2 = (
        number(like, 1.0),
        jump / (s0 + least),
        jump / (s1 + least),
        jump / (s2 + least),
    )
    w0, w1, w2 = one + r0 * r0, number(like, 6.0) * (one + r1 * r1), three * (one + r2 * r2)
    p0 = two * a - number(like, 7.0) * b + number(like, 11.0) * c
    p1 = number(like, 5.0) * c - b + two * d
    p2 = two * c + number(like, 5.0) * d - e
    return (w0 * p0 + w1 * p1 + w2 * p2) / (number(like, 6.0) * (w0 + w1 + w2))


@njit(inline="always")
def _larger(a, b):
    return a if a > b else b


@njit(inline="always")
def _flux(u, k, least):
    """u^2 / 2 through the face after cell k, split by the largest |u| of the six cells around."""
    a, b, c = abs(u[k - 2]), abs(u[k - 1]), abs(u[k])
    d, e, f = abs(u[k + 1]), abs(u[k + 2]), abs(u[k + 3])
    most = _larger(_larger(_larger(a, b), _larger(c, d)), _larger(e, f))
    half = number(u, 0.5)
    forward = _weno(
        u,
        half * (half * u[k - 2] * u[k - 2] + most * u[k - 2]),
        half * (half * u[k - 1] * u[k - 1] + most * u[k - 1]),
        half * (half * u[k] * u[k] + most * u[k]),
        half * (half * u[k + 1] * u[k + 1] + most * u[k + 1]),
        half * (half * u[k + 2] * u[k + 2] + most * u[k + 2]),
        least,
    )
    backward = _weno(
        u,
        half * (half * u[k + 3] * u[k + 3] - most * u[k + 3]),
        half * (half * u[k + 2] * u[k + 2] - most * u[k + 2]),
        half * (half * u[k + 1] * u[k + 1] - most * u[k + 1]),
        half * (half * u[k] * u[k] - most * u[k]),
        half * (half * u[k - 1] * u[k - 1] - most * u[k - 1]),
        least,
    )
    return forward + backward


@njit(inline="always")
def _steepen(new, base, u, waves, n, keep, take, modes, terms, pitch, c1, c2, c3, least, dt, time):
    """One stage of `steepen`."""
    face, line = scratch(new), scratch(new)
    done = 0
    while done < n:
        some = n - done if n - done < CHUNK - 1 else CHUNK - 1
        for q in range(some + 1):
            face[q] = _flux(u, done + q - 1, least)
        for q in range(some):
            k = done + q
            line[q] = (
                u[k] - c1 * (face[q + 1] - face[q]) + c2 * _second(u, k, 1) - c3 * _third(u, k)
            )
        for m in range(terms):
            angle = modes[3 * m + 1] * time + modes[3 * m + 2]
            sine = number(u, dt * modes[3 * m] * math.sin(angle))
            cosine = number(u, dt * modes[3 * m] * math.cos(angle))
            row = 2 * m * pitch + done
            for q in range(some):
                line[q] += sine * waves[row + q] + cosine * waves[row + pitch + q]
        for q in range(some):
            line[q] = keep * base[done + q] + take * line[q]
        put(new, done, line, some, 0, u, 0)
        done += some


@export(
    "void(f8*, f8*, f8*, f8*, i8, f8, f8, f8*, i8, i8, f8, f8, f8, f8, f8, f8)",
    "void(f4*, f4*, f4*, f4*, i8, f4, f4, f8*, i8, i8, f4, f4, f4, f4, f8, f8)",
)
def steepen(new, base, u, waves, n, keep, take, modes, terms, pitch, c1, c2, c3, least, dt, time):
    """A stage of u_t = -(alpha u^2/2)_x + beta u_xx - gamma u_xxx + delta(time, x).

    delta = sum of A sin(omega time + phi + k x): `modes` holds A, omega and phi of its terms,
    `waves` rows of `pitch` values cos(k x) and sin(k x). c1 = alpha dt/h, c2 = beta dt/h^2, c3 =
    gamma dt/h^3.
    """
    _steepen(new, base, u, waves, n, keep, take, modes, terms, pitch, c1, c2, c3, least, dt, time)


@export(
    "void(f8*, f8*, f8*, f8*, i8, i8*, f8*, i8, i8, f8*, f8*, i8, i8, f8, f8, f8, f8, f8, f8)",
    "void(f4*, f4*, f4*, f4*, i8, i8*, f4*, i8, i8, f4*, f8*, i8, i8, f4, f4, f4, f4, f8, f8)",
)
def steepen_alone(
    u0, u1, u2, waves, n,
    moves, walls, ghosts, count, stages, modes, terms, pitch, c1, c2, c3, least, dt, time,
):  # fmt: skip
    """`count` steps of `steepen`, from u0 to u0."""
    now = time
    for step in range(3 * count):
        stage = step % 3
        if stage == 0:
            new, u, when = u1, u0, now
        elif stage == 1:
            new, u, when = u2, u1, now + dt
        else:
            new, u, when = u0, u2, now + 0.5 * dt
            now += dt
        fill_ghosts(u, moves, walls, ghosts, 0, 0)
        keep, take = stages[2 * stage], stages[2 * stage + 1]
        _steepen(new, u0, u, waves, n, keep, take, modes, terms, pitch, c1, c2, c3, least, dt, when)


@njit(inline="always")
def _react(
    new_u, new_v, base_u, base_v, u, v, n1, n2,
    keep, take, s1, uy, ux, vy, vx, dt, feed, loss, stream,
):  # fmt: skip
    """One stage of `react`."""
    line_u, line_v = scratch(new_u), scratch(new_v)
    for j in range(n1):
        done = 0
        while done < n2:
            row = j * s1 + done
            n = n2 - done if n2 - done < CHUNK else CHUNK
            for q in range(n):
                k = row + q
                made = dt * (u[k] * (v[k] * v[k]))
                spread = uy * _second(u, k, s1) + ux * _second(u, k, 1)
                after = u[k] + (spread - made + feed * (number(u, 1.0) - u[k]))
                line_u[q] = keep * base_u[k] + take * after
                spread = vy * _second(v, k, s1) + vx * _second(v, k, 1)
                after = v[k] + (spread + made - loss * v[k])
                line_v[q] = keep * base_v[k] + take * after
            put(new_u, row, line_u, n, stream, u, s1)
            put(new_v, row, line_v, n, stream, v, s1)
            done += n
    if stream:
        fence()


@export(
    "void(f8*, f8*, f8*, f8*, f8*, f8*, i8, i8, f8, f8, i8, f8, f8, f8, f8, f8, f8, f8, i8)",
    "void(f4*, f4*, f4*, f4*, f4*, f4*, i8, i8, f4, f4, i8, f4, f4, f4, f4, f4, f4, f4, i8)",
)
def react(
    new_u, new_v, base_u, base_v, u, v, n1, n2,
    keep, take, s1, uy, ux, vy, vx, dt, feed, loss, stream,
):  # fmt: skip
    """A stage of u_t = Du lap u - u v^2 + F (1 - u), v_t = Dv lap v + u v^2 - (F + k) v.

    uy = Du dt/dy^2, and so on; feed = F dt, loss = (F + k) dt.
    """
    _react(
        new_u, new_v, base_u, base_v, u, v, n1, n2,
        keep, take, s1, uy, ux, vy, vx, dt, feed, loss, stream,
    )  # fmt: skip


@export(
    "void(f8*, f8*, f8*, f8*, f8*, f8*, i8, i8,"
    " i8*, f8*, i8, i8, f8*, i8, f8, f8, f8, f8, f8, f8, f8, i8)",
    "void(f4*, f4*, f4*, f4*, f4*, f4*, i8, i8,"
    " i8*, f4*, i8, i8, f4*, i8, f4, f4, f4, f4, f4, f4, f4, i8)",
)
def react_alone(
    u0, v0, u1, v1, u2, v2, n1, n2,
    moves, walls, ghosts, count, stages, s1, uy, ux, vy, vx, dt, feed, loss, stream,
):  # fmt: skip
    """`count` steps of `react`, from u0 and v0 to u0 and v0."""
    for step in range(3 * count):
        stage = step % 3
        if stage == 0:
            new_u, new_v, u, v = u1, v1, u0, v0
        elif stage == 1:
            new_u, new_v, u, v = u2, v2, u1, v1
        else:
            new_u, new_v, u, v = u0, v0, u2, v2
        fill_ghosts(u, moves, walls, ghosts, 0, s1)
        fill_ghosts(v, moves, walls, ghosts, 0, s1)
        _react(
            new_u, new_v, u0, v0, u, v, n1, n2,
            stages[2 * stage], stages[2 * stage + 1], s1, uy, ux, vy, vx, dt, feed, loss, stream,
        )  # fmt: skip


@njit(inline="always")
def _carry(
    new, base, u, along_y, along_x, n1, n2,
    keep, take, s1, cy, cx, most_y, most_x, dy, dx, stream,
):  # fmt: skip
    """One stage of `carry`."""
    line = scratch(new)
    for j in range(n1):
        done = 0
        while done < n2:
            row = j * s1 + done
            n = n2 - done if n2 - done < CHUNK else CHUNK
            for q in range(n):
                k = row + q
                y = dy * _second(u, k, s1) - cy * _carried(u, along_y, k, s1, most_y)
                x = dx * _second(u, k, 1) - cx * _carried(u, along_x, k, 1, most_x)
                line[q] = keep * base[k] + take * (u[k] + (y + x))
            put(new, row, line, n, stream, u, s1)
            done += n
    if stream:
        fence()


@export(
    "void(f8*, f8*, f8*, f8*, f8*, i8, i8, f8, f8, i8, f8, f8, f8, f8, f8, f8, i8)",
    "void(f4*, f4*, f4*, f4*, f4*, i8, i8, f4, f4, i8, f4, f4, f4, f4, f4, f4, i8)",
)
def carry(
    new, base, u, along_y, along_x, n1, n2,
    keep, take, s1, cy, cx, most_y, most_x, dy, dx, stream,
):  # fmt: skip
    """A stage of u_t = -div(v u) + kappa lap u, where v is `along_y` and `along_x`.

    cy = dt/hy, dy = kappa dt/hy^2, and so on; `most_y` is the largest speed along y.
    """
    _carry(
        new, base, u, along_y, along_x, n1, n2,
        keep, take, s1, cy, cx, most_y, most_x, dy, dx, stream,
    )  # fmt: skip


@export(
    "void(f8*, f8*, f8*, f8*, f8*, i8, i8, i8*, f8*, i8, i8, f8*, i8, f8, f8, f8, f8, f8, f8, i8)",
    "void(f4*, f4*, f4*, f4*, f4*, i8, i8, i8*, f4*, i8, i8, f4*, i8, f4, f4, f4, f4, f4, f4, i8)",
)
def carry_alone(
    u0, u1, u2, along_y, along_x, n1, n2,
    moves, walls, ghosts, count, stages, s1, cy, cx, most_y, most_x, dy, dx, stream,
):  # fmt: skip
    """`count` steps of `carry`, from u0 to u0."""
    for step in range(3 * count):
        stage = step % 3
        if stage == 0:
            new, u = u1, u0
        elif stage == 1:
            new, u = u2, u1
        else:
            new, u = u0, u2
        fill_ghosts(u, moves, walls, ghosts, 0, s1)
        _carry(
            new, u0, u, along_y, along_x, n1, n2,
            stages[2 * stage], stages[2 * stage + 1],
            s1, cy, cx, most_y, most_x, dy, dx, stream,
        )  # fmt: skip
