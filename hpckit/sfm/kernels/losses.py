"""Robust losses: rho(s) of the squared norm s of a residual in pixels, and its derivative.

The cost is 1/2 sum rho(s). As in Ceres: Huber s or 2 a sqrt(s) - a^2, Cauchy a^2 log(1 + s / a^2),
soft L1 2 a^2 (sqrt(1 + s / a^2) - 1).
"""

from __future__ import annotations

import math

from hpckit.sfm.kernels.cameras import fast

NONE, HUBER, CAUCHY, SOFT_L1 = 0, 1, 2, 3


@fast
def rho(loss, a, s):
    """rho(s) and rho'(s)."""
    if loss == HUBER and s > a * a:
        root = math.sqrt(s)
        return a * (2 * root - a), a / root
    if loss == CAUCHY:
        t = s / (a * a)
        return a * a * math.log1p(t), 1 / (1 + t)
    if loss == SOFT_L1:
        root = math.sqrt(1 + s / (a * a))
        return 2 * a * a * (root - 1), 1 / root
    return s, 1.0
