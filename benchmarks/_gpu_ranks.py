"""Sections of the GPU benchmark that several ranks run, all on one GPU."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks._gpu import emit, finisher, host_time, timed
from benchmarks._harness import _mpirun
from hpckit import native
from hpckit.comm.device import Device
from hpckit.comm.device_array import DeviceArray, empty
from hpckit.errors import HpckitError
from hpckit.names import DEVICE_ALGORITHMS, DEVICE_HALO_METHODS
from hpckit.units import binary

MIB = 2**20


def _say(comm: Any, section: str, case: str, **found: Any) -> None:
    if comm.rank == 0:
        emit(section, f"{comm.size} ranks, {case}", **found)


def _aware(comm: Any, device: Device) -> bool:
    """Whether the doctor has found that MPI takes addresses of this device."""
    from hpckit.comm.gpu_awareness import known

    return all(comm.allgather(known(device) is True))


def _methods(section: str, comm: Any, case: str, grid: Any, fields: Sequence[Any]) -> Iterator:
    """Halos by each method that is possible here, `auto` last."""
    from hpckit import Halo

    device = fields[0].device
    for name in (*DEVICE_HALO_METHODS, "auto"):
        if name == "device" and not _aware(comm, device):
            continue  # MPI would die
        try:
            yield name, Halo(grid, fields=fields, method=name)
        except HpckitError as error:
            _say(comm, section, case, way=name, refused=str(error).splitlines()[0])


def halos_are_right(comm: Any, device: Device, quick: bool) -> None:
    """Each method fills the ghosts as the host's halo does."""
    from hpckit import Grid, Halo

    for shape in ((7, 9), (12, 10, 14)):
        grid = Grid(comm, shape, periodic=True)
        here = grid.zeros()
        here[...] = np.random.default_rng(comm.rank).random(here.shape)
        there = grid.zeros(device=device)
        expected = here.copy()
        Halo(grid, fields=[expected]).exchange(expected)
        halos = _methods("halos_are_right", comm, str(shape), grid, [there])
        ways = {name: partial(_exchange, halo, there) for name, halo in halos}
        if peer := _datatypes(grid.comm, device, [there]):
            ways["datatypes"] = peer
        for name, way in ways.items():
            there.set(here)
            way()
            wrong = comm.allreduce(int((there.get() != expected).sum()))
            _say(comm, "halos_are_right", str(shape), way=name, wrong=wrong, right=not wrong)


def _exchange(halo: Any, field: DeviceArray) -> None:
    halo.exchange(field)
    halo.synchronize()


def ways(comm: Any, device: Device, quick: bool) -> None:
    """All methods for faces of 8 B to 64 MiB, of one row and of rows of 8 bytes."""
    from hpckit import Grid

    def along(axis: int) -> dict[str, Any]:
        """Ghosts in that dimension alone."""
        return {"periodic": True, "width": [int(i == axis) for i in range(2)]}

    sizes = (
        (64,) if quick else (8, 64, 512, *(n << 10 for n in (4, 32, 256, 2048, 1 << 14, 1 << 16)))
    )
    for nbytes in sizes:
        cells = nbytes // 8
        grid = Grid(comm, (4 * comm.size, cells), process_shape=(comm.size, 1), **along(0))
        _halo_times("ways", f"{binary(nbytes)} in one row", device, grid, 1, quick)
        if nbytes <= 8 * MIB:
            grid = Grid(comm, (cells, 4 * comm.size), process_shape=(1, comm.size), **along(1))
            _halo_times("ways", f"{binary(nbytes)} in rows of 8 B", device, grid, 1, quick)


def halos(comm: Any, device: Device, quick: bool) -> None:
    """Blocks of 256^3 float64 cells with 1, 2 and 4 fields; derived datatypes beside ours."""
    from hpckit import Grid

    n = 8 if quick else 256
    grid = Grid(
        comm, (n * comm.size, n, n), process_shape=(comm.size, 1, 1), periodic=True, width=1
    )
    for count in (2,) if quick else (1, 2, 4):
        _halo_times("halos", f"{n}^3, {count} fields", device, grid, count, quick)


def _halo_times(
    section: str, case: str, device: Device, grid: Any, count: int, quick: bool
) -> None:
    comm = grid.comm
    fields = [grid.zeros(device=device) for _ in range(count)]
    best: dict[str, float] = {}
    for name, halo in _methods(section, comm, case, grid, fields):
        exchange = partial(halo.exchange, *fields)
        time = timed(exchange, halo.synchronize, comm, quick)
        best[name] = time.best
        _say(
            comm,
            section,
            case,
            way=name,
            chosen=halo.method,
            us=time.best * 1e6,
            median_us=time.median * 1e6,
            host_us=host_time(exchange, halo.synchronize, calls=20) * 1e6,
        )
    if section == "halos" and (peer := _datatypes(comm, device, fields)):
        best["datatypes"] = timed(peer, lambda: None, comm, quick).best
    fixed = [seconds for name, seconds in best.items() if name in DEVICE_HALO_METHODS]
    if "auto" in best and fixed:
        peers = {name: s / best["auto"] for name, s in best.items() if name == "datatypes"}
        _say(comm, section, case, way="auto", of_best=min(fixed) / best["auto"], **peers)


def _datatypes(
    comm: Any, device: Device, fields: Sequence[DeviceArray]
) -> Callable[[], object] | None:
    """What people write for an MPI that takes addresses of GPUs: a derived datatype per face.

    comm : Cartesian and periodic; the fields have one ghost on each side.
    """
    from mpi4py import MPI

    if not _aware(comm, device):
        return None
    requests = []
    for field in fields:
        memory = MPI.buffer.fromaddress(native.address(field.shadow), field.nbytes)
        for axis, n in enumerate(field.shape):
            before, after = comm.Shift(axis, 1)
            for way, (source, target, owned, ghost) in enumerate(
                [(after, before, 1, n - 1), (before, after, n - 2, 0)]
            ):
                send, receive = (_face(field, axis, at) for at in (owned, ghost))
                requests.append(comm.Recv_init([memory, 1, receive], source, 2 * axis + way))
                requests.append(comm.Send_init([memory, 1, send], target, 2 * axis + way))
    finish = finisher(device)

    def exchange() -> None:
        finish()
        MPI.Prequest.Startall(requests)
        MPI.Prequest.Waitall(requests)

    return exchange


def _face(field: DeviceArray, axis: int, at: int) -> Any:
    """The cells with this index in one dimension that are no ghosts in the others."""
    from mpi4py import MPI

    sizes = [1 if i == axis else n - 2 for i, n in enumerate(field.shape)]
    starts = [at if i == axis else 1 for i in range(field.ndim)]
    return MPI.DOUBLE.Create_subarray(field.shape, sizes, starts).Commit()


def allreduces(comm: Any, device: Device, quick: bool) -> None:
    """Sums of float32: ours, the host's MPI between copies, and MPI itself where it takes those."""
    from hpckit import Allreduce

    for nbytes in (4096,) if quick else (1 << bits for bits in range(12, 28, 3)):
        array = empty(device, (nbytes // 4,), "f4")
        array.set(1.0)
        done = finisher(device)
        for name in ("auto", *DEVICE_ALGORITHMS):
            try:
                plan = Allreduce(comm, array, algorithm=name)
            except HpckitError as error:
                refused = str(error).splitlines()[0]
                _say(comm, "allreduces", binary(nbytes), way=name, refused=refused)
                continue
            _sum_time(comm, nbytes, name, plan, done, quick)
        for name, way in _sums_of_mpi(comm, device, array):
            _sum_time(comm, nbytes, name, way, done, quick)


def _sum_time(
    comm: Any,
    nbytes: int,
    name: str,
    way: Callable[[], object],
    done: Callable[[], object],
    quick: bool,
) -> None:
    time = timed(way, done, comm, quick)
    found = {"us": time.best * 1e6, "median_us": time.median * 1e6}
    _say(comm, "allreduces", binary(nbytes), way=name, **found, GBps=time.bandwidth(nbytes))


def _sums_of_mpi(
    comm: Any, device: Device, array: DeviceArray
) -> Iterator[tuple[str, Callable[[], object]]]:
    from mpi4py import MPI

    here, stream = device.pinned(array.nbytes), device.default_stream
    assert here.host is not None
    values = here.host.view(array.dtype)

    def staged() -> None:
        device.copy(here.address, array.memory.address, array.nbytes, stream)
        device.synchronize(stream)
        comm.Allreduce(MPI.IN_PLACE, values)
        device.copy(array.memory.address, here.address, array.nbytes, stream)

    yield "copy, MPI, copy", staged
    if _aware(comm, device):
        memory = MPI.buffer.fromaddress(array.memory.address, array.nbytes)
        both = [MPI.IN_PLACE, [memory, array.size, MPI.FLOAT]]
        yield "MPI on the device", lambda: (device.synchronize(stream), comm.Allreduce(*both))


def program(device: str, quick: bool) -> None:
    """The program's rates on the device and on CPUs, in jobs of their own."""
    cells, steps = (16, 10) if quick else (512, 100)
    for dtype, ranks, place in itertools.product(("float64", "float32"), (1, 2), ("cpu", device)):
        shape = f"{cells},{cells},{cells}"
        flags = ["--device", place, "--share", "--dtype", dtype, "--shape", shape]
        _program(ranks, [*flags, "--steps", str(steps)])


def _program(ranks: int, flags: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        words = [*flags, "--snapshots=0", "--pictures=false", "--output", folder, "--json"]
        command = [_mpirun(), "-n", str(ranks), sys.executable, "-m", "hpckit.apps.halo", *words]
        job = subprocess.run(command, capture_output=True, text=True, check=False)
    case = f"{ranks} ranks, {' '.join(flags)}"
    if job.returncode:
        emit("program", case, failed=job.stderr.strip().splitlines()[-1:])
    else:
        emit("program", case, **json.loads(job.stdout.splitlines()[-1])["results"])
