"""Write a field to a result file: ours, gathered on rank 0, and one file per rank.

`python -m benchmarks.io [--quick] [--json FILE]`: 2 ranks write steps of a 3-D field of doubles,
with `fsync` and into the page cache alone. The limit is what one process reaches by writing the
same bytes in one piece.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._harness import Report, Times, interleaved, main, print_table

PEERS = {
    "gather": "gather + h5py on rank 0",
    "files": "one file per rank",
    "plain": "one process, one write",
}


def run(comm: Any, quick: bool) -> Report:
    """Divided along the first dimension (a block is one piece of the file), or the last (rows)."""
    report = Report("io")
    rows = []
    n = 64 if quick else 192
    for processes in [(comm.size, 1, 1), (1, 1, comm.size)]:
        for synced in (False, True):
            case = f"{n}^3 f8 on {' x '.join(map(str, processes))}" + ", fsync" * synced
            times = _measure(comm, n, processes, synced, seconds=1 if quick else 10)
            rows.append((case, *(8e-9 * n**3 / times[way].best for way in ("mpi", *PEERS))))
            _add(report, case, times)
    if comm.rank == 0:
        print_table(("GB/s", "MPI-IO (ours)", *PEERS.values()), rows, "Writing one step of a field")
    return report


def _add(report: Report, case: str, times: dict[str, Times]) -> None:
    for way in ("gather", "files"):
        target = 1.0 if way == "gather" else None
        limit = times["plain"].best / times["mpi"].best
        report.add(case, PEERS[way], *times["mpi"].ratio(times[way]), target=target, limit=limit)


def _measure(
    comm: Any, n: int, processes: tuple[int, ...], synced: bool, seconds: float
) -> dict[str, Times]:
    from hpckit.comm.grid import Grid
    from hpckit.io.fields import FieldFile

    made = tempfile.mkdtemp(prefix="hpckit-io-", dir=".") if comm.rank == 0 else None
    folder = Path(comm.bcast(made))
    grid = Grid(comm, (n, n, n), process_shape=processes)
    u = grid.zeros()
    u[...] = comm.rank + 1
    files = {
        layout: FieldFile(folder / f"{layout}.vtkhdf", grid, {"u": float}, 1, layout=layout)
        for layout in ("mpi", "files")
    }

    def write(layout: str) -> Callable[[], None]:
        def once() -> None:
            files[layout].write(0, 0.0, "u", u)
            if synced:
                files[layout].sync()

        return once

    gather = _gather(grid, u, folder / "gather.h5", synced)
    plain = _plain(grid, folder / "plain.bin", synced)
    ways = {"mpi": write("mpi"), "files": write("files"), "gather": gather, "plain": plain}
    times = interleaved(ways, seconds=seconds, comm=comm, prepare=lambda _: u.__iadd__(1))
    for file in files.values():
        file.suspend()
    comm.Barrier()
    if comm.rank == 0:
        shutil.rmtree(folder)
    return times


def _gather(grid: Any, u: np.ndarray, path: Path, synced: bool) -> Callable[[], None]:
    """The usual way: all boxes travel to rank 0, which puts them in place and writes with h5py."""
    import h5py

    ends = [zip(*grid.box(rank), strict=True) for rank in range(grid.size)]
    boxes = [tuple(slice(a, b) for a, b in each) for each in ends]
    shapes = [tuple(s.stop - s.start for s in box) for box in boxes]
    dataset: Any = None
    if grid.rank == 0:
        dataset = h5py.File(path, "w").create_dataset("u", grid.shape, float)
    whole = np.empty(grid.shape if grid.rank == 0 else 0)
    buffers = [np.empty(shape) for shape in shapes] if grid.rank == 0 else []

    def once() -> None:
        box = np.ascontiguousarray(u[grid.owned])
        if grid.rank:
            grid.comm.Send(box, 0)
            grid.comm.Barrier()
            return
        buffers[0] = box
        for rank in range(1, grid.size):
            grid.comm.Recv(buffers[rank], rank)
        for where, buffer in zip(boxes, buffers, strict=True):
            whole[where] = buffer
        dataset[...] = whole
        if synced:
            dataset.file.flush()
            os.fsync(dataset.file.id.get_vfd_handle())
        grid.comm.Barrier()

    return once


def _plain(grid: Any, path: Path, synced: bool) -> Callable[[], None]:
    """What the disk or the page cache takes from one process; the other ranks wait."""
    whole = np.ones(grid.shape) if grid.rank == 0 else np.empty(0)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT) if grid.rank == 0 else -1

    def once() -> None:
        if grid.rank == 0:
            os.pwrite(descriptor, whole, 0)
            if synced:
                os.fsync(descriptor)
        grid.comm.Barrier()

    return once


if __name__ == "__main__":
    main("io", run, ranks=2)
