"""Packing and unpacking a block's faces on one rank: ours, memcpy, MPI_Pack and NumPy.

Warm: each way packs the same face again. memcpy is the limit: one copy of as many contiguous bytes.
Our kernels run as a halo runs them, planned once (`Moves`); `Packer` is the same with checks and
look-up in each call.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from benchmarks._harness import Report, Times, geomean, interleaved, main, print_table
from hpckit import native
from hpckit.comm.pack import Move, Moves, Packer, dense_strides
from hpckit.comm.strided import from_slice

KINDS = {
    "rows": "rows of 256 bytes and more",
    "wide": "4-cell unit-stride faces",
    "thin": "1-cell unit-stride faces",
    "wide pair": "both 4-cell unit-stride faces",
    "thin pair": "both 1-cell unit-stride faces",
}
PEERS = {"memcpy": "memcpy", "mpi": "MPI_Pack/Unpack", "numpy": "numpy.copyto", "packer": "Packer"}


@dataclass(frozen=True)
class Case:
    """Faces of a block of n³ float64 cells with ghosts: one, or the two opposite ones at once."""

    n: int
    width: int
    axis: int
    pair: bool = False

    @property
    def kind(self) -> str:
        if self.axis < 2:
            return "rows"
        return ("wide" if self.width > 1 else "thin") + (" pair" if self.pair else "")

    @property
    def nbytes(self) -> int:
        return 8 * self.n**2 * self.width * (1 + self.pair)

    def faces(self) -> list[tuple[slice, ...]]:
        w, n = self.width, self.n
        inner = [slice(w, w + n)] * 3
        starts = (w, n) if self.pair else (w,)
        return [(*inner[: self.axis], slice(s, s + w), *inner[self.axis + 1 :]) for s in starts]

    def __str__(self) -> str:
        return f"{self.n}^3, width {self.width}, axis {self.axis}{', both faces' * self.pair}"


def ways(case: Case, unpack: bool) -> dict[str, Callable[[], object]]:
    """The ways to pack, or to unpack, all bound to the same array and buffer."""
    from mpi4py import MPI

    array = np.random.default_rng(0).random((case.n + 2 * case.width,) * 3)
    packed = np.zeros(case.nbytes // 8)
    faces = case.faces()
    views = [array[face] for face in faces]
    pieces = np.split(packed, len(views))
    parts = [piece.reshape(view.shape) for piece, view in zip(pieces, views, strict=True)]
    types = [
        MPI.DOUBLE.Create_subarray(array.shape, view.shape, [s.start for s in face]).Commit()
        for face, view in zip(faces, views, strict=True)
    ]
    packer = Packer(*types)
    whole = [array] * len(types)
    targets, sources = (views, parts) if unpack else (parts, views)
    pairs = list(zip(targets, sources, strict=True))
    memory = [(ctypes.c_char * case.nbytes).from_buffer(a) for a in (np.zeros_like(packed), packed)]

    def mpi_pack() -> None:
        position = 0
        for datatype in types:
            position = datatype.Pack(array, packed, position, MPI.COMM_SELF)

    def mpi_unpack() -> None:
        position = 0
        for datatype in types:
            position = datatype.Unpack(packed, position, array, MPI.COMM_SELF)

    def numpy_copy() -> None:
        for target, source in pairs:
            np.copyto(target, source)

    checked = (
        partial(packer.unpack, packed, *whole)
        if unpack
        else partial(packer.pack, *whole, out=packed)
    )
    return {
        "hpckit": _moves(array, faces, packed, unpack),
        "memcpy": partial(ctypes.memmove, *memory, case.nbytes),
        "mpi": mpi_unpack if unpack else mpi_pack,
        "numpy": numpy_copy,
        "packer": checked,
    }


def _moves(
    array: np.ndarray, faces: Sequence[tuple[slice, ...]], packed: np.ndarray, unpack: bool
) -> Callable:
    moves, end = [], native.address(packed)
    for block in (from_slice(array, face) for face in faces):
        strided = native.address(array) + block.start, block.strides
        dense = end, dense_strides(block.counts, block.row)
        source, target = (dense, strided) if unpack else (strided, dense)
        moves.append(Move(block.counts, block.row, *source, *target))
        end += block.nbytes
    return Moves(moves).run


def check(case: Case, unpack: bool, found: dict[str, Callable[[], object]]) -> None:
    """Ours moves the bytes that MPI moves; `packer` shows which arrays they all are bound to."""
    bound: Any = found["packer"]
    packed = bound.args[0] if unpack else bound.keywords["out"]
    array = bound.args[-1]
    results = []
    for name in ("hpckit", "mpi", "packer"):
        packed[:] = np.arange(packed.size) if unpack else -1.0
        found[name]()
        results.append([packed.copy(), *(array[face].copy() for face in case.faces())])
        if unpack:
            array[...] = 0.0
    pairs = [pair for other in results[1:] for pair in zip(results[0], other, strict=True)]
    if not all(np.array_equal(a, b) for a, b in pairs):
        raise RuntimeError(f"wrong bytes {'unpacked' if unpack else 'packed'}: {case}")


def sweep(quick: bool) -> Iterator[Case]:
    sizes = (64,) if quick else (64, 128, 256)
    for n, width, axis in itertools.product(sizes, (1, 4), (0, 1, 2)):
        yield Case(n, width, axis)
    for n, width in itertools.product(sizes, (1, 4)):
        yield Case(n, width, 2, pair=True)


def run(comm: Any, quick: bool) -> Report:
    from mpi4py import MPI

    del comm
    report = Report("pack")
    mpich = "Open MPI" not in MPI.Get_library_version()
    for unpack in (False, True):
        verb = "unpack" if unpack else "pack"
        cells: dict[Case, dict[str, Times]] = {}
        for case in sweep(quick):
            found = ways(case, unpack)
            check(case, unpack, found)
            calls = max(1, 2**18 // case.nbytes)
            cells[case] = interleaved(found, seconds=0.1 if quick else 1.0, calls=calls)
        rows = []
        for case, times in cells.items():
            rows.append((str(case), case.nbytes, *(t.best * 1e6 for t in times.values())))
        head = (f"{verb}, us, smallest of the repeats", "bytes", "hpckit", *PEERS.values())
        print_table(head, rows)
        summarise(report, verb, cells, {} if unpack else _targets(mpich))
    return report


def _targets(mpich: bool) -> dict[tuple[str, str], float]:
    """What packing must reach, by kind of face and peer."""
    against_mpi = dict.fromkeys(KINDS, 0.95)
    if mpich:
        against_mpi = {"rows": 1.6, "wide": 1.8, "wide pair": 1.8, "thin pair": 1.8}
    targets = {(kind, "mpi"): target for kind, target in against_mpi.items()}
    return {("rows", "memcpy"): 0.95} | targets


def summarise(
    report: Report, verb: str, cells: dict[Case, dict[str, Times]], targets: dict
) -> None:
    """Geometric means by kind of face; `limit` is the fraction of memcpy's speed."""
    for case, times in cells.items():
        limit = times["memcpy"].best / times["hpckit"].best
        for key, peer in PEERS.items():
            report.add(f"{verb} {case}", peer, *times["hpckit"].ratio(times[key]), limit=limit)
    for kind, key in itertools.product(KINDS, PEERS):
        ratios = [t[key].best / t["hpckit"].best for case, t in cells.items() if case.kind == kind]
        target = targets.get((kind, key))
        mean, low, high = geomean(ratios), min(ratios), max(ratios)
        report.add(f"{verb} {KINDS[kind]}, mean", PEERS[key], mean, low, high, target)


if __name__ == "__main__":
    main("pack", run)
