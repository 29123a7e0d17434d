"""Kernel source: stages of Runge-Kutta for Gray and Scott's reaction.

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
                spread = uy * second(u, k, s1) + ux * second(u, k, 1)
                after = u[k] + (spread - made + feed * (number(u, 1.0) - u[k]))
                line_u[q] = keep * base_u[k] + take * after
                spread = vy * second(v, k, s1) + vx * second(v, k, 1)
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
