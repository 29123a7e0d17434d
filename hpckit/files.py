"""Files that are there whole or not at all, whenever the process is killed or the power fails."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A name beside `path` to write to; at the end of the block it is synced and becomes `path`.

    ::

        with replacing("table.json") as draft:
            draft.write_text(text)

    Until then `path` is what it was, and where the block fails it stays so, and the draft goes.
    Raises `OSError` where the disk does not take it.
    """
    path = Path(path)
    draft = path.with_name(f"{path.name}.tmp")
    try:
        yield draft
        durable_replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


def durable_replace(source: Path, target: Path) -> None:
    """Sync `source`, rename it to `target`, and sync the folder: the name survives a power failure.

    The order matters: a name that reaches the disk before its data would be an empty file.
    """
    sync(source, os.O_RDWR)
    source.replace(target)
    sync(target.parent)


def sync(path: Path, flags: int = os.O_RDONLY) -> None:
    """Have the disk hold what was written to this file, or the names in this folder."""
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
