"""Shared memory, as MPI needs it to start: whether it is enough, and what dead jobs left."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from pathlib import Path

from hpckit.log import speaks
from hpckit.units import amount

FOLDER = Path("/dev/shm")
PER_RANK = 16 << 20  # bytes: Open MPI asks for these, and says so where there are fewer
_MPICH = 6 << 20  # bytes per rank, without which it dies and says nothing
_UCX = 24 << 20  # bytes in all: MPICH's UCX crashes with 16 MB
REMEDY = (
    "in a container use docker run --shm-size=1g; else UCX_POSIX_DIR=/tmp (MPICH) or"
    " OMPI_MCA_btl_sm_backing_directory=/tmp (Open MPI) moves it"
)
_NAMES = (
    "mpich_",
    "ucx_shm_posix_",
    "sm_segment.",
    "vader_segment.",
    "osc_sm.",
    "osc_rdma.",
    "hpckit-",
)


def free() -> int:
    """Bytes that can be used; 0 where there is no such folder or it is read-only."""
    with contextlib.suppress(OSError):
        if os.access(FOLDER, os.W_OK):
            return shutil.disk_usage(FOLDER).free
    return 0


def trouble(ranks: int, room: int) -> str | None:
    """What so many ranks on a node will meet with this room; None where it is enough."""
    if room >= ranks * PER_RANK:
        return None
    found = f"has {amount(room)} free" if room else "is missing, full or read-only"
    return (
        f"{FOLDER} {found}, too little for MPI on {ranks} rank{'s' * (ranks > 1)}, which may "
        f"die of it: {REMEDY}"
    )


def warn(program: str, ranks: int) -> None:
    """Before MPI starts: tell of what may be the end of it."""
    if (
        speaks()
        and "OMPI_COMM_WORLD_SIZE" not in os.environ
        and (room := free()) < max(_UCX, ranks * _MPICH)
    ):
        print(f"{program}: {trouble(max(ranks, 2), room)}", file=sys.stderr, flush=True)


def left() -> list[Path]:
    """Segments of ours that no process maps: of MPI jobs that were killed."""
    mine = []
    with contextlib.suppress(OSError):
        mine = [
            path
            for path in sorted(FOLDER.iterdir())
            if path.name.startswith(_NAMES) and _ours(path)
        ]
    used = _mapped() if mine else ""
    return [path for path in mine if f" {path}\n" not in used]


def _ours(path: Path) -> bool:
    with contextlib.suppress(OSError):  # it may be gone by now
        return path.lstat().st_uid == os.geteuid()
    return False


def _mapped() -> str:
    """The memory maps of all processes that we may look at, ours among them."""
    texts = []
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            texts.append(maps.read_text(errors="replace"))
    return "".join(texts)
