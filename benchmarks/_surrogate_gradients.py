"""Sums of gradients on two trainers: what they add to the passes of a network, ours and gloo's.

The network is the heat case's: 1.1 million numbers, batches of 64. Exposed communication is what a
gradient step without its optimizer takes longer than the forward and backward pass alone.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._harness import Report, Times, interleaved, print_table

_SIZES = (6, 256, 256, 4096)
_BATCH = 64
_TARGET = 5.0  # gloo's exposed communication over ours


def run(comm: Any, quick: bool, report: Report) -> None:
    """Add the section to the report (on two ranks)."""
    try:
        import torch
    except ImportError:
        if comm.rank == 0:
            print("gradients: left out, there is no torch (make test-torch has one)")
        return
    torch.set_num_threads(1)
    with _gloo(comm, torch):
        times = interleaved(_ways(comm, torch), seconds=5 if quick else 60, comm=comm)
    if comm.rank == 0:
        report.versions["torch"] = torch.__version__
        _tell(report, times)


@contextlib.contextmanager
def _gloo(comm: Any, torch: Any) -> Iterator[None]:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    with tempfile.TemporaryDirectory() as own:
        store = Path(comm.bcast(own), "store").as_uri()
        torch.distributed.init_process_group("gloo", store, rank=comm.rank, world_size=comm.size)
        yield
        torch.distributed.destroy_process_group()
        comm.Barrier()


def _ways(comm: Any, torch: Any) -> dict[str, Callable[[], object]]:
    from mpi4py import MPI

    from hpckit.surrogate.torch_gradients import Gradients

    rng = np.random.default_rng(comm.rank)
    x, y = (
        torch.from_numpy(rng.normal(size=(_BATCH, n)).astype(np.float32))
        for n in (_SIZES[0], _SIZES[-1])
    )
    alone, after, inside = (_network(torch) for _ in range(3))
    parallel = torch.nn.parallel.DistributedDataParallel(inside, gradient_as_bucket_view=True)
    ours = {bucket: _network(torch) for bucket in (None, 1 << 20)}
    sums = {
        bucket: Gradients(comm, [*network.parameters()], bucket, compress=None, deadline=None)
        for bucket, network in ours.items()
    }

    def passes(network: Any, given: Any = None) -> None:
        (given or network)(x).sub(y).square().mean().backward()

    def plain() -> None:
        alone.zero_grad()
        passes(alone)

    def own(bucket: int | None) -> None:
        sums[bucket].begin()
        passes(ours[bucket])
        sums[bucket].wait()

    def gloo() -> None:
        inside.zero_grad()
        passes(inside, parallel)

    def mpi() -> None:
        after.zero_grad()
        passes(after)
        for each in after.parameters():
            comm.Allreduce(MPI.IN_PLACE, each.grad.numpy())

    return {
        "passes alone": plain,
        "ours": lambda: own(None),
        "ours, 1 MiB at a time": lambda: own(1 << 20),
        "MPI_Allreduce": mpi,
        "gloo": gloo,
    }


def _network(torch: Any) -> Any:
    torch.manual_seed(0)
    layers = []
    for wide, next_wide in itertools.pairwise(_SIZES):
        layers += [torch.nn.Linear(wide, next_wide), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def _tell(report: Report, times: dict[str, Times]) -> None:
    alone = times.pop("passes alone")
    exposed = {name: Times(each.samples - alone.best) for name, each in times.items()}
    rows = [(name, 100 * each.best / alone.best) for name, each in exposed.items()]
    head = ("sums", "% of the passes")
    print_table(head, rows, f"gradients of {_numbers()} numbers: exposed communication")
    for peer in ("gloo", "MPI_Allreduce"):
        target = _TARGET if peer == "gloo" else None
        ratio = exposed["ours"].ratio(exposed[peer])
        report.add("exposed communication of gradients", peer, *ratio, target)


def _numbers() -> int:
    return sum(n * m + m for n, m in itertools.pairwise(_SIZES))
