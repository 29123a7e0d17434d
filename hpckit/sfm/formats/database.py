"""COLMAP's database: keypoints, and pairs of images with verified matches, of COLMAP 3.6 to 4.2.

A pair's matches are those that agreed with the geometry which COLMAP found (table
`two_view_geometries`); what it tried before (table `matches`) and descriptors are not read.
Columns and tables that older versions do not have (qvec and tvec; rigs and frames) may be missing.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mpi4py import MPI

from hpckit.errors import ConfigError, same, together
from hpckit.sfm.cameras import BY_NUMBER, PARAMETERS, Cameras
from hpckit.sfm.reconstruction import Images
from hpckit.sfm.viewgraph import ViewGraph, deal

_LARGEST_ID = 2**31 - 1  # a pair's id is that of its first image times this, plus its second
_NEEDED = ("cameras", "images", "keypoints", "two_view_geometries")
_UNSUPPORTED = {7: "FOV", 10: "THIN_PRISM_FISHEYE", 11: "RAD_TAN_THIN_PRISM_FISHEYE"}
_WAL = b"\x02\x02"  # bytes 18 and 19 of a file that keeps its changes in another, beside it
_PATIENCE = 5.0  # seconds until another program shall have written
_CAMERA = 0  # type of a sensor; others hold no images


def read_database(path: str | os.PathLike[str], comm: MPI.Intracomm = MPI.COMM_WORLD) -> ViewGraph:
    """The view graph of a COLMAP database, its pairs dealt to the ranks of `comm` (collective).

    Rank 0 reads. Cameras and images come in the order of their ids, pairs without matches
    (DEGENERATE ones have none) are left out. Raises `ConfigError` on all ranks where there is no
    such file, it is locked, damaged or no database of COLMAP, holds a camera model that is not
    known, rigs of several cameras, or no pair with matches. ::

        graph = read_database("database.db", MPI.COMM_WORLD)
        graph.comm.allreduce(len(graph))  # pairs
    """
    whole = None
    same(comm, "the path of a database", os.fspath(path))
    with together(comm):
        if comm.rank == 0:
            whole = _read(Path(path), comm)
    return deal(whole, comm)


def _read(path: Path, comm: MPI.Intracomm) -> ViewGraph:
    with _opened(path) as database:
        _check_tables(path, database)
        _check_rigs(path, database)
        cameras, prior = _cameras(path, database)
        images = _images(path, database, cameras)
        start, keypoints = _keypoints(path, database, images)
        pairs = _pairs(path, database, images)
    graph = ViewGraph(comm, cameras, prior, images, start, keypoints, *pairs)
    _check_matches(path, graph)
    return graph


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that only reads, and whose failures are one sentence."""
    if not path.is_file():
        raise ConfigError(f"there is no database {path}")
    try:
        with closing(sqlite3.connect(_address(path), uri=True, timeout=_PATIENCE)) as database:
            database.text_factory = lambda b: b.decode("utf-8", "surrogateescape")
            yield database
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    except sqlite3.Error as error:
        text = str(error)
        if "locked" in text or "busy" in text:
            text = "another program is writing it; wait until that ends"
        raise ConfigError(f"cannot read the database {path}: {text}") from error


def _address(path: Path) -> str:
    """How SQLite shall open it.

    A database with a write-ahead log (COLMAP's are) cannot be read in a read-only folder, and
    reading it would leave two files beside it, unless it is said that nobody changes it. Whoever
    writes has a log that is not empty.
    """
    with path.open("rb") as file:
        mode = file.read(20)[18:]
    log = path.with_name(path.name + "-wal")
    still = mode == _WAL and not (log.exists() and log.stat().st_size)
    return f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if still else ''}"


def _check_tables(path: Path, database: sqlite3.Connection) -> None:
    there = {name for (name,) in database.execute("select name from sqlite_master")}
    missing = [name for name in _NEEDED if name not in there]
    if missing:
        raise ConfigError(
            f"{path} is no database of COLMAP: it has no table {' and no '.join(missing)}"
        )


def _check_rigs(path: Path, database: sqlite3.Connection) -> None:
    """Rigs of one camera each are what images without rigs are."""
    if not _columns(database, "rig_sensors"):
        return
    query = "select count(*), count(distinct rig_id) from rig_sensors where sensor_type = ?"
    sensors, rigs = database.execute(query, (_CAMERA,)).fetchone()
    if sensors:
        raise ConfigError(
            f"{path} has rigs of several cameras ({rigs} of them), which cannot be solved yet: "
            "give it a rig for each camera (colmap rig_configurator), or no rigs"
        )


def _columns(database: sqlite3.Connection, table: str) -> set[str]:
    """Names of a table's columns; none where there is no such table."""
    return {row[1] for row in database.execute(f"pragma table_info({table})")}


def _cameras(path: Path, database: sqlite3.Connection) -> tuple[Cameras, np.ndarray]:
    """Cameras, and whether their focal lengths are known: (n,) bool."""
    query = "select camera_id, model, width, height, params, prior_focal_length from cameras"
    rows = database.execute(f"{query} order by camera_id").fetchall()
    cameras = Cameras(
        np.array([row[0] for row in rows], np.int64),
        np.array([row[1] for row in rows], np.int32),
        np.array([row[2:4] for row in rows], np.int64).reshape(-1, 2),
        np.zeros((len(rows), PARAMETERS)),
    )
    for i, (number, model, _, _, parameters, _) in enumerate(rows):
        if model not in BY_NUMBER:
            name = _UNSUPPORTED.get(model, f"number {model}")
            known = ", ".join(m.name for m in BY_NUMBER.values())
            raise ConfigError(
                f"{path}: camera {number} has the model {name}, which is not known: there are "
                f"{known}"
            )
        own = BY_NUMBER[model]
        values = _blob(path, f"camera {number}", parameters, np.float64, len(own.parameters))
        if not np.isfinite(values).all() or not (values[own.focal] > 0).all():
            raise ConfigError(
                f"{path}: camera {number} has parameters {values.tolist()}: they must be finite, "
                "focal lengths above 0"
            )
        cameras.parameters[i, : len(values)] = values
    return cameras, np.array([row[5] != 0 for row in rows], bool)


def _images(path: Path, database: sqlite3.Connection, cameras: Cameras) -> Images:
    query = "select image_id, name, camera_id from images order by image_id"
    rows = database.execute(query).fetchall()
    if not rows:
        raise ConfigError(
            f"{path} has no images: extract features first (colmap feature_extractor)"
        )
    camera = np.array([row[2] for row in rows], np.int64)
    place = np.searchsorted(cameras.ids, camera)
    for i in np.flatnonzero(
        (place == len(cameras)) | (np.append(cameras.ids, -1)[place] != camera)
    ):
        raise ConfigError(f"{path}: image {rows[i][0]} has camera {camera[i]}, which is not there")
    return Images(
        np.array([row[0] for row in rows], np.int64),
        [row[1] for row in rows],
        place.astype(np.int32),
        np.tile([1.0, 0.0, 0.0, 0.0], (len(rows), 1)),
        np.zeros((len(rows), 3)),
    )


def _keypoints(
    path: Path, database: sqlite3.Connection, images: Images
) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints of all images in turn: where each image's start, (n + 1,), and pixels, (k, 2)."""
    found = [np.empty((0, 2), np.float32)] * len(images)
    for number, rows, columns, data in database.execute(
        "select image_id, rows, cols, data from keypoints where rows > 0"
    ):
        place = np.searchsorted(images.ids, number)
        if place < len(images) and images.ids[place] == number:
            what = f"keypoints of image {number}"
            values = _blob(path, what, data, np.float32, rows * columns)
            found[place] = values.reshape(rows, columns)[:, :2].copy()  # then scale, orientation
            if not np.isfinite(found[place]).all():
                raise ConfigError(f"{path}: {what} are not all finite")
    start = np.concatenate([[0], np.cumsum([len(each) for each in found])])
    return start, np.concatenate(found).astype(np.float64)


class _Pairs(NamedTuple):
    """The fields of `ViewGraph` that describe pairs, in its order."""

    pairs: np.ndarray
    config: np.ndarray
    F: np.ndarray
    E: np.ndarray
    H: np.ndarray
    quaternion: np.ndarray
    translation: np.ndarray
    match_start: np.ndarray
    matches: np.ndarray


def _pairs(path: Path, database: sqlite3.Connection, images: Images) -> _Pairs:
    """Pairs with matches, in the order of their ids."""
    stored = _columns(database, "two_view_geometries")
    extra = [name if name in stored else "null" for name in ("F", "E", "H", "qvec", "tvec")]
    rows = database.execute(
        f"select pair_id, rows, cols, data, config, {', '.join(extra)} "
        "from two_view_geometries where rows > 0 order by pair_id"
    ).fetchall()
    if not rows:
        raise ConfigError(
            f"{path} has no pair of images with verified matches: match them first "
            "(colmap exhaustive_matcher)"
        )
    pairs = np.array([_split(path, row[0]) for row in rows])
    matches = [
        _blob(path, f"matches of pair {a}-{b}", row[3], np.uint32, row[1] * row[2])
        for (a, b), row in zip(pairs, rows, strict=True)
    ]
    geometry = [_geometry(path, [row[5 + i] for row in rows], n) for i, n in enumerate(_LENGTHS)]
    F, E, H = (matrix.reshape(-1, 3, 3) for matrix in geometry[:3])
    quaternion, translation = _poses(*geometry[3:])
    return _Pairs(
        _places(path, images, pairs),
        np.array([row[4] for row in rows], np.int8),
        F,
        E,
        H,
        quaternion,
        translation,
        np.concatenate([[0], np.cumsum([row[1] for row in rows])]),
        np.concatenate(matches).reshape(-1, 2).astype(np.int32),
    )


_LENGTHS = (9, 9, 9, 4, 3)  # of F, E, H, qvec and tvec


def _split(path: Path, pair: int) -> tuple[int, int]:
    """Ids of a pair's images."""
    first, second = divmod(pair, _LARGEST_ID)
    if first >= second:
        raise ConfigError(f"{path}: pair {pair} is of images {first} and {second}: the lower first")
    return first, second


def _places(path: Path, images: Images, pairs: np.ndarray) -> np.ndarray:
    """Places of the images of these ids."""
    places = np.searchsorted(images.ids, pairs)
    there = np.append(images.ids, -1)[places] == pairs
    if not there.all():
        row, column = np.argwhere(~there)[0]
        raise ConfigError(
            f"{path}: pair {pairs[row, 0]}-{pairs[row, 1]} has image {pairs[row, column]}, which "
            "is not there"
        )
    return places.astype(np.int32)


def _geometry(path: Path, blobs: list[bytes | None], length: int) -> np.ndarray:
    """A column of matrices or vectors, NaN where none is stored; older versions store zeros."""
    values = np.full((len(blobs), length), np.nan)
    for i, blob in enumerate(blobs):
        if blob:
            values[i] = _blob(path, "a two-view geometry", blob, np.float64, length)
    values[(values == 0).all(1)] = np.nan
    return values


def _poses(quaternion: np.ndarray, translation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Relative poses, NaN where the identity stands for "not estimated" (COLMAP 3.7 to 3.9)."""
    translation = np.where(np.isnan(translation) & ~np.isnan(quaternion[:, :1]), 0.0, translation)
    none = (quaternion[:, 1:] == 0).all(1) & (translation == 0).all(1)
    none |= np.isnan(quaternion).any(1)
    quaternion[none], translation[none] = np.nan, np.nan
    return quaternion, translation


def _blob(
    path: Path, what: str, data: bytes | None, dtype: type[np.generic], length: int
) -> np.ndarray:
    """The numbers of a blob, which must be so many."""
    size = length * np.dtype(dtype).itemsize
    if data is None or len(data) != size:
        there = 0 if data is None else len(data)
        raise ConfigError(
            f"{path} is damaged or of an unknown version: {what} takes {there} bytes, not {size}"
        )
    return np.frombuffer(data, np.dtype(dtype).newbyteorder("<"))


def _check_matches(path: Path, graph: ViewGraph) -> None:
    """Matches must be of keypoints that are there."""
    if (graph.matches < 0).any():
        bad = (graph.matches < 0).any(1)
    else:
        counts = np.diff(graph.keypoint_start)[graph.pairs]
        bad = (graph.matches >= counts[graph.match_pair]).any(1)
    if bad.any():
        match = int(np.argmax(bad))
        a, b = graph.images.ids[graph.pairs[graph.match_pair[match]]]
        raise ConfigError(
            f"{path}: a match of pair {a}-{b} names keypoints {graph.matches[match].tolist()}, "
            "of which there are not so many"
        )
