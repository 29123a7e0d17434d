"""What am I running on, and what to do about it: MPI, GPUs, ranks, versions, memory, bandwidth.

mpirun -n 4 python -m hpckit.apps.doctor
python -m hpckit.apps.doctor --compile  # all kernels beforehand: on a login node, or a container
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import math
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec
import numpy as np
import psutil

from hpckit import cache, link, native
from hpckit.apps.doctor import kernels as compiled
from hpckit.errors import ConfigError, ranges
from hpckit.machine.store import mpi_library
from hpckit.program import run as program
from hpckit.program import shm, stop
from hpckit.program.options import parse
from hpckit.trace import span
from hpckit.units import amount

if TYPE_CHECKING:
    from mpi4py import MPI

PACKAGES = ("mpi4py", "numpy", "numba", "h5py", "msgspec", "psutil", "matplotlib", "petsc4py")
LINES = 16  # of the rank table; beyond, one line per host
COPIES = 10
MIB = 2**20


class Config(msgspec.Struct):
    """What am I running on? Prints what matters for parallel programs, measures a little, and says
    what is off.
    """

    copy: Annotated[
        int, msgspec.Meta(ge=1, description="size of the arrays that are copied, MiB")
    ] = 32
    threads: Annotated[
        int, msgspec.Meta(ge=1, description="threads per rank that you mean to use")
    ] = 1
    compile: Annotated[
        bool, msgspec.Meta(description="compile all kernels now, without MPI, and nothing else")
    ] = False


class Place(NamedTuple):
    """Where a rank runs, and what it finds there."""

    host: str
    cores: tuple[int, ...]
    host_cores: int
    memory: int  # bytes available on the host
    shared_memory: int  # bytes free in /dev/shm
    promised_ranks: int  # that the launcher says there are; 0 if it says nothing
    left: tuple[str, ...] = ()  # in /dev/shm, by dead jobs
    link_fault: str | None = None


def main(comm: MPI.Intracomm, config: Config) -> dict[str, Any]:
    """Print the findings on rank 0; return what was measured."""
    hosts = list(program.hosts(comm).values())
    first = any(ranks[0] == comm.rank for ranks in hosts)
    places = [Place(*each) for each in comm.allgather(_place(first))]
    memory = min(p.memory // sum(q.host == p.host for q in places) for p in places)
    measured = _measure(comm, min(config.copy * MIB, memory // 8))
    if comm.rank == 0:
        print(
            "\n".join([*_software(), *_ranks(places), *_advice(places, config.threads, comm.size)])
        )
    stop.StopSignal(comm).check()
    return measured


def _place(first: bool) -> Place:
    """This rank's; the `first` of a host looks at what is the same for all of them."""
    from mpi4py import MPI

    here = Place(
        host=MPI.Get_processor_name(),
        cores=tuple(sorted(os.sched_getaffinity(0))),
        host_cores=os.cpu_count() or 1,
        memory=psutil.virtual_memory().available,
        shared_memory=shm.free(),
        promised_ranks=program.launched_ranks(),
    )
    return (
        here._replace(left=tuple(map(str, shm.left())), link_fault=link.find().fault)
        if first
        else here
    )


def _software() -> list[str]:
    from mpi4py import MPI

    levels = {
        MPI.THREAD_SINGLE: "single",
        MPI.THREAD_FUNNELED: "funneled",
        MPI.THREAD_SERIALIZED: "serialized",
    }
    standard, names = ".".join(map(str, MPI.Get_version())), native.modules()
    return [
        f"mpi       {mpi_library()}, standard {standard}, threads "
        f"{levels.get(MPI.Query_thread(), 'multiple')}",
        f"gpu       {_gpu_awareness()}",
        f"packages  {', '.join(f'{name} {_version(name)}' for name in PACKAGES)}",
        f"hdf5      {_hdf5()}",
        f"kernels   {sum(map(native.is_kept, names))} of {len(names)} compiled for this machine, "
        f"in {cache.home()}",
    ]


def _gpu_awareness() -> str:
    """What the MPI library says of itself; it may be wrong either way, and a wrong answer is a
    crash later.
    """
    from mpi4py import MPI

    try:
        query = ctypes.CDLL(MPI.__file__).MPIX_Query_cuda_support
    except (OSError, AttributeError):
        return "this MPI has no MPIX_Query_cuda_support: take it as not GPU-aware"
    return f"MPI says it is {'' if query() else 'not '}CUDA-aware (a hint only)"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        if package == "petsc4py" and importlib.util.find_spec("dolfinx_solver"):
            return "of dolfinx-solver"
        return "(none)"


def _hdf5() -> str:
    import h5py

    return (
        f"{h5py.version.hdf5_version}, "
        f"{'parallel' if h5py.get_config().mpi else 'serial: files are written by MPI-IO'}"
    )


def _ranks(places: list[Place]) -> list[str]:
    """Table of ranks, hosts and cores; ranks with the same cores on one line, whole hosts where
    that is too long.
    """
    same: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for rank, place in enumerate(places):
        same.setdefault((place.host, place.cores), []).append(rank)
    if len(same) > LINES:
        same = _by_host(places)
    lines = [f"{'host':<20} {'ranks':<16} {'cores':<24} {'memory':>9} {'/dev/shm':>9}"]
    for (host, cores), ranks in same.items():
        sizes = amount(places[ranks[0]].memory), amount(places[ranks[0]].shared_memory)
        lines.append(
            f"{host:<20} {ranges(ranks):<16} {ranges(cores):<24} {sizes[0]:>9} {sizes[1]:>9}"
        )
    return lines


def _by_host(places: list[Place]) -> dict[tuple[str, tuple[int, ...]], list[int]]:
    hosts: dict[str, list[int]] = {}
    for rank, place in enumerate(places):
        hosts.setdefault(place.host, []).append(rank)
    cores = {
        host: tuple(sorted({c for r in ranks for c in places[r].cores}))
        for host, ranks in hosts.items()
    }
    return {(host, cores[host]): ranks for host, ranks in hosts.items()}


def _advice(places: list[Place], threads: int, size: int) -> list[str]:
    """What is off, and what to do about it."""
    found = []
    if places[0].promised_ranks > size:
        found.append(
            f"the launcher started {places[0].promised_ranks} processes, but MPI sees {size}: "
            "mpirun belongs to another"
            " MPI library; use the one beside this Python (python -m mpi4py --mpi-lib-version "
            "names the library)"
        )
    for (host, cores), ranks in _by_host(places).items():
        found += _advice_for_host(host, cores, [places[rank] for rank in ranks], threads)
    return [f"advice    {text}" for text in found] or ["advice    nothing is off"]


def _advice_for_host(
    host: str, cores: tuple[int, ...], here: list[Place], threads: int
) -> list[str]:
    found = []
    if len(here) * threads > len(cores):
        found.append(
            f"{host}: {len(here)} ranks x {threads} threads share {len(cores)} cores: fine to try "
            "things out,"
            " but measure with at most one thread per core"
        )
    if len(cores) < min(len(here) * threads, here[0].host_cores):
        found.append(
            f"{host}: the ranks are bound to {len(cores)} of {here[0].host_cores} cores: ask the "
            "launcher for others"
            " (mpirun --bind-to core, srun --cpu-bind=cores)"
        )
    if trouble := shm.trouble(len(here), here[0].shared_memory):
        found.append(f"{host}: {trouble}")
    if here[0].left:
        some = " ".join(here[0].left[:4]) + " ..." * (len(here[0].left) > 4)
        found.append(
            f"{host}: dead jobs left {len(here[0].left)} segments of shared memory: rm {some}"
        )
    if here[0].link_fault:
        found.append(f"{host}: {here[0].link_fault}")
    return found


def _measure(comm: MPI.Intracomm, nbytes: int) -> dict[str, Any]:
    """Copies by rank 0 alone and by all ranks at once; messages between rank 0 and the last rank
    (collective).
    """
    from hpckit.errors import meet

    source, target, last = np.ones(nbytes, np.uint8), np.empty(nbytes, np.uint8), comm.size - 1
    target[:] = source

    def copy() -> None:
        for _ in range(COPIES):
            np.copyto(target, source)

    gigabytes = 2e-9 * nbytes * COPIES  # each byte is read and written
    with span("copy, one rank"):
        alone = _seconds(copy) if comm.rank == 0 else math.inf
        meet(comm)
    with span("copy, all ranks"):
        everywhere = _seconds(lambda: (copy(), meet(comm)))
    results = {
        "copy by one rank, GB/s (read + written)": gigabytes / alone,
        "copy by all ranks, GB/s (read + written)": comm.size * gigabytes / everywhere,
    }
    if last > 0:
        with span("messages"):
            latency, transfer = _ping_pong(comm, 8), _ping_pong(comm, MIB)
            meet(comm)
        results[f"latency between ranks 0 and {last}, us"] = latency * 1e6
        results[f"messages between ranks 0 and {last}, GB/s"] = MIB / transfer / 1e9
    return results


def _ping_pong(comm: MPI.Intracomm, nbytes: int) -> float:
    """Seconds one way; only the first and the last rank take part."""
    message, last = np.zeros(nbytes, np.uint8), comm.size - 1
    if comm.rank not in (0, last):
        return math.inf

    def there_and_back() -> None:
        if comm.rank == 0:
            comm.Send(message, last)
            comm.Recv(message, last)
        else:
            comm.Recv(message, 0)
            comm.Send(message, 0)

    return min(_seconds(there_and_back) for _ in range(100)) / 2


def _seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def compile_kernels(words: list[str]) -> int:
    """`--compile`: without MPI, which login nodes and container builds may not have."""
    stop.release()
    try:
        parse(Config, words)
    except ConfigError as error:
        print(f"hpckit.apps.doctor: {error}", file=sys.stderr)
        return error.exit_code
    return compiled.compile_all(program.launched_ranks())
