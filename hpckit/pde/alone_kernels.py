"""Kernel source: the ghosts of a rank that is alone, for kernels that make several steps."""

from __future__ import annotations

from numba import njit

MOVE = 6  # numbers of a move: to, from, whether to a wall's ghosts, three extents


@njit(error_model="numpy", forceinline=True)
def fill_ghosts(u, moves, walls, n, s0, s1):
    """The `n` moves of `hpckit.pde.alone.Ghosts`, in cells of `u` from its first owned cell."""
    for m in range(n):
        move = m * MOVE
        to, origin, at_wall = moves[move], moves[move + 1], moves[move + 2]
        for i in range(moves[move + 3]):
            for j in range(moves[move + 4]):
                at = i * s0 + j * s1
                if at_wall:
                    for k in range(at, at + moves[move + 5]):
                        u[to + k] = walls[m] - u[origin + k]
                else:
                    for k in range(at, at + moves[move + 5]):
                        u[to + k] = u[origin + k]
