"""What `synthetic` looks at: streets and a vase, made chunk by chunk of points."""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import numpy as np

CHUNK = 1024  # points that are made at once, the same ones whichever rank does it
FAR = 40.0  # metres in front of a camera up to which it sees points of a street
_NEAR = 2.0  # and from which on
_STEP = 1.0  # metres between two images
_SHORTEST = 250.0  # metres of a loop
_HOUSE = 12.0  # metres of street per house


class Made(NamedTuple):
    """Some points, and the images that could see them."""

    xyz: np.ndarray  # (n, 3)
    rgb: np.ndarray  # (n, 3) uint8
    candidates: np.ndarray  # (n, c) int64, images in the order of the drive; -1: none
    number: np.ndarray  # (n,) how many of them shall see it, if they can


class World(Protocol):
    """Points, and cameras that could see them."""

    count: int  # points
    centre: np.ndarray  # (images, 3)
    rotation: np.ndarray  # (images, 3, 3) world to a camera that looks along +z
    range: tuple[float, float]  # depths at which points are seen
    distance: float  # of points from cameras, as a rule

    def chunk(self, number: int) -> Made:
        """Points from `number * CHUNK` on."""
        ...


class Ring:
    """A closed street, not quite round."""

    def __init__(self, images: int) -> None:
        self.count = images
        self.total = max(images * _STEP, _SHORTEST)
        self._radius = self.total / (2 * np.pi)

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
        behind = np.arange(-min(math.ceil(1.4 * FAR / step), n - 1), 1)
        return (np.floor(s / step).astype(np.int64)[:, None] + behind) % n


class Blocks:
    """Straight streets along x, then along y, one after the other in s."""

    def __init__(self, blocks: tuple[int, int], length: float) -> None:
        along = [blocks[0] * length] * (blocks[1] + 1) + [blocks[1] * length] * (blocks[0] + 1)
        self._length = length
        self._first = blocks[1] + 1  # how many streets go along x
        self._starts = np.concatenate([[0.0], np.cumsum(along)])
        self.total = float(self._starts[-1])
        counts = [int((each - FAR / 2) / _STEP) + 1 for each in along]  # then nothing is ahead
        self._image = np.concatenate([[0], np.cumsum(counts)])  # the first one of each street
        self.count = int(self._image[-1])

    def images(self) -> tuple[np.ndarray, np.ndarray]:
        """As `Ring.images`."""
        street = np.repeat(np.arange(len(self._image) - 1), np.diff(self._image))
        return self._place(street, _STEP * (np.arange(self.count) - self._image[street]))

    def at(self, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `Ring.at`."""
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
        k = np.floor(along / _STEP).astype(np.int64)[:, None] + np.arange(-math.ceil(FAR), 1)
        last = np.diff(self._image)[street][:, None]
        return np.where((k >= 0) & (k < last), self._image[street][:, None] + k, -1)

    def _street_at(self, s: np.ndarray) -> np.ndarray:
        return np.clip(np.searchsorted(self._starts, s, "right") - 1, 0, len(self._starts) - 2)


class Street:
    """Houses on both sides of a path, with windows; ground, trees."""

    range = (_NEAR, FAR)
    distance = 15.0

    def __init__(self, path: Ring | Blocks, points_per_image: float, seed: int) -> None:
        self._path, self._seed = path, seed
        self.count = round(path.count * points_per_image)
        place, ahead = path.images()
        self.centre = np.column_stack([place, np.full(path.count, 1.8)])
        self.rotation = _looking(np.column_stack([ahead, np.full(path.count, 0.08)]))
        houses = math.ceil(path.total / _HOUSE) + 1
        self._house = np.random.default_rng([seed, 1]).random((2 * houses, 6))

    def chunk(self, number: int) -> Made:
        """Points in the order of the path."""
        random = random_of(self._seed, number)
        kind, side = random.random(CHUNK), np.where(random.random(CHUNK) < 0.5, -1.0, 1.0)
        at = number * CHUNK + np.arange(CHUNK)
        s = (at + random.random(CHUNK)) * (self._path.total / self.count)
        u, v = random.random((2, CHUNK))
        house = self._house[2 * (s // _HOUSE).astype(np.int64) % len(self._house) + (side > 0)]
        tree, ground = kind > 0.9, (kind > 0.7) & (kind <= 0.9)
        s, lateral, height, rgb = _facade(s, u, v, house, random)
        lateral = np.where(ground, 6 * v, lateral)
        height = np.where(ground, 0.03 * u, height)
        rgb[ground] = np.array([120, 118, 115]) + (40 * u[ground, None] - 20)
        ball = random.standard_normal((CHUNK, 3))
        ball *= (1.6 * v ** (1 / 3) / np.linalg.norm(ball, axis=1))[:, None]
        s = np.where(tree, np.rint(s / 15) * 15 + ball[:, 0], s)
        lateral = np.where(tree, 5.5 + ball[:, 1], lateral)
        height = np.where(tree, 4 + ball[:, 2], height)
        rgb[tree] = np.array([60, 120, 50]) + 50 * (u[tree, None] - 0.5)
        place, ahead = self._path.at(np.clip(s, 0, self._path.total * (1 - 1e-12)))
        place += (side * lateral)[:, None] * np.column_stack([-ahead[:, 1], ahead[:, 0]])
        some = min(CHUNK, self.count - number * CHUNK)
        made = Made(
            np.column_stack([place, height]),
            rgb.astype(np.uint8),
            self._path.candidates(np.clip(s, 0, self._path.total * (1 - 1e-12))),
            2 + random.geometric(1 / 6.0, CHUNK),  # tracks have 8 views on average, few many more
        )
        return Made(*(each[:some] for each in made))


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


class Vase:
    """A body of revolution, cameras around it at two heights."""

    range = (0.5, 100.0)
    distance = 3.0

    def __init__(self, images: int, points: int, views: float | None, seed: int) -> None:
        self.count, self._views, self._seed = points, views, seed
        angle = 2 * np.pi * np.arange(images) / images
        height = np.where(np.arange(images) % 2, 1.4, 0.2)
        self.centre = np.column_stack([3.6 * np.cos(angle), 3.6 * np.sin(angle), height])
        self.rotation = _looking(-self.centre)

    def chunk(self, number: int) -> Made:
        """Points in the order of the angle."""
        random, n = random_of(self._seed, number), len(self.centre)
        at = number * CHUNK + np.arange(CHUNK)
        angle = 2 * np.pi * (at + random.random(CHUNK)) / self.count
        z = 2 * random.random(CHUNK) - 1
        r = 0.55 + 0.25 * np.sin(3 * z + 1) + 0.04 * np.sin(8 * angle)
        xyz = np.column_stack([r * np.cos(angle), r * np.sin(angle), z])
        band = np.where(np.sin(12 * z) > 0, 1.0, 0.4)[:, None]
        rgb = band * np.array([60, 110, 190]) + 40 * random.random((CHUNK, 1))
        first = np.rint(angle / (2 * np.pi) * n).astype(np.int64) - n // 2
        candidates = (first[:, None] + np.arange(n)) % n
        wanted = np.full(CHUNK, n)
        if self._views is not None:
            wanted = 1 + random.geometric(1 / max(self._views - 1, 1), CHUNK)
        made = Made(xyz, rgb.astype(np.uint8), candidates, wanted)
        return Made(*(each[: self.count - number * CHUNK] for each in made))


def _looking(ahead: np.ndarray) -> np.ndarray:
    """(n, 3, 3) rotations, world to camera, of cameras that look ahead and stand upright."""
    z = ahead / np.linalg.norm(ahead, axis=1)[:, None]
    x = np.cross(z, [0.0, 0.0, 1.0])
    x /= np.linalg.norm(x, axis=1)[:, None]
    return np.stack([x, np.cross(z, x), z], axis=1)


def random_of(*key: int) -> np.random.Generator:
    """Numbers of this key only: Philox counts, and so any part can be made alone."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([*key])))
