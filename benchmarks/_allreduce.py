"""What ranks do: `mpirun -n 2 python -m benchmarks._allreduce PART FILE [--quick]`.

Rank 0 writes the times to FILE: {"mpi": ..., "cases": {case: {way: [seconds, the slowest rank's, of
each call]}}}.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI

from benchmarks.allreduce import PRODUCER
from hpckit.apps.allreduce.timing import Call, Numbers, Start, interleaved
from hpckit.collectives import Allreduce, Reproducible, empty
from hpckit.collectives.algorithms import BY_MESSAGES
from hpckit.collectives.channel import Channel
from hpckit.lossy import Quantised
from hpckit.machine.model import with_links
from hpckit.machine.store import mpi_library
from hpckit.units import binary

NODE = (8, 64, 512, 4096, 16384, *(32768 << k for k in range(12)))  # bytes: ... 32 KiB to 64 MiB
NODE_QUICK = (8, 32768, 1 << 20)
LINKS = (8, 8192, 32768, 262144, 1048576)
LINKS_QUICK = (8, 32768)
CHUNKS = 8  # parts in which an array comes that takes PRODUCER seconds to compute
LARGEST = 1 << 24  # bytes: on more ranks than cores, larger arrays take minutes

Cases = Iterator[tuple[str, dict[str, Call]]]


# -- peers


def ring_by_hand(comm: MPI.Intracomm, x: np.ndarray) -> None:
    """The ring as it is written with mpi4py: slices go round twice by `Sendrecv`."""
    parts, size = np.array_split(x, comm.size), comm.size
    beside = np.empty_like(parts[0])
    left, right = (comm.rank - 1) % size, (comm.rank + 1) % size
    for step in range(size - 1):
        sent, into = parts[(comm.rank - step) % size], parts[(comm.rank - step - 1) % size]
        comm.Sendrecv(sent, right, recvbuf=beside[: into.size], source=left)
        into += beside[: into.size]
    for step in range(size - 1):
        sent, into = parts[(comm.rank - step + 1) % size], parts[(comm.rank - step) % size]
        comm.Sendrecv(sent, right, recvbuf=into, source=left)


def star_of_tpi_llm(comm: MPI.Intracomm, x: np.ndarray) -> None:
    """TPI-LLM's star: pickled, to the master in any order, and back one after the other."""
    if comm.rank:
        comm.send(x, 0)
        x[:] = comm.recv(source=0)
        return
    for _ in range(1, comm.size):
        x += comm.recv(source=MPI.ANY_SOURCE)
    for rank in range(1, comm.size):
        comm.send(x, rank)


def natives(comm: MPI.Intracomm, numbers: Numbers) -> dict[str, Call]:
    """MPI's own: from one array to another, and in place."""
    x, y = numbers.array, np.zeros_like(numbers.array)
    apart = Numbers(comm, x, result=y)
    return {
        "native": Call(lambda: comm.Allreduce(x, y), apart),
        "native, in place": Call(lambda: comm.Allreduce(MPI.IN_PLACE, x), numbers),
    }


# -- ours


class Rough(Numbers):
    """Compressed sums: their sum over all calls is as near the exact one as the plan says."""

    def __init__(self, comm: MPI.Intracomm, array: np.ndarray, plan: Allreduce) -> None:
        super().__init__(comm, array)
        self._plan, self._off = plan, np.zeros(array.size)

    def read(self, call: int) -> bool:
        self._off += self.result - self.expected(call)
        rounding = 1e-5 * float(self.expected(call).max())  # of the additions, in single precision
        return bool(np.abs(self._off).max() <= self._plan.error_bound() + rounding)

    check = read


def planned(comm: MPI.Intracomm, numbers: Numbers, algorithm: Any = "auto", **options: Any) -> Call:
    plan = Allreduce(comm, numbers.array, algorithm=algorithm, **options)
    return Call(plan, numbers, plan)


def afterwards(call: Call) -> Call:
    """An array is computed, on a device as it were, then summed."""
    return Call(lambda: (time.sleep(PRODUCER), call.run()), call.numbers, call.plan)


def in_chunks(comm: MPI.Intracomm, numbers: Numbers) -> Call:
    """An array is computed in parts; each is sent when it is there."""
    plan = Allreduce(comm, numbers.array, chunks=CHUNKS)

    def run() -> None:
        begin = time.monotonic()
        for chunk in range(CHUNKS):
            while time.monotonic() < begin + PRODUCER * (chunk + 1) / CHUNKS:
                plan.poll()
                time.sleep(3e-4)
            plan.ready(chunk)
        plan.wait()

    return Call(run, numbers, plan)


# -- parts


def node(comm: MPI.Intracomm, quick: bool) -> Cases:
    """One node: arrays of the ranks' own and in windows, by `auto` and by every algorithm."""
    for nbytes in NODE_QUICK if quick else NODE:
        if comm.size > 2 and nbytes > LARGEST:
            return
        plain = Numbers(comm, np.zeros(nbytes // 8))
        window = Numbers(comm, empty(comm, nbytes // 8))
        calls = natives(comm, plain)
        calls["ring by hand"] = Call(partial(ring_by_hand, comm, plain.array), plain)
        calls |= {"auto": planned(comm, plain), "auto, window": planned(comm, window)}
        calls |= {name: planned(comm, plain, name) for name in (*BY_MESSAGES, "shared")}
        calls["shared, window"] = planned(comm, window, "shared")
        calls["reproducible"] = planned(comm, plain, Reproducible())
        yield binary(nbytes), calls


def links(comm: MPI.Intracomm, quick: bool) -> Cases:
    """One rank on each host: every algorithm, and the peers."""
    for nbytes in LINKS_QUICK if quick else LINKS:
        numbers = Numbers(comm, np.zeros(nbytes // 8))
        calls = natives(comm, numbers) | {"auto": planned(comm, numbers)}
        calls |= {name: planned(comm, numbers, name) for name in BY_MESSAGES}
        calls["TPI-LLM's star"] = Call(partial(star_of_tpi_llm, comm, numbers.array), numbers)
        if nbytes >= 1024:
            calls["ring by hand"] = Call(partial(ring_by_hand, comm, numbers.array), numbers)
        yield binary(nbytes), calls


def compressed(comm: MPI.Intracomm, quick: bool) -> Cases:
    """One rank on each host: sums of float32 that travel in fewer bytes."""
    for nbytes in LINKS_QUICK[-1:] if quick else LINKS[-2:]:
        numbers = Numbers(comm, np.zeros(nbytes // 4, np.float32))
        calls = natives(comm, numbers) | {"auto": planned(comm, numbers)}
        for form in ("fp16", "bf16", "int8"):
            array = np.zeros(nbytes // 4, np.float32)
            plan = Allreduce(comm, array, algorithm=Quantised(form))
            calls[form] = Call(plan, Rough(comm, array, plan), plan)
        yield f"{binary(nbytes)} of float32", calls


def levels(comm: MPI.Intracomm, quick: bool) -> Cases:
    """Several ranks on each host."""
    for nbytes in LINKS_QUICK[1:] if quick else LINKS[1:]:
        plain = Numbers(comm, np.zeros(nbytes // 8))
        window = Numbers(comm, empty(comm, nbytes // 8))
        fixed = {name: planned(comm, plain, name) for name in ("hierarchical", "twoshot")}
        fixed["hierarchical, window"] = planned(comm, window, "hierarchical")
        yield binary(nbytes), natives(comm, plain) | fixed | {"auto": planned(comm, plain)}


def overlap(comm: MPI.Intracomm, quick: bool) -> Cases:
    """An array of 1 MiB that takes a while to compute."""
    numbers = Numbers(comm, np.zeros((1 << 17) // (8 if quick else 1)))
    native, auto = natives(comm, numbers)["native"], planned(comm, numbers)
    ways = {
        "native": afterwards(native),
        "auto": afterwards(auto),
        "chunks": in_chunks(comm, numbers),
    }
    yield binary(numbers.array.nbytes), ways


def choices(calls: dict[str, Call], times: dict[str, list[float]]) -> dict[str, list[float]]:
    """For every "auto", as "choice of auto": the times of a plan made with what it has chosen."""
    found = {}
    for way in (way for way in ("auto", "auto, window") if way in calls):
        plan = calls[way].plan
        assert plan is not None
        name = "native, in place" if plan.algorithm == "native" else plan.algorithm
        twin = f"{name}, window" if f"{name}, window" in times and "window" in way else name
        if twin in times:
            found[f"choice of {way}"] = times[twin]
    return found


PARTS: dict[str, Callable[[MPI.Intracomm, bool], Cases]] = {
    f.__name__: f for f in (node, links, compressed, levels, overlap)
}


def main(part: str, path: str, quick: bool) -> None:
    comm = MPI.COMM_WORLD
    cores = sorted(os.sched_getaffinity(0))
    if 1 < comm.size <= len(cores) and part == "node":
        os.sched_setaffinity(0, {cores[comm.rank]})
    channel = Channel.of(comm)
    emulated = part != "node"
    # Emulated links change, their names do not.
    channel.links = with_links(channel.comm, channel.node, fresh=emulated).links
    start = Start(comm, one_node=not emulated)
    cases = {}
    seconds = {"node": 3.0}.get(part, 12.0) * (0.05 if quick else 1.0)
    for name, calls in PARTS[part](comm, quick):
        if comm.rank == 0:
            print(f"{part}, {comm.size} ranks, {name}", flush=True)
        found = interleaved(comm, calls, start, seconds)
        cases[name] = {way: times.tolist() for way, times in found.items()}
        cases[name] |= choices(calls, cases[name])
        gc.collect()  # hundreds of megabytes hang on reference cycles
    if comm.rank == 0:
        Path(path).write_text(json.dumps({"mpi": mpi_library(), "cases": cases}))


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2], "--quick" in sys.argv)
    except Exception:
        traceback.print_exc()
        MPI.COMM_WORLD.Abort(1)
