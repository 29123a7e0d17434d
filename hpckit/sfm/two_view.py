"""Two images: candidates of their relative pose, and what their matches say of each.

E = U diag(1, 1, 0) V^T has the four poses R = U W V^T or U W^T V^T with t = +-u_3 (Hartley &
Zisserman, "Multiple view geometry", 9.6), and a homography four as well (Ma et al., "An invitation
to 3-D vision", 5.3). Kernels count the matches in front, and make Sampson errors small.
"""

from __future__ import annotations

import numpy as np

from hpckit import native
from hpckit.native import address
from hpckit.sfm.cameras import Cameras
from hpckit.sfm.projection import unproject
from hpckit.sfm.viewgraph import ViewGraph

_PIXELS = 1.0  # scale of the loss of Sampson errors


class Pairs:
    """This rank's pairs of a view graph, with the rays of their matches."""

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
        self._focal = graph.cameras.focal[graph.images.camera[graph.pairs]].mean(1)
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


def unit(v: np.ndarray) -> np.ndarray:
    """Vectors (..., 3) of length one; 0 stays."""
    length = np.linalg.norm(v, axis=-1, keepdims=True)
    return v / np.where(length > 0, length, 1.0)


def from_essential(e: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The four poses of each matrix: (m, 4, 3, 3) and (m, 4, 3)."""
    u, _, v = np.linalg.svd(e)
    u *= np.sign(np.linalg.det(u))[:, None, None]
    v *= np.sign(np.linalg.det(v))[:, None, None]
    w = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    one, other, t = u @ w @ v, u @ w.T @ v, u[:, :, 2]
    return np.stack([one, one, other, other], axis=1), np.stack([t, -t, t, -t], axis=1)


def from_homography(h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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
        u = unit(first * v[:, :, 2] + sign * third * v[:, :, 0])
        across = v[:, :, 1]
        before = np.stack([across, u, np.cross(across, u)], axis=2)
        images = [np.einsum("kij,kj->ki", h, each) for each in (across, u)]
        after = np.stack([*images, np.cross(*images)], axis=2)
        rotation = after @ before.transpose(0, 2, 1)
        a, _, b = np.linalg.svd(rotation)
        rotation = a @ b
        t = unit(np.einsum("kij,kj->ki", h - rotation, before[:, :, 2]))
        poses += [(rotation, t), (rotation, -t)]
    return np.stack([r for r, _ in poses], axis=1), np.stack([t for _, t in poses], axis=1)
