"""Kernel source: stages of Runge-Kutta for advection and diffusion.

A stage computes `new = keep base + take (u + dt L(u))`, where L is the right-hand side of the
equation and `base` the state at the step's beginning, which `new` may be. The kernel called
`..._alone` makes whole steps on a rank that has the grid to itself: see `hpckit.pde.alone`. What
names mean is told at the top of `hpckit.pde.kernels`.
"""

from __future__ import annotations

from numba import njit

from hpckit.native import export
from hpckit.pde.alone_kernels import fill_ghosts
from hpckit.pde.line_kernels import CHUNK, fence, number, put, scratch
from hpckit.pde.second_kernels import second


@njit(error_model="numpy", forceinline=True)
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


@njit(error_model="numpy", forceinline=True)
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
                y = dy * second(u, k, s1) - cy * _carried(u, along_y, k, s1, most_y)
                x = dx * second(u, k, 1) - cx * _carried(u, along_x, k, 1, most_x)
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
