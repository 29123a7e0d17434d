"""Relative poses of pairs of images, from the geometry and the inliers that COLMAP stored.

A pair's matches y ~ K_2 (R K_1^-1 x + t / depth) obey y^T F x = 0, F = K_2^-T [t]x R K_1^-1, or
y ~ H x where they lie in a plane or the camera only turned. With E = K_2^T F K_1 = U diag(1, 1, 0)
V^T the candidates are R = U W V^T or U W^T V^T and t = +-u_3 (Hartley & Zisserman, "Multiple view
geometry", 9.6); H gives four as well (Ma et al., "An invitation to 3-D vision", 5.3). The candidate
with most matches in front of both images is taken, and refined on all of them. Nothing is searched
at random: wrong matches were left out before.

Each rank works on its own pairs; only focal lengths need all of them. Those follow from F alone, as
both singular values of E must be equal (Kruppa's equations; Fetzer et al., "Stable intrinsic
auto-calibration from fundamental matrices", WACV 2020).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from mpi4py import MPI

from hpckit.sfm import rotations
from hpckit.sfm.two_view import (
    Pairs,
    calibration_matrices,
    from_essential,
    from_homography,
    unit,
)
from hpckit.sfm.viewgraph import Config, ViewGraph

_PLANES = (Config.PLANAR, Config.PANORAMIC, Config.PLANAR_OR_PANORAMIC)
_IN_FRONT = 0.7  # of a pair's matches, at least
_NO_PARALLAX = 1.5  # pixels by which matches may miss a mere rotation, in the median
_MOST_CHANGE = 10.0  # of a focal length
_SCAN = np.geomspace(1 / 4, 4, 33)  # common factors of focal lengths that are tried first
_FINE = np.geomspace(_SCAN[0] / _SCAN[1], _SCAN[1] / _SCAN[0], 11)  # then: a step to both sides
_PAIRS = 200  # that are tried with each: those with most matches
_DOUBT = 20.0  # the most by which one pair counts against a focal length, and what makes it clear
_KRUPPA = 0.01  # scale of the loss of Kruppa's equations


def relative_poses(graph: ViewGraph) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rotation and direction of translation of each of this rank's pairs.

    Returns quaternions (m, 4), translations (m, 3) of length one, and (m,) bool, whether a pose can
    be relied on: enough of its matches are in front of both images. A pair without parallax has
    translation 0, and a rotation that counts. A pose that is stored is only refined. Rows of what
    has no geometry are NaN. Ranks need not call it together. ::

        quaternion, translation, good = relative_poses(graph)
        graph = replace(graph, quaternion=quaternion, translation=translation).select(good)
    """
    pairs = Pairs(graph)
    m = len(graph)
    rotation, translation = np.tile(np.eye(3), (m, 1, 1)), np.full((m, 3), np.nan)
    flat = np.isin(graph.config, _PLANES) & np.isfinite(graph.H).all((1, 2))
    essential = pairs.essential()
    curved = ~flat & np.isfinite(essential).all((1, 2))
    for those, candidates in (
        (np.flatnonzero(curved), from_essential(essential[curved])),
        (np.flatnonzero(flat), from_homography(pairs.homography()[flat])),
    ):
        rotation[those], translation[those] = pairs.best(those, *candidates)
    stored = np.isfinite(graph.quaternion).all(1) & (np.abs(graph.translation).sum(1) > 0)
    rotation[stored] = rotations.to_matrix(rotations.normalise(graph.quaternion[stored]))
    translation[stored] = unit(graph.translation[stored])
    known = np.isfinite(translation[:, 0])
    rotation[known], translation[known] = pairs.refined(
        np.flatnonzero(known), rotation[known], translation[known]
    )
    turn, missed = pairs.turned()
    turned = missed <= _NO_PARALLAX
    rotation[turned], translation[turned] = turn[turned], 0.0
    known |= turned
    front = pairs.in_front(np.arange(m), rotation, np.nan_to_num(translation))
    enough = front >= _IN_FRONT * np.maximum(graph.inliers, 1)
    quaternion = rotations.from_matrix(rotation)
    quaternion[~known] = np.nan
    return quaternion, translation, known & (enough | turned) & (graph.inliers > 0)


def focal_lengths(
    graph: ViewGraph, unknown: np.ndarray | None = None, *, min_inliers: int = 15
) -> np.ndarray:
    """Focal lengths that the F of all pairs ask for (collective).

    unknown : (cameras,) bool, those to find; None: those without `graph.prior_focal`
    min_inliers : pairs with fewer are left out

    Returns (cameras,) float64 pixels, the same on all ranks: means of fx and fy, whose ratio is to
    be kept. A common factor is found first, by the Sampson errors that remain of the pairs with
    most matches, and taken if these say clearly that a smaller and a larger one are worse; then, if
    several cameras are free, each one's own by Kruppa's equations. What pairs say nothing of, or
    contradict, keeps its value. ::

        focal = focal_lengths(graph)

    Source: Fetzer et al., WACV 2020, for Kruppa's equations in F's singular vectors; both sides are
    of length one here, under Cauchy's loss.
    """
    comm, before = graph.comm, graph.cameras.focal
    free = ~graph.prior_focal if unknown is None else np.array(unknown, bool)
    usable = np.isfinite(graph.F).all((1, 2)) & (np.abs(graph.F).sum((1, 2)) > 0)
    usable &= (graph.inliers >= min_inliers) & ~np.isin(graph.config, _PLANES)
    usable &= free[graph.images.camera[graph.pairs]].any(1)
    chosen = _strongest(graph.select(usable))
    used = np.zeros(len(before), np.int64)
    np.add.at(used, chosen.images.camera[chosen.pairs].ravel(), 1)
    comm.Allreduce(MPI.IN_PLACE, used)
    free = free & (used > 0)
    if not free.any():
        return before
    factor = _scanned(comm, chosen, free, _SCAN)
    if factor:
        factor = _scanned(comm, chosen, free, factor * _FINE) or factor
    offset = np.where(free, np.log(factor or 1.0), 0.0)
    if factor and free.sum() > 1:
        each = _descended(comm, _Kruppa(chosen), np.flatnonzero(free), offset)
        far = np.abs(each - offset) > np.log(_MOST_CHANGE)
        each[far] = offset[far]
        if _total(comm, chosen, each) < _total(comm, chosen, offset):
            offset = each
    return before * np.exp(offset)


def _strongest(graph: ViewGraph) -> ViewGraph:
    """The pairs of all ranks with most matches."""
    counts = np.sort(np.concatenate(graph.comm.allgather(graph.inliers)))[::-1]
    return graph.select(graph.inliers >= counts[_PAIRS]) if len(counts) > _PAIRS else graph


def _sampson_costs(graph: ViewGraph, factor: np.ndarray) -> np.ndarray:
    """Of each pair the sum of log(1 + e^2), e in pixels, after focal lengths are multiplied."""
    cameras = graph.cameras.copy()
    for i in range(len(cameras)):
        cameras.parameters[i, cameras.model_of(i).focal] *= factor[i]
    pairs = Pairs(replace(graph, cameras=cameras))
    every = np.arange(len(graph))
    pose = pairs.best(every, *from_essential(pairs.essential()))
    return pairs.misses(*pairs.refined(every, *pose))


def _scanned(
    comm: MPI.Intracomm, graph: ViewGraph, free: np.ndarray, factors: np.ndarray
) -> float | None:
    """The common factor that suits most pairs; None if they do not say that both smaller and larger
    ones are worse.
    """
    costs = np.array([_sampson_costs(graph, np.where(free, f, 1.0)) for f in factors])
    excess = np.minimum(costs - costs.min(0), _DOUBT).sum(1)
    comm.Allreduce(MPI.IN_PLACE, excess)
    best = int(np.argmin(excess))
    ends = min(excess[: best + 1].max(), excess[best:].max()) - excess[best]
    if best in (0, len(excess) - 1) or (factors is _SCAN and ends < _DOUBT):
        return None
    # The vertex of the parabola through three logarithmic steps.
    left, middle, right = excess[best - 1 : best + 2]
    shift = 0.5 * (left - right) / max(left - 2 * middle + right, 1e-300)
    return float(factors[best] * (factors[1] / factors[0]) ** np.clip(shift, -0.5, 0.5))


def _total(comm: MPI.Intracomm, graph: ViewGraph, offset: np.ndarray) -> float:
    """Root costs, summed: no pair outweighs all others."""
    return _sum(comm, float(np.sqrt(_sampson_costs(graph, np.exp(offset))).sum()))


def _descended(
    comm: MPI.Intracomm, equations: _Kruppa, free: np.ndarray, offset: np.ndarray
) -> np.ndarray:
    """Levenberg-Marquardt on the logarithms of focal lengths."""
    place = np.full(len(offset), -1)
    place[free] = np.arange(len(free))
    cost, damping = _sum(comm, equations.cost(offset)), 1e-3
    for _ in range(50):
        a, g = equations.normal(offset, place, len(free))
        comm.Allreduce(MPI.IN_PLACE, a)
        comm.Allreduce(MPI.IN_PLACE, g)
        a[np.diag_indices_from(a)] += damping * a.diagonal() + 1e-12
        trial = offset.copy()
        trial[free] -= np.clip(np.linalg.solve(a, g), -0.3, 0.3)
        new = _sum(comm, equations.cost(trial))
        if not new < cost:
            damping *= 10.0
            if damping > 1e6:
                break
            continue
        done = cost - new <= 1e-9 * cost
        offset, cost, damping = trial, new, max(0.1 * damping, 1e-9)
        if done:
            break
    return offset


def _sum(comm: MPI.Intracomm, value: float) -> float:
    """The same bits on all ranks: rank 0's."""
    return comm.bcast(comm.allreduce(value))


class _Kruppa:
    """Kruppa's equations of this rank's pairs with F: F = s_1 u_1 v_1^T + s_2 u_2 v_2^T.

    With w = K K^T of each image (principal point at 0), the vectors
    (s_1^2 v_1.w v_1, s_1 s_2 v_1.w v_2, s_2^2 v_2.w v_2) and (u_2.w u_2, -u_1.w u_2, u_1.w u_1) are
    parallel, and both begin with a positive number.
    """

    def __init__(self, graph: ViewGraph) -> None:
        matrices = calibration_matrices(graph.cameras)
        self.camera = graph.images.camera[graph.pairs]
        first, second = (matrices[self.camera[:, s]] for s in (0, 1))
        # Focal lengths as they are now become 1: offsets are logarithms of factors.
        f = second.transpose(0, 2, 1) @ graph.F @ first
        self._u, self._s, v = np.linalg.svd(f)
        self._v = v.transpose(0, 2, 1)
        self._weight = np.minimum(graph.inliers, 200).astype(float)

    def residuals(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """(pairs, 3), where the first and second focal lengths have these logarithms of factors."""
        u, v, s = self._u, self._v, self._s

        def inner(a: np.ndarray, b: np.ndarray, offset: np.ndarray) -> np.ndarray:
            square = np.exp(2.0 * offset)
            return square * (a[:, 0] * b[:, 0] + a[:, 1] * b[:, 1]) + a[:, 2] * b[:, 2]

        one, two = s[:, 0], s[:, 1]
        left = np.stack(
            [
                one**2 * inner(v[:, :, 0], v[:, :, 0], first),
                one * two * inner(v[:, :, 0], v[:, :, 1], first),
                two**2 * inner(v[:, :, 1], v[:, :, 1], first),
            ],
            axis=1,
        )
        right = np.stack(
            [
                inner(u[:, :, 1], u[:, :, 1], second),
                -inner(u[:, :, 0], u[:, :, 1], second),
                inner(u[:, :, 0], u[:, :, 0], second),
            ],
            axis=1,
        )
        lengths = [np.sqrt((each * each).sum(1, keepdims=True)) for each in (left, right)]
        return left / lengths[0] - right / lengths[1]

    def cost(self, offset: np.ndarray) -> float:
        r = self.residuals(*offset[self.camera].T)
        square = (r * r).sum(1)
        return float((self._weight * np.log1p(square / _KRUPPA**2)).sum())

    def normal(
        self, offset: np.ndarray, place: np.ndarray, n: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """J^T W J and J^T W r of `n` free cameras, derivatives by complex step."""
        first, second = offset[self.camera].T
        r = self.residuals(first, second)
        weight = self._weight / (_KRUPPA**2 + (r * r).sum(1))
        tiny = 1e-30j
        sides = (
            np.imag(self.residuals(first + tiny, second)) / 1e-30,
            np.imag(self.residuals(first, second + tiny)) / 1e-30,
        )
        a, g = np.zeros((n + 1, n + 1)), np.zeros(n + 1)
        at = place[self.camera]  # -1, the last row, is left out in the end
        for i, one in enumerate(sides):
            np.add.at(g, at[:, i], weight * (one * r).sum(1))
            for j, other in enumerate(sides):
                np.add.at(a, (at[:, i], at[:, j]), weight * (one * other).sum(1))
        return np.ascontiguousarray(a[:n, :n]), np.ascontiguousarray(g[:n])
