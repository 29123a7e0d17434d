"""Small reconstructions that tests share, and where the real ones are."""

import os
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

from hpckit.sfm.cameras import Cameras
from hpckit.sfm.distribute import by_point, make_points
from hpckit.sfm.reconstruction import Images, Reconstruction

DATA = Path(os.environ.get("HPCKIT_DATA", Path(__file__).parents[4] / "shared/data")) / "sfm"
SHIPPED = Path(__file__).parents[2] / "data/sfm"


def data(name: str) -> Path:
    """A file or folder below `HPCKIT_DATA/sfm`; the test is skipped where it is not there."""
    if not (DATA / name).exists():
        pytest.skip(f"no {DATA / name}: set HPCKIT_DATA")
    return DATA / name


def whole(points: int = 23, images: int = 5, seed: int = 0) -> Reconstruction:
    """Numbers at random, all valid; tracks of 0 to 7 observations, some twice in an image."""
    rng = np.random.default_rng(seed)
    cameras = Cameras.of(
        ("SIMPLE_RADIAL", 1920, 1080, [1500.0, 960.0, 540.0, 0.01]),
        ("PINHOLE", 640, 480, [500.0, 510.0, 320.0, 240.0]),
    )
    names = ["a b.jpg", "é.jpg", "stra\udcdfe.jpg", *(f"{i}.jpg" for i in range(3, images))]
    poses = Images.of(
        names[:images],
        rng.integers(0, 2, images),
        rng.normal(size=(images, 4)),
        rng.normal(size=(images, 3)),
        ids=rng.permutation(100)[:images],
    )
    lengths = rng.integers(0, 8, points)
    point = rng.permutation(np.repeat(np.arange(points), lengths))
    seen = by_point(
        points,
        point,
        rng.integers(0, images, len(point)),
        rng.normal(size=(len(point), 2)),
        np.arange(len(point)),
    )
    rgb = rng.integers(0, 256, (points, 3)).astype(np.uint8)
    made = make_points(rng.normal(size=(points, 3)), rgb, rng.permutation(1000)[:points])
    return Reconstruction(MPI.COMM_SELF, cameras, poses, made, seen)
