"""Scenes that are generated: their truth is known, and they are as large as you like.

A camera drives through streets and looks ahead (`loop`, `city_blocks`), or around an object
(`turntable`). What it sees of points on houses, ground and trees, with noise of `noise` pixels, are
the observations. The start is the truth, bent as a whole by long waves, as poses from odometry
are, with errors of each image, point and lens besides.

Every rank makes its own points only. Random numbers are those of the chunk of points they are for,
never of the rank, so that any number of ranks makes the same scene, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypedDict, Unpack

import numpy as np
from mpi4py import MPI

from hpckit.comm.partition import block
from hpckit.errors import ConfigError, same, together
from hpckit.sfm import rotations
from hpckit.sfm.cameras import PARAMETERS, CameraModel, Cameras, camera_model
from hpckit.sfm.projection import depths, project
from hpckit.sfm.reconstruction import Images, Observations, Points, Reconstruction
from hpckit.sfm.worlds import CHUNK, FAR, Blocks, Made, Ring, Street, Vase, World, random_of

_SIZE = (1600, 1200)  # pixels of an image
_FOCAL = 1000.0  # pixels
_WIDEST = 1.2  # tangent of the largest angle to the axis that is looked at: lenses fold beyond
_FEWEST = 24  # images of a loop: with fewer, hardly any point is seen twice
_WAVES = 4  # of the bend, the shortest a quarter of the scene long
_LENSES = {  # the truth of other parameters: mean, spread; the start knows nothing of them
    "k": (-0.05, 0.02),
    "k1": (-0.05, 0.02),
    "k2": (0.01, 0.005),
    "p1": (0.0, 5e-4),
    "p2": (0.0, 5e-4),
    "k3": (1e-3, 5e-4),
    "k4": (1e-3, 5e-4),
    "k5": (1e-3, 5e-4),
    "k6": (1e-3, 5e-4),
}


@dataclass
class Scene:
    """A start for `bundle_adjust`, and what it would find in a world without noise.

    start, truth : distributed reconstructions with the same observations, cut in the same way
    noise : standard deviation of each coordinate that is observed, pixels
    """

    start: Reconstruction
    truth: Reconstruction
    noise: float

    def expected_cost(self, free: int) -> tuple[float, float]:
        """Cost 1/2 sum |r|^2 at the optimum that is to be expected, and its standard deviation.

        ::

            cost, deviation = scene.expected_cost(6 * images + 3 * cameras + 3 * points - 7)

        Of m coordinates with noise, least squares with `free` parameters leaves a sum of squares
        that is noise^2 times a chi-squared number of m - free degrees of freedom, as far as the
        scene is linear near the truth (collective).

        free : how many parameters were adjusted, of all ranks, less those of the gauge
        """
        comm = self.start.comm
        freedom = max(2 * comm.allreduce(len(self.start.observations)) - free, 0)
        return self.noise**2 * freedom / 2, self.noise**2 * math.sqrt(freedom / 2)


class Look(TypedDict, total=False):
    """What scenes have in common, with its defaults.

    seed : 0; another one, other points and noise
    noise : 0.6 pixels, the standard deviation of what is observed
    drift : 0.003, how far the start is bent, in parts of the extent, root mean square
    model : "BAL", or another name in `cameras.MODELS`
    cameras : how many, used in turn; None, one per image
    """

    seed: int
    noise: float
    drift: float
    model: str
    cameras: int | None


class _Look(NamedTuple):
    seed: int = 0
    noise: float = 0.6
    drift: float = 0.003
    model: str = "BAL"
    cameras: int | None = None


def loop(
    comm: MPI.Intracomm,
    images: int = 1000,
    points_per_image: float = 220,
    **look: Unpack[Look],
) -> Scene:
    """A street that comes back to its start: long, thin, hard for local methods (collective).

    ::

        scene = loop(comm, 1000, noise=0.5)  # 219 k points, 1.75 M observations
        result = bundle_adjust(scene.start)

    images : at least 24, a metre apart from 250 on
    points_per_image : of which a few are seen less than twice, and left out
    look : as `Look` says

    Raises `ConfigError` on all ranks where a value is impossible.
    """
    with together(comm):
        _at_least("images of a loop", images, _FEWEST)
    return _scene(comm, lambda seed: Street(Ring(images), points_per_image, seed), look)


def city_blocks(
    comm: MPI.Intracomm,
    blocks: tuple[int, int] = (4, 3),
    points_per_image: float = 220,
    *,
    block_length: float = 60.0,
    **look: Unpack[Look],
) -> Scene:
    """Streets around `blocks` x and y of a city, which meet at crossings (collective).

    ::

        scene = city_blocks(comm, (2, 2))  # 606 images in 6 streets

    block_length : metres, as many images; the others as for `loop`
    """
    with together(comm):
        _at_least("blocks of a city", min(blocks), 1)
        _at_least("metres of a block", block_length, FAR)
    path = Blocks(blocks, block_length)
    return _scene(comm, lambda seed: Street(path, points_per_image, seed), look)


def turntable(
    comm: MPI.Intracomm,
    images: int = 12,
    points: int = 300,
    *,
    views: float | None = None,
    **look: Unpack[Look],
) -> Scene:
    """A vase of height 2, seen from all around: small, well conditioned (collective).

    ::

        scene = turntable(comm, 8, 60, model="OPENCV", cameras=1, noise=0)

    views : of each point, on average; None: all images see all points. The others as for `loop`
    """
    with together(comm):
        _at_least("images of a turntable", images, 2)
        _at_least("points", points, 1)
    return _scene(comm, lambda seed: Vase(images, points, views, seed), look)


def _scene(comm: MPI.Intracomm, make: Callable[[int], World], given: Look) -> Scene:
    """Make the world of that seed, look at it, and disturb what was seen."""
    look = _Look(**given)
    with together(comm):
        model = _checked(look)
        world = make(look.seed)
        _check_counts(look, world)
    same(comm, "the arguments of a generated scene", (*look, world.count, len(world.centre)))
    cameras = _lenses(model, look, len(world.centre))
    flip = np.diag([1.0, -1.0, -1.0]) if model.name == "BAL" else np.eye(3)
    images = _images(flip @ world.rotation, world.centre, len(cameras))
    points, observations = _points(comm, world, cameras, images, look)
    behind = "keep" if model.name == "BAL" else "zero"
    truth = Reconstruction(comm, cameras, images, points, observations, behind)
    return Scene(_start(truth, world, look, model), truth, look.noise)


def _checked(look: _Look) -> CameraModel:
    if look.seed < 0:
        raise ConfigError(f"seed {look.seed}: it must be 0 or more")
    for what, value in (("noise", look.noise), ("drift", look.drift)):
        if not 0 <= value < math.inf:
            raise ConfigError(f"{what} {value:g}: it must be 0 or more, and finite")
    return camera_model(look.model)


def _check_counts(look: _Look, world: World) -> None:
    if look.cameras is not None and not 1 <= look.cameras <= len(world.centre):
        raise ConfigError(
            f"{look.cameras} cameras of {len(world.centre)} images: there must be 1 to as many as "
            "images, or None for one each"
        )
    if world.count < 1:
        raise ConfigError(f"{world.count} points: there must be at least one")


def _at_least(what: str, value: float, least: float) -> None:
    if not least <= value < math.inf:
        raise ConfigError(f"{value} {what}: there must be {least:g} or more")


def _lenses(model: CameraModel, look: _Look, images: int) -> Cameras:
    """All cameras of the truth, no two alike."""
    n = images if look.cameras is None else look.cameras
    spread = np.random.default_rng([look.seed, 2]).standard_normal((n, PARAMETERS))
    means = {"f": (_FOCAL, 0.05 * _FOCAL), "fx": (_FOCAL, 0.02 * _FOCAL)}
    means |= {"fy": means["fx"], "cx": (_SIZE[0] / 2, 5.0), "cy": (_SIZE[1] / 2, 5.0)} | _LENSES
    parameters = np.zeros((n, PARAMETERS))
    for column, name in enumerate(model.parameters):
        mean, deviation = means[name]
        parameters[:, column] = mean + deviation * np.clip(spread[:, column], -2, 2)
    number = np.full(n, model.number, np.int32)
    return Cameras(np.arange(1, n + 1), number, np.tile(np.array(_SIZE), (n, 1)), parameters)


def _images(rotation: np.ndarray, centre: np.ndarray, cameras: int) -> Images:
    n = len(centre)
    return Images(
        np.arange(1, n + 1),
        [f"{i:06}.jpg" for i in range(1, n + 1)],
        (np.arange(n) % cameras).astype(np.int32),
        rotations.from_matrix(rotation),
        -np.einsum("nij,nj->ni", rotation, centre),
    )


def _points(
    comm: MPI.Intracomm, world: World, cameras: Cameras, images: Images, look: _Look
) -> tuple[Points, Observations]:
    """This rank's."""
    parts = list(_seen(world, cameras, images, look, *block(world.count, comm.size, comm.rank)))
    ids, xyz, rgb, lengths, image, xy = (
        np.concatenate([part[k] for part in parts]) if parts else empty
        for k, empty in enumerate(_nothing())
    )
    start = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    keypoint = np.full(len(image), -1, np.int32)
    return Points(ids, xyz, rgb), Observations(start, image.astype(np.int32), xy, keypoint)


def _nothing() -> tuple[np.ndarray, ...]:
    whole = np.empty(0, np.int64)
    return whole, np.empty((0, 3)), np.empty((0, 3), np.uint8), whole, whole, np.empty((0, 2))


def _seen(
    world: World, cameras: Cameras, images: Images, look: _Look, start: int, stop: int
) -> Iterator[tuple[np.ndarray, ...]]:
    """Points start <= p < stop that two images see, and where, chunk by chunk."""
    for number in range(start // CHUNK, -(-stop // CHUNK)):
        made = world.chunk(number)
        ids = number * CHUNK + np.arange(len(made.xyz)) + 1
        random = random_of(look.seed, number, 1)
        first = random.random(len(ids))
        noise = look.noise * random.standard_normal((*made.candidates.shape, 2))
        mine = (ids > start) & (ids <= stop)
        made = Made(*(each[mine] for each in made))
        ids, first, noise = ids[mine], first[mine], noise[mine]
        xy, visible = _looked_at(world, cameras, images, made)
        taken = _run(visible, made.number, first)
        lengths = taken.sum(axis=1)
        good = lengths >= 2
        taken &= good[:, None]
        place, column = np.nonzero(taken)
        yield (
            ids[good],
            made.xyz[good],
            made.rgb[good],
            lengths[good],
            made.candidates[place, column],
            xy[place, column] + noise[place, column],
        )


def _looked_at(
    world: World, cameras: Cameras, images: Images, made: Made
) -> tuple[np.ndarray, np.ndarray]:
    """Where each candidate would see its point, (n, c, 2), and whether it does, (n, c)."""
    xy = np.full((*made.candidates.shape, 2), np.nan)
    visible = made.candidates >= 0
    place, column = np.nonzero(visible)
    image = made.candidates[place, column]
    x = rotations.rotate(images.quaternion[image], made.xyz[place]) + images.translation[image]
    camera = images.camera[image]
    depth = depths(cameras, camera, x)
    good = (depth > world.range[0]) & (depth < world.range[1])
    good &= (np.abs(x[:, :2]) < _WIDEST * depth[:, None]).all(axis=1)
    place, column, x, camera = place[good], column[good], x[good], camera[good]
    pixel = project(cameras, camera, x)
    middle = 0.0 if cameras.model_of(0).name == "BAL" else np.array(_SIZE) / 2
    inside = (np.abs(pixel - middle) < np.array(_SIZE) / 2).all(axis=1)
    visible[:] = False
    visible[place[inside], column[inside]] = True
    xy[place, column] = pixel
    return xy, visible


def _run(visible: np.ndarray, number: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Of those that see a point, `number` one after the other, as a tracker finds them."""
    rank = np.cumsum(visible, axis=1) - 1
    total = visible.sum(axis=1)
    number = np.minimum(number, total)
    begin = np.floor(first * (total - number + 1)).astype(np.int64)[:, None]
    return visible & (rank >= begin) & (rank < begin + number[:, None])


def _start(truth: Reconstruction, world: World, look: _Look, model: CameraModel) -> Reconstruction:
    """The truth, bent and disturbed.

    A displacement u(x) moves points and centres; near x it turns by half its curl, and so do the
    cameras there. What is left of it, strain, is what the start is wrong by within an image.
    """
    points = truth.points
    extent = float(np.ptp(world.centre, axis=0).max())
    wave = _Wave(look.seed, look.drift * extent, extent)
    random = np.random.default_rng([look.seed, 3])
    jitter = random.standard_normal((2, len(world.centre), 3))
    moved, turned = wave(world.centre)
    small = 2 * look.drift * world.distance
    centre = world.centre + moved + small * jitter[0]
    turn = rotations.exp(turned + look.drift * jitter[1])
    images = truth.images.copy()
    images.quaternion = rotations.multiply(images.quaternion, rotations.conjugate(turn))
    images.translation = -rotations.rotate(images.quaternion, centre)
    cameras = truth.cameras.copy()
    wrong = random.standard_normal((len(cameras), 1)).clip(-2, 2)
    cameras.parameters[:, model.focal] *= 1 + 2 * look.drift * wrong
    cameras.parameters[:, model.distortion] *= look.drift == 0
    xyz = points.xyz + wave(points.xyz)[0] + small * _shaken(look.seed, points.ids)
    start = Points(points.ids, xyz, points.rgb)
    return Reconstruction(truth.comm, cameras, images, start, truth.observations, truth.behind)


class _Wave:
    """Long waves of displacement, in x and y; the truth is not moved where they are 0."""

    def __init__(self, seed: int, amplitude: float, extent: float) -> None:
        random = np.random.default_rng([seed, 4])
        angle, self._phase = 2 * np.pi * random.random((2, _WAVES))
        number = 1 + np.arange(_WAVES)
        self._k = (2 * np.pi * number / extent)[:, None] * np.c_[np.cos(angle), np.sin(angle)]
        size = random.standard_normal((_WAVES, 3)) / number[:, None] ** 1.5
        self._size = amplitude * size / np.linalg.norm(size) * math.sqrt(2)

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Displacement, and rotation vector, half its curl: (n, 3) each."""
        phase = x[:, :2] @ self._k.T + self._phase
        slope = np.einsum("nw,wc,wa->nca", np.cos(phase), self._size, self._k)  # du_c / dx_a
        curl = [slope[:, 2, 1], -slope[:, 2, 0], slope[:, 1, 0] - slope[:, 0, 1]]
        return np.sin(phase) @ self._size, np.column_stack(curl) / 2


def _shaken(seed: int, ids: np.ndarray) -> np.ndarray:
    """(n, 3) normal numbers, those of the points of these ascending ids."""
    if not len(ids):
        return np.empty((0, 3))
    first, last = (ids[0] - 1) // CHUNK, (ids[-1] - 1) // CHUNK
    numbers = [random_of(seed, k, 2).standard_normal((CHUNK, 3)) for k in range(first, last + 1)]
    return np.concatenate(numbers)[ids - 1 - first * CHUNK]
