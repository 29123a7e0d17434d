"""Halo exchange between two ranks: every way of hpckit, and what people use instead.

Each cell of the sweep is a block of n³ float64 cells per rank with `width` ghost cells around,
exchanged periodically along one axis, so that a rank sends two faces and receives two. Before each
timed exchange the owner rewrites its faces, as a solver does (otherwise the receiver finds last
time's values in its cache). Each way's result is checked.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks._harness import Report, Times, geomean, interleaved, main, print_table
from hpckit.comm.grid import Grid
from hpckit.halo import Halo

AXES = (0, 1, 2)
WAYS = ("datatype", "packed", "neighbor", "shared")  # the fixed ones
WINDOW = ("direct", "shared, window", "auto, window")  # fields in the node's shared memory
PEERS = {"numpy": "NumPy slices + Isend/Irecv", "buffer": "one NumPy buffer, persistent requests"}
PEERS |= {"types": "persistent derived types", "struct": "one persistent struct type"}
PEERS |= {"ghex": "GHEX", "petsc": "PETSc globalToLocal", "petsc-in": "PETSc localToLocal"}


@dataclass(frozen=True)
class Case:
    """One cell of the sweep."""

    fields: int
    n: int
    width: int
    axis: int

    def __str__(self) -> str:
        return f"{self.fields} x {self.n}^3, width {self.width}, axis {self.axis}"

    def along(self, value: Any, other: Any) -> tuple:
        """One entry per dimension: `value` along the exchanged axis, `other` elsewhere."""
        return tuple(value if axis == self.axis else other for axis in AXES)

    def cut(self, array: np.ndarray, start: int, inner: slice) -> np.ndarray:
        """`width` layers of cells from `start` along the axis, `inner` along the others."""
        return array[self.along(slice(start, start + self.width), inner)]

    def faces(self, array: np.ndarray) -> list[np.ndarray]:
        """The lowest and the highest owned layers of a local array with ghosts on all sides."""
        w, n = self.width, self.n
        return [self.cut(array, start, slice(w, w + n)) for start in (w, n)]

    def ghosts(self, array: np.ndarray) -> list[np.ndarray]:
        """Where the other rank's `faces` go, in the same order: the high ghosts, then the low."""
        w, n = self.width, self.n
        return [self.cut(array, start, slice(w, w + n)) for start in (w + n, 0)]


@dataclass(frozen=True)
class Way:
    """One way: `exchange()` fills `ghosts[i]` with what the other rank has in its `faces[i]`."""

    exchange: Callable[[], object]
    faces: Sequence[np.ndarray]
    ghosts: Sequence[np.ndarray]
    close: Callable[[], object] = lambda: None


# -- peers


def numpy_slices(comm: Any, case: Case, fields: Sequence[np.ndarray]) -> Way:
    """Copy each face to a buffer, Isend and Irecv, copy to the ghosts: what most codes do."""
    from mpi4py import MPI

    other = 1 - comm.rank
    faces, ghosts = _sides(case, fields)
    out, into = ([np.empty(face.shape) for face in faces] for _ in range(2))

    def exchange() -> None:
        requests = [comm.Irecv(buffer, other, tag) for tag, buffer in enumerate(into)]
        for tag, (face, buffer) in enumerate(zip(faces, out, strict=True)):
            np.copyto(buffer, face)
            requests.append(comm.Isend(buffer, other, tag))
        MPI.Request.Waitall(requests)
        for ghost, buffer in zip(ghosts, into, strict=True):
            np.copyto(ghost, buffer)

    return Way(exchange, faces, ghosts)


def one_buffer(comm: Any, case: Case, fields: Sequence[np.ndarray]) -> Way:
    """Copy all faces of all fields to one buffer, one persistent message each way, copy back."""
    from mpi4py import MPI

    faces, ghosts = _sides(case, fields)
    cuts = np.cumsum([0, *(face.size for face in faces)])
    out, into = (np.empty(cuts[-1]) for _ in range(2))
    parts = [slice(a, b) for a, b in itertools.pairwise(cuts)]
    sends = [(f, out[part].reshape(f.shape)) for f, part in zip(faces, parts, strict=True)]
    receives = [(g, into[part].reshape(g.shape)) for g, part in zip(ghosts, parts, strict=True)]
    requests = [comm.Recv_init(into, 1 - comm.rank), comm.Send_init(out, 1 - comm.rank)]

    def exchange() -> None:
        for face, part in sends:
            np.copyto(part, face)
        MPI.Prequest.Startall(requests)
        MPI.Prequest.Waitall(requests)
        for ghost, part in receives:
            np.copyto(ghost, part)

    return Way(exchange, faces, ghosts, lambda: [request.Free() for request in requests])


def struct_type(comm: Any, case: Case, fields: Sequence[np.ndarray]) -> Way:
    """All faces of all fields in one struct of subarray types, one persistent message each way."""
    from mpi4py import MPI

    faces, ghosts = _sides(case, fields)
    places = [MPI.Get_address(fields[tag // 2]) for tag in range(len(faces))]

    def struct(parts: Sequence[np.ndarray]) -> Any:
        types = [_subarray(fields[tag // 2], part) for tag, part in enumerate(parts)]
        return MPI.Datatype.Create_struct([1] * len(parts), places, types).Commit()

    other = 1 - comm.rank
    receive = comm.Recv_init([MPI.BOTTOM, 1, struct(ghosts)], other)
    requests = [receive, comm.Send_init([MPI.BOTTOM, 1, struct(faces)], other)]

    def exchange() -> None:
        MPI.Prequest.Startall(requests)
        MPI.Prequest.Waitall(requests)

    return Way(exchange, faces, ghosts, lambda: [request.Free() for request in requests])


def derived_types(comm: Any, case: Case, fields: Sequence[np.ndarray]) -> Way:
    """Subarray types and persistent requests, a pair per field and side, all started together."""
    from mpi4py import MPI

    other = 1 - comm.rank
    faces, ghosts = _sides(case, fields)
    requests = []
    for tag, (face, ghost) in enumerate(zip(faces, ghosts, strict=True)):
        field = fields[tag // 2]
        requests.append(comm.Recv_init([field, 1, _subarray(field, ghost)], other, tag))
        requests.append(comm.Send_init([field, 1, _subarray(field, face)], other, tag))

    def exchange() -> None:
        MPI.Prequest.Startall(requests)
        MPI.Prequest.Waitall(requests)

    return Way(exchange, faces, ghosts, lambda: [request.Free() for request in requests])


def petsc(comm: Any, case: Case) -> dict[str, Way]:
    """DMDA with all fields interlaced (dof), as PETSc has several: one message per neighbour.

    globalToLocal copies the owned cells as well, since PETSc's global vectors have no ghosts;
    localToLocal fills the ghosts of a local vector in place.
    """
    with contextlib.suppress(ImportError):
        import dolfinx_solver  # type: ignore[import-not-found]  # noqa: F401  (the wheel that carries petsc4py)
    from petsc4py import PETSc  # type: ignore[import-not-found]

    w, n = case.width, case.n
    da = PETSc.DMDA().create(
        dim=3,
        dof=case.fields,
        sizes=case.along(2 * n, n)[::-1],  # PETSc counts x first
        proc_sizes=case.along(2, 1)[::-1],
        boundary_type=case.along(PETSc.DM.BoundaryType.PERIODIC, PETSc.DM.BoundaryType.NONE)[::-1],
        stencil_type=PETSc.DMDA.StencilType.STAR,  # pyright: ignore[reportArgumentType]  (its stub)
        stencil_width=w,
        comm=comm,
    )
    local = da.createLocalVec()
    owned = da.createGlobalVec()
    whole = slice(None)
    ghosted = local.getArray().reshape(*case.along(n + 2 * w, n), case.fields)
    cells = owned.getArray().reshape(n, n, n, case.fields)
    ghosts = [case.cut(ghosted, start, whole) for start in (w + n, 0)]
    inner = [case.cut(ghosted, start, whole) for start in (w, n)]
    faces = [case.cut(cells, start, whole) for start in (0, n - w)]

    def close() -> None:
        for each in (owned, local, da):
            each.destroy()

    return {
        "petsc": Way(lambda: da.globalToLocal(owned, local), faces, ghosts),
        "petsc-in": Way(lambda: da.localToLocal(local, local), inner, ghosts, close),
    }


def ghex(comm: Any, case: Case, fields: Sequence[np.ndarray]) -> Way:
    """GHEX's Python interface: one communication object, all fields in one call."""
    from ghex.context import make_context  # type: ignore[import-not-found]
    from ghex.structured import regular  # type: ignore[import-not-found]
    from ghex.structured.cartesian_sets import ProductSet, UnitRange  # type: ignore[import-not-found]

    w, n = case.width, case.n
    start = case.along(comm.rank * n, 0)
    context = make_context(comm, False)
    domain = regular.DomainDescriptor(comm.rank, ProductSet(*(UnitRange(s, s + n) for s in start)))
    everything = ProductSet(*(UnitRange(0, extent) for extent in case.along(2 * n, n)))
    halos = regular.HaloGenerator(everything, case.along((w, w), (0, 0)), case.along(True, False))
    pattern = regular.make_pattern(context, halos, [domain])
    communication = regular.make_communication_object(context)
    described = [regular.make_field_descriptor(domain, f, (w, w, w), f.shape) for f in fields]
    infos = [pattern(field) for field in described]
    needed = (context, domain, halos, pattern, described)  # GHEX does not keep them alive itself

    def exchange(_needed: object = needed) -> None:
        communication.exchange(infos).wait()

    return Way(exchange, *_sides(case, fields))


def _sides(case: Case, fields: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    return [f for a in fields for f in case.faces(a)], [g for a in fields for g in case.ghosts(a)]


def _subarray(field: np.ndarray, part: np.ndarray) -> Any:
    from mpi4py import MPI

    first, begin = (array.__array_interface__["data"][0] for array in (part, field))
    offset = (first - begin) // field.itemsize
    starts = [int(i) for i in np.unravel_index(offset, field.shape)]
    return MPI.DOUBLE.Create_subarray(field.shape, part.shape, starts).Commit()


# -- one cell of the sweep


def ways(comm: Any, case: Case) -> tuple[dict[str, Way], dict[str, Halo], dict[str, str]]:
    """All ways of one case, the halos among them, and the reasons why some peers are missing."""
    grid = Grid(
        comm,
        case.along(2 * case.n, case.n),
        periodic=case.along(True, False),
        process_shape=case.along(2, 1),
        width=case.width,
    )
    plain = [grid.zeros() for _ in range(case.fields)]
    window = [grid.zeros(shared=True) for _ in range(case.fields)]
    halos = {name: Halo(grid, fields=plain, method=name) for name in (*WAYS, "auto")}
    halos |= {name: Halo(grid, fields=window, method=name.partition(",")[0]) for name in WINDOW}
    found = {}
    for name, halo in halos.items():
        found[name] = _hpckit(case, halo, window if name in WINDOW else plain)
    found["numpy"] = numpy_slices(comm, case, plain)
    found["buffer"] = one_buffer(comm, case, plain)
    found["types"] = derived_types(comm, case, plain)
    found["struct"] = struct_type(comm, case, plain)
    missing = {}
    peers = {
        "ghex": lambda: {"ghex": ghex(comm, case, plain)},
        "petsc": lambda: petsc(comm, case),
    }
    for peer, make in peers.items():
        try:
            found |= make()
        except ImportError as error:
            missing[peer] = str(error)
    return found, halos, missing


def _hpckit(case: Case, halo: Halo, fields: Sequence[np.ndarray]) -> Way:
    return Way(lambda: halo.exchange(*fields), *_sides(case, fields))


def check(comm: Any, name: str, case: Case, way: Way) -> None:
    """Exchange distinct numbers and compare, twice: the second must not be the first's."""
    numbers = [
        i + np.arange(face.size).reshape(face.shape) / face.size for i, face in enumerate(way.faces)
    ]
    for step in (1, 2):
        for face, ghost, number in zip(way.faces, way.ghosts, numbers, strict=True):
            face[...] = 1000 * step + 100 * comm.rank + number
            ghost[...] = np.nan
        comm.Barrier()
        way.exchange()
        for ghost, number in zip(way.ghosts, numbers, strict=True):
            if not np.array_equal(ghost, 1000 * step + 100 * (1 - comm.rank) + number):
                where = f"{case}, exchange {step}, rank {comm.rank}"
                raise RuntimeError(f"{name} exchanged wrong values: {where}")
        comm.Barrier()


def measure(comm: Any, case: Case, seconds: float) -> tuple[dict[str, Times], dict[str, str], str]:
    """Times of all ways, reasons for missing peers, and what `auto` chose, plain and in windows."""
    found, halos, missing = ways(comm, case)
    counter = itertools.count()

    def rewrite(name: str) -> None:
        value = float(next(counter))
        for face in found[name].faces:
            face[...] = value

    # `auto` races, among the same traffic as when it is timed.
    while any(halo.method == "auto" for halo in halos.values()):
        for name, way in found.items():
            rewrite(name)
            comm.Barrier()
            way.exchange()
    for name, way in found.items():
        check(comm, name, case, way)
    exchanges = {name: way.exchange for name, way in found.items()}
    times = interleaved(exchanges, seconds=seconds, comm=comm, prepare=rewrite)
    for name in ("auto", WINDOW[-1]):  # what it stays with, not what it tried meanwhile
        chosen = f"{halos[name].method}{name.removeprefix('auto')}"
        same = times.get(chosen) or times[halos[name].method]
        times[f"choice of {name}"] = max(times[name], same, key=lambda each: each.best)
    for name, way in found.items():
        check(comm, name, case, way)
        way.close()
    return times, missing, " ".join(halos[name].method for name in ("auto", WINDOW[-1]))


# -- the sweep


def sweep(quick: bool) -> Iterator[Case]:
    sizes, widths = ((32,), (1,)) if quick else ((32, 64, 128, 256), (1, 4))
    for fields, n, width, axis in itertools.product((1, 8), sizes, widths, AXES):
        yield Case(fields, n, width, axis)


def run(comm: Any, quick: bool) -> Report:
    from mpi4py import MPI

    report = Report("halo")
    cells: dict[Case, dict[str, Times]] = {}
    missing: dict[str, str] = {}
    for (fields, n), group in itertools.groupby(sweep(quick), lambda case: (case.fields, case.n)):
        rows = []
        for case in group:
            cells[case], missing, chosen = measure(comm, case, 0.3 if quick else 4.0)
            gc.collect()  # gigabytes hang on reference cycles
            best = [cells[case][k].best * 1e6 if k in cells[case] else "" for k in _columns()]
            rows.append((f"{case.width}, {case.axis}", *best, chosen))
        if comm.rank == 0:
            head = ("width, axis", *_columns(), "auto took")
            what = f"{fields} field{'s' * (fields > 1)} of {n}^3"
            print_table(head, rows, f"{what}: us, smallest of the repeats")
    if comm.rank == 0:
        for peer, reason in missing.items():
            print(f"without {peer}: {reason}")
    derived = 1.4 if "Open MPI" in MPI.Get_library_version() else 3.0
    summarise(report, cells, {"types": derived, "ghex": 2.5, "petsc": 2.0})
    return report


def _columns() -> tuple[str, ...]:
    return (*WAYS, "auto", *WINDOW, *PEERS)


def summarise(
    report: Report, cells: dict[Case, dict[str, Times]], targets: dict[str, float | None]
) -> None:
    """Report geometric means of peer over `auto`, the worst cell, and the regret of `auto`."""
    for case, times in cells.items():
        for key in _columns():
            if key in times:
                peer = PEERS.get(key, f"method {key}")
                report.add(str(case), peer, *times["auto"].ratio(times[key]))
    for fields in (1, 8):
        chosen = [times for case, times in cells.items() if case.fields == fields]
        goals = {"numpy": 2.0 if fields == 1 else 4.0} | targets
        for key, peer in PEERS.items():
            ratios = [times[key].best / times["auto"].best for times in chosen if key in times]
            if ratios:
                low, high = min(ratios), max(ratios)
                name = "field" if fields == 1 else "fields"
                mean = geomean(ratios)
                report.add(
                    f"{fields} {name}, geometric mean", peer, mean, low, high, goals.get(key)
                )
                report.add(f"{fields} {name}, worst cell", peer, low, low, high, 0.95)
    for auto, fixed in (("auto", WAYS), (WINDOW[-1], WINDOW[:-1])):
        regret = [
            min(times[w].best for w in fixed) / times[f"choice of {auto}"].best
            for times in cells.values()
        ]
        low, high = min(regret), max(regret)
        best = "best way of each cell"
        report.add(f"{auto}, geometric mean", best, geomean(regret), low, high, 1 / 1.05)
        report.add(f"{auto}, worst cell", best, low, low, high, 1 / 1.2)


if __name__ == "__main__":
    main("halo", run, ranks=2)
