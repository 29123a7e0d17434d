"""What `hpckit.apps.sfm` works on: a reconstruction from a file, or one that is generated."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hpckit.errors import ConfigError, together

if TYPE_CHECKING:
    from mpi4py import MPI

    from hpckit.apps.sfm.config import Config, Generate
    from hpckit.sfm.reconstruction import Reconstruction
    from hpckit.sfm.synthetic import Scene

_SQLITE = b"SQLite format 3\0"
_BLOCK = 60.0  # metres of a block of a city
_VIEWS = 8  # of a generated point, on average


class Counts(NamedTuple):
    """How large a problem is, on all ranks together."""

    images: int
    cameras: int
    points: int
    observations: int

    def __str__(self) -> str:
        return (
            f"{self.images:,} images, {self.cameras:,} camera{'s' * (self.cameras != 1)}, "
            f"{self.points:,} points, {self.observations:,} observations"
        )


def load(comm: MPI.Intracomm, config: Config) -> tuple[Reconstruction, Scene | None]:
    """What to work on, and where it is generated, the truth (collective)."""
    if config.input:
        from hpckit.sfm.formats import read

        with together(comm):
            existing(config.input)
        found = read(config.input, comm, trust=config.trust, behind=config.behind)
        return found, None
    scene = generate(comm, config.generate)
    scene.start.behind = config.behind or scene.start.behind
    return scene.start, scene


def existing(path: str) -> None:
    """`ConfigError` where nothing is there, which says where data may be."""
    if not Path(path).exists():
        data = os.environ.get("HPCKIT_DATA")
        where = f"HPCKIT_DATA is {data}" if data else "set HPCKIT_DATA to the folder of your data"
        raise ConfigError(f"there is no {path}: give a file, or a COLMAP folder; {where}")


def is_database(path: Path) -> bool:
    """Whether it begins as COLMAP's databases do."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(len(_SQLITE)) == _SQLITE
    return False


def counts(reconstruction: Reconstruction) -> Counts:
    """How large it is (collective)."""
    comm = reconstruction.comm
    return Counts(
        len(reconstruction.images),
        len(reconstruction.cameras),
        comm.allreduce(len(reconstruction.points)),
        comm.allreduce(len(reconstruction.observations)),
    )


def generate(comm: MPI.Intracomm, config: Generate) -> Scene:
    """The scene of a case (collective)."""
    from hpckit.sfm import synthetic

    look = {
        "seed": config.seed,
        "noise": config.noise,
        "drift": config.drift,
        "model": config.model,
        "cameras": config.cameras,
    }
    images = config.images * (comm.size if config.per_rank else 1)
    if config.scene == "city":
        return synthetic.city_blocks(comm, config.blocks, config.points_per_image, **look)
    if config.scene == "loop":
        return synthetic.loop(comm, images, config.points_per_image, **look)
    points = round(images * config.points_per_image)
    return synthetic.turntable(comm, images, points, views=_VIEWS, **look)


def generated_counts(config: Generate, ranks: int) -> Counts:
    """About what `generate` makes on so many ranks; arithmetic only."""
    images = config.images * (ranks if config.per_rank else 1)
    if config.scene == "city":
        x, y = config.blocks
        images = round((x * (y + 1) + y * (x + 1)) * _BLOCK)
    points = round(images * config.points_per_image)
    cameras = images if config.cameras is None else config.cameras
    return Counts(images, cameras, points, _VIEWS * points)
