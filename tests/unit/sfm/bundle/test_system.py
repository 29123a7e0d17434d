"""The reduced system against the normal equations that NumPy makes of complex-step Jacobians."""

import numpy as np
import pytest
from bundle_scenes import FISHEYE, FULL, OPENCV, PINHOLE, RADIAL, jacobians, ring
from mpi4py import MPI

from hpckit.sfm.bundle.fixing import free
from hpckit.sfm.bundle.frame import Frame
from hpckit.sfm.bundle.problem import problem
from hpckit.sfm.bundle.survey import survey
from hpckit.sfm.bundle.system import ReducedSystem
from hpckit.sfm.losses import Cauchy, Huber, SoftL1, robust

RADIUS = 30.0
FRAME = Frame(np.zeros(3), 1.0)  # the caller's own
CASES = {
    "shared": ((RADIAL,), {}),
    "own": ((RADIAL,) * 6, {}),
    "two shared, unlike": ((RADIAL, PINHOLE), {}),
    "six columns": ((OPENCV, FISHEYE), {}),
    "twelve columns": ((FULL,), {}),
    "no intrinsics": ((RADIAL,), {"intrinsics": True}),
    "all intrinsics": ((OPENCV,) * 6, {"intrinsics": False}),
    "fixed poses": ((RADIAL,), {"poses": [1, 3]}),
    "fixed columns": ((RADIAL,), {"poses": np.arange(36).reshape(6, 6) % 5 == 0}),
    "a fixed camera": ((RADIAL, PINHOLE), {"cameras": [2]}),
    "fixed points": ((RADIAL,), {"points": True}),
}


def build(reconstruction, side, fix, loss=None, reproducible=False):
    masks = free(reconstruction, fix)
    surveyed = survey(reconstruction, masks, "keep")
    posed = problem(reconstruction, masks, FRAME, surveyed, side, reproducible)
    system = ReducedSystem(
        reconstruction.comm,
        posed,
        reconstruction.cameras,
        robust=robust(loss),
        reproducible=reproducible,
    )
    return system, posed


def slope(loss, s):
    """rho(s) and rho'(s) from the definitions."""
    a = loss.scale if loss else 1.0
    if isinstance(loss, Huber):
        far = s > a * a
        return np.where(far, 2 * a * np.sqrt(s) - a * a, s), np.where(far, a / np.sqrt(s), 1.0)
    if isinstance(loss, Cauchy):
        return a * a * np.log(1 + s / a**2), 1 / (1 + s / a**2)
    if isinstance(loss, SoftL1):
        return 2 * a * a * (np.sqrt(1 + s / a**2) - 1), (1 + s / a**2) ** -0.5
    return s, np.ones_like(s)


def reference(whole, layout, fix, loss):
    """S, right and damping of the kept side, and H, g of everything, in NumPy."""
    masks = free(whole, fix)
    r, pose, lens, by_point = jacobians(whole)
    n, image, point = len(r), whole.observations.image, whole.observations.point
    camera = whole.images.camera[image]
    value, weight = slope(loss, (r * r).sum(axis=1))
    m, k = len(whole.images), len(whole.points)
    poses = np.arange(6 * m).reshape(m, 6)
    points = 6 * m + np.arange(3 * k).reshape(k, 3)
    params = 6 * m + 3 * k + np.arange(12 * len(whole.cameras)).reshape(-1, 12)
    j = np.zeros((n, 2, params[-1, -1] + 1))
    for o in range(n):
        j[o][:, poses[image[o]]] = pose[o] * masks.poses[image[o]]
        j[o][:, points[point[o]]] = by_point[o] * masks.points[point[o]]
        j[o][:, params[camera[o]]] = lens[o] * masks.intrinsics[camera[o]]
    h = np.einsum("o,oia,oib->ab", weight, j, j)
    g = np.einsum("o,oia,oi->a", weight, j, r)
    kept = np.empty(layout.size, int)
    for table, of in ((layout.poses, poses), (layout.points, points)):
        if table is not None:
            kept[table[table >= 0]] = of[table >= 0]
    if layout.cameras is not None:
        c, column = np.nonzero(layout.cameras >= 0)
        kept[layout.cameras[c, column]] = params[c, layout.lens[c, column]]
    others = np.setdiff1d(np.arange(len(g)), kept)
    damping = np.clip(np.diag(h), 1e-6, 1e32) / RADIUS
    v = h[np.ix_(others, others)] + np.diag(damping[others])
    w = h[np.ix_(kept, others)]
    s = h[np.ix_(kept, kept)] - w @ np.linalg.solve(v, w.T)
    right = -(g[kept] - w @ np.linalg.solve(v, g[others]))
    x = np.linalg.solve(s + np.diag(damping[kept]), right)
    step = np.zeros(len(g))
    step[kept] = x
    step[others] = -np.linalg.solve(v, g[others] + w.T @ x)
    decrease = -(g @ step + 0.5 * step @ h @ step)
    return 0.5 * value.sum(), g[kept], s, right, damping[kept], x, step, decrease


def whole_matrix(system):
    """P'S P from the blocks of the pattern."""
    pairs, blocks = system.pattern(), system.assemble()
    d = system.shape.width
    n = system.shape.blocks
    full = np.zeros((n, d, n, d))
    for (i, j), block in zip(pairs, blocks, strict=True):
        full[i, :, j] = block
        full[j, :, i] = block.T
    p = np.zeros((n * d, system.shape.size))
    column = system.columns.reshape(-1)
    p[np.flatnonzero(column >= 0), column[column >= 0]] = 1
    return p.T @ full.reshape(n * d, n * d) @ p


def close(a, b, tolerance=1e-9):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(1e-300, np.abs(b).max()))


@pytest.mark.parametrize("reproducible", [False, True])
@pytest.mark.parametrize("side", ["points", "poses"])
@pytest.mark.parametrize("case", CASES)
def test_normal_equations(comm, case, side, reproducible):
    cameras, fix = CASES[case]
    whole = ring(cameras=cameras)
    system, posed = build(ring(comm, cameras), side, fix, reproducible=reproducible)
    cost, g, s, right, damping, x, step, decrease = reference(whole, posed.layout, fix, None)
    assert system.linearise(posed.start) == pytest.approx(cost, rel=1e-11)
    assert system.cost(posed.start) == pytest.approx(cost, rel=1e-11)
    assert system.damp(RADIUS)
    close(system.gradient, g)
    close(system.damping, damping)
    close(system.right, right, 1e-8)
    close(whole_matrix(system), s, 1e-8)
    out = np.empty_like(x)
    system.multiply(x, out)
    close(out, right, 1e-8)
    mine, model = system.substitute(x)
    assert model == pytest.approx(decrease, rel=1e-8)
    rows = np.arange(len(whole.images) if side == "poses" else len(whole.points))[posed.mine]
    first = 0 if side == "poses" else 6 * len(whole.images)
    width = 6 if side == "poses" else 3
    expected = step[first:][: width * (rows.max(initial=-1) + 1)].reshape(-1, width)[rows]
    close(mine[:, :width], expected.reshape(-1, width), 1e-7) if len(rows) else None


@pytest.mark.parametrize("loss", [Huber(2.0), Cauchy(3.0), SoftL1(1.5)])
def test_losses_are_in_the_normal_equations(comm, loss):
    system, posed = build(ring(comm), "points", {}, loss)
    cost, g, s, right, *_ = reference(ring(), posed.layout, {}, loss)
    assert system.linearise(posed.start) == pytest.approx(cost, rel=1e-11)
    system.damp(RADIUS)
    close(system.gradient, g)
    close(whole_matrix(system), s, 1e-8)
    close(system.right, right, 1e-8)


@pytest.mark.parametrize("side", ["points", "poses"])
def test_many_blocks_take_the_hash_table(comm, side):
    """More than a hundred kept blocks: the pattern is what is joined, and no more."""
    sizes = {"images": 120, "points": 20} if side == "points" else {"images": 20, "points": 130}
    reconstruction = ring(comm, images=sizes["images"], points=sizes["points"], repeat=False)
    seen = reconstruction.observations
    keep = (seen.image // 8 + seen.point) % 3 == 0  # else all is joined
    reconstruction.observations.start = np.concatenate([[0], np.cumsum(keep)])[seen.start]
    seen.image, seen.xy, seen.keypoint = seen.image[keep], seen.xy[keep], seen.keypoint[keep]
    system, posed = build(reconstruction, side, {})
    system.linearise(posed.start)
    system.damp(RADIUS)
    pairs = system.pattern()
    assert len(pairs) < system.shape.blocks * (system.shape.blocks + 1) // 2
    assert (np.diff(pairs[:, 0] * system.shape.blocks + pairs[:, 1]) > 0).all()
    matrix = whole_matrix(system)
    x = np.random.default_rng(0).normal(size=system.shape.size)
    out = np.empty_like(x)
    system.multiply(x, out)
    close(matrix @ x + system.damping * x, out, 1e-9)


def test_the_diagonal_is_that_of_the_blocks(comm):
    system, posed = build(ring(comm, repeat=False), "points", {})
    system.linearise(posed.start)
    system.damp(RADIUS)
    pairs = system.pattern()
    blocks = system.assemble()[pairs[:, 0] == pairs[:, 1]].copy()
    close(system.diagonal(), blocks)


def test_modes_are_those_of_a_similarity(comm):
    """Moving the world by a small similarity leaves all residuals as they are."""
    system, posed = build(ring(comm), "points", {"intrinsics": True})
    system.linearise(posed.start)
    modes = system.modes()
    assert modes is not None
    j, kept = system.linearisation.jacobian, system.linearisation.kept
    xyz = posed.start.points[
        np.repeat(np.arange(len(posed.start.points)), np.diff(posed.table.start))
    ]
    for i in range(7):
        e = np.eye(3)[i % 3]
        moved = (np.broadcast_to(e, xyz.shape), np.cross(e, xyz), xyz)[min(i // 3, 2)]
        change = np.einsum("nia,na->ni", j[:, :, :6], modes[kept, :, i])
        change += np.einsum("nia,na->ni", j[:, :, 6:], moved)
        assert np.abs(change).max(initial=0) < 1e-8 * np.abs(j).max(initial=1)


def test_same_bits_on_any_number_of_ranks(comm):
    """Gradient, right-hand side, blocks and products are those of one rank."""
    alone, posed = build(ring(), "points", {}, reproducible=True)
    shared, posed_too = build(ring(comm), "points", {}, reproducible=True)
    costs = [s.linearise(p.start) for s, p in ((alone, posed), (shared, posed_too))]
    assert costs[0] == costs[1]
    assert alone.damp(RADIUS) and shared.damp(RADIUS)
    x = np.random.default_rng(0).normal(size=alone.shape.size)
    one, other = np.empty_like(x), np.empty_like(x)
    alone.multiply(x, one)
    shared.multiply(x, other)
    for a, b in (
        (alone.gradient, shared.gradient),
        (alone.right, shared.right),
        (alone.assemble(), shared.assemble()),
        (alone.diagonal(), shared.diagonal()),
        (one, other),
    ):
        assert a.tobytes() == b.tobytes()


def test_a_matrix_that_is_not_positive(comm):
    system, posed = build(ring(comm), "points", {})
    system.linearise(posed.start)
    system._v[:1] = -1.0
    assert not system.damp(RADIUS) or comm.allreduce(len(system._v), MPI.MIN) == 0
