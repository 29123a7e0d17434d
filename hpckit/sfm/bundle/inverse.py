"""The inverse of the reduced system's matrix, for some columns, in a gauge."""

from __future__ import annotations

import numpy as np

from hpckit.errors import ConfigError, together
from hpckit.machine.memory import available
from hpckit.sfm.bundle import gauge as gauges
from hpckit.sfm.bundle.frame import Frame
from hpckit.sfm.bundle.problem import Problem
from hpckit.sfm.bundle.rank import Deficient, deficiency
from hpckit.sfm.bundle.solvers.cholesky import Cholesky
from hpckit.sfm.bundle.system import ReducedSystem
from hpckit.sfm.reconstruction import Reconstruction

UNDAMPED = 1e30  # radius of a trust region that damps by less than rounding
_LEAST_PIVOT = 1e-13  # of normal equations of unit diagonal: below, a freedom is left


class Inverse:
    """The inverse of S in a gauge that is good to compute in, for some columns, and the way to the
    gauge that is asked for (collective).
    """

    def __init__(
        self,
        system: ReducedSystem,
        posed: Problem,
        space: Frame,
        gauge: str,
        seen: np.ndarray,
    ) -> None:
        self._system, self._posed, self._space = system, posed, space
        state, layout = posed.start, posed.layout
        self._rotation, self._translation = state.rotation, state.translation
        assert layout.poses is not None and layout.cameras is not None  # points are eliminated
        self._unknowns, self._lenses = layout.poses, layout.cameras
        size = layout.size
        self._base = np.ones(size, bool)  # what is not held while computing
        self._modes = np.zeros((size, gauges.FREEDOMS))
        self._rows = np.zeros((gauges.FREEDOMS, size))
        self._held: dict[int, slice] = {}  # of an image's six, what stays
        if gauge != "priors":
            self._hold(gauge, seen)

    def _hold(self, gauge: str, seen: np.ndarray) -> None:
        at, R, t = self._unknowns, self._rotation, self._translation
        centres = -np.einsum("kji,kj->ki", R, t)
        first = int(seen[0])
        far = int(seen[np.linalg.norm(centres[seen] - centres[first], axis=1).argmax()])
        self._base[at[first]] = False
        self._base[at[far, 3 + gauges.baseline(R, t, first, far)]] = False
        self._modes[at[seen]] = gauges.pose_modes(R[seen], t[seen])
        if gauge == "inner":
            rows = gauges.inner(R, t, seen)
        else:
            second = gauges.second_image(R, t, seen)
            with together(self._system.comm):
                if second < 0:
                    raise ConfigError(
                        "covariance: all cameras stand at one place, so that nothing says how "
                        "large the scene is"
                    )
            axis = gauges.baseline(R, t, first, second)
            rows = gauges.first_and_scale(self._to_world(), first, second, axis)
            self._held = {first: slice(0, 6), second: slice(3 + axis, 4 + axis)}
        self._rows[:, at[seen]] = rows[:, seen]

    def _to_world(self) -> np.ndarray:
        """(n, 6, 6): change of the caller's poses, per change of those in the solver's frame."""
        n = len(self._rotation)
        found = np.zeros((n, 6, 6))
        found[:, :3, :3] = np.eye(3)
        found[:, 3:, 3:] = np.eye(3) / self._space.scale
        found[:, 3:, :3] = gauges.cross_matrices(self._rotation @ self._space.centre)
        return found

    def solve(self, chosen: np.ndarray, mine: np.ndarray) -> None:
        """The columns of these images, their cameras, and of what sees these points."""
        system, comm, table = self._system, self._system.comm, self._posed.table
        sees = [table.kept[table.start[p] : table.start[p + 1]] for p in mine]
        needed = np.unique(np.concatenate([chosen, *sees]).astype(int))
        needed = np.unique(np.concatenate(comm.allgather(needed)))
        unknowns = np.concatenate([system.columns[needed].ravel(), self._lenses.ravel()])
        self._needed = np.unique(unknowns[unknowns >= 0])
        blocks = system.assemble(root=0)
        found = None
        with together(comm):
            if blocks is not None:
                found = self._solved(blocks)
        self._inverse, self._shift, self._middle = comm.bcast(found)
        self._row = np.full(system.shape.size + 1, -1)  # of each unknown among the needed
        self._row[self._needed] = np.arange(len(self._needed))

    def _solved(self, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """S^-1 of what is needed; K = (B G)^-1 B S^-1 of it; and (B G)^-1 B S^-1 B' (B G)^-T."""
        system, base, needed = self._system, self._base, self._needed
        room = 8 * system.shape.size * len(needed) * 3
        if room > available():
            raise ConfigError(
                f"covariance: {len(needed)} columns of {system.shape.size} unknowns need "
                f"{room / 1e9:.1f} GB: ask for fewer images or points"
            )
        pairs = system.pattern()
        scale = 1 / np.sqrt(UNDAMPED * system.damping)  # the diagonal before points are eliminated
        number = np.append(np.where(base, np.cumsum(base) - 1, -1), -1)
        columns = number[system.columns]
        scaled = np.append(scale, 0.0)[system.columns]
        blocks *= scaled[pairs[:, 0]][:, :, None] * scaled[pairs[:, 1]][:, None, :]
        cholesky = Cholesky(columns, pairs, int(base.sum()))
        definite = cholesky.factor(blocks) and cholesky.least_pivot > _LEAST_PIVOT
        if not definite:
            raise Deficient(deficiency(system, blocks), bool(self._modes.any()))
        right = np.zeros((system.shape.size, len(needed) + gauges.FREEDOMS))
        right[needed, np.arange(len(needed))] = scale[needed]
        right[:, len(needed) :] = (self._rows * scale).T
        solved = np.zeros_like(right)
        solved[base] = cholesky.solve(right[base])
        solved *= scale[:, None]
        inverse, by_rows = np.hsplit(solved, [len(needed)])
        if not self._modes.any():
            nothing = np.zeros((gauges.FREEDOMS, len(needed)))
            return inverse[needed], nothing, np.zeros((gauges.FREEDOMS,) * 2)
        meet = self._rows @ self._modes
        balance = np.linalg.norm(meet, axis=1, keepdims=True)
        if np.linalg.cond(meet / balance / np.linalg.norm(meet / balance, axis=0)) > 1e10:
            raise ConfigError(
                "covariance: the camera centres lie on one line, about which gauge 'inner' does "
                "not say how the scene is turned: take 'first+scale'"
            )
        shift = np.linalg.solve(meet, self._rows @ inverse)
        middle = np.linalg.solve(meet, np.linalg.solve(meet, self._rows @ by_rows).T)
        return inverse[needed], shift, middle

    def _between(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Covariance of unknowns a with unknowns b in the gauge that is asked for; -1 has none."""
        i, j = self._row[a], self._row[b]
        modes = np.vstack([self._modes, np.zeros(gauges.FREEDOMS)])
        found = self._inverse[np.ix_(i, j)]
        found = found - modes[a] @ self._shift[:, j] - self._shift[:, i].T @ modes[b].T
        found += modes[a] @ self._middle @ modes[b].T
        found[a < 0], found[:, b < 0] = 0, 0
        return found

    def poses(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, 6, 6) of poses and (n, 3, 3) of centres."""
        own = np.array([self._between(at, at) for at in self._unknowns[chosen]])
        own = own.reshape(-1, 6, 6)
        world = self._to_world()[chosen]
        there = gauges.centre_jacobians(self._rotation[chosen], self._translation[chosen])
        there /= self._space.scale
        poses = world @ own @ world.transpose(0, 2, 1)
        centres = there @ own @ there.transpose(0, 2, 1)
        for image, still in self._held.items():  # zero but for rounding
            at = chosen == image
            poses[at, still] = poses[at, :, still] = 0
            centres[at] *= still != slice(0, 6)
        return poses, centres

    def intrinsics(self, reconstruction: Reconstruction, scale: float) -> dict:
        """By camera's id."""
        layout, cameras = self._posed.layout, reconstruction.cameras
        found = {}
        for c in range(len(cameras)):
            at = self._lenses[c]
            at = at[at >= 0]
            names = cameras.model_of(c).parameters
            free_ones = tuple(names[p] for p in layout.lens[c] if p >= 0)
            found[int(cameras.ids[c])] = (free_ones[: len(at)], scale * self._between(at, at))
        return found

    def points(self, mine: np.ndarray) -> np.ndarray:
        """(m, 3, 3) of this rank's points."""
        found = np.zeros((len(mine), 3, 3))
        for i, p in enumerate(mine):
            found[i] = self._point(int(p))
        return found / self._space.scale**2

    def _point(self, p: int) -> np.ndarray:
        system, at = self._system, self._system.linearisation
        here = slice(at.start[p], at.start[p + 1])
        C = np.zeros((3, 3))
        C[np.tril_indices(3)] = at.factor[p]
        own = C.T @ C
        unknowns = system.columns[at.kept[here]].ravel()
        D = system.shape.width
        kept, mine = at.jacobian[here, :, :D], at.jacobian[here, :, D:]
        if not mine.any():  # it is fixed
            return np.zeros((3, 3))
        gain = np.einsum("oia,oib->oab", kept, mine @ own).reshape(-1, 3)
        there = unknowns >= 0
        gain, row = gain[there], self._row[unknowns[there]]
        found = own + gain.T @ self._inverse[np.ix_(row, row)] @ gain
        if self._modes.any():
            modes = gauges.point_modes(self._posed.start.points[p : p + 1])[0]
            shift = modes @ -(self._shift[:, row] @ gain)
            found += modes @ self._middle @ modes.T - shift - shift.T
        return found
