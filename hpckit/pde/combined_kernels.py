"""Kernel source: stages of Runge-Kutta for the combined equation.

A stage computes `new = keep base + take (u + dt L(u))`, where L is the right-hand side of the
equation and `base` the state at the step's beginning, which `new` may be. The kernel called
`..._alone` makes whole steps on a rank that has the grid to itself: see `hpckit.pde.alone`. What
names mean is told at the top of `hpckit.pde.kernels`.
"""

from __future__ import annotations

import math

from numba import njit

from hpckit.native import export
from hpckit.pde.alone_kernels import fill_ghosts
from hpckit.pde.line_kernels import CHUNK, number, put, scratch
from hpckit.pde.second_kernels import second


@njit(error_model="numpy", forceinline=True)
def _third(u, k):
    """h^3 times the third derivative in a row, to fourth order."""
    near, middle, far = u[k + 1] - u[k - 1], u[k + 2] - u[k - 2], u[k + 3] - u[k - 3]
    return middle - number(u, 1.625) * near - number(u, 0.125) * far


@njit(error_model="numpy", forceinline=True)
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


@njit(error_model="numpy", forceinline=True)
def _larger(a, b):
    return a if a > b else b


@njit(error_model="numpy", forceinline=True)
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


@njit(error_model="numpy", forceinline=True)
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
            line[q] = u[k] - c1 * (face[q + 1] - face[q]) + c2 * second(u, k, 1) - c3 * _third(u, k)
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
