"""Where the ranks are, what they find there, and what to do about it."""

from __future__ import annotations

import os
from typing import NamedTuple

import psutil

from hpckit import link
from hpckit.errors import ranges
from hpckit.program import run as program
from hpckit.program import shm
from hpckit.units import amount

LINES = 16  # of the rank table; beyond, one line per host


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


def place(first: bool) -> Place:
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
    if not first:
        return here
    return here._replace(left=tuple(map(str, shm.left())), link_fault=link.find().fault)


def table(places: list[Place]) -> list[str]:
    """Ranks, hosts and cores: a line for ranks with the same cores, or for a whole host."""
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


def advice(places: list[Place], threads: int, size: int) -> list[str]:
    """What is off, and what to do about it."""
    found = []
    if places[0].promised_ranks > size:
        found.append(
            f"the launcher started {places[0].promised_ranks} processes, but MPI sees {size}: "
            "mpirun belongs to another MPI library; use the one beside this Python "
            "(python -m mpi4py --mpi-lib-version names the library)"
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
            "things out, but measure with at most one thread per core"
        )
    if len(cores) < min(len(here) * threads, here[0].host_cores):
        found.append(
            f"{host}: the ranks are bound to {len(cores)} of {here[0].host_cores} cores: ask the "
            "launcher for others (mpirun --bind-to core, srun --cpu-bind=cores)"
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
