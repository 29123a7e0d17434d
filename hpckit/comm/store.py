"""Measurements of this machine, kept from run to run: one JSON file per machine and kind of measurement."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpckit import native


def mpi_library() -> str:
    """Name and version of the MPI library: `MPICH 5.0.2`."""
    from mpi4py import MPI  # not before a program asks: importing it starts MPI

    name, numbers = MPI.get_vendor()
    return f"{name} {'.'.join(map(str, numbers))}"


def read(kind: str, machine: Mapping[str, Any]) -> Any:
    """What was kept for this machine; None where there is nothing, or it is damaged."""
    path = _path(kind, machine)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads(path.read_text()) if path else {}
        if found["machine"] == machine:
            return found["content"]
    return None


def newest(kind: str) -> list[tuple[dict[str, Any], Any]]:
    """All that was kept of this kind, for any machine, the newest first."""
    found = []
    with contextlib.suppress(OSError):
        files = native.cache_directory().glob(f"{kind}-*.json")
        for path in sorted(files, key=lambda path: path.stat().st_mtime, reverse=True):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                each = json.loads(path.read_text())
                found.append((dict(each["machine"]), each["content"]))
    return found


def write(kind: str, machine: Mapping[str, Any], content: Any) -> Path | None:
    """Keep it, all or nothing; a folder that cannot be written only means measuring again: then None."""
    path = _path(kind, machine)
    if path:
        with contextlib.suppress(OSError), tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump({"machine": machine, "content": content}, file, indent=1)
            file.close()
            return Path(file.name).replace(path)
    return None


def _path(kind: str, machine: Mapping[str, Any]) -> Path | None:
    key = hashlib.sha256(json.dumps(machine, sort_keys=True).encode()).hexdigest()[:16]
    with contextlib.suppress(OSError):
        return native.cache_directory() / f"{kind}-{key}.json"
    return None
