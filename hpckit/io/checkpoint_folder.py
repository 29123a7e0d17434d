"""The files of checkpoints in their folder: `checkpoint-000007.json` is the manifest of number 7,
`checkpoint-000007.00003.bin` what rank 3 saved. One process at a time, no communication.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hpckit.errors import ConfigError, HpckitError
from hpckit.files import replacing
from hpckit.io.manifest import HEAD, Manifest, Part

_OURS = re.compile(r"checkpoint-(\d{6,})(\.json|\.\d{5,}\.bin)(\.tmp)?", re.ASCII)
_CHUNK = 1 << 24  # bytes read at once to check a file
_log = logging.getLogger(__name__)


def manifest_file(directory: Path, number: int) -> Path:
    return directory / f"checkpoint-{number:06}.json"


def data_file(directory: Path, number: int, rank: int) -> Path:
    return directory / f"checkpoint-{number:06}.{rank:05}.bin"


def make_folder(directory: Path) -> None:
    """Raises `ConfigError` where nothing can be written to it."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / "checkpoint-000000.json.tmp"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"cannot write checkpoints to {directory}: {error}") from None


def set_aside(directory: Path) -> None:
    """Move a folder's checkpoints to the one beside it with ".old" to its name, in one step.

    Those that were set aside before go; what is not a checkpoint stays where it is. Warns, unless
    the newest one says by `extra["finished"]` that there is nothing to go on with.
    """
    directory = Path(os.path.realpath(directory))  # a link stays one
    if not directory.is_dir() or not any(is_manifest for _, _, is_manifest in ours(directory)):
        return
    aside = directory.with_name(f"{directory.name}.old")
    for n in itertools.count(2):
        if aside.is_dir():
            remove(file for file, _, _ in ours(aside))
            with contextlib.suppress(OSError):  # what else is in it stays, and it too
                aside.rmdir()
        if not os.path.lexists(aside):
            break
        aside = directory.with_name(f"{directory.name}.old{n}")
    names = {file.name for file, _, _ in _named(directory)}
    level = logging.INFO if _is_finished(directory) else logging.WARNING
    directory.rename(aside)
    directory.mkdir()
    for other in list(aside.iterdir()):
        if other.name not in names:
            other.rename(directory / other.name)
    _log.log(level, "the checkpoints in %s are now in %s: this run starts over", directory, aside)


def _is_finished(directory: Path) -> bool:
    """Whether the newest checkpoint says so."""
    newest = manifest_file(directory, max(saved(directory)))
    with contextlib.suppress(HpckitError):
        return Manifest.from_json(read_manifest(newest)).extra.get("finished") is True
    return False


def saved(directory: Path) -> set[int]:
    """The numbers of the checkpoints that are there, good or bad."""
    return {number for _, number, is_manifest in ours(directory) if is_manifest}


def next_number(directory: Path) -> int:
    """One that no file in the folder has, whosever it is."""
    return max((number for _, number, _ in _named(directory)), default=0) + 1


def ours(directory: Path) -> Iterator[tuple[Path, int, bool]]:
    """The files of checkpoints, their numbers, and whether each is a manifest."""
    named = [(file, number, match[2]) for file, number, match in _named(directory) if not match[3]]
    data = {number for _, number, ending in named if ending != ".json"}
    for file, number, ending in named:
        if ending != ".json" or number in data or _head(file) == HEAD:
            yield file, number, ending == ".json"


def rubbish(directory: Path) -> Iterator[Path]:
    """What crashes left behind: files that were never renamed, and data without a manifest."""
    good = saved(directory)
    return (
        file
        for file, number, match in _named(directory)
        if match[3] or (number not in good and match[2] != ".json")
    )


def remove(files: Iterable[Path]) -> None:
    """Manifests first: there is none without its data, whenever this is interrupted."""
    for file in sorted(files, key=lambda file: file.suffix != ".json"):
        with contextlib.suppress(FileNotFoundError):
            file.unlink()


def state(file: Path) -> tuple[int, ...]:
    """What changes when a file is written to; nothing where it is gone."""
    try:
        its = file.stat()
    except OSError:
        return ()
    return its.st_ino, its.st_size, its.st_mtime_ns, its.st_ctime_ns


def write_file(file: Path, pieces: Iterable[Any]) -> tuple[int, int]:
    """Write the pieces so that `file` is there whole or not at all; its size and its CRC-32.

    Raises `HpckitError`.
    """
    size, crc = 0, 0
    try:
        with replacing(file) as draft, draft.open("wb") as out:
            for piece in pieces:
                crc = zlib.crc32(piece, crc)
                size += out.write(piece)
    except OSError as error:
        raise HpckitError(f"cannot write {file}: {error}") from error
    return size, crc


def read_manifest(file: Path) -> bytes:
    """Raises `HpckitError`."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise HpckitError(f"cannot read {file}: {error}") from None


def verify(file: Path, part: Part) -> None:
    """Raise `HpckitError` unless the file has the size and the CRC that it was written with."""
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


def _named(directory: Path) -> Iterator[tuple[Path, int, re.Match[str]]]:
    """The files that are called as those of checkpoints, with their numbers."""
    for file in list(directory.iterdir()):
        match = _OURS.fullmatch(file.name)
        if match and file.is_file():
            yield file, int(match[1]), match


def _head(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(len(HEAD))
