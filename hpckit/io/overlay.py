"""Change an HDF5 file so that a full disk cannot end the process by a fault within HDF5."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import h5py

_PAGE = 1 << 16  # bytes
_PIECE = 1 << 24  # bytes that are copied at once


@contextlib.contextmanager
def changed(path: Path, mode: Literal["w", "r+"], **options: Any) -> Iterator[h5py.File]:
    """An HDF5 file to make or to change; it reaches the disk at the end, if all went well.

    It is held in memory until then: for the structure of a file, not for large data. Raises
    `OSError` where the disk is full.
    """
    import h5py

    create = os.O_CREAT | os.O_TRUNC if mode == "w" else 0
    descriptor = os.open(path, os.O_RDWR | create, 0o666)
    try:
        overlay: Any = _Overlay(descriptor)
        with h5py.File(overlay, mode, **options) as file:
            yield file
        overlay.apply()
    finally:
        os.close(descriptor)


def copy(source: int, start: int, target: int, to: int, nbytes: int) -> None:
    """Copy bytes from one place to another of open files; raises `OSError`."""
    for at in range(0, nbytes, _PIECE):
        piece = os.pread(source, min(_PIECE, nbytes - at), start + at)
        write(target, piece, to + at)


def write(descriptor: int, data: bytes | bytearray, at: int) -> None:
    """Write all the bytes; raises `OSError`."""
    view = memoryview(data)
    while view:
        done = os.pwrite(descriptor, view, at)
        view, at = view[done:], at + done


class _Overlay:
    """What h5py needs of a file: reads go through to the file, writes stay in memory, in pages."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._before = self._size = os.fstat(descriptor).st_size
        self._pages: dict[int, bytearray] = {}
        self._at = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, length: int = -1) -> bytes:
        target = bytearray(max(0, self._size - self._at) if length < 0 else length)
        return bytes(target[: self.readinto(target)])

    def readinto(self, target: Any) -> int:
        view = memoryview(target).cast("B")
        length = max(0, min(len(view), self._size - self._at))
        for number, low, high, at in self._parts(length):
            page = self._pages.get(number)
            view[at : at + high - low] = (page or self._read(number))[low:high]
        self._at += length
        return length

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        for number, low, high, at in self._parts(len(view)):
            if number not in self._pages:
                self._pages[number] = self._read(number)
            self._pages[number][low:high] = view[at : at + high - low]
        self._at += len(view)
        self._size = max(self._size, self._at)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        self._size = self._at if size is None else size
        return self._size

    def flush(self) -> None:
        """Nothing: see `apply`."""

    def apply(self) -> None:
        """Write what was changed: first what needs room on the disk."""
        os.ftruncate(self._descriptor, self._size)
        for number, page in sorted(
            self._pages.items(), key=lambda item: (item[0] * _PAGE < self._before, item[0])
        ):
            start = number * _PAGE
            write(self._descriptor, page[: max(0, self._size - start)], start)

    def _parts(self, length: int) -> Iterator[tuple[int, int, int, int]]:
        """The pages the next bytes lie in: number, start and stop there, start in those bytes."""
        at = 0
        while at < length:
            number, low = divmod(self._at + at, _PAGE)
            high = min(_PAGE, low + length - at)
            yield number, low, high, at
            at += high - low

    def _read(self, number: int) -> bytearray:
        return bytearray(os.pread(self._descriptor, _PAGE, number * _PAGE).ljust(_PAGE, b"\0"))
