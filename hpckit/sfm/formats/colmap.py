"""COLMAP models: folders of three files, of text or binary; what both share is here."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from hpckit.errors import ConfigError
from hpckit.files import sync
from hpckit.sfm.formats import colmap_binary, colmap_text
from hpckit.sfm.formats.colmap_tables import NONE, TRUST, assemble
from hpckit.sfm.formats.convert import to_colmap
from hpckit.sfm.projection import residuals
from hpckit.sfm.reconstruction import Reconstruction

FILES = ("cameras", "images", "points3D")
_RIGS = ("rigs", "frames")
_SUFFIXES = (".bin", ".txt")
_LARGEST_ID = 2**32 - 2  # of cameras and images: 2^32 - 1 means none


def is_model(folder: Path) -> bool:
    """Whether a folder has any file of a COLMAP model. ::

    is_model(Path("sparse/0"))
    """
    return any((folder / (name + suffix)).exists() for name in FILES for suffix in _SUFFIXES)


def read_colmap(folder: Path, trust: str = "tracks") -> Reconstruction:
    """The whole reconstruction of a COLMAP model, with `behind="zero"`.

    ::

        read_colmap(Path("sparse/0"))

    Binary files are read where there are any, as COLMAP does. All keypoints, ids and names are
    kept; quaternions are made unit ones. Models with rigs of one camera each are read, others not.

    trust : see `assemble`

    Raises `ConfigError` naming file and line.
    """
    if trust not in TRUST:
        raise ConfigError(f"trust is {trust!r}, but must be one of {', '.join(TRUST)}")
    binary = any((folder / f"{name}.bin").exists() for name in FILES)
    suffix, files = (".bin", colmap_binary) if binary else (".txt", colmap_text)
    for name in FILES:
        if not (folder / (name + suffix)).is_file():
            raise ConfigError(
                f"there is no {folder / (name + suffix)}: a COLMAP model has cameras{suffix}, "
                f"images{suffix} and points3D{suffix}"
            )
    files.check_rigs(folder)
    return assemble(
        folder,
        files.read_cameras(folder / f"cameras{suffix}"),
        files.read_images(folder / f"images{suffix}"),
        files.read_points(folder / f"points3D{suffix}"),
        trust,
    )


def write_colmap(whole: Reconstruction, folder: Path, text: bool = False) -> None:
    """Write a whole reconstruction as a COLMAP model: the folder is there whole or not at all.

    ::

        write_colmap(whole, Path("sparse/0"), text=True)

    A model that was there is replaced, of whichever kind, with rigs and frames; other files in the
    folder stay. The error of a point is the mean of its reprojection errors in pixels, -1 where it
    has none. BAL cameras become RADIAL ones (`to_colmap`).

    Raises `ConfigError` for what the files cannot hold, `OSError` where the disk does not take it.
    """
    model = to_colmap(whole)
    _check_ids(model)
    model, keypoints, points = _numbered(model)
    with _replacing_folder(folder) as draft:
        write = colmap_text.write_text if text else colmap_binary.write_binary
        write(model, keypoints, points, errors(model), draft)


def _check_ids(model: Reconstruction) -> None:
    for what, ids, largest in (
        ("camera", model.cameras.ids, _LARGEST_ID),
        ("image", model.images.ids, _LARGEST_ID),
        ("point", model.points.ids, 2**63 - 1),
    ):
        for i in np.flatnonzero((ids < 0) | (ids > largest))[:1]:
            raise ConfigError(
                f"{what} {ids[i]} has an id that COLMAP's files cannot hold: 0 to {largest}"
            )


def _numbered(
    model: Reconstruction,
) -> tuple[Reconstruction, list[np.ndarray], list[np.ndarray]]:
    """With each observation a keypoint of its own; keypoints of each image and their points' ids.

    Keypoints that are known stay what they are; the others follow them, in order.
    """
    seen, n = model.observations, len(model.images)
    known = model.keypoints or [np.zeros((0, 2))] * n
    counts = np.array([len(each) for each in known], np.int64)
    old = seen.keypoint.astype(np.int64)
    fits = (old >= 0) & (old < counts[seen.image])
    place = np.concatenate([[0], np.cumsum(counts)])[seen.image] + old
    first = np.zeros(len(seen), bool)
    first[np.flatnonzero(fits)[np.unique(place[fits], return_index=True)[1]]] = True
    added = np.flatnonzero(~first)  # a keypoint can show one point: a second one is added
    added = added[np.argsort(seen.image[added], kind="stable")]
    more = np.bincount(seen.image[added], minlength=n)
    before = np.concatenate([[0], np.cumsum(more)])
    keypoint = old.copy()
    image = seen.image[added]
    keypoint[added] = counts[image] + np.arange(len(added)) - before[image]
    keypoints, points = [], []
    owner = model.points.ids[seen.point]
    by_image = np.argsort(seen.image, kind="stable")
    ends = np.searchsorted(seen.image[by_image], np.arange(n + 1))
    for i in range(n):
        its, new = by_image[ends[i] : ends[i + 1]], added[before[i] : before[i + 1]]
        keypoints.append(np.concatenate([known[i], seen.xy[new]]))
        points.append(np.full(counts[i] + more[i], NONE))
        points[i][keypoint[its]] = owner[its]
    numbered = replace(seen, keypoint=keypoint.astype(np.int32))
    return replace(model, observations=numbered), keypoints, points


def errors(model: Reconstruction) -> np.ndarray:
    """Mean reprojection error of each point: (points,) pixels, -1 where it has none. ::

    errors(whole).max()
    """
    difference = residuals(replace(model, behind="zero"))[0]
    count = np.diff(model.observations.start)
    with np.errstate(over="ignore", invalid="ignore"):
        each = np.hypot(difference[:, 0], difference[:, 1])
        total = np.bincount(model.observations.point, each, minlength=len(count))
        return np.where((count > 0) & np.isfinite(total), total / np.maximum(count, 1), -1.0)


@contextlib.contextmanager
def _replacing_folder(folder: Path) -> Iterator[Path]:
    """A folder beside it to write to; at the end it is synced and becomes `folder`."""
    folder = folder.absolute()
    draft, old = (folder.with_name(folder.name + end) for end in (".tmp", ".old"))
    if folder.exists():
        _check_foreign(folder)
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
        for path in draft.iterdir():
            sync(path, os.O_RDWR)
        if folder.exists():
            for path in _foreign(folder):
                shutil.copy2(path, draft / path.name)
            shutil.rmtree(old, ignore_errors=True)
            folder.replace(old)
        draft.replace(folder)
        sync(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        if old.exists() and not folder.exists():
            old.replace(folder)
        raise


def _foreign(folder: Path) -> list[Path]:
    """What is in a folder beside a COLMAP model."""
    ours = {name + suffix for name in (*FILES, *_RIGS) for suffix in _SUFFIXES}
    return [path for path in sorted(folder.iterdir()) if path.name not in ours]


def _check_foreign(folder: Path) -> None:
    if not folder.is_dir():
        raise ConfigError(f"{folder} is a file, but a COLMAP model is a folder: give another name")
    for path in _foreign(folder):
        if not path.is_file():
            raise ConfigError(
                f"{folder} has {path.name} in it, which is no file of a model: give a new folder, "
                f"such as {folder / 'model'}"
            )
