"""Problems that are generated: their truth is known, and they are as large as you like.

A camera drives through streets and looks ahead (`loop`, `city_blocks`), or around an object
(`turntable`). What it sees of points on houses, ground and trees, with noise of `noise` pixels, are
the observations. The start is the truth, bent as a whole by long waves, as poses from odometry
are, with errors of each image, point and lens besides.

Every rank makes its own points only. Random numbers are those of the chunk of points they are for,
never of the rank, so that any number of ranks makes the same scene, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from mpi4py import MPI

from hpckit.comm.partition import block
from hpckit.errors import ConfigError, same, together
from hpckit.sfm import rotations
from hpckit.sfm.cameras import PARAMETERS, CameraModel, Cameras, camera_model
from hpckit.sfm.projection import depths, project
from hpckit.sfm.reconstruction import Images, Observations, Points, Reconstruction

_SIZE = (1600, 1200)  # pixels of an image
_FOCAL = 1000.0  # pixels
_CHUNK = 1024  # points that are made at once, the same ones whichever rank does it
_WIDEST = 1.2  # tangent of the largest angle to the axis that is looked at: lenses fold beyond
_NEAR, _FAR = 2.0, 40.0  # metres in front of a camera where it sees points of a street
_STEP = 1.0  # metres between two images
_SHORTEST = 250.0  # metres of a loop
_FEWEST = 24  # images of a loop: with fewer, hardly any point is seen twice
_HOUSE = 12.0  # metres of street per house
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
class Problem:
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

            cost, deviation = problem.expected_cost(6 * images + 3 * cameras + 3 * points - 7)

        Of m coordinates with noise, least squares with `free` parameters leaves a sum of squares
        that is noise^2 times a chi-squared number of m - free degrees of freedom, as far as the
        problem is linear near the truth (collective).

        free : how many parameters were adjusted, of all ranks, less those of the gauge
        """
        comm = self.start.comm
        freedom = max(2 * comm.allreduce(len(self.start.observations)) - free, 0)
        return self.noise**2 * freedom / 2, self.noise**2 * math.sqrt(freedom / 2)


def loop(
    comm: MPI.Intracomm,
    images: int = 1000,
    points_per_image: float = 220,
    *,
    seed: int = 0,
    noise: float = 0.6,
    drift: float = 0.003,
    model: str = "BAL",
    cameras: int | None = None,
) -> Problem:
    """A street that comes back to its start: long, thin, hard for local methods (collective).

    ::

        problem = loop(comm, 1000)  # 219 k points, 1.75 M observations
        result = bundle_adjust(problem.start)

    images : at least 24, a metre apart from 250 on
    points_per_image : of which a few are seen less than twice, and left out
    noise : pixels; drift : how far the start is bent, in parts of the extent, root mean square
    model : a name in `cameras.MODELS`; cameras : how many, used in turn; None: one per image

    Raises `ConfigError` on all ranks where a value is impossible.
    """
    with together(comm):
        _at_least("images of a loop", images, _FEWEST)
    length = max(images * _STEP, _SHORTEST)
    path = _Ring(images, length / (2 * np.pi))
    scene = _Street(path, images, points_per_image, seed)
    return _problem(comm, scene, _Look(seed, noise, drift, model, cameras))


def city_blocks(
    comm: MPI.Intracomm,
    blocks: tuple[int, int] = (4, 3),
    points_per_image: float = 220,
    *,
    block_length: float = 60.0,
    seed: int = 0,
    noise: float = 0.6,
    drift: float = 0.003,
    model: str = "BAL",
    cameras: int | None = None,
) -> Problem:
    """Streets around `blocks` x and y of a city, which meet at crossings (collective).

    ::

        problem = city_blocks(comm, (2, 2))  # 606 images in 6 streets

    block_length : metres, as many images; the others as for `loop`
    """
    with together(comm):
        _at_least("blocks of a city", min(blocks), 1)
        _at_least("metres of a block", block_length, _FAR)
    path = _Blocks(blocks, block_length)
    scene = _Street(path, path.count, points_per_image, seed)
    return _problem(comm, scene, _Look(seed, noise, drift, model, cameras))


def turntable(
    comm: MPI.Intracomm,
    images: int = 12,
    points: int = 300,
    *,
    views: float | None = None,
    seed: int = 0,
    noise: float = 0.6,
    drift: float = 0.003,
    model: str = "BAL",
    cameras: int | None = None,
) -> Problem:
    """A vase of height 2, seen from all around: small, well conditioned (collective).

    ::

        problem = turntable(comm, 8, 60, model="OPENCV", cameras=1, noise=0)

    views : of each point, on average; None: all images see all points. The others as for `loop`
    """
    with together(comm):
        _at_least("images of a turntable", images, 2)
        _at_least("points", points, 1)
    scene = _Vase(images, points, views, seed)
    return _problem(comm, scene, _Look(seed, noise, drift, model, cameras))


class _Look(NamedTuple):
    """What has nothing to do with where points and images are."""

    seed: int
    noise: float
    drift: float
    model: str
    cameras: int | None


class _Made(NamedTuple):
    """Some points, and the images that could see them."""

    xyz: np.ndarray  # (n, 3)
    rgb: np.ndarray  # (n, 3) uint8
    candidates: np.ndarray  # (n, c) int64, images in the order of the drive; -1: none
    number: np.ndarray  # (n,) how many of them shall see it, if they can


class _Scene(Protocol):
    count: int  # points
    centre: np.ndarray  # (images, 3)
    rotation: np.ndarray  # (images, 3, 3) world to a camera that looks along +z
    range: tuple[float, float]  # depths at which points are seen
    distance: float  # of points from cameras, as a rule

    def chunk(self, number: int) -> _Made:
        """Points from `number * _CHUNK` on."""
        ...


class _Ring:
    """A closed street, not quite round."""

    def __init__(self, images: int, radius: float) -> None:
        self.count = images
        self._radius, self.total = radius, 2 * np.pi * radius

    def images(self) -> tuple[np.ndarray, np.ndarray]:
        """`at` where images are taken."""
        return self.at(np.arange(self.count) * (self.total / self.count))

    def at(self, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Place on the street, and direction there: (n, 2) each."""
        phi = s / self._radius
        r = 1 + 0.12 * np.cos(2 * phi) + 0.06 * np.cos(3 * phi + 1)
        slope = -0.24 * np.sin(2 * phi) - 0.18 * np.sin(3 * phi + 1)
        cos, sin = np.cos(phi), np.sin(phi)
        ahead = np.column_stack([slope * cos - r * sin, slope * sin + r * cos])
        place = self._radius * r[:, None] * np.column_stack([cos, sin])
        return place, ahead / np.linalg.norm(ahead, axis=1)[:, None]

    def candidates(self, s: np.ndarray) -> np.ndarray:
        """Images from which a point beside the street at `s` may be seen."""
        n, step = self.count, self.total / self.count
        behind = np.arange(-min(math.ceil(1.4 * _FAR / step), n - 1), 1)
        return (np.floor(s / step).astype(np.int64)[:, None] + behind) % n


class _Blocks:
    """Straight streets along x, then along y, one after the other in s."""

    def __init__(self, blocks: tuple[int, int], length: float) -> None:
        along = [blocks[0] * length] * (blocks[1] + 1) + [blocks[1] * length] * (blocks[0] + 1)
        self._length = length
        self._first = blocks[1] + 1  # how many streets go along x
        self._starts = np.concatenate([[0.0], np.cumsum(along)])
        self.total = float(self._starts[-1])
        counts = [int((each - _FAR / 2) / _STEP) + 1 for each in along]  # then nothing is ahead
        self._image = np.concatenate([[0], np.cumsum(counts)])  # the first one of each street
        self.count = int(self._image[-1])

    def images(self) -> tuple[np.ndarray, np.ndarray]:
        """As `_Ring.images`."""
        street = np.repeat(np.arange(len(self._image) - 1), np.diff(self._image))
        return self._place(street, _STEP * (np.arange(self.count) - self._image[street]))

    def at(self, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `_Ring.at`."""
        street = self._street_at(s)
        return self._place(street, s - self._starts[street])

    def _place(self, street: np.ndarray, along: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        is_x = street < self._first
        across = self._length * np.where(is_x, street, street - self._first)
        x_y = np.where(is_x[:, None], np.c_[along, across], np.c_[across, along])
        return x_y, np.where(is_x[:, None], [1.0, 0.0], [0.0, 1.0])

    def candidates(self, s: np.ndarray) -> np.ndarray:
        """Those of its own street, and near a crossing of the other one."""
        street = self._street_at(s)
        along = s - self._starts[street]
        own = self._run(street, along)
        crossing = np.rint(along / self._length)
        other = np.where(street < self._first, self._first, 0) + crossing.astype(np.int64)
        here = np.where(street < self._first, street, street - self._first) * self._length
        near = np.abs(along - crossing * self._length) < 0.7 * _HOUSE
        return np.concatenate([own, np.where(near[:, None], self._run(other, here), -1)], axis=1)

    def _run(self, street: np.ndarray, along: np.ndarray) -> np.ndarray:
        """Images of a street up to this place; -1 before its start."""
        k = np.floor(along / _STEP).astype(np.int64)[:, None] + np.arange(-math.ceil(_FAR), 1)
        last = np.diff(self._image)[street][:, None]
        return np.where((k >= 0) & (k < last), self._image[street][:, None] + k, -1)

    def _street_at(self, s: np.ndarray) -> np.ndarray:
        return np.clip(np.searchsorted(self._starts, s, "right") - 1, 0, len(self._starts) - 2)


class _Street:
    """Houses on both sides of a path, with windows; ground, trees."""

    range = (_NEAR, _FAR)
    distance = 15.0

    def __init__(
        self, path: _Ring | _Blocks, images: int, points_per_image: float, seed: int
    ) -> None:
        self._path, self._seed = path, seed
        self.count = round(images * points_per_image)
        place, ahead = path.images()
        self.centre = np.column_stack([place, np.full(images, 1.8)])
        self.rotation = _looking(np.column_stack([ahead, np.full(images, 0.08)]))
        houses = math.ceil(path.total / _HOUSE) + 1
        self._house = np.random.default_rng([seed, 1]).random((2 * houses, 6))

    def chunk(self, number: int) -> _Made:
        """Points in the order of the path."""
        random = _random(self._seed, number)
        kind, side = random.random(_CHUNK), np.where(random.random(_CHUNK) < 0.5, -1.0, 1.0)
        at = number * _CHUNK + np.arange(_CHUNK)
        s = (at + random.random(_CHUNK)) * (self._path.total / self.count)
        u, v = random.random((2, _CHUNK))
        house = self._house[2 * (s // _HOUSE).astype(np.int64) % len(self._house) + (side > 0)]
        tree, ground = kind > 0.9, (kind > 0.7) & (kind <= 0.9)
        s, lateral, height, rgb = _facade(s, u, v, house, random)
        lateral = np.where(ground, 6 * v, lateral)
        height = np.where(ground, 0.03 * u, height)
        rgb[ground] = np.array([120, 118, 115]) + (40 * u[ground, None] - 20)
        ball = random.standard_normal((_CHUNK, 3))
        ball *= (1.6 * v ** (1 / 3) / np.linalg.norm(ball, axis=1))[:, None]
        s = np.where(tree, np.rint(s / 15) * 15 + ball[:, 0], s)
        lateral = np.where(tree, 5.5 + ball[:, 1], lateral)
        height = np.where(tree, 4 + ball[:, 2], height)
        rgb[tree] = np.array([60, 120, 50]) + 50 * (u[tree, None] - 0.5)
        place, ahead = self._path.at(np.clip(s, 0, self._path.total * (1 - 1e-12)))
        place += (side * lateral)[:, None] * np.column_stack([-ahead[:, 1], ahead[:, 0]])
        some = min(_CHUNK, self.count - number * _CHUNK)
        made = _Made(
            np.column_stack([place, height]),
            rgb.astype(np.uint8),
            self._path.candidates(np.clip(s, 0, self._path.total * (1 - 1e-12))),
            2 + random.geometric(1 / 6.0, _CHUNK),  # tracks have 8 views on average, few many more
        )
        return _Made(*(each[:some] for each in made))


def _facade(
    s: np.ndarray, u: np.ndarray, v: np.ndarray, house: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Place along the street, distance from its middle, height, colour of points on houses."""
    height = v * (5 + 9 * house[:, 1])
    lateral = 8 + 3 * house[:, 0] + 0.05 * u
    edge = random.random(len(s))
    s = np.where(edge < 0.3, np.rint(s / 1.5) * 1.5, s)  # frames of windows
    height = np.where((edge > 0.3) & (edge < 0.6), np.rint(height / 1.6) * 1.6, height)
    wall = np.array([150, 110, 90]) + 100 * (house[:, 2:5] - [0.3, 0.4, 0.5])
    shade = np.where(edge < 0.6, 0.55, 0.9 + 0.2 * u)[:, None]
    return s, lateral, height, np.clip(wall * shade, 0, 255)


class _Vase:
    """A body of revolution, cameras around it at two heights."""

    range = (0.5, 100.0)
    distance = 3.0

    def __init__(self, images: int, points: int, views: float | None, seed: int) -> None:
        self.count, self._views, self._seed = points, views, seed
        angle = 2 * np.pi * np.arange(images) / images
        height = np.where(np.arange(images) % 2, 1.4, 0.2)
        self.centre = np.column_stack([3.6 * np.cos(angle), 3.6 * np.sin(angle), height])
        self.rotation = _looking(-self.centre)

    def chunk(self, number: int) -> _Made:
        """Points in the order of the angle."""
        random, n = _random(self._seed, number), len(self.centre)
        at = number * _CHUNK + np.arange(_CHUNK)
        angle = 2 * np.pi * (at + random.random(_CHUNK)) / self.count
        z = 2 * random.random(_CHUNK) - 1
        r = 0.55 + 0.25 * np.sin(3 * z + 1) + 0.04 * np.sin(8 * angle)
        xyz = np.column_stack([r * np.cos(angle), r * np.sin(angle), z])
        band = np.where(np.sin(12 * z) > 0, 1.0, 0.4)[:, None]
        rgb = band * np.array([60, 110, 190]) + 40 * random.random((_CHUNK, 1))
        first = np.rint(angle / (2 * np.pi) * n).astype(np.int64) - n // 2
        candidates = (first[:, None] + np.arange(n)) % n
        wanted = np.full(_CHUNK, n)
        if self._views is not None:
            wanted = 1 + random.geometric(1 / max(self._views - 1, 1), _CHUNK)
        made = _Made(xyz, rgb.astype(np.uint8), candidates, wanted)
        return _Made(*(each[: self.count - number * _CHUNK] for each in made))


def _looking(ahead: np.ndarray) -> np.ndarray:
    """(n, 3, 3) rotations, world to camera, of cameras that look ahead and stand upright."""
    z = ahead / np.linalg.norm(ahead, axis=1)[:, None]
    x = np.cross(z, [0.0, 0.0, 1.0])
    x /= np.linalg.norm(x, axis=1)[:, None]
    return np.stack([x, np.cross(z, x), z], axis=1)


def _random(*key: int) -> np.random.Generator:
    """Numbers of this key only: Philox counts, and so any part can be made alone."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([*key])))


def _problem(comm: MPI.Intracomm, scene: _Scene, look: _Look) -> Problem:
    """Look at the scene, and disturb what was seen."""
    same(comm, "the arguments of a generated problem", (*look, scene.count, len(scene.centre)))
    with together(comm):
        model = _checked(look, scene)
    cameras = _lenses(model, look, len(scene.centre))
    flip = np.diag([1.0, -1.0, -1.0]) if model.name == "BAL" else np.eye(3)
    images = _images(flip @ scene.rotation, scene.centre, len(cameras))
    points, observations = _points(comm, scene, cameras, images, look)
    behind = "keep" if model.name == "BAL" else "zero"
    truth = Reconstruction(comm, cameras, images, points, observations, behind)
    return Problem(_start(truth, scene, look, model), truth, look.noise)


def _checked(look: _Look, scene: _Scene) -> CameraModel:
    if look.seed < 0:
        raise ConfigError(f"seed {look.seed}: it must be 0 or more")
    for what, value in (("noise", look.noise), ("drift", look.drift)):
        if not 0 <= value < math.inf:
            raise ConfigError(f"{what} {value:g}: it must be 0 or more, and finite")
    if look.cameras is not None and not 1 <= look.cameras <= len(scene.centre):
        raise ConfigError(
            f"{look.cameras} cameras of {len(scene.centre)} images: there must be 1 to as many as "
            "images, or None for one each"
        )
    if scene.count < 1:
        raise ConfigError(f"{scene.count} points: there must be at least one")
    return camera_model(look.model)


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
    comm: MPI.Intracomm, scene: _Scene, cameras: Cameras, images: Images, look: _Look
) -> tuple[Points, Observations]:
    """This rank's."""
    parts = list(_seen(scene, cameras, images, look, *block(scene.count, comm.size, comm.rank)))
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
    scene: _Scene, cameras: Cameras, images: Images, look: _Look, start: int, stop: int
) -> Iterator[tuple[np.ndarray, ...]]:
    """Points start <= p < stop that two images see, and where, chunk by chunk."""
    for number in range(start // _CHUNK, -(-stop // _CHUNK)):
        made = scene.chunk(number)
        ids = number * _CHUNK + np.arange(len(made.xyz)) + 1
        random = _random(look.seed, number, 1)
        first = random.random(len(ids))
        noise = look.noise * random.standard_normal((*made.candidates.shape, 2))
        mine = (ids > start) & (ids <= stop)
        made = _Made(*(each[mine] for each in made))
        ids, first, noise = ids[mine], first[mine], noise[mine]
        xy, visible = _looked_at(scene, cameras, images, made)
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
    scene: _Scene, cameras: Cameras, images: Images, made: _Made
) -> tuple[np.ndarray, np.ndarray]:
    """Where each candidate would see its point, (n, c, 2), and whether it does, (n, c)."""
    xy = np.full((*made.candidates.shape, 2), np.nan)
    visible = made.candidates >= 0
    place, column = np.nonzero(visible)
    image = made.candidates[place, column]
    x = rotations.rotate(images.quaternion[image], made.xyz[place]) + images.translation[image]
    camera = images.camera[image]
    depth = depths(cameras, camera, x)
    good = (depth > scene.range[0]) & (depth < scene.range[1])
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


def _start(truth: Reconstruction, scene: _Scene, look: _Look, model: CameraModel) -> Reconstruction:
    """The truth, bent and disturbed.

    A displacement u(x) moves points and centres; near x it turns by half its curl, and so do the
    cameras there. What is left of it, strain, is what the start is wrong by within an image.
    """
    points = truth.points
    extent = float(np.ptp(scene.centre, axis=0).max())
    wave = _Wave(look.seed, look.drift * extent, extent)
    random = np.random.default_rng([look.seed, 3])
    jitter = random.standard_normal((2, len(scene.centre), 3))
    moved, turned = wave(scene.centre)
    small = 2 * look.drift * scene.distance
    centre = scene.centre + moved + small * jitter[0]
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
    first, last = (ids[0] - 1) // _CHUNK, (ids[-1] - 1) // _CHUNK
    numbers = [_random(seed, k, 2).standard_normal((_CHUNK, 3)) for k in range(first, last + 1)]
    return np.concatenate(numbers)[ids - 1 - first * _CHUNK]
