"""Read and write a reconstruction, whichever format its file or folder has."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from mpi4py import MPI

from hpckit.errors import ConfigError, same, together, writing
from hpckit.files import replacing
from hpckit.io.polydata import write_points
from hpckit.sfm.checks import BEHIND, check
from hpckit.sfm.distribute import gather, scatter
from hpckit.sfm.formats.bal import read_bal, write_bal
from hpckit.sfm.formats.bundler import FIRST_LINE, read_bundler, write_bundler
from hpckit.sfm.formats.colmap import FILES, errors, is_model, read_colmap, write_colmap
from hpckit.sfm.formats.libmv import MARKERS, read_libmv
from hpckit.sfm.formats.ply import cloud, write_ply
from hpckit.sfm.formats.text import content
from hpckit.sfm.reconstruction import Reconstruction

FORMATS = {  # and the ends of names that mean them; COLMAP's are names without any
    "bal": (".txt", ".txt.gz", ".txt.bz2"),
    "bundler": (".out",),
    "colmap": (),
    "colmap-text": (),
    "ply": (".ply",),
    "vtkhdf": (".vtkhdf",),
}
_SQLITE, _HDF5 = b"SQLite format 3", b"\x89HDF"


def read(
    path: str | os.PathLike[str],
    comm: MPI.Intracomm = MPI.COMM_WORLD,
    trust: str = "tracks",
    behind: str | None = None,
) -> Reconstruction:
    """Read a file, or a COLMAP folder, and share it among the ranks (collective).

    ::

        reconstruction = read("problem-49-7776-pre.txt.bz2")

    What it is, is seen from what is in it: BAL text (also .gz, .bz2), COLMAP text or binary,
    Bundler, libmv. Rank 0 reads; the points are cut into contiguous ranges.

    Parameters
    ----------
    trust : what to believe where a COLMAP model contradicts itself: "tracks" refuses it, "images"
        takes the observations from its images and does not look at tracks
    behind : what becomes of observations behind the camera, instead of the format's own rule:
        "keep" of BAL and Bundler, "zero" of the others

    Raises `ConfigError` on all ranks, with file and line, for what is missing or wrong.
    """
    whole = None
    same(comm, "the arguments of read", (os.fspath(path), trust, behind))
    with together(comm):
        if behind not in (None, *BEHIND):
            raise ConfigError(f"behind is {behind!r}, but must be one of {', '.join(BEHIND)}")
        if comm.rank == 0:
            whole = read_whole(Path(path), trust)
            if behind is not None:
                whole.behind = behind
            _check(Path(path), whole)
    return scatter(whole, comm)


def write(
    reconstruction: Reconstruction,
    path: str | os.PathLike[str],
    format: str | None = None,
    centres: bool = False,
) -> None:
    """Write a reconstruction; the file or folder is there whole, or as it was before (collective).

    ::

        write(reconstruction, "sparse/0")               # COLMAP, binary
        write(reconstruction, "out.txt.gz")             # BAL
        write(reconstruction, "sparse/0", "colmap-text")
        write(reconstruction, "points.ply", centres=True)

    Parameters
    ----------
    format : one of `FORMATS`; by default what the name's end means, COLMAP where it has none
    centres : with the points, also show where images were taken (ply, vtkhdf)

    Cameras are converted where the format needs others (`hpckit.sfm.formats.convert`). All ranks'
    points come to rank 0, which needs memory for them.

    Raises `ConfigError` on all ranks for a name without meaning, and what the format cannot hold;
    `HpckitError` where the disk does not take it.
    """
    comm = reconstruction.comm
    same(comm, "the arguments of write", (os.fspath(path), format, centres))
    path = Path(path)
    with together(comm):
        chosen = _format(path, format)
    whole = gather(reconstruction)
    with together(comm):
        if whole is not None:
            check(whole)
            with writing(path):
                _write(whole, path, chosen, centres)


def read_whole(path: Path, trust: str) -> Reconstruction:
    """Read a file by one process, without MPI: `read` on rank 0.

    ::

        whole = read_whole(Path("problem-49-7776-pre.txt"), "tracks")
    """
    if path.is_dir():
        return read_colmap(_model_folder(path), trust)
    if not path.exists():
        raise ConfigError(f"there is no {path}")
    if path.stem in FILES and path.suffix in (".txt", ".bin"):
        raise ConfigError(f"{path} is one file of a COLMAP model: give its folder, {path.parent}")
    _check_kind(path)
    data = content(path)
    if data.startswith(FIRST_LINE):
        return read_bundler(path, data)
    if data[:2] in MARKERS:
        return read_libmv(path, data)
    return read_bal(path, data)


def _check_kind(path: Path) -> None:
    """`ConfigError` where a file begins like one that holds no model."""
    try:
        with path.open("rb") as file:
            first = file.read(16)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from None
    if first.startswith(_SQLITE):
        raise ConfigError(
            f"{path} is a COLMAP database: it has matches, but no model yet; map it first"
        )
    if first.startswith(_HDF5):
        raise ConfigError(f"{path} is an HDF5 file, not a model: a checkpoint is resumed, not read")
    if first.startswith(b"ply"):
        raise ConfigError(f"{path} is a point cloud: it has no cameras, and cannot be read")


def _model_folder(folder: Path) -> Path:
    if is_model(folder):
        return folder
    inside = [each for each in sorted(folder.iterdir()) if each.is_dir() and is_model(each)]
    hint = f": did you mean {inside[0]}?" if inside else ""
    raise ConfigError(f"{folder} has no COLMAP model (cameras, images, points3D) in it{hint}")


def _check(path: Path, whole: Reconstruction) -> None:
    """Readers say what they find and where; this is what is left."""
    try:
        check(whole)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _format(path: Path, wanted: str | None) -> str:
    if wanted is not None:
        if wanted not in FORMATS:
            raise ConfigError(f"format {wanted!r} is not known: there are {', '.join(FORMATS)}")
        return wanted
    for name, ends in FORMATS.items():
        if path.name.lower().endswith(ends or ("\0",)):
            return name
    if path.is_dir() or not path.suffix:
        return "colmap"
    ends = ", ".join(end for each in FORMATS.values() for end in each)
    raise ConfigError(
        f"what to write to {path} is not clear from its name: end it with {ends} or nothing "
        f"(COLMAP), or give format, one of {', '.join(FORMATS)}"
    )


def _write(whole: Reconstruction, path: Path, format: str, centres: bool) -> None:
    if format in ("colmap", "colmap-text"):
        return write_colmap(whole, path, text=format == "colmap-text")
    if path.is_dir():
        raise ConfigError(f"{path} is a folder, but {format} is a file: give another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        if format == "bal":
            write_bal(whole, path, draft)
        elif format == "bundler":
            write_bundler(whole, draft)
        elif format == "ply":
            write_ply(whole, draft, centres)
        else:
            _write_vtkhdf(whole, draft, centres)
    return None


def _write_vtkhdf(whole: Reconstruction, draft: Path, with_centres: bool) -> None:
    """Points, and after them centres, with what is known of each."""
    xyz, rgb = cloud(whole, with_centres)
    more = len(xyz) - len(whole.points)
    ids = np.concatenate([whole.points.ids, whole.images.ids[:more]])
    views = np.concatenate([np.diff(whole.observations.start), np.zeros(more, np.int64)])
    error = np.concatenate([errors(whole), np.full(more, -1.0)])
    kind = np.concatenate([np.zeros(len(whole.points), np.uint8), np.ones(more, np.uint8)])
    data = {"rgb": rgb, "id": ids, "track_length": views, "error": error, "is_centre": kind}
    write_points(draft, xyz, data)
