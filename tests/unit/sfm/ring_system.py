"""A reduced system in plain NumPy: cameras on a ring look at points outside, all of it dense."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from hpckit.sfm.bundle.sums import Sum
from hpckit.sfm.bundle.system import Linearisation, ReducedSystem, Shape


class RingSystem(ReducedSystem):
    """Cameras of focal length 1000 that look outwards, each point seen by `seen` of them in a row.

    shared : intrinsics (of 3) that all cameras share
    fixed : (camera, column) pairs that have no unknown
    damping : relative to the diagonal of the normal equations
    """

    def __init__(
        self, comm, cameras=12, points=60, seen=5, shared=0, fixed=(), damping=1e-4, seed=0
    ):
        rng = np.random.default_rng(seed)
        self.comm = comm
        angle = 2 * np.pi * np.arange(cameras) / cameras
        rotation = np.zeros((cameras, 3, 3))  # rows: right, down, forward
        rotation[:, 0] = np.stack([-np.sin(angle), np.cos(angle), 0 * angle], axis=1)
        rotation[:, 1] = [0, 0, -1]
        rotation[:, 2] = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
        radius = cameras / 6
        translation = -np.einsum("kij,kj->ki", rotation, radius * rotation[:, 2])
        first = np.sort(rng.integers(0, cameras, points))
        middle = angle[first] + np.pi * (seen - 1) / cameras
        distance = radius + rng.uniform(3, 6, points)
        height = rng.uniform(-1, 1, points)
        xyz = np.stack([distance * np.cos(middle), distance * np.sin(middle), height], axis=1)
        kept = (first[:, None] + np.arange(seen)) % cameras
        kept.sort(axis=1)
        self._modes = _modes(rotation, translation)
        q = np.einsum("pskj,pj->psk", rotation[kept], xyz)
        jacobian = _jacobian(q, translation[kept], rotation[kept])
        residual = rng.standard_normal((points, seen, 2))
        columns = np.arange(cameras * 9, dtype=np.int32).reshape(cameras, 9)
        columns[:, 9 - shared :] = columns[0, 9 - shared :]
        for camera, column in fixed:
            columns[camera, column] = -1
        there = columns >= 0
        last = columns + columns.size * (np.arange(9) >= 9 - shared)  # what is shared comes last
        used, numbered = np.unique(last[there], return_inverse=True)
        columns[there] = numbered
        self.columns = columns
        group = np.where(np.arange(9) < 9 - shared, np.arange(cameras)[:, None], cameras)[there]
        unknown, first_of = np.unique(columns[there], return_index=True)
        group = group[first_of]
        self.layout = SimpleNamespace(size=len(unknown), group=None, first=None)
        _, self.layout.first, self.layout.group = (
            a.astype(np.int32) for a in np.unique(group, return_index=True, return_inverse=True)
        )
        self._whole(jacobian, residual, kept, len(used), damping)
        mine = slice(points * comm.rank // comm.size, points * (comm.rank + 1) // comm.size)
        self._of_rank(mine, jacobian[mine], residual[mine], kept[mine])

    def _whole(self, jacobian, residual, kept, size, damping):
        """The dense system of all ranks."""
        points, seen = kept.shape
        cameras = len(self.columns)
        n = cameras * 9
        P = np.zeros((n, size))
        rows = np.flatnonzero(self.columns.ravel() >= 0)
        P[rows, self.columns.ravel()[rows]] = 1
        S, U, g = np.zeros((n, n)), np.zeros((n, n)), np.zeros(n)
        self.factors = np.empty((points, 3, 3))
        for p in range(points):
            at = (9 * kept[p][:, None] + np.arange(9)).ravel()
            Jk = np.zeros((seen, 2, seen, 9))
            Jk[np.arange(seen), :, np.arange(seen)] = jacobian[p, :, :, :9]
            Jk, Je, r = Jk.reshape(2 * seen, -1), jacobian[p, ..., 9:].reshape(-1, 3), residual[p]
            V = Je.T @ Je * (1 + damping * np.eye(3))
            W = Jk.T @ Je @ np.linalg.inv(V)
            U[np.ix_(at, at)] += Jk.T @ Jk
            S[np.ix_(at, at)] += Jk.T @ Jk - W @ Je.T @ Jk
            g[at] += Jk.T @ r.ravel() - W @ (Je.T @ r.ravel())
            self.factors[p] = np.linalg.inv(np.linalg.cholesky(V))
        self.blocks, self.right = S, -P.T @ g
        self.damping = damping * np.diag(P.T @ U @ P)
        self.dense = P.T @ S @ P + np.diag(self.damping)
        joined = np.zeros((cameras, cameras), bool)
        for row in kept:
            joined[np.ix_(row, row)] = True
        self._pairs = np.argwhere(np.triu(joined | np.eye(cameras, dtype=bool))).astype(np.int32)
        self.shape = Shape(
            size, cameras, 9, points, 3, points * seen, len(self._pairs), self.comm.size
        )

    def _of_rank(self, mine, jacobian, residual, kept):
        points, seen = kept.shape
        self.linearisation = Linearisation(
            np.arange(points + 1, dtype=np.int64) * seen,
            kept.reshape(-1).astype(np.int32),
            np.ascontiguousarray(jacobian.reshape(-1, 2, 12)),
            np.ascontiguousarray(residual.reshape(-1, 2)),
            np.ascontiguousarray(self.factors[mine][:, *np.tril_indices(3)]),
        )

    def pattern(self):
        return self._pairs

    def assemble(self, root=None):
        tiles = self.blocks.reshape(len(self.columns), 9, len(self.columns), 9)
        i, j = self._pairs.T
        return tiles[i, :, j, :].copy() if root in (None, self.comm.rank) else None

    def modes(self):
        return self._modes

    def new_sum(self, count):
        return Sum(self.comm, count, [(0, len(self.linearisation.start) - 1)])

    def add_priors(self, x, out):
        pass

    def multiply(self, x, out):
        out[:] = self.dense @ x

    def diagonal(self):
        tiles = self.blocks.reshape(len(self.columns), 9, len(self.columns), 9)
        k = np.arange(len(self.columns))
        return tiles[k, :, k, :].copy()

    def expand(self, x, out):
        out[:] = np.append(x, 0.0)[self.columns]

    def collect(self, blocks, out):
        out[:] = 0
        there = self.columns >= 0
        np.add.at(out, self.columns[there], blocks[there])


def _jacobian(q, t, R):
    """Of f p (1 + k1 |p|^2 + k2 |p|^4), p = (q + t)_xy / (q + t)_z, at f = 1000, k = 0."""
    P = q + t
    p, z = P[..., :2] / P[..., 2:], P[..., 2]
    A = np.zeros((*z.shape, 2, 3))
    A[..., 0, 0] = A[..., 1, 1] = 1000 / z
    A[..., :, 2] = -1000 * p / z[..., None]
    cross = np.zeros((*z.shape, 3, 3))
    cross[..., 0, 1], cross[..., 0, 2], cross[..., 1, 2] = -q[..., 2], q[..., 1], -q[..., 0]
    cross -= np.swapaxes(cross, -1, -2)
    r2 = (p**2).sum(axis=-1)[..., None]
    intrinsics = np.stack([p, 1000 * p * r2, 1000 * p * r2**2], axis=-1)
    return np.concatenate([A @ -cross, A, intrinsics, A @ R], axis=-1)


def _modes(R, t):
    """How each camera's columns change with the world: translation, rotation, scale (k, 9, 7)."""
    modes = np.zeros((len(R), 9, 7))
    modes[:, 3:6, 0:3] = -R
    modes[:, 0:3, 3:6] = -R
    modes[:, 3:6, 6] = t
    return modes
