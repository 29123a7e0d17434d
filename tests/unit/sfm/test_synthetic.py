"""Generated problems: the same on any ranks, as noisy and with the optimum that they say."""

import numpy as np
import pytest
from mpi4py import MPI

from hpckit.errors import ConfigError
from hpckit.sfm import rotations, synthetic
from hpckit.sfm.cameras import MODELS
from hpckit.sfm.projection import residuals

SCENES = {
    "loop": lambda comm, **more: synthetic.loop(comm, 60, 50, **more),
    "city": lambda comm, **more: synthetic.city_blocks(comm, (1, 2), 10, **more),
    "turntable": lambda comm, **more: synthetic.turntable(comm, 9, 1300, views=5, **more),
}


def _rows(reconstruction):
    """What there is of points and observations, as rows that ranks can put one after the other."""
    points, seen = reconstruction.points, reconstruction.observations
    return [points.ids, points.xyz, points.rgb, np.diff(seen.start), seen.image, seen.xy]


@pytest.mark.mpi
@pytest.mark.parametrize("scene", SCENES)
def test_any_ranks_make_the_same(comm, scene):
    ours, whole = SCENES[scene](comm), SCENES[scene](MPI.COMM_SELF)
    for mine, all_of_it in ((ours.start, whole.start), (ours.truth, whole.truth)):
        for part, wanted in zip(_rows(mine), _rows(all_of_it), strict=True):
            np.testing.assert_array_equal(np.concatenate(comm.allgather(part)), wanted)
        np.testing.assert_array_equal(mine.images.quaternion, all_of_it.images.quaternion)
        np.testing.assert_array_equal(mine.images.translation, all_of_it.images.translation)
        np.testing.assert_array_equal(mine.cameras.parameters, all_of_it.cameras.parameters)
    share = comm.allreduce(len(whole.truth.observations)) / comm.size**2
    assert len(ours.truth.observations) < 1.5 * share + 100


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("scene", SCENES)
def test_observations_are_of_the_truth(scene, model):
    made = SCENES[scene](MPI.COMM_SELF, model=model, noise=0.5)
    error, depth = residuals(made.truth)
    assert (depth > 0).all()
    assert abs(error.std() / 0.5 - 1) < 4 / np.sqrt(2 * error.size)
    assert np.abs(error.mean(axis=0)).max() < 4 * 0.5 / np.sqrt(len(error))
    assert np.abs(np.corrcoef(error.T)[0, 1]) < 4 / np.sqrt(len(error))
    middle = 0 if model == "BAL" else np.array([800, 600])
    assert (np.abs(made.truth.observations.xy - middle) < np.array([800, 600]) + 3).all()
    assert np.diff(made.truth.observations.start).min() >= 2
    exact, _ = residuals(SCENES[scene](MPI.COMM_SELF, model=model, noise=0).truth)
    assert np.abs(exact).max() < 1e-9


@pytest.mark.parametrize("scene", SCENES)
def test_a_start_is_wrong_by_some_pixels_and_metres(scene):
    made = SCENES[scene](MPI.COMM_SELF)
    error, depth = residuals(made.start)
    assert 5 < np.sqrt((error**2).mean()) < 40 and (depth > 0).all()
    exact = SCENES[scene](MPI.COMM_SELF, drift=0.0)
    assert np.abs(residuals(exact.start)[0] - residuals(exact.truth)[0]).max() < 1e-6
    lengths = np.linalg.norm(made.start.images.quaternion, axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-12)


def test_the_bend_turns_cameras_with_what_they_see():
    wave = synthetic._Wave(5, 2.0, 50.0)
    at, step = np.array([[3.0, 4.0, 1.0]]), 1e-5
    gradient = np.stack(
        [(wave(at + step * e)[0][0] - wave(at - step * e)[0][0]) / (2 * step) for e in np.eye(3)], 1
    )
    turn = (gradient - gradient.T) / 2
    np.testing.assert_allclose(wave(at)[1][0], [turn[2, 1], turn[0, 2], turn[1, 0]], atol=1e-8)


def test_images_of_a_street_look_ahead():
    truth = synthetic.loop(MPI.COMM_SELF, 300, 5, model="PINHOLE").truth
    centre = rotations.rotate(
        rotations.conjugate(truth.images.quaternion), -truth.images.translation
    )
    drive = np.roll(centre, -1, axis=0) - np.roll(centre, 1, axis=0)
    ahead = rotations.to_matrix(truth.images.quaternion)[:, 2]
    cosine = (drive * ahead).sum(axis=1) / np.linalg.norm(drive, axis=1)
    assert cosine.min() > 0.99
    down = rotations.to_matrix(truth.images.quaternion)[:, 1]
    assert (down[:, 2] < -0.9).all()


def test_streets_of_a_city_are_joined_at_crossings():
    truth = synthetic.city_blocks(MPI.COMM_SELF, (2, 2), 60).truth
    seen = truth.observations
    root = np.arange(len(truth.images))
    for point in range(len(truth.points)):
        joined = np.isin(root, root[seen.image[seen.start[point] : seen.start[point + 1]]])
        root[joined] = root[joined].min()
    assert len(np.unique(root)) == 1
    assert np.bincount(seen.image, minlength=len(root)).min() > 20


def test_the_expected_cost_is_what_least_squares_finds():
    from scipy.optimize import least_squares

    scene = synthetic.turntable(MPI.COMM_SELF, 5, 40, model="SIMPLE_PINHOLE", noise=0.7)
    r = scene.start
    quaternion, translation, n = r.images.quaternion, r.images.translation, len(r.points)

    def error(x):
        poses, points = x[:30].reshape(5, 6), x[30:].reshape(n, 3)
        r.images.quaternion = rotations.multiply(rotations.exp(poses[:, :3]), quaternion)
        r.images.translation = translation + poses[:, 3:]
        r.points.xyz = points
        return residuals(r)[0].ravel()

    r.cameras.parameters[:] = scene.truth.cameras.parameters
    found = least_squares(error, np.concatenate([np.zeros(30), r.points.xyz.ravel()]))
    cost, deviation = scene.expected_cost(30 + 3 * n - 7)
    assert abs(found.cost - cost) < 4 * deviation
    assert deviation < 0.15 * cost


BAD = {
    "few images": (lambda c: synthetic.loop(c, 5), "5 images of a loop: there must be 24 or more"),
    "no blocks": (lambda c: synthetic.city_blocks(c, (0, 1)), "0 blocks of a city"),
    "one image": (lambda c: synthetic.turntable(c, 1), "1 images of a turntable"),
    "no points": (lambda c: synthetic.loop(c, 60, 0), "0 points"),
    "model": (lambda c: synthetic.turntable(c, model="HOLE"), "'HOLE' is not known"),
    "cameras": (lambda c: synthetic.turntable(c, 3, cameras=4), "4 cameras of 3 images"),
    "noise": (lambda c: synthetic.turntable(c, noise=float("nan")), "noise nan"),
    "drift": (lambda c: synthetic.turntable(c, drift=-1), "drift -1"),
    "seed": (lambda c: synthetic.turntable(c, seed=-1), "seed -1"),
    "seed of a street": (lambda c: synthetic.loop(c, 60, seed=-1), "seed -1"),
}


@pytest.mark.mpi
@pytest.mark.parametrize("name", BAD)
def test_what_is_impossible_is_one_error_on_all_ranks(comm, name):
    make, message = BAD[name]
    with pytest.raises(ConfigError, match=message):
        make(comm)


@pytest.mark.mpi(min_size=2)
def test_ranks_must_ask_for_the_same(comm):
    with pytest.raises(ConfigError):
        synthetic.turntable(comm, seed=comm.rank)
    assert len(comm.allgather(len(synthetic.turntable(comm, 3, 1).truth.points))) == comm.size
