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

from hpckit import native
from hpckit.native import address
from hpckit.sfm import rotations
from hpckit.sfm.cameras import Cameras
from hpckit.sfm.projection import unproject
from hpckit.sfm.viewgraph import Config, ViewGraph

_PLANES = (Config.PLANAR, Config.PANORAMIC, Config.PLANAR_OR_PANORAMIC)
_IN_FRONT = 0.7  # of a pair's matches, at least
_PIXELS = 1.0  # scale of the loss of Sampson errors
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
    pairs = _Pairs(graph)
    m = len(graph)
    rotation, translation = np.tile(np.eye(3), (m, 1, 1)), np.full((m, 3), np.nan)
    flat = np.isin(graph.config, _PLANES) & np.isfinite(graph.H).all((1, 2))
    essential = pairs.essential()
    curved = ~flat & np.isfinite(essential).all((1, 2))
    for those, candidates in (
        (np.flatnonzero(curved), _from_essential(essential[curved])),
        (np.flatnonzero(flat), _from_homography(pairs.homography()[flat])),
    ):
        rotation[those], translation[those] = pairs.best(those, *candidates)
    stored = np.isfinite(graph.quaternion).all(1) & (np.abs(graph.translation).sum(1) > 0)
    rotation[stored] = rotations.to_matrix(rotations.normalise(graph.quaternion[stored]))
    translation[stored] = _unit(graph.translation[stored])
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


class _Pairs:
    """This rank's pairs with the rays of their matches."""

    def __init__(self, graph: ViewGraph) -> None:
        self._graph = graph
        places = graph.global_matches()
        image = graph.pairs[graph.match_pair]
        camera = graph.images.camera[image]
        rays = [
            unproject(graph.cameras, camera[:, s], graph.keypoints[places[:, s]]) for s in (0, 1)
        ]
        # What no ray is known of turns up in no sum: both are the axis, which any pose explains.
        lost = ~(np.isfinite(rays[0]).all(1) & np.isfinite(rays[1]).all(1))
        for ray in rays:
            ray[lost] = 0.0
        self._x, self._y = (np.ascontiguousarray(ray) for ray in rays)
        self._start = np.ascontiguousarray(graph.match_start, np.int64)
        self._focal = _focal_of(graph.cameras)[graph.images.camera[graph.pairs]].mean(1)
        self._kernels = native.load("hpckit.sfm.kernels.relative")

    def essential(self) -> np.ndarray:
        """E of each pair: from F and the cameras as they are now, or as stored; else NaN."""
        graph = self._graph
        first, second = self._matrices()
        made = second.transpose(0, 2, 1) @ graph.F @ first
        return np.where(np.isfinite(made).all((1, 2))[:, None, None], made, graph.E)

    def homography(self) -> np.ndarray:
        first, second = self._matrices()
        return np.linalg.inv(second) @ self._graph.H @ first

    def _matrices(self) -> list[np.ndarray]:
        """K of the first and of the second image of each pair."""
        calibration = calibration_matrices(self._graph.cameras)
        camera = self._graph.images.camera[self._graph.pairs]
        return [calibration[camera[:, s]] for s in (0, 1)]

    def best(
        self, those: np.ndarray, rotation: np.ndarray, translation: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Of the candidates (k, 4, ...) of these pairs the one with most matches in front."""
        counts = [
            self.in_front(those, rotation[:, c], translation[:, c])
            for c in range(rotation.shape[1])
        ]
        winner = np.argmax(counts, axis=0) if len(those) else np.empty(0, int)
        row = np.arange(len(those))
        return rotation[row, winner], translation[row, winner]

    def in_front(self, those: np.ndarray, r: np.ndarray, t: np.ndarray) -> np.ndarray:
        """How many matches of these pairs are in front of both images."""
        start, x, y = self._of(those)
        count, parallax = np.empty(len(those), np.int64), np.empty(len(x))
        r, t = np.ascontiguousarray(r), np.ascontiguousarray(t)
        arrays = start, x, y, r, t, count, parallax
        self._kernels.front(len(those), *map(address, arrays))
        return count

    def refined(
        self, those: np.ndarray, rotation: np.ndarray, translation: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Poses of these pairs with least Sampson errors."""
        start, x, y = self._of(those)
        r, t = np.array(rotation, order="C"), np.array(translation, order="C")
        scale = _PIXELS / self._focal[those]
        rooms = [np.empty(size) for size in (25, 5, 25, 5, 5, 9)]
        arrays = start, x, y, scale, r, t, *rooms
        self._kernels.refine(len(those), *map(address, arrays))
        return r, t

    def misses(self, r: np.ndarray, t: np.ndarray) -> np.ndarray:
        """Of each pair the sum over matches of log(1 + e^2), e their Sampson errors in pixels."""
        pair = self._graph.match_pair
        q = np.einsum("kij,kj->ki", r[pair], self._x)
        a, b = np.cross(t[pair], q), np.cross(t[pair], self._y)
        square = (a * a).sum(1) + (b * b).sum(1)
        e = (self._y * a).sum(1) / np.sqrt(square + 1e-300) * self._focal[pair]
        return np.bincount(pair, np.log1p(e * e), len(self._graph))

    def turned(self) -> tuple[np.ndarray, np.ndarray]:
        """The rotation that alone explains each pair's matches best, and by how many pixels half of
        them miss it at most (Arun et al., "Least-squares fitting of two 3-D point sets", 1987).
        """
        start, x, y = self._start, self._x, self._y
        m, pair = len(start) - 1, self._graph.match_pair
        sums = np.stack(
            [np.bincount(pair, y[:, a] * x[:, b], m) for a in range(3) for b in range(3)], axis=1
        )
        u, _, v = np.linalg.svd(sums.reshape(m, 3, 3))
        u[:, :, 2] *= np.sign(np.linalg.det(u @ v))[:, None]
        turn = u @ v
        distance = np.linalg.norm(np.einsum("kij,kj->ki", turn[pair], x) - y, axis=1)
        missed = np.full(m, np.inf)
        order = np.lexsort((distance, pair))
        some = np.diff(start) > 0
        middle = (start[:-1] + start[1:]) // 2
        missed[some] = (distance[order][middle[some]]) * self._focal[some]
        return turn, missed

    def _of(self, those: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Matches of some pairs, ascending."""
        if len(those) == len(self._start) - 1:
            return self._start, self._x, self._y
        counts = np.diff(self._start)[those]
        start = np.concatenate([[0], np.cumsum(counts)])
        rows = np.arange(start[-1]) + np.repeat(self._start[those] - start[:-1], counts)
        return start, self._x[rows], self._y[rows]


def calibration_matrices(cameras: Cameras) -> np.ndarray:
    """K of each camera, without its distortion: (n, 3, 3). ::

    calibration_matrices(Cameras.of(("SIMPLE_PINHOLE", 0, 0, [500.0, 320.0, 240.0])))
    """
    k = np.tile(np.eye(3), (len(cameras), 1, 1))
    for i in range(len(cameras)):
        model, values = cameras.model_of(i), cameras.parameters[i]
        k[i, 0, 0], k[i, 1, 1] = values[model.focal[0]], values[model.focal[-1]]
        if model.principal_point:
            k[i, :2, 2] = values[model.principal_point]
    return k


def _focal_of(cameras: Cameras) -> np.ndarray:
    matrices = calibration_matrices(cameras)
    return 0.5 * (matrices[:, 0, 0] + matrices[:, 1, 1])


def _unit(v: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(v, axis=-1, keepdims=True)
    return v / np.where(length > 0, length, 1.0)


def _from_essential(e: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The four poses of each matrix: (m, 4, 3, 3) and (m, 4, 3)."""
    u, _, v = np.linalg.svd(e)
    u *= np.sign(np.linalg.det(u))[:, None, None]
    v *= np.sign(np.linalg.det(v))[:, None, None]
    w = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    one, other, t = u @ w @ v, u @ w.T @ v, u[:, :, 2]
    return np.stack([one, one, other, other], axis=1), np.stack([t, -t, t, -t], axis=1)


def _from_homography(h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The four poses of each homography of rays: (m, 4, 3, 3) and (m, 4, 3).

    With H of second singular value 1 and H^T H = V diag(s) V^T, s_1 >= 1 >= s_3, the vectors u of
    the plane whose length H keeps are (sqrt(1 - s_3) v_1 +- sqrt(s_1 - 1) v_3) / sqrt(s_1 - s_3);
    R maps (v_2, u, v_2 x u) to (H v_2, H u, H v_2 x H u), n = v_2 x u and t = (H - R) n.
    """
    h = h / np.linalg.svd(h, compute_uv=False)[:, 1, None, None]
    h = h * np.sign(np.linalg.det(h))[:, None, None]
    s, v = np.linalg.eigh(h.transpose(0, 2, 1) @ h)
    least, most = np.minimum(s[:, 0], 1.0), np.maximum(s[:, 2], 1.0)
    spread = np.sqrt(np.maximum(most - least, 1e-300))[:, None]
    first, third = np.sqrt(1 - least)[:, None] / spread, np.sqrt(most - 1)[:, None] / spread
    poses = []
    for sign in (1.0, -1.0):
        u = _unit(first * v[:, :, 2] + sign * third * v[:, :, 0])
        across = v[:, :, 1]
        before = np.stack([across, u, np.cross(across, u)], axis=2)
        images = [np.einsum("kij,kj->ki", h, each) for each in (across, u)]
        after = np.stack([*images, np.cross(*images)], axis=2)
        rotation = after @ before.transpose(0, 2, 1)
        a, _, b = np.linalg.svd(rotation)
        rotation = a @ b
        t = _unit(np.einsum("kij,kj->ki", h - rotation, before[:, :, 2]))
        poses += [(rotation, t), (rotation, -t)]
    return np.stack([r for r, _ in poses], axis=1), np.stack([t for _, t in poses], axis=1)


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
    comm, before = graph.comm, _focal_of(graph.cameras)
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
    pairs = _Pairs(replace(graph, cameras=cameras))
    every = np.arange(len(graph))
    pose = pairs.best(every, *_from_essential(pairs.essential()))
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
