"""Kernel source: the second derivative that all equations of Runge-Kutta stages share."""

from __future__ import annotations

from numba import njit

from hpckit.pde.line_kernels import number


@njit(error_model="numpy", forceinline=True)
def second(u, k, s):
    """h^2 times the second derivative along stride s, to sixth order; zero where u is uniform."""
    near = (u[k - s] - u[k]) + (u[k + s] - u[k])
    middle = (u[k - 2 * s] - u[k]) + (u[k + 2 * s] - u[k])
    far = (u[k - 3 * s] - u[k]) + (u[k + 3 * s] - u[k])
    return number(u, 1.5) * near - number(u, 0.15) * middle + number(u, 1 / 90) * far
