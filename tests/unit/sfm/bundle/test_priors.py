"""Priors on where images are: derivatives, and what they do to a solve."""

import numpy as np
import pytest
from bundle_scenes import RADIAL, ring

from hpckit.errors import ConfigError
from hpckit.sfm import rotations
from hpckit.sfm.bundle.adjust import bundle_adjust
from hpckit.sfm.bundle.frame import Frame
from hpckit.sfm.bundle.priors import PosePrior, PositionPrior, Priors
from hpckit.sfm.bundle.state import state
from hpckit.sfm.losses import Cauchy, Huber

FRAME = Frame(np.array([10.0, -20.0, 5.0]), 3.0)


def centres(images):
    return -rotations.rotate(rotations.conjugate(images.quaternion), images.translation)


def some(images, rng):
    """Priors near the images' poses, with and without loss."""
    near = centres(images) + 0.1 * rng.normal(size=(len(images), 3))
    turn = rotations.multiply(rotations.exp(0.3 * rng.normal(size=(6, 3))), images.quaternion)
    shift = -rotations.rotate(turn, near)
    return [
        PositionPrior(1, near[0], 0.2),
        PositionPrior(3, near[2], (0.1, 0.2, 0.3), Cauchy(0.5)),
        PosePrior(4, turn[3], shift[3], 0.05, 0.3),
        PosePrior(5, turn[4], shift[4], 0.05, 0.3, Huber(0.5)),
    ]


def test_gradient_and_hessian_by_differences(comm):
    reconstruction, rng = ring(comm), np.random.default_rng(5)
    images = reconstruction.images
    priors = Priors(comm, some(images, rng), images, FRAME)
    priors.own(slice(None) if comm.rank == 0 else slice(0, 0))
    translation = FRAME.translations_in(images.quaternion, images.translation)

    def at(pose):
        quaternion = rotations.multiply(rotations.exp(pose[:, :3]), images.quaternion)
        return state(quaternion, translation + pose[:, 3:], np.zeros((1, 12)), np.zeros((1, 3)))

    cost = priors.linearise(at(np.zeros((6, 6))))
    assert cost == pytest.approx(priors.cost(at(np.zeros((6, 6)))), rel=1e-14)
    gradient = comm.allreduce(priors.gradient)
    for image in range(6):
        for column in range(6):
            step = np.zeros((6, 6))
            step[image, column] = 1e-6
            slope = (priors.cost(at(step)) - priors.cost(at(-step))) / 2e-6
            scale = np.abs(gradient).max()
            assert gradient[image, column] == pytest.approx(slope, abs=1e-7 * scale)


def test_units_are_the_callers(comm):
    """The residual of a position is a distance in the world divided by sigma."""
    images = ring(comm).images
    target = centres(images)[1] + [0.3, 0.0, -0.4]
    priors = Priors(comm, [PositionPrior(2, target, 0.1)], images, FRAME)
    priors.own(slice(None) if comm.rank == 0 else slice(0, 0))
    translation = FRAME.translations_in(images.quaternion, images.translation)
    here = state(images.quaternion, translation, np.zeros((1, 12)), np.zeros((1, 3)))
    assert priors.cost(here) == pytest.approx(0.5 * (0.5 / 0.1) ** 2, rel=1e-10)


@pytest.mark.parametrize("solver", ["dense", "pcg"])
@pytest.mark.parametrize("side", ["points", "poses"])
def test_positions_fix_the_gauge(comm, solver, side):
    """Centres come to within sigma of what is said, whatever side is eliminated."""
    reconstruction = ring(comm, noise=0.0, cameras=(RADIAL,))
    bundle_adjust(reconstruction, ftol=0.0)
    rng = np.random.default_rng(2)
    offset = np.array([441908.5, 5397844.3, 300.0])
    wanted = 20 * centres(reconstruction.images) + offset
    images = reconstruction.images
    off = wanted + 0.2 * rng.normal(size=wanted.shape)
    images.translation[:] = -rotations.rotate(images.quaternion, off)
    reconstruction.points.xyz[:] = 20 * reconstruction.points.xyz + offset
    priors = [PositionPrior(i + 1, wanted[i] + 0.01 * rng.normal(size=3), 0.02) for i in range(6)]
    result = bundle_adjust(
        reconstruction, priors=priors, solver=solver, eliminate=side, ftol=1e-12, max_iterations=60
    )
    found = centres(reconstruction.images)
    said = np.array([prior.position for prior in priors])
    assert np.abs(found - said).max() < 0.1
    assert result.cost < 20
    assert result.rms_px < 0.1


def test_sides_agree(comm):
    costs = []
    for side in ("points", "poses"):
        reconstruction = ring(comm)
        priors = some(ring().images, np.random.default_rng(5))
        costs.append(bundle_adjust(reconstruction, priors=priors, eliminate=side, ftol=1e-13).cost)
    assert costs[0] == pytest.approx(costs[1], rel=1e-8)


WRONG = [
    (PositionPrior(77, (0, 0, 0), 1.0), "none of that id"),
    (PositionPrior(1, (0, 0), 1.0), "give 3 finite numbers"),
    (PositionPrior(1, (0, 0, 0), 0.0), "positive"),
    (PosePrior(1, (0, 0, 0, 0), (0, 0, 0), 1.0, 1.0), "no rotation"),
    (PosePrior(1, (1, 0, 0, 0), (0, 0, 0), -1.0, 1.0), "positive"),
]


@pytest.mark.parametrize(("prior", "sentence"), WRONG)
def test_wrong_priors(comm, prior, sentence):
    with pytest.raises(ConfigError, match=sentence):
        bundle_adjust(ring(comm), priors=[prior])
