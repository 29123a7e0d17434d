"""Covariances beside the inverse of all normal equations, bordered by the gauge, in NumPy."""

import json
from pathlib import Path

import numpy as np
import pytest
from scenes import data

from hpckit.errors import ConfigError
from hpckit.sfm import rotations
from hpckit.sfm.bundle.adjust import bundle_adjust
from hpckit.sfm.bundle.covariance import covariance
from hpckit.sfm.bundle.priors import PositionPrior
from hpckit.sfm.cameras import Cameras
from hpckit.sfm.distribute import scatter
from hpckit.sfm.formats import read
from hpckit.sfm.projection import centres, project
from hpckit.sfm.reconstruction import Images, Observations, Points, Reconstruction

COLMAP = json.loads((Path(__file__).parents[3] / "data/sfm/maupertuis-covariance.json").read_text())
IMAGES, POINTS = 6, 30


def whole(comm, flat=False, still=False, parts=1):
    """Cameras around a cloud of points far from the origin; the ids of images are descending."""
    rng = np.random.default_rng(4)
    middle = np.array([300.0, -200.0, 50.0])
    xyz = rng.uniform(-1, 1, (POINTS, 3)) * [1, 1, 0 if flat else 1]
    quaternion, translation = np.empty((IMAGES, 4)), np.empty((IMAGES, 3))
    for i in range(IMAGES):
        angle = 0 if still or flat else 0.3 * i
        turn = rotations.exp(np.array([0.1 * i if still else 0.1, angle, 0.05 * i]))
        quaternion[i] = rotations.exp(np.zeros(3)) if flat else turn
        place = np.array([0.3 * i, 0.4 * (i % 3), 5.0]) if flat else np.array([0.2 * i, 0.1, 5.0])
        translation[i] = (0 if still else place) - rotations.rotate(quaternion[i], middle)
        if still:
            translation[i] = rotations.rotate(quaternion[i], [0, 0, 5.0] - middle)
    camera = np.array([0, 0, 0, 1, 1, 1], np.int32)
    cameras = Cameras.of(
        ("SIMPLE_RADIAL", 1000, 800, [900.0, 500.0, 400.0, 0.0 if flat else 0.02]),
        ("PINHOLE", 1000, 800, [800.0, 850.0, 500.0, 400.0]),
    )
    part = np.arange(POINTS) % parts
    seen = [np.flatnonzero(np.arange(IMAGES) % parts == part[p]) for p in range(POINTS)]
    seen = [s[rng.permutation(len(s))][: 6 if flat or still else 4] for s in seen]
    image = np.concatenate([np.sort(s) for s in seen]).astype(np.int32)
    start = np.concatenate([[0], np.cumsum([len(s) for s in seen])])
    images = Images(
        np.arange(10 + IMAGES, 10, -1),
        [f"{i}" for i in range(IMAGES)],
        camera,
        quaternion,
        translation,
    )
    points = Points(np.arange(POINTS) + 100, xyz + middle, np.zeros((POINTS, 3), np.uint8))
    x = rotations.rotate(
        quaternion[image], points.xyz[np.repeat(np.arange(POINTS), np.diff(start))]
    )
    xy = project(cameras, camera[image], x + translation[image])
    observations = Observations(start, image, xy, np.full(len(image), -1, np.int32))
    return Reconstruction(comm, cameras, images, points, observations)


def jacobian(scene, intrinsics):
    """Of all residuals by 6 of each pose, these (camera, parameter), and 3 of each point."""
    images, seen = scene.images, scene.observations
    camera, point, n = images.camera[seen.image], seen.point, len(seen)
    q = rotations.rotate(images.quaternion[seen.image], scene.points.xyz[point])
    R = rotations.to_matrix(images.quaternion[seen.image])
    J = np.zeros((n, 2, 6 * IMAGES + len(intrinsics) + 3 * POINTS))

    def derivative(change, parameters=scene.cameras.parameters):
        x = q + images.translation[seen.image] + 1e-30j * change
        cameras = Cameras(scene.cameras.ids, scene.cameras.model, scene.cameras.size, parameters)
        return project(cameras, camera, x).imag / 1e-30

    rows = np.arange(n)
    for a in range(3):
        e = np.eye(3)[a]
        J[rows, :, 6 * seen.image + a] = derivative(np.cross(e, q))
        J[rows, :, 6 * seen.image + 3 + a] = derivative(np.broadcast_to(e, q.shape))
        J[rows, :, 6 * IMAGES + len(intrinsics) + 3 * point + a] = derivative(R[:, :, a])
    for i, (c, k) in enumerate(intrinsics):
        parameters = scene.cameras.parameters.astype(complex)
        parameters[c, k] += 1e-30j
        J[:, :, 6 * IMAGES + i] = derivative(0 * q, parameters)
    return J.reshape(2 * n, -1)


def expected(scene, gauge, intrinsics):
    """The covariance of all, and of centres: by the inverse of [J'J B'; B 0]."""
    J = jacobian(scene, intrinsics)
    B = np.zeros((7, J.shape[1]))
    R = rotations.to_matrix(scene.images.quaternion)
    t, C = scene.images.translation, centres(scene.images)
    to_centre = np.zeros((3 * IMAGES, J.shape[1]))
    for i in range(IMAGES):
        for a in range(3):
            w = np.eye(3)[a]
            to_centre[3 * i : 3 * i + 3, 6 * i + a] = R[i].T @ np.cross(w, t[i])
            to_centre[3 * i : 3 * i + 3, 6 * i + 3 + a] = -R[i].T @ w
    if gauge == "first+scale":  # ids are descending: the last image is the first
        first, second = IMAGES - 1, IMAGES - 2
        B[range(6), range(6 * first, 6 * first + 6)] = 1
        between = t[second] - R[second] @ R[first].T @ t[first]
        B[6, 6 * second + 3 + np.abs(between).argmax()] = 1
    else:
        moves = np.zeros((3 * IMAGES, 7))
        offset = C - C.mean(axis=0)
        for a in range(3):
            moves[a::3, a] = 1
            moves[:, 3 + a] = np.cross(np.eye(3)[a], offset).ravel()
        moves[:, 6] = offset.ravel()
        B[:] = moves.T @ to_centre
    scale = 1 / np.linalg.norm(J, axis=0)
    B = B * scale / np.linalg.norm(B * scale, axis=1, keepdims=True)
    bordered = np.block([[(J * scale).T @ (J * scale), B.T], [B, np.zeros((7, 7))]])
    sigma = np.linalg.inv(bordered)[: len(scale), : len(scale)] * scale * scale[:, None]
    return sigma, to_centre @ sigma @ to_centre.T


def near(found, reference):
    scale = np.sqrt(np.maximum(np.diag(reference), 1e-300))
    return (
        np.abs(found - reference).max(initial=0, where=scale[:, None] * scale > 1e-40)
        <= (1e-6 * np.outer(scale, scale)).max()
    )


@pytest.mark.parametrize("gauge", ["first+scale", "inner"])
def test_equals_bordered_normal_equations(comm, gauge):
    scene = whole(comm)
    free = [(0, 0), (0, 3), (1, 0), (1, 1)]
    sigma, centre = expected(scene, gauge, free)
    mine = scatter(scene if comm.rank == 0 else None, comm)
    found = covariance(mine, None, True, gauge=gauge, sigma=2.0)
    assert (found.images == scene.images.ids[::-1]).all()
    for image, pose, place in zip(found.images, found.poses, found.centres, strict=True):
        i = int(np.flatnonzero(scene.images.ids == image)[0])
        at = slice(6 * i, 6 * i + 6)
        assert near(pose / 4, sigma[at, at])
        at = slice(3 * i, 3 * i + 3)
        assert near(place / 4, centre[at, at])
    n = 6 * IMAGES
    assert found.intrinsics[1][0] == ("f", "k")
    assert found.intrinsics[2][0] == ("fx", "fy")
    assert near(found.intrinsics[1][1] / 4, sigma[n : n + 2, n : n + 2])
    assert near(found.intrinsics[2][1] / 4, sigma[n + 2 : n + 4, n + 2 : n + 4])
    assert (found.points == mine.points.ids).all()
    for p, own in zip(found.points - 100, found.xyz, strict=True):
        at = slice(n + 4 + 3 * p, n + 7 + 3 * p)
        assert near(own / 4, sigma[at, at])


def test_some_of_it(comm):
    mine = scatter(whole(comm) if comm.rank == 0 else None, comm)
    every = covariance(mine, None, True)
    some = covariance(mine, [13, 11], [103, 120])
    order = [list(every.images).index(i) for i in (13, 11)]
    np.testing.assert_allclose(some.poses, every.poses[order], rtol=1e-9, atol=1e-20)
    assert sorted(np.concatenate(comm.allgather(some.points))) == [103, 120]
    for p, own in zip(some.points, some.xyz, strict=True):
        np.testing.assert_allclose(own, every.xyz[every.points == p][0], rtol=1e-6)


def test_fixed_poses_are_a_gauge(comm):
    scene = whole(comm)
    J = jacobian(scene, [])
    fixed = np.zeros(J.shape[1], bool)
    fixed[:12] = True  # the first two
    inverse = np.zeros((J.shape[1],) * 2)
    inverse[np.ix_(~fixed, ~fixed)] = np.linalg.inv(J[:, ~fixed].T @ J[:, ~fixed])
    mine = scatter(scene if comm.rank == 0 else None, comm)
    ids = scene.images.ids
    found = covariance(mine, ids, True, fix={"poses": ids[:2], "intrinsics": True})
    for i in range(IMAGES):
        assert near(found.poses[i], inverse[6 * i : 6 * i + 6, 6 * i : 6 * i + 6])
    assert (found.poses[:2] == 0).all()
    for p, own in zip(found.points - 100, found.xyz, strict=True):
        at = slice(6 * IMAGES + 3 * p, 6 * IMAGES + 3 * p + 3)
        assert near(own, inverse[at, at])


def test_position_priors_are_a_gauge(comm):
    scene = whole(comm)
    J = jacobian(scene, [])
    R, t = rotations.to_matrix(scene.images.quaternion), scene.images.translation
    rows = np.zeros((3 * IMAGES, J.shape[1]))
    for i in range(IMAGES):
        for a in range(3):
            rows[3 * i : 3 * i + 3, 6 * i + a] = R[i].T @ np.cross(np.eye(3)[a], t[i]) / 0.1
        rows[3 * i : 3 * i + 3, 6 * i + 3 : 6 * i + 6] = -R[i].T / 0.1
    scale = 1 / np.linalg.norm(J, axis=0)
    both = np.vstack([J, rows]) * scale
    inverse = np.linalg.inv(both.T @ both) * scale * scale[:, None]
    mine = scatter(scene if comm.rank == 0 else None, comm)
    ids = scene.images.ids
    priors = [PositionPrior(i, c, 0.1) for i, c in zip(ids, centres(scene.images), strict=True)]
    found = covariance(mine, ids, priors=priors, fix={"intrinsics": True})
    assert found.gauge == "priors"
    for i in range(IMAGES):
        assert near(found.poses[i], inverse[6 * i : 6 * i + 6, 6 * i : 6 * i + 6])


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ({}, {"gauge": "outer"}, "gauge 'outer': give first"),
        ({}, {"sigma": 0.0}, "sigma"),
        ({}, {"images": [1]}, "no image of id 1"),
        ({}, {"points": [100, 7]}, "no point of id 7"),
        ({}, {"fix": {"poses": [12]}, "gauge": "inner"}, "give gauge='priors'"),
        ({}, {"gauge": "priors"}, "7 freedoms, and nothing that is fixed holds them"),
        ({}, {"fix": {"poses": [12]}}, "1 freedoms, and nothing that is fixed holds them"),
        ({"flat": True}, {}, r"8 freedoms, and a gauge holds 7"),
        ({"still": True}, {"fix": {"intrinsics": True}}, "30 of 30 points have no depth"),
        ({"parts": 2}, {}, "2 parts that share no point, of 3, 3 images"),
    ],
)
def test_refuses(comm, kind, arguments, message):
    mine = scatter(whole(comm, **kind) if comm.rank == 0 else None, comm)
    if kind.get("flat"):  # one camera, of one focal length
        mine.images.camera[:] = 0
        arguments = {"fix": {"intrinsics": ["principal_point", "distortion"]}}
    with pytest.raises(ConfigError, match=message):
        covariance(mine, **arguments)


def test_equals_colmap(comm):
    folder = data("cases/real/maupertuis/reconstruction")
    scene = read(folder, comm=comm)
    fixed = np.zeros((4, 6), bool)  # the gauge, while solving too: the scene shall not grow
    fixed[scene.images.ids == 1] = True
    fixed[scene.images.ids == 2, 3] = True
    bundle_adjust(scene, ftol=0.0, fix={"poses": fixed})
    found = covariance(scene)
    assert found.intrinsics[1][1][0, 0] == pytest.approx(COLMAP["focal"], rel=1e-6)
    for image, pose in COLMAP["poses"].items():
        reference = np.array(pose)
        kept = [0, 1, 2, 3, 4, 5] if len(reference) == 6 else [0, 1, 2, 4, 5]
        halves = np.where(np.arange(len(kept)) < 3, 2.0, 1.0)  # Ceres' tangent is half the angle
        reference = reference * halves * halves[:, None]
        mine = found.poses[list(found.images).index(int(image))][np.ix_(kept, kept)]
        scale = np.sqrt(np.diag(reference))
        assert np.abs((mine - reference) / scale / scale[:, None]).max() < 1e-6
