"""Measurements of this machine, kept from run to run: one JSON file per machine and kind."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpckit import cache


def mpi_library() -> str:
    """Name and version of the MPI library: `MPICH 5.0.2`."""
    from mpi4py import MPI  # not before a program asks: importing it starts MPI

    name, numbers = MPI.get_vendor()
    return f"{name} {'.'.join(map(str, numbers))}"


def read(kind: str, machine: Mapping[str, Any]) -> Any:
    """What was kept for this machine; None where there is nothing, or it is damaged."""
    path = _path(kind, machine)
    found, content = (path and _whole(kind, path)) or (None, None)
    return content if found == machine else None


def newest(kind: str) -> list[tuple[dict[str, Any], Any]]:
    """Machine and content of all that is kept of this kind, undamaged, the newest first."""
    files: list[Path] = []
    with contextlib.suppress(OSError):
        folder = cache.home()
        files = sorted(
            folder.glob(f"{kind}-*.json") if folder else [], key=lambda path: -path.stat().st_mtime
        )
    return [whole for path in files if (whole := _whole(kind, path))]


def write(kind: str, machine: Mapping[str, Any], content: Any) -> None:
    """Keep it, all or nothing; a folder that cannot be written only means measuring again."""
    path = _path(kind, machine)
    if path:
        content = json.loads(json.dumps(content))  # as it will be read: with names for keys
        whole = {"machine": machine, "content": content, "check": _check(kind, machine, content)}
        with contextlib.suppress(OSError):
            cache.write(path, json.dumps(whole, indent=1).encode())


def _whole(kind: str, path: Path) -> tuple[dict[str, Any], Any] | None:
    with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
        found = json.loads(cache.read(path) or b"{}")
        if found["check"] == _check(kind, found["machine"], found["content"]):
            return found["machine"], found["content"]
    return None


def _check(kind: str, machine: Mapping[str, Any], content: Any) -> str:
    return cache.digest(kind, json.dumps([machine, content], sort_keys=True).encode()).hex()


def _path(kind: str, machine: Mapping[str, Any]) -> Path | None:
    key = hashlib.sha256(json.dumps(machine, sort_keys=True).encode()).hexdigest()[:16]
    folder = cache.home()
    return folder and folder / f"{kind}-{key}.json"
