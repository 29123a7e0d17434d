"""Checkpoints that survive a crash at any moment and can be read on any number of ranks; see
docs/io.md.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import math
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI

from hpckit.comm.grid import Grid
from hpckit.comm.partition import block
from hpckit.errors import ConfigError, HpckitError, same, together
from hpckit.io.box import Extra, field_box, staggering
from hpckit.io.manifest import HEAD, Field, Manifest, Part, describe, json_text
from hpckit.io.vtkhdf import durable_replace

_OURS = re.compile(r"checkpoint-(\d{6,})(\.json|\.\d{5,}\.bin)(\.tmp)?", re.ASCII)
_CHUNK = 1 << 24  # bytes read at once to check a file
_log = logging.getLogger(__name__)


class Checkpoint:
    """Checkpoints in one folder, which is made if need be; collective in every method.

    A checkpoint is one file of raw values per rank, and a JSON manifest that is written last, when
    all files are on the disk. The newest `keep` that are whole are kept; an older one goes when the
    new one is complete.

    Raises `ConfigError` on all ranks when the arguments are impossible or differ between ranks.
    """

    def __init__(self, directory: str | os.PathLike[str], grid: Grid, keep: int = 2) -> None:
        self._grid, self._comm = grid, grid.comm
        self._whole: dict[
            int, dict[Path, tuple[int, ...]]
        ] = {}  # known to be good, with this rank's files and states
        with together(self._comm):
            self.directory, self._keep = Path(directory), index(keep)
            if keep < 1:
                raise ConfigError(f"keep {keep}: at least one checkpoint must be kept")
        same(self._comm, "the arguments of Checkpoint", (self.directory, self._keep))
        with together(self._comm):
            if grid.rank == 0:
                _make_folder(self.directory)

    def exists(self) -> bool:
        """Whether there is any checkpoint, good or bad."""
        return bool(self._saved())

    def save(
        self, step: int, time: float, fields: Mapping[str, np.ndarray], extra: Mapping[str, Any]
    ) -> None:
        """Save the owned cells of `fields` (arrays with ghosts); `step`, `time` and `extra` (JSON)
        are rank 0's.

        Raises `ConfigError` for what cannot be saved and `HpckitError` when writing fails: the
        checkpoints that were there are still good then.
        """
        staggered = staggering(self._grid, fields)
        text, number = "", 0
        with together(self._comm):
            if not math.isfinite(time):
                raise ConfigError(f"time {time} of a checkpoint: it must be a finite number")
            text = json_text({"step": int(index(step)), "time": float(time), "extra": dict(extra)})
            if self._grid.rank == 0:
                _remove(_rubbish(self.directory))
                number = max((number for _, number, _ in _named(self.directory)), default=0) + 1
        number = self._comm.bcast(number)
        part = Part(*field_box(self._grid, self._grid.rank, (0,) * self._grid.ndim), 0, 0)
        with together(self._comm):
            part = self._write_part(number, part, fields)
        parts = self._comm.gather(part)
        with together(self._comm):
            if parts is not None:
                records = [Field(k, describe(v.dtype), staggered[k]) for k, v in fields.items()]
                manifest = Manifest(
                    **json.loads(text), shape=self._grid.shape, fields=records, parts=parts
                )
                _write_file(self._manifest(number), [manifest.to_json()])
        mine = [self._file(number, self._grid.rank), self._manifest(number)][
            : 2 if self._grid.rank == 0 else 1
        ]
        self._whole[number] = {file: _state(file) for file in mine}
        self._clean(number)

    def load(self, fields: Mapping[str, np.ndarray]) -> tuple[int, float, dict[str, Any]]:
        """Fill the owned cells of `fields` from the newest good checkpoint; returns step, time and
        extra.

        A checkpoint that is damaged is passed over with a warning. Raises `HpckitError` when none
        is good, and `ConfigError` when it holds another grid or other fields.
        """
        staggered = staggering(self._grid, fields)
        failures = []
        for number in self._saved():
            try:
                manifest = self._verified(number)
            except HpckitError as error:
                failures.append(f"checkpoint-{number:06}: {error}")
                self._warn("is damaged, trying the one before", number, error)
                continue
            with together(self._comm):
                self._read(number, manifest, fields, staggered)
            return manifest.step, manifest.time, manifest.extra
        found = "; ".join(failures) or "there is none"
        raise HpckitError(f"no good checkpoint in {self.directory}: {found}")

    def _write_part(self, number: int, part: Part, fields: Mapping[str, np.ndarray]) -> Part:
        pieces = (
            np.ascontiguousarray(array[self._grid.owned]).reshape(-1).view(np.uint8)
            for array in fields.values()
        )
        size, crc = _write_file(self._file(number, self._grid.rank), pieces)
        return Part(part.start, part.stop, size, crc)

    def _clean(self, new: int) -> None:
        """Remove what is older than the newest `keep` whole checkpoints; `new` has just been
        written (collective).
        """
        older, whole = [number for number in self._saved() if number < new], 1
        for i, number in enumerate(older):
            if whole == self._keep:
                with together(self._comm):
                    if self._grid.rank == 0:
                        _remove(file for file, its, _ in _ours(self.directory) if its in older[i:])
                return
            if number != older[-1]:  # whether the oldest is whole decides nothing
                whole += self._is_whole(number)

    def _is_whole(self, number: int) -> bool:
        """Whether the checkpoint is good: as we wrote it, files untouched, or else read again
        (collective).
        """
        known = self._whole.get(number)
        untouched = known is not None and all(
            _state(file) == state for file, state in known.items()
        )
        if not self._comm.allreduce(int(untouched), MPI.MIN):
            try:
                self._verified(number)
            except HpckitError as error:
                self._warn("is damaged, the one before is kept in its stead", number, error)
                return False
        return True

    def _saved(self) -> list[int]:
        """The numbers of the checkpoints that are there, good or bad, the newest first
        (collective).
        """
        found: set[int] = set()
        with together(self._comm):
            if self._grid.rank == 0:
                found = {number for _, number, is_manifest in _ours(self.directory) if is_manifest}
        return sorted(self._comm.bcast(found), reverse=True)

    def _warn(self, what: str, number: int, error: HpckitError) -> None:
        if self._grid.rank == 0:
            _log.warning("%s/checkpoint-%06d %s: %s", self.directory, number, what, error)

    def _verified(self, number: int) -> Manifest:
        """The manifest, once the ranks together have read every file of the checkpoint and found it
        whole.
        """
        manifest = None
        with together(self._comm):
            if self._grid.rank == 0:
                manifest = Manifest.from_json(_read_manifest(self._manifest(number)))
        manifest = self._comm.bcast(manifest)
        with together(self._comm):
            for rank in range(*block(len(manifest.parts), self._grid.size, self._grid.rank)):
                _verify(self._file(number, rank), manifest.parts[rank])
        return manifest

    def _read(
        self,
        number: int,
        manifest: Manifest,
        fields: Mapping[str, np.ndarray],
        staggered: Mapping[str, Extra],
    ) -> None:
        manifest.check(self._grid, fields, staggered)
        for rank, part in enumerate(manifest.parts):
            offset = 0
            for record in manifest.fields:
                start, stop = manifest.box(part, record)
                shape = tuple(b - a for a, b in zip(start, stop, strict=True))
                dtype = record.dtype
                if record.name in fields:
                    mine = field_box(self._grid, self._grid.rank, record.extra)
                    target, source = _common(mine, (start, stop))
                    if target is not None:
                        data = np.memmap(self._file(number, rank), dtype, "r", offset, shape)
                        fields[record.name][self._grid.owned][target] = data[source]
                offset += math.prod(shape) * dtype.itemsize

    def _manifest(self, number: int) -> Path:
        return self.directory / f"checkpoint-{number:06}.json"

    def _file(self, number: int, rank: int) -> Path:
        return self.directory / f"checkpoint-{number:06}.{rank:05}.bin"


def _make_folder(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / "checkpoint-000000.json.tmp"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"cannot write checkpoints to {directory}: {error}") from None


def set_aside(directory: Path) -> None:
    """Move the checkpoints in a folder to the folder beside it called as it and ".old", in one
    step.

    Those that were set aside before go; what is not a checkpoint stays where it is.
    """
    directory = Path(os.path.realpath(directory))  # a link stays one
    if not directory.is_dir() or not any(is_manifest for _, _, is_manifest in _ours(directory)):
        return
    aside = directory.with_name(f"{directory.name}.old")
    for n in itertools.count(2):
        if aside.is_dir():
            _remove(file for file, _, _ in _ours(aside))
            with contextlib.suppress(OSError):  # what else is in it stays, and it too
                aside.rmdir()
        if not os.path.lexists(aside):
            break
        aside = directory.with_name(f"{directory.name}.old{n}")
    ours = {file.name for file, _, _ in _named(directory)}
    directory.rename(aside)
    directory.mkdir()
    for other in list(aside.iterdir()):
        if other.name not in ours:
            other.rename(directory / other.name)
    _log.warning("the checkpoints in %s are now in %s: this run starts over", directory, aside)


def _named(directory: Path) -> Iterator[tuple[Path, int, re.Match[str]]]:
    """The files that are called as those of checkpoints, with their numbers."""
    for file in list(directory.iterdir()):
        match = _OURS.fullmatch(file.name)
        if match and file.is_file():
            yield file, int(match[1]), match


def _ours(directory: Path) -> Iterator[tuple[Path, int, bool]]:
    """The files of checkpoints, with their numbers, and whether it is the manifest: it has our
    head, or our data.
    """
    named = [(file, number, match[2]) for file, number, match in _named(directory) if not match[3]]
    data = {number for _, number, ending in named if ending != ".json"}
    for file, number, ending in named:
        if ending != ".json" or number in data or _head(file) == HEAD:
            yield file, number, ending == ".json"


def _rubbish(directory: Path) -> Iterator[Path]:
    """What crashes left behind: files that were never renamed, and data without a manifest."""
    good = {number for _, number, is_manifest in _ours(directory) if is_manifest}
    return (
        file
        for file, number, match in _named(directory)
        if match[3] or (number not in good and match[2] != ".json")
    )


def _remove(files: Iterable[Path]) -> None:
    for file in sorted(
        files, key=lambda file: file.suffix != ".json"
    ):  # no manifest without its data
        with contextlib.suppress(FileNotFoundError):
            file.unlink()


def _state(file: Path) -> tuple[int, ...]:
    """What changes when a file is written to; nothing where it is gone."""
    try:
        its = file.stat()
    except OSError:
        return ()
    return its.st_ino, its.st_size, its.st_mtime_ns, its.st_ctime_ns


def _head(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(len(HEAD))


def _write_file(file: Path, pieces: Iterator[Any] | list[bytes]) -> tuple[int, int]:
    """Write the pieces so that `file` is there whole or not at all, also after a power failure; its
    size and CRC.
    """
    draft = file.with_name(file.name + ".tmp")
    size, crc = 0, 0
    try:
        with draft.open("wb") as out:
            for piece in pieces:
                crc = zlib.crc32(piece, crc)
                size += out.write(piece)
        durable_replace(draft, file)
    except OSError as error:
        raise HpckitError(f"cannot write {file}: {error}") from error
    finally:  # whatever ended it, and there is none after a good end
        with contextlib.suppress(OSError):
            draft.unlink()
    return size, crc


def _read_manifest(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise HpckitError(f"cannot read {file}: {error}") from None


def _verify(file: Path, part: Part) -> None:
    """Raise `HpckitError` unless the file has the size and the CRC that it had when it was
    written.
    """
    size, crc = 0, 0
    try:
        with file.open("rb") as data:
            while chunk := data.read(_CHUNK):
                size += len(chunk)
                crc = zlib.crc32(chunk, crc)
    except OSError as error:
        raise HpckitError(f"cannot read {file.name}: {error.strerror}") from None
    if size != part.size:
        raise HpckitError(f"{file.name} has {size} of {part.size} bytes")
    if crc != part.crc32:
        raise HpckitError(f"{file.name} was changed: CRC-32 {crc:08x}, not {part.crc32:08x}")


def _common(mine, other) -> tuple[tuple[slice, ...] | None, tuple[slice, ...]]:
    """The cells that two boxes share, counted within the first and within the second; None if there
    are none.
    """
    start = [max(a, b) for a, b in zip(mine[0], other[0], strict=True)]
    stop = [min(a, b) for a, b in zip(mine[1], other[1], strict=True)]
    if any(a >= b for a, b in zip(start, stop, strict=True)):
        return None, ()
    within = [
        tuple(slice(a - low, b - low) for a, b, low in zip(start, stop, box[0], strict=True))
        for box in (mine, other)
    ]
    return within[0], within[1]
