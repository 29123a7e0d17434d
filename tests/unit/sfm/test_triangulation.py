"""Points from rays, against scenes whose points are known and plain NumPy; and the filters."""

import databases
import numpy as np
import pytest
import scenes

from hpckit.errors import ConfigError
from hpckit.sfm import rotations
from hpckit.sfm.cameras import Cameras
from hpckit.sfm.distribute import by_point, make_points, scatter
from hpckit.sfm.filters import angles, centres, filter_points, keep, of_images, well_seen
from hpckit.sfm.formats import read
from hpckit.sfm.projection import residuals, unproject
from hpckit.sfm.reconstruction import Images, Reconstruction
from hpckit.sfm.triangulation import triangulate

MODELS = {
    "SIMPLE_RADIAL": [900.0, 500.0, 400.0, 0.02],
    "OPENCV": [900.0, 910.0, 500.0, 400.0, 0.03, -0.01, 0.001, 0.002],
    "OPENCV_FISHEYE": [500.0, 505.0, 500.0, 400.0, 0.02, 0.001, 0.0, 0.0],
}


def tracks(comm, scene, xy=None, images=None, point=None):
    """The scene's observations over ranks, with true poses and points at the origin."""
    n, p = scene.xy.shape[:2]
    images = np.tile(np.arange(n), p) if images is None else images
    point = np.repeat(np.arange(p), n) if point is None else point
    xy = scene.xy[images, point] if xy is None else xy
    translation = -np.einsum("irc,ic->ir", scene.R, scene.centres)
    poses = Images.of(
        [f"{i}" for i in range(n)], scene.camera, rotations.from_matrix(scene.R), translation
    )
    seen = by_point(p, point, images, xy)
    whole = Reconstruction(comm, scene.cameras, poses, make_points(np.zeros((p, 3))), seen)
    return scatter(whole if comm.rank == 0 else None, comm)


def everywhere(comm, array):
    return np.concatenate(comm.allgather(array))


@pytest.mark.parametrize("model", MODELS)
def test_exact(comm, model):
    scene = databases.scene(cameras=Cameras.of((model, 1000, 800, MODELS[model])))
    found = triangulate(tracks(comm, scene), max_error=0.01)
    assert everywhere(comm, found.points.ids).tolist() == list(range(1, 61))
    np.testing.assert_allclose(everywhere(comm, found.points.xyz), scene.xyz, atol=1e-9)
    assert comm.allreduce(len(found.observations)) == scene.xy.shape[0] * 60


def test_least_squares(comm):
    """With noise and all rays in, the sum of squared tangents is least: against SciPy."""
    from scipy.optimize import least_squares

    scene = databases.scene(points=8, noise=1.0)
    found = triangulate(tracks(comm, scene), max_error=50.0)
    xyz = everywhere(comm, found.points.xyz)
    for p in range(8):
        rays = unproject(scene.cameras, scene.camera, scene.xy[:, p])
        rays = np.einsum("irc,ir->ic", scene.R, rays)

        def miss(x, rays=rays):
            y = x - scene.centres
            return np.cross(y, rays) / (y * rays).sum(1)[:, None]

        best = least_squares(lambda x: miss(x).ravel(), scene.xyz[p], xtol=1e-15, ftol=1e-15)
        np.testing.assert_allclose(xyz[p], best.x, atol=1e-6)


def test_one_bad_view(comm):
    """An observation that is far off is left out, whichever it is, and changes nothing."""
    scene = databases.scene()
    xy = scene.xy.transpose(1, 0, 2).copy()  # by point
    bad = np.arange(60) % 6
    xy[np.arange(60), bad] += [80.0, -60.0]
    found = triangulate(tracks(comm, scene, xy.reshape(-1, 2)), max_error=2.0)
    np.testing.assert_allclose(everywhere(comm, found.points.xyz), scene.xyz, atol=1e-9)
    left = everywhere(comm, found.observations.image).reshape(60, 5)
    assert all(bad[p] not in left[p] for p in range(60))


def test_mostly_bad(comm):
    """Three of seven views agree, the others lie anywhere."""
    scene = databases.scene(images=7)
    rng = np.random.default_rng(5)
    xy = scene.xy.transpose(1, 0, 2).copy()
    for p in range(60):
        wrong = rng.permutation(7)[:4]
        xy[p, wrong] += rng.choice([-1, 1], (4, 2)) * rng.uniform(50, 200, (4, 2))
    found = triangulate(tracks(comm, scene, xy.reshape(-1, 2)), max_error=0.5, min_views=3)
    ids = everywhere(comm, found.points.ids) - 1
    assert len(ids) >= 58  # wrong ones may meet by chance, seldom
    error = np.linalg.norm(everywhere(comm, found.points.xyz) - scene.xyz[ids], axis=1)
    assert np.sort(error)[-3] < 1e-6


def test_twice_in_an_image(comm):
    """Of two observations in one image the one that agrees better stays."""
    scene = databases.scene(points=10)
    images = np.repeat([[0, 1, 2, 3, 4, 5, 2]], 10, axis=0)
    xy = scene.xy[images, np.arange(10)[:, None]].copy()
    xy[:, 2] += 0.5  # the first of image 2 is a little off
    point = np.repeat(np.arange(10), 7)
    found = triangulate(
        tracks(comm, scene, xy.reshape(-1, 2), images.ravel(), point), max_error=2.0
    )
    np.testing.assert_allclose(everywhere(comm, found.points.xyz), scene.xyz, atol=1e-3)
    assert comm.allreduce(len(found.observations)) == 60
    mine = found.points.ids - 1
    right = scene.xy[found.observations.image, np.repeat(mine, 6)]
    np.testing.assert_array_equal(found.observations.xy, right)


@pytest.mark.parametrize("first", [0, 1])
def test_split(comm, first):
    """Tracks of two points each, three views of one and four of the other: both are found."""
    scene = databases.scene(images=7, points=40)
    few = np.arange(40) % 2 == first
    images = np.concatenate([[0, 2, 4] if f else [1, 3, 5, 6] for f in few])
    true = np.repeat(np.arange(40), np.where(few, 3, 4))
    joined = tracks(comm, scene, scene.xy[images, true], images, true // 2)
    one = triangulate(joined, max_error=0.1)
    both = triangulate(joined, max_error=0.1, split=True)
    assert comm.allreduce(len(one.points)) == 20 and comm.allreduce(len(both.points)) == 40
    ids, xyz = everywhere(comm, both.points.ids), everywhere(comm, both.points.xyz)
    track = np.where(ids > 40, ids - 40, ids) - 1
    assert track.tolist() == np.repeat(np.arange(20), 2).tolist()  # 40 were given, 20 have views
    assert len(set(ids)) == 40 and (ids[0::2] <= 40).all() and (ids[1::2] > 40).all()
    right = 2 * track + np.where(ids > 40, first, 1 - first)  # the longer one comes first
    np.testing.assert_allclose(xyz, scene.xyz[right], atol=1e-9)
    assert comm.allreduce(len(both.observations)) == len(true)


def test_no_point(comm):
    """Rays that nearly coincide, meet behind the images, or are alone, make no point."""
    scene = databases.scene(points=12)
    pairs = np.tile([0, 1], 12)
    point = np.repeat(np.arange(12), 2)
    xy = scene.xy[pairs, point].copy()
    narrow = tracks(comm, scene, xy, pairs, point)
    wide = everywhere(comm, angles(triangulate(narrow, min_angle=0.0)))
    a, b = (scene.xyz - scene.centres[i] for i in (0, 1))
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    np.testing.assert_allclose(wide, np.degrees(np.arccos(cosine)), rtol=1e-7)
    limit = np.median(wide)
    found = everywhere(comm, triangulate(narrow, min_angle=float(limit)).points.ids)
    assert found.tolist() == (np.flatnonzero(wide > limit) + 1).tolist()
    xy[0::2, 0] -= 1200.0  # rays of the first image turned so far to the left that they diverge
    assert comm.allreduce(len(triangulate(tracks(comm, scene, xy, pairs, point)).points)) == 0
    alone = tracks(comm, scene, scene.xy[0], np.zeros(12, int), np.arange(12))
    assert comm.allreduce(len(triangulate(alone).points)) == 0


def test_long_track(comm):
    scene = databases.scene(images=150, points=3, noise=0.5)
    found = triangulate(tracks(comm, scene), max_error=4.0)
    assert comm.allreduce(len(found.observations)) == 450
    np.testing.assert_allclose(everywhere(comm, found.points.xyz), scene.xyz, atol=2e-3)


def test_filter(comm):
    scene = databases.scene()
    xy = scene.xy.transpose(1, 0, 2).copy()
    xy[3, 2] += [3.0, 4.0]
    xy[5] += np.array([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])[:, None] * 100
    model = tracks(comm, scene, xy.reshape(-1, 2))
    model.points.xyz = scene.xyz[model.points.ids - 1]
    assert comm.allreduce(len(filter_points(model, max_error=5.001).observations)) == 360 - 6
    left = filter_points(model, max_error=4.999)
    assert comm.allreduce(len(left.observations)) == 360 - 7
    assert 6 not in everywhere(comm, left.points.ids)
    assert np.linalg.norm(residuals(left)[0], axis=1).max(initial=0) < 1e-9
    behind = tracks(comm, scene)
    away = 4 * scene.centres[0]  # is behind the first image, in view of none
    behind.points.xyz = np.where(
        behind.points.ids[:, None] == 9, away, scene.xyz[behind.points.ids - 1]
    )
    left = filter_points(behind, max_error=1e9)
    seen = everywhere(comm, left.points.ids[left.observations.point])
    depth = np.einsum("ic,ic->i", scene.R[:, 2], away - scene.centres)
    assert (seen == 9).sum() == (depth > 0).sum() * ((depth > 0).sum() > 1)


def test_images(comm):
    """Without image 5, which alone sees points 50 to 59 with image 4, these go, and so may 4."""
    scene = databases.scene()
    point = np.repeat(np.arange(60), 6)
    images = np.tile(np.arange(6), 60)
    kept = np.where(point < 50, images < 4, (images >= 4)) | ((point < 3) & (images == 4))
    model = tracks(comm, scene, scene.xy[images, point][kept], images[kept], point[kept])
    assert well_seen(model, 10).tolist() == [0, 1, 2, 3, 4, 5]
    assert well_seen(model, 11).tolist() == [0, 1, 2, 3]
    part = of_images(model, np.array([0, 3]))
    assert part.images.names == ["0", "3"] and len(part.cameras) == 1
    assert comm.allreduce(len(part.observations)) == 100
    np.testing.assert_allclose(centres(part.images), scene.centres[[0, 3]], atol=1e-12)
    assert len(keep(model, np.zeros(len(model.observations), bool)).points) == 0


def test_real(comm):
    """Maupertuis: COLMAP's points come back from its own tracks and poses."""
    model = read(scenes.data("cases/real/maupertuis/reconstruction"), comm)
    found = triangulate(model, max_error=4.0, min_angle=1.0)
    assert comm.allreduce(len(found.points)) >= 1030  # of 1039
    order = np.argsort(model.points.ids)
    theirs = model.points.xyz[order[np.searchsorted(model.points.ids[order], found.points.ids)]]
    size = np.ptp(centres(model.images), axis=0).max()
    off = everywhere(comm, np.linalg.norm(found.points.xyz - theirs, axis=1)) / size
    assert np.median(off) < 1e-4 and np.quantile(off, 0.95) < 5e-3


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_error": 0.0}, "max_error is 0.0"),
        ({"min_angle": -1.0}, "min_angle is -1.0"),
        ({"min_views": 1}, "min_views is 1"),
    ],
)
def test_refused(comm, limits, message):
    model = tracks(comm, databases.scene(points=2))
    for function in (triangulate, filter_points):
        with pytest.raises(ConfigError, match=message):
            function(model, **limits)
