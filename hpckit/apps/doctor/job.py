"""One run of `hpckit.apps.doctor`: find out, measure, print."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpckit.apps.doctor.measure import MIB, measure
from hpckit.apps.doctor.places import Place, advice, place, table
from hpckit.apps.doctor.software import software
from hpckit.program import run as program
from hpckit.program.stop import StopSignal

if TYPE_CHECKING:
    from mpi4py import MPI

    from hpckit.apps.doctor.config import Config


def main(comm: MPI.Intracomm, config: Config) -> dict[str, Any]:
    """Print the findings on rank 0; return what was measured."""
    hosts = list(program.hosts(comm).values())
    first = any(ranks[0] == comm.rank for ranks in hosts)
    places = [Place(*each) for each in comm.allgather(place(first))]
    memory = min(p.memory // sum(q.host == p.host for q in places) for p in places)
    measured = measure(comm, min(config.copy * MIB, memory // 8))
    if comm.rank == 0:
        print(*software(), *table(places), *advice(places, config.threads, comm.size), sep="\n")
    StopSignal(comm).check()
    return measured
