"""Relative poses and focal lengths from stored geometries: against truth and real databases."""

import os
from pathlib import Path

import numpy as np
import pytest

from hpckit import native
from hpckit.native import address
from hpckit.sfm import rotations
from hpckit.sfm.cameras import Cameras
from hpckit.sfm.projection import project
from hpckit.sfm.reconstruction import Images
from hpckit.sfm.relative import focal_lengths, relative_poses
from hpckit.sfm.two_view import Pairs, calibration_matrices, from_homography
from hpckit.sfm.viewgraph import Config, ViewGraph

DATA = Path(os.environ.get("HPCKIT_DATA", Path(__file__).parents[4] / "shared/data")) / "sfm"


def cross(t):
    return np.cross(np.eye(3), t[..., None, :]) * -1.0


def scene(
    comm, *, n=5, kind="general", model="SIMPLE_PINHOLE", noise=0.0, cameras=None, matches=60
):
    """A view graph of all pairs of `n` images that look at one heap of points, and their poses."""
    g = np.random.default_rng(0)
    if cameras is None:
        rest = {"SIMPLE_PINHOLE": [], "SIMPLE_RADIAL": [0.08], "SIMPLE_RADIAL_FISHEYE": [0.02]}
        cameras = Cameras.of((model, 800, 600, [600.0, 400.0, 300.0, *rest[model]]))
    camera = (np.arange(n) % len(cameras)).astype(np.int32)
    q = rotations.exp(0.25 * g.normal(size=(n, 3)))
    centre = np.zeros((n, 3)) if kind == "turned" else g.normal(size=(n, 3))
    x = np.stack(
        [g.uniform(-2, 2, matches), g.uniform(-2, 2, matches), g.uniform(5, 9, matches)], 1
    )
    if kind == "plane":
        x[:, 2] = 6.0 + 0.3 * x[:, 0] - 0.2 * x[:, 1]
    keypoints = []
    for i in range(n):
        seen = rotations.rotate(q[i], x - centre[i])
        xy = project(cameras, np.full(matches, camera[i]), seen)
        keypoints.append(xy + noise * g.normal(size=xy.shape))
    pairs = np.array([(i, j) for i in range(n) for j in range(i + 1, n)], np.int32)
    relative = rotations.multiply(q[pairs[:, 1]], rotations.conjugate(q[pairs[:, 0]]))
    translation = rotations.rotate(q[pairs[:, 1]], centre[pairs[:, 0]] - centre[pairs[:, 1]])
    own = slice(*(len(pairs) * r // comm.size for r in (comm.rank, comm.rank + 1)))
    pairs, relative, translation = pairs[own], relative[own], translation[own]
    m = len(pairs)
    k = calibration_matrices(cameras)
    first, second = (np.linalg.inv(k[camera[pairs[:, s]]]) for s in (0, 1))
    matrix = rotations.to_matrix(relative)
    essential = cross(translation) @ matrix
    nothing = np.full((m, 3, 3), np.nan)
    normal, distance = np.array([-0.3, 0.2, 1.0]), 6.0
    height = distance - centre[pairs[:, 0]] @ normal
    turned = rotations.rotate(q[pairs[:, 0]], normal)
    plane = matrix + translation[:, :, None] * (turned / height[:, None])[:, None, :]
    graph = ViewGraph(
        comm,
        cameras,
        np.zeros(len(cameras), bool),
        Images(
            np.arange(n),
            [str(i) for i in range(n)],
            camera,
            np.tile([1.0, 0, 0, 0], (n, 1)),
            np.zeros((n, 3)),
        ),
        matches * np.arange(n + 1),
        np.concatenate(keypoints),
        pairs,
        np.full(
            m, Config.UNCALIBRATED if kind == "general" else Config.PLANAR_OR_PANORAMIC, np.int8
        ),
        second.transpose(0, 2, 1) @ essential @ first if kind == "general" else nothing,
        nothing.copy(),
        np.linalg.inv(second) @ plane @ first if kind != "general" else nothing,
        np.full((m, 4), np.nan),
        np.full((m, 3), np.nan),
        matches * np.arange(m + 1),
        np.tile(np.stack([np.arange(matches)] * 2, axis=1), (m, 1)).astype(np.int32),
    )
    return graph, relative, translation


def angle(q, expected):
    off = rotations.log(rotations.multiply(q, rotations.conjugate(expected)))
    return np.degrees(np.linalg.norm(off, axis=1))


def between(t, expected):
    a = t / np.linalg.norm(t, axis=1, keepdims=True)
    b = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    return np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b), axis=1), (a * b).sum(1)))


def test_exact_geometry_gives_exact_poses(comm):
    graph, relative, translation = scene(comm)
    q, t, good = relative_poses(graph)
    assert good.all()
    assert angle(q, relative).max(initial=0) < 1e-6
    assert between(t, translation).max(initial=0) < 1e-5
    assert np.linalg.norm(t, axis=1) == pytest.approx(np.ones(len(t)))


def test_images_that_only_turned_have_no_translation(comm):
    graph, relative, _ = scene(comm, kind="turned", noise=0.3)
    q, t, good = relative_poses(graph)
    assert good.all()
    assert angle(q, relative).max(initial=0) < 0.1
    assert not t.any()


def test_a_rotation_that_e_hides_is_found_all_the_same(comm):
    """F of images without parallax is any of many: the matches say that they only turned."""
    graph, relative, _ = scene(comm, kind="turned", noise=0.3)
    graph.config[:] = Config.UNCALIBRATED
    graph.F[:] = np.random.default_rng(1).normal(size=(3, 3))
    q, t, good = relative_poses(graph)
    assert good.all()
    assert angle(q, relative).max(initial=0) < 0.1
    assert not t.any()


@pytest.mark.parametrize("model", ["SIMPLE_RADIAL", "SIMPLE_RADIAL_FISHEYE"])
def test_refinement_makes_up_for_distortion_that_f_ignores(comm, model):
    """F holds for undistorted pixels; here it is spoiled, and rays lead back to the truth."""
    graph, relative, translation = scene(comm, model=model)
    graph.F *= 1.0 + 0.003 * np.random.default_rng(1).normal(size=graph.F.shape)
    q, t, good = relative_poses(graph)
    assert good.all()
    assert angle(q, relative).max(initial=0) < 1e-4
    assert between(t, translation).max(initial=0) < 1e-3


def test_noise_and_wrong_matches(comm):
    graph, relative, translation = scene(comm, noise=0.5, matches=200)
    wrong = np.arange(len(graph.matches)) % 20 == 0
    graph.matches[wrong] = graph.matches[wrong][::-1]
    q, t, good = relative_poses(graph)
    assert good.all()
    assert angle(q, relative).max(initial=0) < 0.5
    assert between(t, translation).max(initial=0) < 3.0


def test_stored_poses_are_used(comm):
    """Neither E nor F nor H, but a pose a little wrong, of another length."""
    graph, relative, translation = scene(comm)
    graph.F[:] = np.nan
    graph.quaternion[:] = rotations.multiply(rotations.exp([0.01, -0.02, 0.01]), relative)
    graph.translation[:] = 7.0 * translation + 0.1
    q, t, good = relative_poses(graph)
    assert good.all()
    assert angle(q, relative).max(initial=0) < 1e-4
    assert between(t, translation).max(initial=0) < 1e-3


def test_pairs_of_no_geometry_are_not_good(comm):
    graph, _, _ = scene(comm)
    graph.F[:] = np.nan
    q, t, good = relative_poses(graph)
    assert not good.any()
    assert np.isnan(q).all()
    assert np.isnan(t).all()


def test_a_plane_leaves_two_poses_and_one_of_them_is_taken(comm):
    """Both put all matches in front and map them exactly: no pair alone can tell which is true."""
    graph, relative, translation = scene(comm, kind="plane")
    pairs = Pairs(graph)
    candidates = from_homography(pairs.homography())
    right = [
        (angle(rotations.from_matrix(candidates[0][:, c]), relative) < 1e-6)
        & (between(candidates[1][:, c], translation) < 1e-5)
        for c in range(4)
    ]
    assert np.any(right, axis=0).all()
    q, t, good = relative_poses(graph)
    assert good.all()
    assert pairs.misses(rotations.to_matrix(q), t).max(initial=0) < 1e-12
    assert (pairs.in_front(np.arange(len(q)), rotations.to_matrix(q), t) == 60).all()


def test_in_front_is_that_of_the_nearest_points():
    """Depths along both rays by least squares, in plain NumPy."""
    g = np.random.default_rng(0)
    x, y = (ray / np.linalg.norm(ray, axis=1, keepdims=True) for ray in g.normal(size=(2, 90, 3)))
    r, t = rotations.to_matrix(rotations.exp(g.normal(size=(3, 3)))), g.normal(size=(3, 3))
    expected = np.zeros(3, int)
    for k in range(90):
        columns = np.stack([r[k // 30] @ x[k], -y[k]], axis=1)
        expected[k // 30] += (np.linalg.lstsq(columns, -t[k // 30])[0] > 0).all()
    count, parallax = np.empty(3, np.int64), np.empty(90)
    kernels = native.load("hpckit.sfm.kernels.relative")
    kernels.front(3, *map(address, (np.array([0, 30, 60, 90]), x, y, r, t, count, parallax)))
    assert count.tolist() == expected.tolist()
    cosine = (np.einsum("kij,kj->ki", np.repeat(r, 30, axis=0), x) * y).sum(1)
    assert np.cos(parallax) == pytest.approx(cosine, abs=1e-12)


def test_one_shared_focal_length(comm):
    graph, _, _ = scene(comm, n=6, noise=0.3, matches=150)
    graph.cameras.parameters[0, 0] = 1.4 * 600
    # F is of pixels, which do not depend on what the focal length is believed to be.
    assert focal_lengths(graph) == pytest.approx([600.0], rel=0.01)
    assert graph.cameras.parameters[0, 0] == 1.4 * 600


def test_focal_lengths_of_several_cameras(comm):
    true = [500.0, 700.0, 620.0, 450.0]
    cameras = Cameras.of(*(("PINHOLE", 800, 600, [f, 1.1 * f, 400.0, 300.0]) for f in true))
    graph, _, _ = scene(comm, n=8, noise=0.1, matches=150, cameras=cameras)
    graph.cameras.parameters[:, :2] = 640 * np.array([1.0, 1.1])
    found = focal_lengths(graph)
    assert found == pytest.approx(1.05 * np.array(true), rel=0.03)
    assert len({each.tobytes() for each in comm.allgather(found)}) == 1


def test_known_focal_lengths_stay(comm):
    graph, _, _ = scene(comm)
    graph.prior_focal[:] = True
    graph.cameras.parameters[0, 0] = 900.0
    assert focal_lengths(graph).tolist() == [900.0]


def test_pairs_that_say_nothing_leave_the_guess(comm):
    """Too few matches; and images that only turned."""
    graph, _, _ = scene(comm, matches=10)
    assert focal_lengths(graph).tolist() == [600.0]
    graph, _, _ = scene(comm, kind="turned")
    assert focal_lengths(graph).tolist() == [600.0]


@pytest.mark.parametrize(
    ("database", "model", "limit"),
    [
        ("lund/database-nodesc.db", "lund/sparse-global", 0.5),
        ("cases/real/maupertuis/colmap.db", "cases/real/maupertuis/reconstruction", 0.3),
    ],
)
def test_real_pairs_against_colmaps_model(comm, database, model, limit):
    """Median error of rotations of pairs with 30 matches and more, with the model's intrinsics."""
    if not (DATA / database).exists():
        pytest.skip(f"no {DATA / database}: set HPCKIT_DATA")
    graph, images, cameras = real(comm, database, model)
    graph.cameras.parameters[:] = cameras.parameters
    q, _, good = relative_poses(graph)
    off = errors(graph, images, q)[good & (graph.inliers >= 30)]
    assert np.median(np.concatenate(comm.allgather(off))) < limit
    assert comm.allreduce(int(good.sum())) >= 0.8 * comm.allreduce(len(graph))


def test_focal_length_of_maupertuis(comm):
    """COLMAP's model has 1847.5; the database's guess is 2302.8."""
    if not (DATA / "cases/real/maupertuis/colmap.db").exists():
        pytest.skip(f"no {DATA / 'cases/real/maupertuis/colmap.db'}: set HPCKIT_DATA")
    graph, _, _ = real(
        comm, "cases/real/maupertuis/colmap.db", "cases/real/maupertuis/reconstruction"
    )
    assert focal_lengths(graph) == pytest.approx([1847.5], rel=0.02)


def real(comm, database, model):
    from hpckit.sfm.formats import read
    from hpckit.sfm.formats.database import read_database

    reconstruction = read(DATA / model, comm)
    return read_database(DATA / database, comm), reconstruction.images, reconstruction.cameras


def errors(graph, images, q):
    place = {name: i for i, name in enumerate(images.names)}
    ends = np.array([[place[graph.images.names[i]] for i in pair] for pair in graph.pairs]).reshape(
        -1, 2
    )
    turn = images.quaternion[ends]
    return angle(q, rotations.multiply(turn[:, 1], rotations.conjugate(turn[:, 0])))
