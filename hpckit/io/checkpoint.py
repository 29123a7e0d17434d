"""Checkpoints that survive a crash at any moment and can be read on any number of ranks; see docs/io.md."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from operator import index
from pathlib import Path
from typing import Any

import numpy as np

from hpckit.comm.grid import Grid
from hpckit.comm.partition import block
from hpckit.errors import ConfigError, HpckitError, together
from hpckit.io.box import Extra, field_box, staggering
from hpckit.io.manifest import Field, Manifest, Part, describe, json_text
from hpckit.io.vtkhdf import durable_replace

_OURS = re.compile(r"checkpoint-(\d{6,})(\.json|\.\d{5,}\.bin)(\.tmp)?")
_CHUNK = 1 << 24  # bytes read at once to check a file
_log = logging.getLogger(__name__)


class Checkpoint:
    """Checkpoints in one folder, which is made if need be; collective in every method.

    A checkpoint is one file of raw values per rank, and a JSON manifest that is written last, when all files are on
    the disk. The newest `keep` are kept; an older one goes when the new one is complete.
    """

    def __init__(self, directory: str | os.PathLike[str], grid: Grid, keep: int = 2) -> None:
        self.directory, self._grid, self._comm, self._keep = Path(directory), grid, grid.comm, keep
        with together(self._comm):
            if keep < 1:
                raise ConfigError(f"keep {keep}: at least one checkpoint must be kept")
            if grid.rank == 0:
                _make_folder(self.directory)

    def exists(self) -> bool:
        """Whether there is any checkpoint, good or bad."""
        return self._comm.bcast(self._grid.rank == 0 and bool(_numbers(self.directory, ".json")))

    def save(self, step: int, time: float, fields: Mapping[str, np.ndarray], extra: Mapping[str, Any]) -> None:
        """Save the owned cells of `fields` (arrays with ghosts); `step`, `time` and `extra` (JSON) are rank 0's.

        Raises `ConfigError` for what cannot be saved and `HpckitError` when writing fails: the checkpoints that were
        there are still good then.
        """
        staggered = staggering(self._grid, fields)
        text, number = "", 0
        with together(self._comm):
            text = json_text({"step": index(step), "time": float(time), "extra": dict(extra)})
            if self._grid.rank == 0:
                self._clean()
                number = max(_numbers(self.directory), default=0) + 1
        number = self._comm.bcast(number)
        part = Part(*field_box(self._grid, self._grid.rank, (0,) * self._grid.ndim), 0, 0)
        with together(self._comm):
            part = self._write_part(number, part, fields)
        parts = self._comm.gather(part)
        with together(self._comm):
            if parts is not None:
                records = [Field(k, describe(v.dtype), staggered[k]) for k, v in fields.items()]
                manifest = Manifest(**json.loads(text), shape=self._grid.shape, fields=records, parts=parts)
                _write_file(self.directory / f"checkpoint-{number:06}.json", [manifest.to_json()])
                self._clean()

    def load(self, fields: Mapping[str, np.ndarray]) -> tuple[int, float, dict[str, Any]]:
        """Fill the owned cells of `fields` from the newest good checkpoint; returns step, time and extra.

        A checkpoint that is damaged is passed over with a warning. Raises `HpckitError` when none is good, and
        `ConfigError` when it holds another grid or other fields.
        """
        staggered = staggering(self._grid, fields)
        numbers = self._comm.bcast(_numbers(self.directory, ".json") if self._grid.rank == 0 else None)
        failures = []
        for number in sorted(numbers, reverse=True):
            try:
                manifest = self._verified(number)
            except HpckitError as error:
                failures.append(f"checkpoint-{number:06}: {error}")
                if self._grid.rank == 0:
                    _log.warning(
                        "%s/checkpoint-%06d is damaged, trying the one before: %s", self.directory, number, error
                    )
                continue
            with together(self._comm):
                self._read(number, manifest, fields, staggered)
            return manifest.step, manifest.time, manifest.extra
        found = "; ".join(failures) or "there is none"
        raise HpckitError(f"no good checkpoint in {self.directory}: {found}")

    def _write_part(self, number: int, part: Part, fields: Mapping[str, np.ndarray]) -> Part:
        pieces = (np.ascontiguousarray(array[self._grid.owned]).reshape(-1).view(np.uint8) for array in fields.values())
        size, crc = _write_file(self._file(number, self._grid.rank), pieces)
        return Part(part.start, part.stop, size, crc)

    def _clean(self) -> None:
        """Remove older checkpoints, and what crashes left behind."""
        kept = set(sorted(_numbers(self.directory, ".json"))[-self._keep :])
        files = [file for file in self.directory.iterdir() if (m := _OURS.fullmatch(file.name)) and _stale(m, kept)]
        for file in sorted(files, key=lambda file: file.suffix != ".json"):  # no manifest without its data
            with contextlib.suppress(FileNotFoundError):
                file.unlink()

    def _verified(self, number: int) -> Manifest:
        """The manifest, once the ranks together have read every file of the checkpoint and found it whole."""
        manifest = None
        with together(self._comm):
            if self._grid.rank == 0:
                manifest = Manifest.from_json(_read_manifest(self.directory / f"checkpoint-{number:06}.json"))
        manifest = self._comm.bcast(manifest)
        with together(self._comm):
            for rank in range(*block(len(manifest.parts), self._grid.size, self._grid.rank)):
                _verify(self._file(number, rank), manifest.parts[rank])
        return manifest

    def _read(
        self, number: int, manifest: Manifest, fields: Mapping[str, np.ndarray], staggered: Mapping[str, Extra]
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


def _numbers(directory: Path, ending: str = "") -> set[int]:
    """The numbers of the files of checkpoints that are there: all of them, or those with this ending."""
    names = (file.name for file in directory.iterdir() if file.name.endswith(ending))
    return {int(match[1]) for name in names if (match := _OURS.fullmatch(name))}


def _stale(match: re.Match[str], kept: set[int]) -> bool:
    return match[3] is not None or int(match[1]) not in kept


def _write_file(file: Path, pieces: Iterator[Any] | list[bytes]) -> tuple[int, int]:
    """Write the pieces so that `file` is there whole or not at all, also after a power failure; its size and CRC."""
    draft = file.with_name(file.name + ".tmp")
    size, crc = 0, 0
    try:
        with draft.open("wb") as out:
            for piece in pieces:
                crc = zlib.crc32(piece, crc)
                size += out.write(piece)
        durable_replace(draft, file)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise HpckitError(f"cannot write {file}: {error}") from error
    return size, crc


def _read_manifest(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise HpckitError(f"cannot read {file}: {error}") from None


def _verify(file: Path, part: Part) -> None:
    """Raise `HpckitError` unless the file has the size and the CRC that it had when it was written."""
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
    """The cells that two boxes share, counted within the first and within the second; None if there are none."""
    start = [max(a, b) for a, b in zip(mine[0], other[0], strict=True)]
    stop = [min(a, b) for a, b in zip(mine[1], other[1], strict=True)]
    if any(a >= b for a, b in zip(start, stop, strict=True)):
        return None, ()
    within = [
        tuple(slice(a - low, b - low) for a, b, low in zip(start, stop, box[0], strict=True)) for box in (mine, other)
    ]
    return within[0], within[1]
