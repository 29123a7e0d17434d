"""Files that may be lost: written whole or not at all, believed only where they are ours.

Nothing here waits for a lock of a file system, and whoever is killed leaves at most a folder
`build-...` that the next one removes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import platform
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from hpckit.files import sync
from hpckit.log import get_logger, speaks

_LARGEST = 1 << 26  # bytes: whatever is larger is none of ours
_ROOM = 1 << 20  # bytes without which a file system counts as full
_refused: set[Path] = set()  # folders of which a warning was given


def places() -> Iterator[Path]:
    """Folders to keep files in, the preferred one first, each made if need be.

    That is `HPCKIT_CACHE`, else `XDG_CACHE_HOME/hpckit`, else `~/.cache/hpckit`; where it is
    read-only or full, one of ours among the temporary files follows. Folders that others own or can
    write to are left out, with one warning.
    """
    for folder in _wanted():
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            if not _trusted(folder.stat()):
                _refuse(folder)
                continue
            yield folder
            if _writable(folder):
                return


def home() -> Path | None:
    """The one of the `places` that can be written; None where there is none."""
    return next(filter(_writable, places()), None)


def read(path: Path) -> bytes | None:
    """What is in it; None where it is no regular file that only we, or root, can have written."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if stat.S_ISREG(status.st_mode) and _trusted(status) and status.st_size <= _LARGEST:
                return file.read(_LARGEST)
    return None


def write(path: Path, content: bytes) -> None:
    """Replace it by this, all or nothing, after power failures too. Raises `OSError`."""
    with scratch(path.parent) as folder:
        draft = folder / "draft"
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "wb") as file:
            file.write(content)
        sync(draft, os.O_RDWR)
        draft.replace(path)  # the folder is not synced: what is here may be lost, but not cut short


def digest(name: str, content: bytes) -> bytes:
    """32 bytes that belong to this content under this name, and to no other."""
    return hashlib.sha256(name.encode() + b"\0" + content).digest()


@contextlib.contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """An empty folder within `folder`, gone afterwards, as is what killed processes here left."""
    prefix = f"build-{platform.node()}-"
    for left in [entry for entry in os.scandir(folder) if entry.name.startswith(prefix)]:
        with Turn(left.path) as turn:
            if turn.taken():
                shutil.rmtree(left.path, ignore_errors=True)
    mine = folder / f"{prefix}{os.getpid()}-{time.monotonic_ns()}"
    with Turn(str(mine)) as turn:
        turn.taken()  # says that we live
        mine.mkdir(mode=0o700)
        try:
            yield mine
        finally:
            shutil.rmtree(mine, ignore_errors=True)


class Turn:
    """A name that one process of this host can take at a time, until the block or the process ends.

    It is that of a socket without a file: nothing is left behind, and no file server has a part in
    it.
    """

    def __init__(self, name: str) -> None:
        import socket

        digest = hashlib.sha256(f"{os.geteuid()} {name}".encode()).hexdigest()
        self._address = f"\0hpckit-{digest[:32]}"
        self._socket = socket.socket(socket.AF_UNIX)
        self._taken = False

    def taken(self) -> bool:
        """Whether it is ours, from now on if it was nobody's; True where no names are."""
        if not self._taken:
            try:
                self._socket.bind(self._address)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return False
            self._taken = True
        return True

    def __enter__(self) -> Turn:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def _wanted() -> Iterator[Path]:
    named = os.environ.get("HPCKIT_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if named:
        yield Path(named).absolute()
    elif base.is_absolute():
        yield base / "hpckit"
    else:
        with contextlib.suppress(RuntimeError):  # nobody's process, in many containers
            user = Path(os.environ.get("HOME", "~")).expanduser()
            if user.is_absolute() and user.is_dir():
                yield user / ".cache" / "hpckit"
    with contextlib.suppress(OSError):  # there may be no folder for temporary files
        temporary = Path(tempfile.gettempdir(), f"hpckit-{os.geteuid()}")
        if not temporary.is_symlink():  # anybody may have made it
            yield temporary


def _writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK) and shutil.disk_usage(folder).free >= _ROOM


def _trusted(status: os.stat_result) -> bool:
    """Whether only we, or root, who could do anything anyway, can have written there."""
    return status.st_uid in (os.geteuid(), 0) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _refuse(folder: Path) -> None:
    if folder not in _refused and speaks():
        _refused.add(folder)
        get_logger(__name__).warning(
            "%s belongs to another user or can be written by others: nothing in it is used or kept;"
            " make it yours alone (chown, chmod go-w), or set HPCKIT_CACHE to another folder",
            folder,
        )
